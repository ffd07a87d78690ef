"""Leaves as NumPy arrays that a file can hold, and leaves from them.

A leaf of a dtype that files do not hold, such as `int4`, is kept as its bytes; random
keys are kept as their data, with the name of their generator.
"""

import contextlib
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.structured.saving.tensor_files import is_native
from gradflow_jax.trees import describe, is_numeric, is_traced, label

_NUMBERS = frozenset(
    """
    bool int2 int4 int8 int16 int32 int64 uint2 uint4 uint8 uint16 uint32 uint64
    float4_e2m1fn float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn
    float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    bfloat16 float16 float32 float64 complex64 complex128
    """.split()
)
# Of these a byte holds one number and unused bits.
_PADDED = frozenset("bool int2 int4 uint2 uint4 float4_e2m1fn".split())
_KEYS = {f"key:{name}": name for name in ("threefry2x32", "rbg", "unsafe_rbg")}


def kind_of_leaf(path: str, leaf: Any) -> str:
    """Returns what a file says that a leaf holds: its dtype, or a generator's keys.

    Raises:
        TypeError: if it is neither an array of numbers nor one of random keys, or its
            values are not known.
    """
    is_number = isinstance(leaf, (bool, int, float, complex)) and is_numeric(leaf)
    dtype = jnp.result_type(leaf) if is_number else getattr(leaf, "dtype", None)
    if is_traced(leaf):
        what = "traced by jax.jit"
    elif isinstance(dtype, np.dtype) and dtype.name in _NUMBERS:
        return dtype.name
    else:
        for kind in _KEYS:
            if dtype_of(kind) == dtype:
                return kind
        what = describe(leaf)
    raise TypeError(
        f"variables {label(path)} is {what}, but saved are arrays of numbers and of "
        "random keys of JAX's own generators. Convert the leaf, or leave it out."
    )


@functools.cache
def dtype_of(kind: str) -> Any:
    """Returns the dtype that a file says a leaf has.

    Raises:
        ValueError: if there is none of this name.
    """
    if kind in _KEYS:
        make = functools.partial(jax.random.key, 0, impl=_KEYS[kind])
        return jax.eval_shape(make).dtype
    if kind in _NUMBERS:
        with contextlib.suppress(TypeError):
            return jnp.dtype(kind)
    raise ValueError(f"{kind[:40]!r} is no dtype of numbers in this version of JAX")


def values_of(path: str, leaf: Any) -> Any:
    """Returns the array of numbers that a leaf is, or that its random keys are.

    Raises:
        TypeError: if it is no array of numbers or keys, or has a shape but no values.
        ValueError: if its values are gone.
    """
    kind = kind_of_leaf(path, leaf)
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            raise ValueError(
                f"variables {label(path)} was deleted, as a step does with arrays that "
                "are donated to it: save what the step returned."
            )
        return jax.random.key_data(leaf) if kind in _KEYS else leaf
    if not isinstance(leaf, (np.ndarray, np.generic, bool, int, float, complex)):
        raise TypeError(
            f"variables {label(path)} is a {type(leaf).__name__}, which has no values "
            "here: pass the cut arrays."
        )
    return np.asarray(leaf, dtype_of(kind))


def to_tensor(array: np.ndarray) -> np.ndarray:
    """Returns what a file holds of an array."""
    # The library writes what lies one after the other in memory.
    array = np.asarray(array, order="C")
    if array.dtype.name in _PADDED:
        array = _clear_padding(array)
    return array if is_native(array.dtype) else array.reshape(-1).view(np.uint8)


def from_tensor(path: str, leaf: jax.ShapeDtypeStruct, tensor: np.ndarray) -> Any:
    """Returns a leaf of a shape and dtype from what a file holds of it.

    It is of NumPy where JAX would narrow it, without 64 bits enabled.

    Raises:
        ValueError: if the tensor is of another shape or dtype, or no number of that
            dtype has its bytes.
    """
    kind, expected = kind_of_leaf(path, leaf), leaf
    if kind in _KEYS:
        expected = jax.eval_shape(jax.random.key_data, leaf)
    elif not is_native(leaf.dtype):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        expected = jax.ShapeDtypeStruct((size,), np.uint8)
    if (tensor.shape, tensor.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"its {label(path)} is {describe(tensor)} and not {describe(expected)}"
        )
    if kind in _KEYS:
        return jax.random.wrap_key_data(jnp.asarray(tensor), impl=_KEYS[kind])
    array = tensor.view(leaf.dtype).reshape(leaf.shape)
    if kind in _PADDED and _clear_padding(array).tobytes() != array.tobytes():
        raise ValueError(f"its {label(path)} holds bytes that are no {kind}")
    is_kept = jax.dtypes.canonicalize_dtype(leaf.dtype) == leaf.dtype
    return jnp.asarray(array) if is_kept else array


def _clear_padding(array: np.ndarray) -> np.ndarray:
    """Returns the numbers of an array, with the unused bits as NumPy writes them."""
    return array.astype(np.float32).astype(array.dtype)
