"""What the masked optimizer says of wrong masks, updates and states."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow_jax as gf
from tests.transforms.masked_models import NNX, RNG

# Errors

W = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
ALL = jax.tree.map(lambda x: jnp.ones(x.shape, bool), W)
LACKING = {"a": ALL["a"]}
SURPLUS = ALL | {"c": jnp.ones(2, bool)}
TRANSPOSED = ALL | {"a": ALL["a"].T}
NUMBERS = ALL | {"b": jnp.ones(2)}
NOT_ARRAYS = ALL | {"b": "keep"}

REMEDY = "Make masks from this very tree of params."
BAD_MASKS = {
    "lacking": (
        LACKING,
        ValueError,
        f"masks and params are different trees: masks lacks the leaf 'b'. {REMEDY}",
    ),
    "surplus": (
        SURPLUS,
        ValueError,
        "masks and params are different trees: masks has the leaf 'c', which params "
        f"lacks. {REMEDY}",
    ),
    "transposed": (
        TRANSPOSED,
        ValueError,
        f"masks leaf 'a' has shape (3, 2), but params has (2, 3) there. {REMEDY}",
    ),
    "numbers": (
        NUMBERS,
        TypeError,
        "masks leaf 'b' is float32[2], not bool (True keeps a weight). Masks come "
        "from gf.global_masks and its like, or from a comparison such as scores > "
        "threshold.",
    ),
    "not_arrays": (NOT_ARRAYS, TypeError, "masks leaf 'b' is str, not bool"),
    "empty": ({}, ValueError, "masks has no leaves: {}."),
}
bad_masks = pytest.mark.parametrize("case", BAD_MASKS)


def raises(error, message):
    return pytest.raises(error, match=re.escape(message))


@bad_masks
def test_init_names_what_is_wrong_with_the_masks(case):
    masks, error, message = BAD_MASKS[case]
    with raises(error, message):
        optax.chain(optax.sgd(0.1), gf.apply_mask(masks)).init(W)


@bad_masks
def test_update_names_what_is_wrong_with_the_masks_given_to_it(case):
    masks, error, message = BAD_MASKS[case]
    tx = optax.chain(optax.sgd(0.1), gf.apply_mask())
    with raises(error, message):
        tx.update(W, tx.init(W), W, masks=masks)


@bad_masks
def test_update_names_what_is_wrong_with_the_masks_in_the_state(case):
    masks, error, message = BAD_MASKS[case]
    tx = gf.apply_mask()
    message = re.sub(r"\bmasks\b", "the state's masks", message)
    with raises(error, message):
        tx.update(W, gf.transforms.MaskState(masks), W)


@bad_masks
def test_replace_masks_names_what_is_wrong_with_the_masks(case):
    masks, error, message = BAD_MASKS[case]
    tx = optax.chain(optax.sgd(0.1), gf.apply_mask())
    with raises(error, message):
        gf.replace_masks(tx, tx.init(W), W, masks)


def test_update_without_params_says_how_to_call_it():
    tx = optax.chain(optax.sgd(0.1), gf.apply_mask(ALL))
    with raises(ValueError, "needs the parameters") as error:
        tx.update(W, tx.init(W))
    assert "call tx.update(updates, state, params)" in str(error.value)


def test_updates_of_another_tree_are_refused():
    tx = gf.apply_mask(ALL)
    with raises(ValueError, "updates and params are different trees: updates lacks"):
        tx.update({"a": W["a"]}, tx.init(W), W)


@pytest.mark.parametrize(
    "kinds", [("float32",) * 2, ("bfloat16", "float32"), ("float16",) * 2], ids=str
)
def test_updates_are_selected_to_the_bit(kinds):
    special = [0.0, -0.0, 1.5, -1e-7, np.inf, -np.inf, np.nan, 6e4]
    pairs = np.array(np.meshgrid(special, special)).reshape(2, -1)
    step, weight = map(jnp.asarray, pairs, map(jnp.dtype, kinds))
    masks = jnp.asarray(RNG.random(step.size) < 0.5)
    tx = gf.apply_mask(masks)
    updates, _ = tx.update(step, tx.init(weight), weight)
    expected = jnp.where(masks, step, -weight)
    assert updates.dtype == expected.dtype
    bits = np.dtype(f"u{updates.dtype.itemsize}")
    np.testing.assert_array_equal(
        np.asarray(updates).view(bits), np.asarray(expected).view(bits)
    )


def test_updates_of_another_shape_are_refused():
    tx = gf.apply_mask(ALL)
    with raises(ValueError, "updates leaf 'b' has shape (1,), but params has (2,)"):
        tx.update(W | {"b": jnp.ones(1)}, tx.init(W), W)


def test_init_refuses_params_that_are_no_weights():
    with raises(TypeError, "params leaf 'b' is int32[2]; only floating-point leaves"):
        gf.apply_mask().init(W | {"b": jnp.arange(2)})


def test_init_refuses_a_whole_nnx_module():
    with raises(TypeError, "params is a whole nnx.Module (NNX)"):
        gf.apply_mask().init(NNX())


def test_replace_masks_says_how_to_make_an_optimizer_with_masks():
    tx = optax.adam(0.1)
    with raises(ValueError, "opt_state holds no masks for these params") as error:
        gf.replace_masks(tx, tx.init(W), W, ALL)
    assert "optax.chain(..., gf.apply_mask(masks))" in str(error.value)


def test_replace_masks_refuses_the_state_of_another_optimizer():
    tx = optax.chain(optax.adam(0.1), gf.apply_mask(ALL))
    other_state = optax.chain(optax.sgd(0.1), gf.apply_mask(ALL)).init(W)
    with raises(ValueError, "tx.init(params) and opt_state are different trees"):
        gf.replace_masks(tx, other_state, W, ALL)


@pytest.mark.parametrize("value", [1, None, "yes", np.ones(2, bool), np.ones((), bool)])
def test_an_option_is_true_or_false(value):
    with raises(TypeError, "packed is "):
        gf.apply_mask(ALL, packed=value)
    tx = optax.chain(optax.adam(0.1), gf.apply_mask(ALL))
    with raises(TypeError, "reset is "):
        gf.replace_masks(tx, tx.init(W), W, ALL, reset=value)


def test_replace_masks_takes_an_optimizer():
    tx = optax.chain(optax.adam(0.1), gf.apply_mask(ALL))
    for value in (None, tx.init, tx._replace(init=None), W, jnp.ones(2)):
        with raises(TypeError, "not an optimizer of optax with init and update"):
            gf.replace_masks(value, tx.init(W), W, ALL)


def test_trees_that_are_none_are_named():
    tx = optax.chain(optax.sgd(0.1), gf.apply_mask(ALL))
    state = tx.init(W)
    with raises(TypeError, "params (the array itself) is object, no array of numbers"):
        gf.masks_of(state, object())
    with raises(TypeError, "params leaf 'b' is str, no array of numbers"):
        gf.masks_of(state, W | {"b": "keep"})
    for call in (gf.apply_mask().init, gf.masks_of):
        with raises(ValueError, "has keys of int and str"):
            call({1: jnp.ones(2), "b": jnp.ones(2)})


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (np.zeros(2, [("a", "f4")]), "no array of numbers"),
        (np.array([None, 1.0]), "no array of numbers"),
        (jax.ShapeDtypeStruct((2,), np.float32), "a shape without values"),
    ],
)
def test_updates_are_arrays_of_numbers(odd, said):
    tx = gf.apply_mask(ALL)
    state = tx.init(W)
    with pytest.raises(TypeError, match=f"updates leaf 'b' is .*, {said}"):
        tx.update(W | {"b": odd}, state, W)
    with pytest.raises(TypeError, match=f"params leaf 'b' is .*, {said}"):
        tx.update(W, state, W | {"b": odd})
