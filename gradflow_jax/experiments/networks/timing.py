"""How long two functions take, called in turn: a busy machine slows both alike."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax

PAIRS = 50
_WARM_UP = 3


class Times(NamedTuple):
    """Of a function and the one it is compared with.

    Attributes:
        milliseconds: the median of its calls.
        reference_milliseconds: of the calls of the other.
        faster: the median over pairs of calls of how many times faster it is.
    """

    milliseconds: float
    reference_milliseconds: float
    faster: float


def time_in_pairs(
    call: Callable[[], Any], reference: Callable[[], Any], *, pairs: int = PAIRS
) -> Times:
    """Times two functions alternately, so that both meet the same disturbances."""

    def seconds(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    for _ in range(_WARM_UP):
        seconds(reference)
        seconds(call)
    found = [(seconds(reference), seconds(call)) for _ in range(pairs)]
    return Times(
        1e3 * median(own for _, own in found),
        1e3 * median(other for other, _ in found),
        median(other / own for other, own in found),
    )
