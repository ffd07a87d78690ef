"""Checks that what is drawn is of the kind that a plot takes."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any


def check_entries(entries: Any, kind: type, what: str) -> None:
    """Checks that entries by name are of one kind, and fields of one length.

    Args:
        entries: what a plot was given.
        kind: the named tuple that each entry must be.
        what: the argument's name.

    Raises:
        TypeError: if it is no mapping, or an entry of another kind.
        ValueError: if an entry's fields differ in length.

    Example:
        >>> from gradflow_jax.plotting import Curve
        >>> check_entries({"magnitude": [0.9, 0.8]}, Curve, "curves")
        Traceback (most recent call last):
        TypeError: curves['magnitude'] is of type list: pass a dict of \
plotting.Curve(sparsities, means, deviations) by name.
    """
    fields = ", ".join(getattr(kind, "_fields", ()))
    remedy = f"pass a dict of plotting.{kind.__name__}({fields}) by name."
    if not isinstance(entries, Mapping):
        raise TypeError(f"{what} is of type {type(entries).__name__}: {remedy}")
    for name, entry in entries.items():
        if not isinstance(entry, kind):
            raise TypeError(
                f"{what}[{name!r}] is of type {type(entry).__name__}: {remedy}"
            )
        if isinstance(entry, tuple):
            check_lengths(dict(zip(fields.split(", "), entry, strict=True)), what, name)


def check_lengths(values: Mapping[str, Any], what: str, name: str = "") -> None:
    """Checks that sequences have one length; numbers have none.

    Raises:
        ValueError: naming those that differ.
    """
    lengths = {
        field: len(value)
        for field, value in values.items()
        if isinstance(value, Sized) and getattr(value, "ndim", 1)
    }
    if len(set(lengths.values())) > 1:
        where = f"{what}[{name!r}]" if name else what
        counts = ", ".join(f"{field} {count}" for field, count in lengths.items())
        raise ValueError(
            f"{where} differs in length: {counts}. Each has a number for each point."
        )


def check_kind(value: Any, kind: type, what: str) -> None:
    """Checks that one value is of a kind that `observe` evaluates.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(value, kind):
        raise TypeError(
            f"{what} is of type {type(value).__name__}: pass the {kind.__name__} that "
            "gradflow_jax.observations evaluates."
        )


def check_shape(shape: Sequence[int], expected: Sequence[int], what: str) -> None:
    """Checks the shape of an array.

    Raises:
        ValueError: if it is another.
    """
    if tuple(shape) != tuple(expected):
        raise ValueError(f"{what} has the shape {list(shape)}: it is {list(expected)}.")
