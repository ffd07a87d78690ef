"""Masks as bits: nothing is lost, an eighth of the memory, errors."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import gradflow_jax as gf


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(
        bool,
        # Shapes are few, since each is compiled.
        st.sampled_from([(), (3,), (8,), (13,), (2, 16), (3, 1), (2, 3, 17), (0,)]),
    )
)
def test_unpacking_gives_the_masks_back(mask):
    packed = gf.pack_masks({"w": mask})
    kind = jnp.uint8 if mask.ndim and mask.shape[-1] >= 8 else jnp.bool_
    assert packed["w"].dtype == kind
    unpacked = gf.unpack_masks(packed, {"w": mask.astype(np.float32)})["w"]
    assert unpacked.dtype == bool
    np.testing.assert_array_equal(unpacked, mask)
    if kind == jnp.uint8:
        expected = np.packbits(mask, axis=-1, bitorder="little")
        np.testing.assert_array_equal(packed["w"], expected)


@pytest.mark.parametrize(
    "packed, error, words",
    [
        (np.zeros(2, np.float32), TypeError, "masks leaf 'w' is float32[2], not bool"),
        (np.zeros((), np.uint8), TypeError, "masks leaf 'w' is uint8[], not bool"),
        (
            np.zeros(3, np.uint8),
            ValueError,
            "'w' has shape (24,), but params has (10,)",
        ),
    ],
    ids=str,
)
def test_what_is_no_packed_mask(packed, error, words):
    with pytest.raises(error, match=re.escape(words)):
        gf.unpack_masks({"w": packed}, {"w": np.zeros(10)})


def test_another_tree():
    packed = gf.pack_masks({"v": np.ones(10, bool)})
    with pytest.raises(ValueError, match="different trees: masks lacks the leaf 'w'"):
        gf.unpack_masks(packed, {"w": np.zeros(10)})


def test_only_masks_are_packed():
    with pytest.raises(TypeError, match="'w' is uint8.8., not bool"):
        gf.pack_masks({"w": np.zeros(8, np.uint8)})
