"""Tells what numbers a leaf holds, and widens them to what sums need."""

from typing import Any, TypeGuard

import chex
import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def describe(leaf: object) -> str:
    """Returns a leaf's dtype and shape, or the name of its type.

    Args:
        leaf: anything.

    Returns:
        What an error says of it.

    Example:
        >>> describe(jnp.ones((3, 4))), describe("weights")
        ('float32[3,4]', 'str')
    """
    if isinstance(leaf, int) and not is_numeric(leaf):
        return f"a whole number that {jnp.result_type(int)} cannot hold"
    if is_numeric(leaf):
        return f"{jnp.result_type(leaf)}{_sizes(jnp.shape(leaf))}"
    kind = type(leaf).__name__
    dtype, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", None)
    if dtype is None or not isinstance(shape, tuple):
        return kind
    numbers = f"{dtype}{_sizes(shape)}"
    return numbers if isinstance(leaf, np.ndarray) else f"{kind} ({numbers})"


def _sizes(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def is_real_floating(leaf: object) -> bool:
    """Says whether a leaf is an array, or a number, of a real floating-point dtype.

    Args:
        leaf: anything.

    Returns:
        False of integers, complex numbers and what is no number.

    Example:
        >>> is_real_floating(jnp.ones(2)), is_real_floating(1)
        (True, False)
    """
    if isinstance(leaf, jax.Array):
        # The way of nearly all leaves, which is many times as fast as the next.
        return jnp.issubdtype(leaf.dtype, jnp.floating)
    return is_numeric(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def is_numeric(leaf: object) -> TypeGuard[chex.Numeric]:
    """Says whether a leaf is a number, or an array of what JAX computes with.

    Args:
        leaf: anything.

    Returns:
        True of real and complex numbers, bools and keys; False of texts, dates, objects
        and records, of arrays whose dtype only another library knows, and of a whole
        number of Python that JAX's integers cannot hold.

    Example:
        >>> is_numeric(np.ones(2, np.int8)), is_numeric(np.array(["relu"]))
        (True, False)
    """
    if isinstance(leaf, int):
        limits = jnp.iinfo(jnp.result_type(int))
        return limits.min <= leaf <= limits.max
    if isinstance(leaf, (float, complex)):
        return True
    dtype: Any = getattr(leaf, "dtype", None)
    if dtype is None or not isinstance(getattr(leaf, "shape", None), tuple):
        return False
    # Objects of any kind may call a text their dtype, which is the name of one.
    if isinstance(dtype, str):
        return False
    # JAX takes no arrays of which some entries are hidden.
    if isinstance(leaf, np.ma.MaskedArray):
        return False
    # It computes with none of the other byte order, and with no long doubles.
    is_numpys = isinstance(dtype, np.dtype)
    if is_numpys and (not dtype.isnative or dtype.char in "gG"):
        return False
    try:
        kinds = (jnp.number, jnp.bool_, jax.dtypes.extended)
        return any(jnp.issubdtype(dtype, kind) for kind in kinds)
    # NumPy does not know the dtype.
    except TypeError:
        return False


def has_values(leaf: chex.Numeric | jax.ShapeDtypeStruct) -> bool:
    """Says whether a leaf is a number or an array, and not the shape of one.

    Args:
        leaf: what `is_numeric` is true of.
    """
    protocols = ("__array__", "__jax_array__")
    return not hasattr(leaf, "dtype") or any(hasattr(leaf, name) for name in protocols)


def is_traced(value: object) -> bool:
    """Says whether a value is known only when a transformed function runs.

    Args:
        value: anything.

    Returns:
        True of the tracers of `jax.jit`, `jax.grad` and their like.

    Example:
        >>> is_traced(1.0)
        False
        >>> _ = jax.eval_shape(lambda x: print(is_traced(x)), 1.0)
        True
    """
    return isinstance(value, jax.core.Tracer)


def widen(leaf: chex.Numeric) -> jax.Array:
    """Returns a leaf in float32, or in its own dtype where that is wider.

    Args:
        leaf: a real number or array.

    Returns:
        An array of its shape, in which sums of many weights keep their digits.

    Example:
        >>> widen(jnp.ones(2, jnp.bfloat16)).dtype
        dtype('float32')
    """
    dtype = jnp.dtype(jnp.result_type(leaf))
    # The dtype is explicit, so that a Python number does not stay weakly typed.
    return jnp.asarray(leaf, jnp.float32 if dtype.itemsize < 4 else dtype)
