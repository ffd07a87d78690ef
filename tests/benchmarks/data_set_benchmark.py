"""The measures over a data set, and the same in torch on the same cores."""

import functools
import importlib
import importlib.util

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from measuring import Ratio

import gradflow_jax as gf

# Targets of both passes, in gradients over the data set.
NETWORKS = {"ResNet-56": ("resnet", 3.1), "VGG-13": ("vgg", 3.8)}


def network_named(name, quick):
    if name == "VGG-13":
        return networks.vgg()
    return networks.resnet(8 if quick else 56)


def ours(problem, batches):
    mean_loss = gf.over_batches(problem.loss)
    measures = {
        "second order": gf.grasp(mean_loss),
        "first order": gf.loss_preservation(mean_loss),
    }
    arguments = problem.params, batches, *problem.others
    return {
        kind: functools.partial(measure, *arguments)
        for kind, measure in measures.items()
    }


def theirs(name, problem, batches):
    """Torch's two functions, after a look that its gradient is the same."""
    # Not at the top: torch may not be there.
    rival = importlib.import_module("torch_networks")
    loss = rival.loss_of(NETWORKS[name][0], *problem.others)
    params = rival.parameters(problem.params)
    converted = [rival.images_and_labels(batch) for batch in batches]
    found = rival.gradient(loss, params, converted[:1])
    expected = jax.grad(problem.loss)(problem.params, batches[0], *problem.others)
    for leaf, other in zip(found, jax.tree.leaves(expected), strict=True):
        other = rival.tensor(other)
        assert np.isclose(leaf.norm().item(), other.norm().item(), rtol=0.05, atol=1e-4)
    return {
        "torch, second order": functools.partial(
            rival.hessian_gradient, loss, params, converted
        ),
        "torch, first order": functools.partial(
            rival.gradient, loss, params, converted
        ),
    }


def data(quick):
    return [networks.image_batch(16, seed) for seed in range(1, 3 if quick else 5)]


@pytest.mark.parametrize("name", NETWORKS)
def test_products_over_gradients(paired, quick, name):
    problem = networks.image_problem(network_named(name, quick), 16, train=False)
    work = f"Hḡ (both passes) over ḡ of a data set: {name}"
    paired(
        ours(problem, data(quick)),
        Ratio(work, "second order", "first order", NETWORKS[name][1]),
        rounds=9,
    )


def scanned(problem, batches):
    """ḡ by a loop over the batches on the device."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)

    @jax.jit
    def mean_gradient(params, stacked, *others):
        def add(total, batch):
            found = jax.grad(problem.loss)(params, batch, *others)
            return jax.tree.map(jnp.add, total, found), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(add, zeros, stacked)
        return jax.tree.map(lambda leaf: leaf / len(batches), total)

    return functools.partial(mean_gradient, problem.params, stacked, *problem.others)


def test_scan_over_ours(paired, quick):
    problem = networks.image_problem(networks.resnet(8), 16, train=False)
    batches = data(quick)
    paired(
        ours(problem, batches) | {"scan": scanned(problem, batches)},
        Ratio("a scan over the batches over ours: ResNet-8", "scan", "first order"),
        rounds=5,
        warmups=1,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_over_ours(paired, missing, quick, name):
    if importlib.util.find_spec("torch") is None:
        missing(f"torch: {name}", "torch is not installed")
        return
    problem = networks.image_problem(network_named(name, quick), 16, train=False)
    batches = data(quick)
    firsts, seconds = "torch, first order", "torch, second order"
    paired(
        ours(problem, batches) | theirs(name, problem, batches),
        Ratio(f"torch's double backward over its gradient: {name}", seconds, firsts),
        faster(
            f"torch's time over ours, first order: {name}", firsts, "first order", 1.5
        ),
        faster(
            f"torch's time over ours, second order: {name}", seconds, "second order", 2
        ),
        rounds=9,
    )


def faster(work, theirs, ours, target):
    return Ratio(work, theirs, ours, at_least=target, accelerator=True)
