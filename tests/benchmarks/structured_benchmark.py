"""Cut models against masked ones, and against the architecture built so small."""

import time

import jax
import pytest
from cutting import Steps, cut_network
from measuring import Ratio

import gradflow_jax as gf
from tests.structured.zoo import large as zoo_large

BATCH = 16
# What half of the channels gone must bring at least.
LEAST = {"VGG-13": 5.0, "ResNet-56": None}


@pytest.fixture(scope="module", params=list(LEAST))
def network(request, quick):
    """A network by name, half of whose channels are gone."""
    divisor = 8 if quick else 1
    return request.param, cut_network(request.param, batch=BATCH, width_divisor=divisor)


def forward(run, variables, x):
    call = jax.jit(run)
    return lambda: call(variables, x)


def test_forward(network, paired):
    name, cut = network
    assert cut.shrunk.native
    contestants = {
        "cut": forward(cut.shrunk, cut.small, cut.x),
        "recorded": forward(cut.shrunk.program, cut.small, cut.x),
        "built": forward(cut.built.apply, cut.small, cut.x),
        "masked": forward(cut.module.apply, cut.masked, cut.x),
        "dense": forward(cut.module.apply, cut.variables, cut.x),
    }
    work = f"{name}, half of the channels gone, forward at batch {BATCH}"
    paired(
        contestants,
        Ratio(f"masked over cut: {work}", "masked", "cut", at_least=LEAST[name]),
        Ratio(f"dense over masked: {work}", "dense", "masked"),
        Ratio(f"cut over built so small: {work}", "cut", "built", at_most=1.02),
        Ratio(f"recorded program over built so small: {work}", "recorded", "built"),
        rounds=31,
    )


def test_training_step(network, paired):
    name, cut = network
    contestants = {
        "cut": Steps(cut.shrunk, cut.small, cut.x),
        "recorded": Steps(cut.shrunk.program, cut.small, cut.x),
        "built": Steps(cut.built.apply, cut.small, cut.x),
        "dense": Steps(cut.module.apply, cut.variables, cut.x),
    }
    work = f"{name}, half of the channels gone, training step at batch {BATCH}"
    paired(
        contestants,
        Ratio(f"cut over built so small: {work}", "cut", "built", at_most=1.02),
        Ratio(f"recorded program over built so small: {work}", "recorded", "built"),
        Ratio(f"dense over cut: {work}", "dense", "cut"),
        rounds=21,
    )


@pytest.mark.parametrize("name", ["resnet50", "gpt24", "billion"])
def test_analysis(counted, name, quick):
    """Seconds of one core; a model is traced twice in them."""

    apply, variables, inputs = zoo_large.ZOO["resnet56" if quick else name]()
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    start = time.process_time()
    units = gf.find_units(apply, variables, *inputs)
    seconds = time.process_time() - start
    work = f"units of {name}: {units.parameters() / 1e6:,.0f} M parameters"
    counted(work, seconds, "s of one core", at_most=5)
