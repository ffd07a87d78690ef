"""Every kind of model: what is found, that each cut equals its mask, why not.

The functions and a few Flax models are cut with every change. The other Flax models,
and each family of any model by itself, are cut in the tier of models.
"""

import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.structured import Shrunk
from gradflow_jax.structured.checking import error_of
from gradflow_jax.structured.units import program_of
from gradflow_jax.trees import named_leaves
from tests.structured.zoo.cases import NAMES, case, keep_of, units_of

# Families found, units in them, and how many families the model's own code runs when
# each is cut alone: for the others Python has computed something from the width.
FOUND = {
    "plain/mlp_relu": (1, 6, 1),
    "plain/mlp_gelu": (1, 7, 1),
    "plain/mlp_sigmoid": (0, 0, 0),
    "plain/mlp_tanh": (1, 9, 1),
    "plain/exp_act": (0, 0, 0),
    "plain/custom_jvp_mlp": (1, 11, 1),
    "plain/custom_vjp_mlp": (1, 12, 1),
    "plain/l2_normalize": (1, 6, 1),
    "plain/flip_add": (1, 4, 1),
    "plain/roll_add": (0, 0, 0),
    "plain/batch_norm_train": (1, 9, 1),
    "plain/softmax_hidden": (0, 0, 0),
    "plain/cumsum_hidden": (0, 0, 0),
    "plain/sort_hidden": (0, 0, 0),
    "plain/reciprocal": (0, 0, 0),
    "plain/argmax_gate": (0, 0, 0),
    "plain/fft_hidden": (0, 0, 0),
    "plain/max_pool_hidden": (0, 0, 0),
    "plain/const_gate": (1, 7, 0),
    "plain/maxout": (1, 6, 1),
    "plain/crelu": (1, 7, 1),
    "plain/split_glu": (1, 7, 1),
    "plain/prelu": (1, 7, 1),
    "plain/strided": (3, 16, 2),
    "plain/shared_layer": (1, 7, 1),
    "plain/weight_norm": (1, 6, 1),
    "plain/lora": (3, 19, 3),
    "plain/swiglu": (2, 15, 2),
    "plain/moe_dense": (3, 22, 3),
    "plain/cond_mlp": (1, 7, 0),
    "plain/hypernet": (2, 13, 2),
    "plain/conv_flatten_dense": (2, 13, 2),
    "plain/remat_mlp": (2, 15, 2),
    "plain/nested_jit": (2, 15, 2),
    "plain/while_mlp": (2, 15, 2),
    "plain/layer_norm_fast": (2, 19, 1),
    "plain/layer_norm_two_pass": (1, 11, 1),
    "plain/rms_norm": (2, 19, 1),
    "plain/grouped_conv": (4, 12, 3),
    "plain/depthwise_multiplier": (3, 14, 3),
    "plain/squeeze_excite": (3, 17, 3),
    "plain/bilinear_resize": (2, 11, 2),
    "plain/channel_shuffle": (4, 9, 2),
    "plain/pixel_shuffle": (2, 9, 2),
    "plain/group_norm": (2, 6, 0),
    "plain/concat_densenet": (4, 22, 4),
    "plain/unet_repeat": (3, 15, 3),
    "plain/unet_conv_transpose": (4, 22, 4),
    "plain/residual_pad": (2, 9, 2),
    "plain/nchw_flatten": (1, 6, 1),
    "plain/fused_swiglu": (2, 15, 2),
    "plain/scan_layers": (2, 19, 1),
    "plain/tied_embedding": (2, 17, 1),
    "plain/attention": (4, 21, 2),
    "plain/rotary": (4, 18, 2),
    "plain/fused_qkv_reshape": (3, 15, 1),
    "plain/fused_qkv_split": (4, 20, 1),
    "plain/grouped_query": (5, 20, 2),
    "plain/grouped_query_einsum": (5, 20, 2),
    "plain/lstm": (2, 13, 2),
    "plain/gru": (2, 13, 2),
    "linen/mlp": (2, 16, 2),
    "linen/vgg_bn_flatten": (3, 21, 3),
    "linen/resnet": (5, 35, 5),
    "linen/mobilenet": (4, 31, 3),
    "linen/group_norm_net": (4, 13, 2),
    "linen/vit": (9, 59, 6),
    "linen/transformer_lm_tied": (9, 58, 6),
    "linen/dense_general_heads": (4, 24, 4),
    "linen/lstm": (1, 7, 1),
    "linen/lstm_cell": (2, 13, 2),
    "linen/gru": (1, 7, 1),
    "linen/conv_transpose_unet": (7, 49, 7),
    "linen/scan_blocks": (2, 19, 1),
    "linen/remat_block": (3, 28, 2),
    "linen/batch_norm_train": (2, 13, 0),
    "nnx/mlp": (2, 16, 2),
    "nnx/vgg": (3, 21, 3),
    "nnx/resnet_bn": (4, 27, 4),
    "nnx/resnet_gn": (8, 22, 4),
    "nnx/mobilenet": (4, 31, 3),
    "nnx/transformer_block": (5, 33, 2),
    "nnx/lm_tied": (9, 58, 4),
    "nnx/lstm": (1, 7, 1),
    "nnx/gru": (1, 7, 1),
}

# A leaf that cannot be cut, and words of the reason and of the equation.
REFUSED = {
    "plain/mlp_sigmoid": ("stem/w", "the constant 0.5 leaks", "dot_general"),
    "plain/exp_act": ("stem/w", "the constant 1 leaks", "dot_general"),
    "plain/roll_add": ("stem/w", "a slice of one index", "slice"),
    "plain/softmax_hidden": ("stem/w", "reduce_max meets the removed", "reduce_max"),
    "plain/max_pool_hidden": ("stem/w", "which is 0 there", "reduce_max"),
    "plain/cumsum_hidden": ("stem/w", "along this axis as a whole", "cumsum"),
    "plain/sort_hidden": ("stem/w", "along this axis as a whole", "sort"),
    "plain/reciprocal": ("stem/w", "is inf on the removed slice", "div"),
    "plain/argmax_gate": ("stem/w", "number of its largest", "argmax"),
    "plain/fft_hidden": ("stem/w", "a Fourier transform runs along it", "fft"),
    "plain/layer_norm_two_pass": ("head/w", "which is not constant", "reduce_sum"),
    "plain/moe_dense": ("router/w", "meets the removed slice", "reduce_max"),
    "plain/weight_norm": ("g", "removed", ""),
    "plain/residual_pad": ("b/w", "padding", "pad"),
    "linen/vit": ("params/Conv_0/kernel", "a convolution's window", "conv_general"),
    "linen/transformer_lm_tied": ("params/Embed_0/embedding", "looked up", "gather"),
    "linen/mobilenet": ("params/Conv_0/kernel", "axis of the model's input", ""),
    "linen/mlp": ("params/layers_4/kernel", "axis of the model's output", ""),
    "nnx/resnet_bn": ("layers/0/kernel", "a convolution's window", "conv_general"),
}


# Of what is refused in any model: inputs, outputs and windows. What else is, and why.
EVERYWHERE = {
    "it is an axis of the model's input",
    "it is an axis of the model's output",
    "it has a single index",
    "a convolution slides along it",
    "it is the extent of a convolution's window",
}
LEAKS = 'leaks through this contraction (leaks="fold" adds it to the bias behind it)'
TAKEN_APART = {"a slice of one index", "arrays are taken apart along it"}
ELSE = {
    "plain/mlp_sigmoid": {f"the constant 0.5 {LEAKS}"},
    "plain/exp_act": {f"the constant 1 {LEAKS}"},
    "plain/roll_add": {"a slice of one index"},
    "plain/softmax_hidden": {"reduce_max meets the removed slice, which is 0 there"},
    "plain/cumsum_hidden": {"it works along this axis as a whole"},
    "plain/sort_hidden": {"it works along this axis as a whole"},
    "plain/reciprocal": {"div of 1, 0 is inf on the removed slice"},
    "plain/argmax_gate": {"the number of its largest or smallest index is asked for"},
    "plain/fft_hidden": {"a Fourier transform runs along it"},
    "plain/max_pool_hidden": {"reduce_max meets the removed slice, which is 0 there"},
    "plain/maxout": {"reduce_max meets the removed slice, which is 0 there"},
    "plain/weight_norm": {"div of 0, 0 is nan on the removed slice"},
    "plain/moe_dense": {"reduce_max meets the removed slice, which is 0 there"},
    "plain/layer_norm_two_pass": {
        "reduce_sum meets the removed slice, which is not constant there"
    },
    "plain/residual_pad": {"padding"},
    "plain/fused_swiglu": TAKEN_APART,
    "plain/fused_qkv_reshape": TAKEN_APART,
    "plain/scan_layers": {"it counts the steps of a scan"},
    "plain/tied_embedding": {"it is looked up by indices that the program computes"},
    "linen/vgg_bn_flatten": {"a window slides along it"},
    "linen/transformer_lm_tied": {
        "it is looked up by indices that the program computes"
    },
    "linen/scan_blocks": {"it counts the steps of a scan"},
    "nnx/vgg": {"a window slides along it"},
    "nnx/lm_tied": {"it is looked up by indices that the program computes"},
}


# Of Flax, one model or two of each kind of layer.
WITH_EVERY_CHANGE = {
    *("linen/mlp", "linen/group_norm_net", "linen/dense_general_heads"),
    *("linen/lstm_cell", "linen/scan_blocks", "linen/batch_norm_train"),
    *("nnx/mlp", "nnx/gru"),
}
CUT = [name for name in NAMES if FOUND[name][0]]
TOGETHER = [
    name
    if name.startswith("plain") or name in WITH_EVERY_CHANGE
    else pytest.param(name, marks=pytest.mark.models)
    for name in CUT
]


def in_order(names):
    """Parametrizes so that the tests of a model follow each other, in one process."""
    return pytest.mark.parametrize("name", names, scope="module")


def test_the_table_is_of_the_whole_zoo():
    assert list(FOUND) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_found_and_why_the_rest_is_refused(name):
    units = units_of(name)
    families, count, _ = FOUND[name]
    assert (len(units), sum(family.size for family in units)) == (families, count)
    assert not program_of(units).coupling.unknown - {"fft"}
    texts = {refused.reason.text for refused in units.refused} - EVERYWHERE
    expected = ELSE.get(name, set())
    # Versions of JAX take arrays apart in two ways.
    assert texts == expected or (expected is TAKEN_APART and texts < expected)
    for refused in units.refused:
        text = refused.reason.text
        of_the_model = "of the model" in text or "single index" in text
        assert of_the_model or refused.reason.equation
    # Every axis of every leaf is in a family or refused.
    places = {s.place for family in units for s in family.slices}
    places |= {place for refused in units.refused for place in refused.places}
    shapes = {path: np.shape(leaf) for path, leaf in named_leaves(case(name)[2])}
    assert shapes == {path: leaf.shape for path, leaf in units.leaves.items()}
    for path, shape in shapes.items():
        assert {(path, axis) for axis in range(len(shape))} <= places


@in_order(TOGETHER)
def test_all_families_together(name):
    _, _, variables, inputs = case(name)
    units = units_of(name)
    assert gf.structured.cut_error(variables, units, keep_of(units), *inputs) <= 1e-5


@pytest.mark.models
@in_order(CUT)
def test_each_family_by_itself(name):
    units = units_of(name)
    _, _, variables, inputs = case(name)
    native = 0
    for family in units:
        keep = keep_of([family])
        shrunk = Shrunk(units, keep)
        assert error_of(shrunk, variables, *inputs) <= 1e-5, family.name
        native += shrunk.native
        # The mask is no more than the family's slices, and does something.
        masks = named_leaves(units.masks(keep, variables))
        masked = {path for path, mask in masks if not np.asarray(mask).all()}
        assert masked and masked <= set(family.leaves)
    assert native == FOUND[name][2]


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_cut_says_why(name):
    path, text, equation = REFUSED[name]
    said = units_of(name).explain(path)
    assert text in said and equation in said
    if equation:
        # The line of the user's code.
        assert f"{name.split('/')[0]}.py:" in said or "plain" not in name


@pytest.mark.parametrize("name", ["plain/mlp_sigmoid", "plain/exp_act"])
def test_a_constant_is_folded_into_the_next_bias(name):
    model, args, variables, inputs = case(name)
    units = gf.find_units(model, *args, leaks="fold")
    (family,) = units
    keep = keep_of(units)
    # Masked are the producers only, so the constant is in the masked model's output.
    assert "head/w" not in {path for path, _ in family.zeroed}
    assert gf.structured.cut_error(variables, units, keep, *inputs) <= 1e-5
    small = gf.cut(variables, units, keep)
    assert not np.array_equal(small["head"]["b"], variables["head"]["b"])
    # An optimizer's state and masks are cut, and nothing is added to them.
    moments = gf.cut({"mu": variables}, units, keep)
    np.testing.assert_array_equal(moments["mu"]["head"]["b"], variables["head"]["b"])
    assert "their constant goes into a bias" in units.explain("stem/w")
