"""Checks numbers and bools that are options, and lists of numbers."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees.dtypes import is_traced

_REAL = (jnp.integer, jnp.floating)
_LARGEST = float(jnp.finfo(jnp.float32).max)


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
        raise TypeError(f"{what} is {quote(value)}, not a number in [0, 1].") from None
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
        raise TypeError(f"{what} is {quote(value)}, not a whole number.") from None


def checked_count(value: chex.Numeric, what: str) -> int:
    """Returns a whole number from 1 on as an int; 2.0 is one too.

    Args:
        value: a number of Python, NumPy or JAX.
        what: what an error calls it: "round_to".

    Raises:
        TypeError: if it is no number.
        ValueError: if it is below 1, has a fraction, or is not known yet.
    """
    check_number(value, what)
    if is_traced(value) or value != int(value) or value < 1:
        raise ValueError(f"{what} is {value}; it is a whole number from 1 on.")
    return int(value)


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
        raise TypeError(f"{what} is {quote(value)}: pass one real number.")
    if is_traced(number):
        return
    if not abs(float(number)) <= _LARGEST or number < least:
        bound = f", {least:g} or above" if math.isfinite(least) else ""
        raise ValueError(f"{what} is {value}: pass a finite number{bound}.")


def check_bool(value: object, what: str) -> None:
    """Checks that an option is True or False, and not what Python takes for such.

    Args:
        value: what was handed over.
        what: what an error calls it: "has_aux".

    Raises:
        TypeError: for all else, numbers and texts too.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{what} is {quote(value)}: pass True or False.")


def check_choice(value: object, choices: Sequence[str | int | None], what: str) -> None:
    """Checks that an option is one of those that there are.

    Args:
        value: what was handed over.
        choices: all that it may be.
        what: what an error calls it: "order".

    Raises:
        ValueError: for all else; the message lists the choices.
    """
    # True equals 1, and a comparison of arrays is one for each number.
    is_plain = value is None or type(value) in (str, int)
    if not is_plain or value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{what} is {quote(value)}; it is one of {listed}.")


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
        raise TypeError(f"{what} is {quote(values)}: pass real numbers.")
    return array


def quote(value: object) -> str:
    """Returns what an error says of an option: itself, its dtype or its type.

    Args:
        value: anything; a long text is cut, and of a huge number its size is said.
    """
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:60]}…")
    if value is None or isinstance(value, (bool, int, float, complex)):
        return repr(value)
    if _is_bool(value) and jnp.ndim(value) == 0:  # type: ignore[arg-type]
        return str(value)
    return str(getattr(value, "dtype", type(value).__name__))


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
