"""Checks the options that several functions of this folder take."""

import math
from numbers import Integral
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradflow_jax.structured.units import Units
from gradflow_jax.trees import describe, is_traced

_REAL = (jnp.integer, jnp.floating)


def check_number(value: Any, name: str, *, least: float = -math.inf) -> None:
    """Checks that an option is one finite real number, not below the least.

    A traced number is not known yet, and passes.

    Raises:
        TypeError: for what is no real number, a bool too.
        ValueError: for NaN, an infinity or a number below the least.
    """
    if real_array(value, name).ndim:
        raise TypeError(f"{name} is {describe(value)}: pass one real number.")
    if is_traced(value):
        return
    if not math.isfinite(value) or value < least:
        bound = f", {least:g} or above" if math.isfinite(least) else ""
        raise ValueError(f"{name} is {value}: pass a finite number{bound}.")


def check_positive(value: Any, name: str) -> None:
    """Checks that an option is one finite number above 0.

    Raises:
        TypeError: for what is no real number.
        ValueError: for a number that is not finite or not above 0.
    """
    check_number(value, name)
    if not is_traced(value) and value <= 0:
        raise ValueError(f"{name} is {value}: pass a number above 0.")


def real_array(values: Any, name: str) -> Any:
    """Returns real numbers as an array of NumPy, or as they are where they are traced.

    Raises:
        TypeError: for what are no real numbers.
    """
    try:
        array = values if is_traced(values) else np.asarray(values)
        is_real = any(jnp.issubdtype(array.dtype, kind) for kind in _REAL)
    except (TypeError, ValueError):
        # NumPy makes no array of lists of several lengths, and JAX knows no datetimes.
        is_real = False
    if not is_real:
        raise TypeError(f"{name} is {_say(values)}: pass real numbers.")
    return array


def checked_count(value: Any, name: str) -> int:
    """Returns a whole number above 0, of Python or of NumPy, as one of Python.

    Raises:
        ValueError: naming the option and what was found.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not 0 < value < 2**31:
        bound = "a whole number above 0" + " and below 2³¹" * is_whole
        raise ValueError(f"{name} is {_say(value)}: pass {bound}.")
    return int(value)


def checked_sizes(every: int, capacity: int) -> tuple[int, int]:
    """Returns how often samples are taken and how many are held.

    Raises:
        ValueError: naming the option and what was found.
    """
    every = checked_count(every, "every")
    capacity = checked_count(capacity, "capacity")
    if capacity % 2:
        raise ValueError(
            f"capacity is {capacity}: pass an even number, half of which stay when it "
            "is full."
        )
    return every, capacity


def check_units(units: Any) -> None:
    """Checks that an option is the units of a model, or None.

    Raises:
        TypeError: naming what was found.
    """
    if units is not None and not isinstance(units, Units):
        raise TypeError(
            f"units is a {type(units).__name__}: pass what gf.find_units returned for "
            "this model, or None."
        )


def _say(value: Any) -> str:
    """Returns what an error says of a value: itself, its dtype or its type."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    plain = value is None or isinstance(value, (str, bool, int, float, complex))
    return repr(value) if plain else str(getattr(value, "dtype", type(value).__name__))
