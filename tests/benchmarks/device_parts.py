"""The parts of `on_device.py`: each makes rows of what one kind of work costs there."""

import functools
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import device_scores
import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import rivals
from cutting import Steps, cut_network
from device_timing import call_together, figure, ratio, seconds_of, time_in_turn
from raw_scores import reverse_over_reverse
from rows import Row
from stepping import OPTIMIZERS, Stepper, drawn, random_masks

import gradflow_jax as gf
from tests.structured.zoo import large as zoo_large

HAS_TORCH = importlib.util.find_spec("torch") is not None


def rounds_of(small: bool) -> int:
    """Returns how often each contestant is timed."""
    return 1 if small else 9


class Part(NamedTuple):
    """A part of the run.

    Attributes:
        name: of it, for `--only`.
        rows: makes its rows, of small sizes or of those that users have.
        budget: seconds that it may take.
    """

    name: str
    rows: Callable[[bool], Iterator[Row]]
    budget: float


def gradients(small: bool) -> Iterator[Row]:
    """ḡ and Hḡ beside the gradient, beside reverse over reverse and torch."""
    size = 4 if small else 128
    problems = {
        "ResNet-56": networks.image_problem(
            networks.resnet(8 if small else 56), size, train=False
        ),
        "VGG-13": networks.image_problem(
            networks.vgg((8, "P", 8, "P") if small else networks.VGG13),
            size,
            train=False,
        ),
        "transformer": networks.text_problem(
            **(
                {"layers": 1, "width": 16, "length": 8, "size": 2}
                if small
                else {"layers": 12, "width": 768, "length": 512, "size": 8}
            )
        ),
    }
    for name, problem in problems.items():
        programs = {
            "ours": gf.differentiate(problem.loss),
            "gradient": jax.jit(jax.grad(problem.loss)),
            "reverse over reverse": reverse_over_reverse(problem.loss),
        }
        calls = {
            kind: functools.partial(program, *problem.arguments)
            for kind, program in programs.items()
        }
        call_together(calls)
        if HAS_TORCH and name != "transformer" and not small:
            calls |= _torch_derivatives(name, problem)
        seconds = time_in_turn(calls, rounds_of(small))
        millions = sum(leaf.size for leaf in jax.tree.leaves(problem.params)) / 1e6
        work = f"{name}, {millions:.1f} M weights, batch of {size}"
        if name == "transformer":
            tokens = problem.batch.shape
            work = f"{name}, {millions:.1f} M weights, {tokens[0]} × {tokens[1]} tokens"
        yield ratio(f"ḡ and Hḡ over ḡ: {work}", seconds, "ours", "gradient")
        yield ratio(
            f"reverse over reverse over ḡ: {work}",
            seconds,
            "reverse over reverse",
            "gradient",
        )
        if "torch ḡ" in calls:
            yield ratio(f"ḡ of torch over ours: {work}", seconds, "torch ḡ", "gradient")
            yield ratio(
                f"ḡ and Hḡ of torch over ours: {work}", seconds, "torch Hḡ", "ours"
            )


def _torch_derivatives(
    name: str, problem: networks.Problem
) -> dict[str, Callable[[], Any]]:
    import torch_networks

    loss = torch_networks.loss_of(
        "resnet" if "ResNet" in name else "vgg", problem.others[0]
    )
    params = torch_networks.parameters(problem.params)
    batches = [torch_networks.images_and_labels(problem.batch)]
    return {
        "torch ḡ": lambda: torch_networks.gradient(loss, params, batches),
        "torch Hḡ": lambda: torch_networks.hessian_gradient(loss, params, batches),
    }


def selection(small: bool) -> Iterator[Row]:
    """Exact global masks beside reads, sorts and the ways of torch."""
    for copies in (1, 40):
        leaves = _scores(networks.resnet50_shapes(8 if small else 64) * copies)
        count = sum(leaf.size for leaf in leaves)
        keep = count - round(0.9 * count)
        work = f"{count / 1e6:,.1f} M scores in {len(leaves)} leaves"

        def ours(leaves: list[jax.Array] = leaves) -> Any:
            return gf.global_masks(
                leaves, sparsity=0.9, prunable=lambda path, leaf: True
            )

        jax.clear_caches()
        yield figure(f"first global mask: {work}", seconds_of(ours), "s")
        read = rivals.by_reading(leaves)
        seconds = time_in_turn({"ours": ours, "read": read}, rounds_of(small))
        yield ratio(f"global mask over one read: {work}", seconds, "ours", "read")
        ways = {
            "top_k": rivals.by_top_k,
            "sort": rivals.by_sorting,
            "torch.kthvalue": rivals.by_torch,
            "torch.topk": rivals.by_torch_top_k,
        }
        expected = [np.asarray(mask) for mask in ours()]
        for name, make in ways.items():
            way = functools.partial(make, leaves, keep)
            yield _way_over_ours(f"{name} over ours: {work}", name, way, ours, expected)
        if small:
            break


def _way_over_ours(
    work: str, name: str, make: Any, ours: Any, expected: list[np.ndarray]
) -> Row:
    try:
        way = make()
        if way is None:
            return Row(work, None, rounds=0, note="torch is not here")
        first = seconds_of(way)
        masks = [np.asarray(_on_host(mask), bool) for mask in way()]
        apart = sum(
            int((mask != other).sum())
            for mask, other in zip(masks, expected, strict=True)
        )
        seconds = time_in_turn({"ours": ours, name: way}, 3)
    except Exception as error:
        # At this size another way may run out of memory, which is worth a row too.
        return Row(work, None, rounds=0, note=str(error).splitlines()[0][:200])
    note = (
        f"its first call takes {first:.2f} s; {apart:,} weights are kept by one alone"
    )
    return ratio(work, seconds, name, "ours", note=note)


def _on_host(mask: Any) -> Any:
    return mask.cpu().numpy() if hasattr(mask, "cpu") else mask


def _scores(shapes: list[tuple[int, ...]]) -> list[jax.Array]:
    """Draws scores like |θ ⊙ ḡ| on the device, each leaf at its own scale."""

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        a, b, scale = jax.random.split(key, 3)
        product = jax.random.normal(a, shape) * jax.random.normal(b, shape)
        return jnp.abs(product) * jnp.exp(jax.random.normal(scale))

    compiled = jax.jit(draw, static_argnums=1)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [compiled(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def step(small: bool) -> Iterator[Row]:
    """A masked step of an optimizer over the plain one."""
    params, gradient = drawn(4 if small else 64, 0), drawn(4 if small else 64, 1, 1e-3)
    masks = random_masks(params)
    count = sum(leaf.size for leaf in params)
    for name, make in OPTIMIZERS.items():
        tx = make()
        contestants = {
            "ours": Stepper(optax.chain(tx, gf.apply_mask(masks)), params, gradient),
            "packed": Stepper(
                optax.chain(tx, gf.apply_mask(masks, packed=True)), params, gradient
            ),
            "plain": Stepper(tx, params, gradient),
        }
        seconds = time_in_turn(contestants, 2 * rounds_of(small))
        work = f"{name}, {count / 1e6:.1f} M weights"
        yield ratio(f"masked step over plain: {work}", seconds, "ours", "plain")
        yield ratio(
            f"masked step over plain, masks as bits: {work}", seconds, "packed", "plain"
        )


def cut(small: bool) -> Iterator[Row]:
    """Forward passes and training steps of networks with half of their channels."""
    for name in ("VGG-13",) if small else ("VGG-13", "ResNet-56"):
        for batch in (2,) if small else (16, 1024):
            network = cut_network(name, batch=batch, width_divisor=8 if small else 1)
            module, x = network.module.apply, network.x
            calls = {
                "cut": functools.partial(jax.jit(network.shrunk), network.small, x),
                "built": functools.partial(
                    jax.jit(network.built.apply), network.small, x
                ),
                "masked": functools.partial(jax.jit(module), network.masked, x),
            }
            call_together(calls)
            work = f"{name}, half of the channels gone, batch of {batch}"
            seconds = time_in_turn(calls, rounds_of(small))
            yield ratio(f"masked over cut, forward: {work}", seconds, "masked", "cut")
            yield ratio(
                f"cut over built so small, forward: {work}", seconds, "cut", "built"
            )
            steps = {
                "cut": Steps(network.shrunk, network.small, x),
                "built": Steps(network.built.apply, network.small, x),
                "dense": Steps(module, network.variables, x),
            }
            seconds = time_in_turn(steps, rounds_of(small))
            yield ratio(f"dense over cut, training: {work}", seconds, "dense", "cut")
            yield ratio(
                f"cut over built so small, training: {work}", seconds, "cut", "built"
            )


def analysis(small: bool) -> Iterator[Row]:
    """How long it takes to find the units of large models."""
    for name in ("resnet56",) if small else ("resnet50", "gpt24", "billion"):
        apply, variables, inputs = zoo_large.ZOO[name]()
        start = time.process_time()
        units = gf.find_units(apply, variables, *inputs)
        seconds = time.process_time() - start
        work = f"units of {name}: {units.parameters() / 1e6:,.0f} M parameters"
        yield figure(work, seconds, "s of one core")


PARTS = (
    Part("right", device_scores.right, 110),
    Part("gradients", gradients, 110),
    Part("selection", selection, 90),
    Part("step", step, 40),
    Part("cut", cut, 90),
    Part("analysis", analysis, 15),
)
