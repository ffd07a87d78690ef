"""Checks the numbers that come with trees: fractions and whole numbers."""

import operator

import chex
import numpy as np

from gradflow_jax.trees.dtypes import is_traced


def checked_fraction(value: chex.Numeric, what: str) -> float:
    """Returns `value` as a float in [0, 1].

    Args:
        value: a number, or an array of one.
        what: what an error calls it: "sparsity".

    Returns:
        A Python float.

    Raises:
        TypeError: if it is traced by `jax.jit` or is no number, as True is none.
        ValueError: if it is NaN or outside [0, 1].

    Example:
        >>> checked_fraction(90, "sparsity")
        Traceback (most recent call last):
        ValueError: sparsity is 90.0, outside [0, 1] (a fraction, not per cent).
    """
    _check_not_traced(value, what)
    try:
        if isinstance(value, (str, bytes)) or _is_bool(value):
            raise TypeError
        fraction = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} is {value!r}, not a number in [0, 1].") from None
    if not 0.0 <= fraction <= 1.0:
        percent = " (a fraction, not per cent)" if fraction > 1 else ""
        raise ValueError(f"{what} is {fraction}, outside [0, 1]{percent}.")
    return fraction


def checked_whole_number(value: chex.Numeric, what: str) -> int:
    """Returns `value` as an int.

    Args:
        value: an integer of Python, NumPy or JAX, or an array of one.
        what: what an error calls it: "n".

    Returns:
        A Python int.

    Raises:
        TypeError: if it is traced by `jax.jit` or is no whole number, as True is none.

    Example:
        >>> checked_whole_number(np.int64(2), "n")
        2
        >>> checked_whole_number(True, "n")
        Traceback (most recent call last):
        TypeError: n is True, not a whole number.
    """
    _check_not_traced(value, what)
    try:
        if _is_bool(value):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} is {value!r}, not a whole number.") from None


def _is_bool(value: object) -> bool:
    """Says whether a value is True or False, also one of NumPy or JAX."""
    return isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_


def _check_not_traced(value: object, what: str) -> None:
    """Raises TypeError at a value that is known only when a program runs."""
    if is_traced(value):
        raise TypeError(
            f"{what} is traced by jax.jit or a like transformation, but masks of an "
            "exact number of weights need its value: make it a static argument."
        )
