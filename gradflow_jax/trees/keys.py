"""Checks keys of random numbers."""

import jax
import jax.numpy as jnp

from gradflow_jax.trees.dtypes import describe


def check_key(key: object) -> None:
    """Checks that a value is one key, of `jax.random.key` or of `PRNGKey`.

    Args:
        key: what was handed over.

    Raises:
        TypeError: for a seed, several keys and what is no key.

    Example:
        >>> check_key(jax.random.key(0))
        >>> check_key(0)
        Traceback (most recent call last):
        TypeError: key is a int: pass one key, jax.random.key(seed).
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        is_key = key.shape == ()
    else:
        raw = jax.eval_shape(jax.random.PRNGKey, 0)
        layout = getattr(key, "dtype", None), getattr(key, "shape", None)
        is_key = layout == (raw.dtype, raw.shape)
    if not is_key:
        kind = describe(key) if isinstance(key, jax.Array) else type(key).__name__
        raise TypeError(f"key is a {kind}: pass one key, jax.random.key(seed).")
