"""Training steps of the paper's networks after a cut, against ones built so small."""

import jax
import numpy as np
import pytest
from flax import nnx
from measuring import Ratio

from gradflow_jax.experiments.networks.architecture import Forward, Network, split
from gradflow_jax.experiments.networks.training import sgd
from gradflow_jax.experiments.reproduction.shrinking_network import training_step
from gradflow_jax.models import MODELS, VGG
from gradflow_jax.structured import choose_units, find_units, shrink

BATCH, CLASSES, SHAPE = 128, 10, (32, 32, 3)
COUNTERS = np.array([0, 1, 2], np.uint32)


def base(name, width):
    def make():
        return MODELS[name](SHAPE, CLASSES, width=width, rngs=nnx.Rngs(0))

    model = nnx.eval_shape(make)
    model.eval()
    return model


def uneven_vgg(width):
    """A VGG-13 that a global ranking cut by 75 %, and one made with those widths."""
    model = base("vgg13", width)
    units = find_units(model, jax.ShapeDtypeStruct((1, *SHAPE), np.float32))
    rng = np.random.default_rng(0)
    scores = {f.name: rng.random(f.size) * rng.uniform(0.2, 1) for f in units}
    keep = choose_units(scores, units, sparsity=0.75, floor=0.05)
    widths = units.widths(keep)
    layers = [widths[f"layers/{i}/conv/kernel[3]"] for i in range(10)]
    for after in (2, 5, 8, 11, 14):
        layers.insert(after, "M")
    built = nnx.eval_shape(
        lambda: VGG(layers, CLASSES, image_shape=SHAPE, rngs=nnx.Rngs(0))
    )
    return model, shrink(model, units, keep), built


def half_resnet(width):
    """A ResNet-56 that lost every other filter, and one made so narrow."""
    model = base("resnet56", width)
    units = find_units(model, jax.ShapeDtypeStruct((1, *SHAPE), np.float32))
    keep = {f.name: np.arange(f.size) % 2 == 0 for f in units}
    return model, shrink(model, units, keep), base("resnet56", width / 2)


NETWORKS = {"VGG-13": uneven_vgg, "ResNet-56": half_resnet}


class Steps:
    """Training steps with weights of the model's shapes."""

    def __init__(self, model, batch):
        rng = np.random.default_rng(0)

        def draw(leaf):
            fan = max(np.prod(leaf.shape[:-1]), 1)
            values = rng.uniform(0.5, 1.5, leaf.shape) / np.sqrt(fan)
            return jax.numpy.asarray(values, leaf.dtype)

        self.forward = Forward.of(model)
        self.network = Network(*jax.tree.map(draw, split(model)))
        self.optimizer = sgd().init(self.network.params)
        self.batch = (
            rng.integers(0, 255, (batch, *SHAPE)).astype(np.uint8),
            (np.arange(batch) % CLASSES).astype(np.int32),
        )

    def __call__(self):
        self.network, self.optimizer, *result = training_step(
            self.forward,
            self.network,
            self.optimizer,
            *self.batch,
            COUNTERS,
            0.0,
        )
        return self.network.params, result


@pytest.mark.parametrize("name", NETWORKS)
def test_training_step_after_a_cut(name, paired, quick):
    whole, small, built = NETWORKS[name](0.25 if quick else 0.5)
    assert jax.tree.map(np.shape, split(small)) == jax.tree.map(np.shape, split(built))
    batch = 16 if quick else BATCH
    contestants = {
        "cut": Steps(small, batch),
        "built": Steps(built, batch),
        "dense": Steps(whole, batch),
    }
    # Equal programs would be one, compiled once, and the ratio of a thing to itself.
    same = contestants["cut"].forward == contestants["built"].forward
    work = f"{name} of half width in rounds, a training step at batch {batch}"
    paired(
        contestants,
        Ratio(
            f"cut over built so small: {work}",
            "cut",
            "built",
            at_most=1.05,
            note="one architecture, and so one program" if same else "",
        ),
        Ratio(f"dense over cut: {work}", "dense", "cut"),
        rounds=15,
    )
