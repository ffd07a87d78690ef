"""Checks what the observations take beside a study: lists, seeds, functions, arrays."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from gradflow_jax.dynamics.options import check_positive
from gradflow_jax.scores.arguments import take_arrays
from gradflow_jax.trees import checked_whole_number
from gradflow_jax.trees.numbers import quote

Item = TypeVar("Item")


def checked_items(
    values: Any, what: str, check_item: Callable[[Any, str], Item], *, such_as: str
) -> tuple[Item, ...]:
    """Returns what a list holds, each checked under the name of its place.

    Args:
        values: a list, an array of one axis, or another iterable.
        what: what an error calls it: "seeds".
        check_item: `check_item(value, name)` returns the value or raises.
        such_as: what an error says is to be passed.

    Raises:
        TypeError: for what cannot be iterated, and for a text or a dict.
        ValueError: if there is nothing in it.
    """
    check_iterable(values, what, such_as=such_as)
    if isinstance(values, (str, bytes, Mapping)):
        raise TypeError(f"{what} is a {type(values).__name__}: pass {such_as}.")
    items = tuple(check_item(value, f"{what}[{i}]") for i, value in enumerate(values))
    if not items:
        raise ValueError(f"{what} is empty: pass one at least, such as {such_as}.")
    return items


def check_iterable(values: Any, what: str, *, such_as: str) -> None:
    """Checks that a value can be iterated, as an array without axes cannot.

    Raises:
        TypeError: naming what was found.
    """
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{what} is a {type(values).__name__}: pass {such_as}.")


def check_function(value: Any, what: str, call: str) -> None:
    """Checks that a value can be called.

    Args:
        value: what was handed over.
        what: what an error calls it: "progress".
        call: how it is called, and what it returns.

    Raises:
        TypeError: naming what was found.
    """
    if not callable(value):
        raise TypeError(f"{what} is a {type(value).__name__}: pass a function, {call}.")


def checked_seed(seed: Any, what: str) -> int:
    """Returns a whole number from 0 to 2³² − 1; keys of JAX tell no more apart.

    Raises:
        TypeError: for what is no whole number.
        ValueError: for one that is too small or too large.
    """
    number = checked_whole_number(seed, what)
    if not 0 <= number < 2**32:
        raise ValueError(
            f"{what} is {quote(number)}: pass a whole number from 0 to 2³² − 1."
        )
    return number


def checked_temperature(value: Any, what: str) -> float:
    """Returns what divides logits, a finite number above 0.

    Raises:
        TypeError: for what is no real number.
        ValueError: for a number that is not finite or not above 0.
    """
    check_positive(value, what)
    return float(value)


def checked_array(values: Any, what: str) -> jax.Array | np.ndarray:
    """Returns an array of JAX or NumPy as it is, and a list as one of NumPy.

    Raises:
        TypeError: for what is no array of numbers.
    """
    array = values
    if not hasattr(values, "shape"):
        try:
            array = np.asarray(values)
        except (TypeError, ValueError):
            # NumPy makes no array of lists of several lengths.
            array = None
    is_of_objects = isinstance(array, np.ndarray) and array.dtype.kind == "O"
    array = None if is_of_objects else take_arrays(array, what)
    if not isinstance(array, (jax.Array, np.ndarray)):
        raise TypeError(
            f"{what} is a {type(values).__name__}: pass an array of numbers whose "
            "first axis is the example."
        )
    return array
