"""Tells what numbers a leaf holds, and widens them to what sums need."""

from typing import TypeGuard

import chex
import jax
import jax.core
import jax.numpy as jnp


def describe(leaf: object) -> str:
    """Returns a leaf's dtype and shape, `float32[3,4]`, or the name of its type."""
    if not is_numeric(leaf):
        return type(leaf).__name__
    shape = ",".join(str(size) for size in jnp.shape(leaf))
    return f"{jnp.result_type(leaf)}[{shape}]"


def is_real_floating(leaf: object) -> bool:
    """Says whether a leaf is an array, or a number, of a real floating-point dtype."""
    return is_numeric(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def is_numeric(leaf: object) -> TypeGuard[chex.Numeric]:
    """Says whether a leaf is a number or an array, of any dtype."""
    if isinstance(leaf, (bool, int, float, complex)):
        return True
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def is_traced(value: object) -> bool:
    """Says whether a value is known only when a transformed function runs."""
    return isinstance(value, jax.core.Tracer)


def widen(leaf: chex.Numeric) -> jax.Array:
    """Returns a leaf in float32, or in its own dtype where that is wider."""
    dtype = jnp.dtype(jnp.result_type(leaf))
    # The dtype is explicit, so that a Python number does not stay weakly typed.
    return jnp.asarray(leaf, jnp.float32 if dtype.itemsize < 4 else dtype)
