"""The order in which scores are kept: exact, and the same on every device."""

import jax
import jax.numpy as jnp

from gradflow_jax.trees import widen


def ascending(scores: jax.Array) -> jax.Array:
    """Returns integers in the order of the scores.

    The bits of a float, read as an integer, are in the order of the floats, but for
    the negative ones, which are mirrored; the two zeros become one. Comparing floats
    would not do: some devices, XLA's CPU among them, take denormals for zero.
    """
    scores = widen(scores)
    kind = jnp.int64 if scores.dtype.itemsize == 8 else jnp.int32
    bits = jax.lax.bitcast_convert_type(scores, kind)
    return jnp.where(bits < 0, jnp.iinfo(kind).min - bits, bits)
