"""Numbers and lists as a person reads them."""

from collections.abc import Iterable
from typing import Any


def compact(number: float) -> str:
    """Returns a count in three digits: 355 k, 1.2 M."""
    for unit in ("", " k", " M", " G"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} T"


def listed(values: Iterable[Any]) -> str:
    """Returns values as a list in words."""
    return ", ".join(map(str, values))


def counted(rounds: int) -> str:
    """Returns "1 round" or "5 rounds"."""
    return f"{rounds} round{'' if rounds == 1 else 's'}"
