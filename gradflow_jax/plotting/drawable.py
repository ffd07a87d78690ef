"""Checks what is to be drawn: an error names it and not a part of Matplotlib."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any, ParamSpec, TypeVar

from matplotlib.axes import Axes

from gradflow_jax.trees import check_number, real_array

Check = Callable[[Any, str], None]
"""`check(value, what)` raises TypeError or ValueError, and calls the value `what`."""

_Arguments = ParamSpec("_Arguments")
_Drawn = TypeVar("_Drawn")


def takes(
    **checks: Check,
) -> Callable[[Callable[_Arguments, _Drawn]], Callable[_Arguments, _Drawn]]:
    """Has the arguments of a function checked before anything is drawn."""

    def wrap(draw: Callable[_Arguments, _Drawn]) -> Callable[_Arguments, _Drawn]:
        signature = inspect.signature(draw)

        @functools.wraps(draw)
        def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Drawn:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name in checks:
                    checks[name](value, name)
            return draw(*args, **kwargs)

        return checked

    return wrap


def axes(value: Any, what: str) -> None:
    """Takes one of Matplotlib's axes."""
    if not isinstance(value, Axes):
        raise TypeError(
            f"{what} is a {type(value).__name__}: pass what to draw on, such as "
            "plt.gca() or one of plt.subplots()."
        )


def text(value: Any, what: str) -> None:
    """Takes a str."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a {type(value).__name__}: pass a text.")


def texts(value: Any, what: str) -> None:
    """Takes a list of names, or a tuple."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{what} is a {type(value).__name__}: pass a list of names.")
    for i, name in enumerate(value):
        text(name, f"{what}[{i}]")


def number(value: Any, what: str) -> None:
    """Takes one finite number."""
    check_number(value, what)


def any_number(value: Any, what: str) -> None:
    """Takes one number, which may be NaN or infinite, as of a run that diverged."""
    if real_array(value, what).ndim:
        raise TypeError(f"{what} is a {type(value).__name__}: pass one number.")


def count(value: Any, what: str) -> None:
    """Takes a whole number, 0 or above."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{what} is a {type(value).__name__}: pass a whole number.")
    if value < 0:
        raise ValueError(f"{what} is below 0: pass a whole number, from 0 on.")


def numbers(ndim: int = 1) -> Check:
    """Takes a list of numbers, of which some may be NaN, or an array."""

    def check(value: Any, what: str) -> None:
        array = real_array(value, what)
        if array.ndim != ndim:
            raise ValueError(
                f"{what} has shape {array.shape}: pass numbers along {ndim} "
                f"ax{'is' if ndim == 1 else 'es'}."
            )

    return check


def one_of(*choices: str) -> Check:
    """Takes one of a few words."""

    def check(value: Any, what: str) -> None:
        text(value, what)
        if value not in choices:
            listed = " or ".join(map(repr, choices))
            raise ValueError(f"{what} is {value!r}; choose {listed}.")

    return check


def optional(check: Check) -> Check:
    """Takes None, too."""

    def check_unless_none(value: Any, what: str) -> None:
        if value is not None:
            check(value, what)

    return check_unless_none


def record(kind: type, **checks: Check) -> Check:
    """Takes a record, whose lists of numbers are of one length."""

    def check(value: Any, what: str) -> None:
        if not isinstance(value, kind):
            raise TypeError(
                f"{what} is a {type(value).__name__}: pass a {_public_name(kind)}, "
                f"which has {', '.join(checks)}."
            )
        for field, check_field in checks.items():
            check_field(getattr(value, field), f"{what}.{field}")

    return check


def curve(kind: type, *fields: str) -> Check:
    """Takes a record of lists of numbers, all of one length."""
    check_fields = record(kind, **dict.fromkeys(fields, numbers()))

    def check(value: Any, what: str) -> None:
        check_fields(value, what)
        same_length({f"{what}.{field}": getattr(value, field) for field in fields})

    return check


def by_name(check: Check) -> Check:
    """Takes a dict of names and what the check takes."""

    def check_all(value: Any, what: str) -> None:
        if not isinstance(value, Mapping):
            raise TypeError(
                f"{what} is a {type(value).__name__}: pass a dict, by the names in the "
                "legend."
            )
        for name, item in value.items():
            text(name, f"the name {name!r} in {what}")
            check(item, f"{what}[{name!r}]")

    return check_all


def same_length(lists: Mapping[str, Any]) -> None:
    """Checks that lists are of one length.

    Raises:
        ValueError: naming two that are not.
    """
    (first, length), *others = ((name, len(values)) for name, values in lists.items())
    for name, other in others:
        if other != length:
            raise ValueError(
                f"{name} has the length {other}, but {first} has {length}: they belong "
                "together, one by one."
            )


def order_of(names: Iterable[str], order: Any) -> list[str]:
    """Returns the order of names in a legend: their own, if none is asked for.

    Raises:
        ValueError: naming one that the order lacks.
    """
    names, order = list(names), list(order)
    for name in names if order else ():
        if name not in order:
            raise ValueError(f"order lacks {name!r}: it has all names, or none.")
    return order or names


def _public_name(kind: type) -> str:
    room = kind.__module__.split(".")[1]
    return f"gf.{room}.{kind.__name__}"
