"""The coupling of axes against Shardy's, the partitioner inside XLA.

Shardy knows of each operation which dimensions of its operands and results could be
split together over devices. Followed through a whole program that couples the axes of
leaves, without any rule of this library.
"""

import re
from collections import defaultdict

import jax
import pytest

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves
from tests.structured.zoo import linen as zoo_linen
from tests.structured.zoo import plain as zoo_plain

pytestmark = pytest.mark.models

PASS = "builtin.module(func.func(sdy-populate-op-sharding-rules))"


class Sets:
    """Sets of things that are merged."""

    def __init__(self):
        self.parent = {}

    def find(self, one):
        while self.parent.setdefault(one, one) != one:
            one = self.parent[one]
        return one

    def merge(self, things):
        first, *others = [self.find(thing) for thing in things]
        self.parent.update(dict.fromkeys(others, first))


def with_rules(apply, variables, inputs):
    """Returns the program as a module, with Shardy's rules on its operations."""
    passmanager = pytest.importorskip("jaxlib.mlir.passmanager")
    lowered = jax.jit(apply, keep_unused=True).lower(variables, *inputs)
    module = lowered.compiler_ir("stablehlo")
    with module.context:
        try:
            passes = passmanager.PassManager.parse(PASS)
        except ValueError as error:
            pytest.skip(f"this jaxlib lacks a pass of Shardy's: {error}")
        passes.run(module.operation)
    return module


def couple(sets, functions, name, inputs):
    """Merges the dimensions, (value, axis), of a function; returns its results.

    Values are numbered where they are called, since a function may be called twice.
    """
    block = functions[name].entry_block
    numbers = dict(zip(block.arguments, inputs, strict=True))
    for op in block.operations:
        operands = [numbers[value] for value in op.operands]
        if op.operation.name == "func.return":
            return operands
        if op.operation.name == "func.call":
            callee = str(op.attributes["callee"]).strip('@"')
            results = couple(sets, functions, callee, operands)
        else:
            results = [object() for _ in op.results]
        numbers.update(zip(op.results, results, strict=True))
        if "sdy.sharding_rule" not in op.attributes:
            continue
        text, _, sizes = str(op.attributes["sdy.sharding_rule"]).partition("{")
        sizes = dict(re.findall(r"([a-z](?:_\d+)?)=(\d+)", sizes))
        split_alike = defaultdict(list)
        dims = re.findall(r"\[(.*?)\]", text)
        for value, own in zip([*operands, *results], dims, strict=True):
            for axis, product in enumerate(own.split(",")):
                for factor in re.findall(r"[a-z](?:_\d+)?", product):
                    if sizes[factor] != "1":
                        split_alike[factor].append((value, axis))
        for places in split_alike.values():
            sets.merge(places)
    raise AssertionError(f"{name} returns nothing")


def coupled_by_shardy(apply, variables, inputs):
    """Returns the sets of leaves' places, (path, axis), that Shardy would split alike.

    The factors of a product count as one: a head goes with its dimensions.
    """
    module, sets = with_rules(apply, variables, inputs), Sets()
    functions = {op.name.value: op for op in module.body.operations}
    named = named_leaves(variables)
    values = [object() for _ in (*named, *jax.tree.leaves(inputs))]
    couple(sets, functions, "main", values)
    found = defaultdict(set)
    for (path, leaf), value in zip(named, values, strict=False):
        for axis in range(leaf.ndim):
            found[sets.find((value, axis))].add((path, axis))
    return list(found.values())


# Without loops and branches, whose bodies are not followed here.
MODELS = zoo_plain.ZOO | zoo_linen.ZOO
NAMES = """
    attention channel_shuffle concat_densenet crelu custom_jvp_mlp
    dense_general_heads depthwise_multiplier fused_qkv_reshape group_norm
    group_norm_net grouped_conv grouped_query grouped_query_einsum hypernet lora mlp
    mlp_gelu mobilenet moe_dense nchw_flatten nested_jit prelu remat_mlp
    residual_pad resnet rms_norm split_glu squeeze_excite swiglu tied_embedding
    transformer_lm_tied vgg_bn_flatten vit weight_norm
""".split()


@pytest.mark.parametrize("name", NAMES)
def test_families_are_what_shardy_couples(name):
    apply, variables, inputs = MODELS[name]()
    sets = Sets()
    for family in gf.find_units(apply, variables, *inputs):
        sets.merge([own.place for own in family.slices])
    ours = defaultdict(set)
    for place in list(sets.parent):
        ours[sets.find(place)].add(place)
    theirs = coupled_by_shardy(apply, variables, inputs)
    assert ours
    for places in ours.values():
        assert places in theirs
