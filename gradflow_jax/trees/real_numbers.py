"""Checks numbers that are options, and lists of numbers, whoever made them."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees.dtypes import is_traced

_REAL = (jnp.integer, jnp.floating)
_LARGEST = float(jnp.finfo(jnp.float32).max)


def check_number(value: object, what: str, *, least: float = -math.inf) -> None:
    """Checks that a value is one finite real number, not below the least.

    Args:
        value: what was handed over; a traced number is not known yet, and passes.
        what: what an error calls it: "learning_rate".
        least: the least that it may be.

    Raises:
        TypeError: for what is no real number, as True is none.
        ValueError: for NaN, a number below the least, or one that is not finite in
            float32, in which most is computed.

    Example:
        >>> check_number(-0.1, "learning_rate", least=0.0)
        Traceback (most recent call last):
        ValueError: learning_rate is -0.1: pass a finite number, 0 or above.
    """
    number = real_array(value, what)
    if number.ndim:
        raise TypeError(f"{what} is {_say(value)}: pass one real number.")
    if is_traced(number):
        return
    if not abs(float(number)) <= _LARGEST or number < least:
        bound = f", {least:g} or above" if math.isfinite(least) else ""
        raise ValueError(f"{what} is {value}: pass a finite number{bound}.")


def real_array(values: object, what: str) -> np.ndarray:
    """Returns real numbers as an array of NumPy, or as they are where they are traced.

    Args:
        values: a number, a list or an array.
        what: what an error calls them: "times".

    Returns:
        An array of their shape.

    Raises:
        TypeError: for what are no real numbers, as bools, texts and dates are none.

    Example:
        >>> real_array([0, 1], "times").tolist()
        [0, 1]
        >>> real_array("01", "times")
        Traceback (most recent call last):
        TypeError: times is '01': pass real numbers.
    """
    array: Any = values
    try:
        array = values if is_traced(values) else np.asarray(values)
        is_real = any(jnp.issubdtype(array.dtype, kind) for kind in _REAL)
    except (TypeError, ValueError):
        # NumPy makes no array of lists of several lengths, and JAX knows no datetimes.
        is_real = False
    if not is_real:
        raise TypeError(f"{what} is {_say(values)}: pass real numbers.")
    return array


def _say(value: object) -> str:
    """Returns what an error says of a value: itself, its dtype or its type."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    plain = value is None or isinstance(value, (str, bool, int, float, complex))
    return repr(value) if plain else str(getattr(value, "dtype", type(value).__name__))
