"""Leaves as NumPy arrays that a file can hold, and leaves from them.

A leaf of a dtype that the format of the file has no name for, such as `int4`, is kept
as its bytes; random keys are kept as their data, with the name of their generator.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradflow_jax.structured.saving.tensor_files import has_name
from gradflow_jax.trees import describe, is_traced, label
from gradflow_jax.trees.dtypes import is_numeric

_NUMBERS = frozenset(
    """
    bool int2 int4 int8 int16 int32 int64 uint2 uint4 uint8 uint16 uint32 uint64
    float4_e2m1fn float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn
    float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    bfloat16 float16 float32 float64 complex64 complex128
    """.split()
)
# Of these a byte holds one number and unused bits.
_NARROW = frozenset("int2 int4 uint2 uint4 float4_e2m1fn".split())
_KEYS = {f"key:{name}": name for name in ("threefry2x32", "rbg", "unsafe_rbg")}


def kind_of_leaf(path: str, leaf: Any) -> str:
    """Returns what a file says that a leaf holds: its dtype, or a generator's keys.

    Raises:
        TypeError: if it is neither an array of numbers nor one of random keys, or its
            values are not known.
    """
    if is_traced(leaf) or not is_numeric(leaf):
        what = "traced by jax.jit" if is_traced(leaf) else f"a {type(leaf).__name__}"
        raise TypeError(
            f"variables {label(path)} is {what} and not an array of numbers: save "
            "outside of jax.jit, and leave out what is no number."
        )
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        dtype = jnp.result_type(leaf)
    if isinstance(dtype, np.dtype):
        if dtype.name in _NUMBERS:
            return dtype.name
    elif isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        for kind in _KEYS:
            if dtype == dtype_of(kind):
                return kind
    raise TypeError(
        f"variables {label(path)} is a {type(leaf).__name__} of {dtype}, but saved are "
        "numbers, and random keys of JAX's own generators. Convert the leaf, or leave "
        "it out."
    )


def fetch_leaf(path: str, leaf: Any, kind: str) -> np.ndarray:
    """Returns the numbers of a leaf, on each of the processes that hold parts of it.

    Raises:
        TypeError: if it has a shape but no values.
        ValueError: if its values are gone.
    """
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            raise ValueError(
                f"variables {label(path)} was deleted, as a step does with arrays that "
                "are donated to it: save what the step returned."
            )
        if kind in _KEYS:
            leaf = jax.random.key_data(leaf)
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            leaf = _replicate(leaf)
    elif not isinstance(leaf, (np.ndarray, np.generic, bool, int, float, complex)):
        raise TypeError(
            f"variables {label(path)} is a {type(leaf).__name__}, which has no values "
            "here: pass the cut arrays."
        )
    array = np.asarray(leaf)
    if kind in _NARROW:
        return array.astype(np.float32).astype(jnp.dtype(kind))
    return array if kind in _KEYS else array.astype(jnp.dtype(kind), copy=False)


def to_tensor(array: np.ndarray) -> np.ndarray:
    """Returns an array as a file of tensors can hold it: itself, or its bytes."""
    if has_name(array.dtype):
        return array
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def from_tensor(tensor: np.ndarray, shape: tuple[int, ...], kind: str) -> Any:
    """Returns a leaf from what a file holds of it.

    Args:
        tensor: as `to_tensor` gave it.
        shape: of the leaf.
        kind: of the leaf, from `kind_of_leaf`.

    Returns:
        An array of JAX; of NumPy where JAX would narrow it, without 64 bits enabled.

    Raises:
        ValueError: if the tensor is not of this shape and kind.
    """
    if kind in _KEYS:
        data_shape = jax.eval_shape(
            jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype_of(kind))
        ).shape
        _check(tensor, data_shape, np.dtype(np.uint32))
        return jax.random.wrap_key_data(jnp.asarray(tensor), impl=_KEYS[kind])
    dtype = jnp.dtype(kind)
    if not has_name(dtype):
        _check(tensor, (math.prod(shape) * dtype.itemsize,), np.dtype(np.uint8))
        data, tensor = tensor, tensor.view(dtype).reshape(shape)
        if kind in _NARROW:
            again = tensor.astype(np.float32).astype(dtype)
            if again.tobytes() != data.tobytes():
                raise ValueError(f"it holds bytes that are no {kind}")
    _check(tensor, shape, dtype)
    kept = jax.dtypes.canonicalize_dtype(dtype) == dtype
    return jnp.asarray(tensor) if kept else tensor


@functools.cache
def dtype_of(kind: str) -> Any:
    """Returns the dtype that a file says a leaf has.

    Raises:
        ValueError: if there is none of this name.
    """
    if kind in _KEYS:
        make = functools.partial(jax.random.key, 0, impl=_KEYS[kind])
        return jax.eval_shape(make).dtype
    if kind not in _NUMBERS:
        raise ValueError(f"{kind[:40]!r} is no dtype of numbers")
    try:
        return jnp.dtype(kind)
    except TypeError:
        raise ValueError(f"{kind} is a dtype that this version of JAX lacks") from None


def _replicate(array: jax.Array) -> jax.Array:
    """Returns an array, parts of which other processes hold, whole on each device."""
    sharding = array.sharding
    if isinstance(sharding, NamedSharding):
        mesh = sharding.mesh
    else:
        devices = sorted(sharding.device_set, key=lambda device: device.id)
        mesh = Mesh(np.array(devices), ("device",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda x: x, out_shardings=everywhere)(array)


def _check(tensor: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"it is {describe(tensor)} and not {dtype}{list(shape)}")
