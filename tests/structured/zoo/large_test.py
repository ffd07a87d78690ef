"""Models of the size users have, without their weights."""

import functools

import jax
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.structured.units import program_of
from tests.structured.zoo import large as zoo_large

pytestmark = pytest.mark.models


@functools.cache
def units_of(name):
    apply, variables, inputs = zoo_large.ZOO[name]()
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    return gf.find_units(apply, variables, *inputs), variables


# What the studies of these architectures count: see each test for the parts.
@pytest.mark.parametrize(
    ("name", "families", "units", "parameters"),
    [
        ("vgg13", 10, 2944, 9_459_236),
        ("mobilenet_v1", 14, 5984, None),
        ("resnet56", 27 + 3, 27 * 0 + 1008 + 112, 861_620),
        ("resnet50", 37, 11_456, 25_557_032),
        ("vit_b16", 49, 12 * (12 + 64 + 64 + 3072) + 768, None),
        ("gpt24", 97, 24 * (16 + 64 + 64 + 4096) + 1024, None),
    ],
)
def test_the_families_of_known_architectures(name, families, units, parameters):
    found, variables = units_of(name)
    assert len(found) == families
    assert sum(family.size for family in found) == units
    assert not program_of(found).coupling.unknown
    if parameters is not None:
        assert found.parameters() == parameters
    assert found.parameters() == sum(
        np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])
    )


def test_resnet_56_is_27_inner_families_and_3_streams():
    units, _ = units_of("resnet56")
    streams = [family for family in units if len(family.producers) > 1]
    inner = [family for family in units if len(family.producers) == 1]
    assert [family.size for family in streams] == [16, 32, 64] and len(inner) == 27
    # Each block of a stage, the stem or the shortcut: they write to the stream.
    assert [len(family.producers) for family in streams] == [10, 10, 10]
    assert [family.reads_input for family in streams] == [True, False, False]


def test_a_stage_of_mobilenet_takes_its_depthwise_convolution_along():
    units, _ = units_of("mobilenet_v1")
    for family in units:
        kinds = [family_slice.kinds for family_slice in family.slices]
        kernels = [s for s in family.slices if s.path.endswith("kernel")]
        assert len([s for s in kernels if s.kinds == {"producing"}]) == 1
        assert kinds.count(frozenset({"consuming"})) == 1
        depthwise = [s for s in kernels if s.kinds == {"elementwise"}]
        assert len(depthwise) == (0 if family is units.families[-1] else 1) or (
            len(depthwise) <= 1
        )


def test_a_model_of_a_billion_parameters_is_planned_without_its_weights():
    units, variables = units_of("billion")
    assert units.parameters() > 10**9
    family = max(units, key=lambda family: family.size)
    keep = {family.name: np.arange(family.size) > 0}
    small = gf.cut(variables, units, keep)
    leaves = jax.tree.leaves(small)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    saved = units.parameters() - units.parameters(keep)
    assert saved == units.parameters() - sum(int(np.prod(x.shape)) for x in leaves)
    # A hidden neuron of the gated MLP: a column of two kernels, a row of the third.
    assert saved == sum(
        int(np.prod(units.leaves[s.path].shape)) // units.leaves[s.path].shape[s.axis]
        for s in family.slices
    )
    assert units.flops(keep) < units.flops()
