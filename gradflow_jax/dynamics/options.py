"""Checks the options that several functions of this folder take."""

from numbers import Integral
from typing import Any

from gradflow_jax.trees import check_number, is_traced
from gradflow_jax.trees.numbers import quote


def check_positive(value: Any, name: str) -> None:
    """Checks that an option is one finite number above 0.

    Raises:
        TypeError: for what is no real number.
        ValueError: for a number that is not finite or not above 0.
    """
    check_number(value, name)
    if not is_traced(value) and value <= 0:
        raise ValueError(f"{name} is {value}: pass a number above 0.")


def checked_count(value: Any, name: str) -> int:
    """Returns a whole number above 0, of Python or of NumPy, as one of Python.

    Raises:
        ValueError: naming the option and what was found.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not 0 < int(value) < 2**31:
        printed = quote(int(value)) if is_whole else repr(value)
        raise ValueError(
            f"{name} is {printed}: pass a whole number above 0, and below 2³¹."
        )
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
