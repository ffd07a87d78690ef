"""Times two functions that are called in turn: a busy machine slows both alike."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax

PAIRS = 50
_WARM_UP = 3


class Times(NamedTuple):
    """The times of a function and of the reference that it is compared with.

    Attributes:
        milliseconds: the median of the function's calls.
        reference_milliseconds: the median of the reference's.
        faster: how many times faster the function is, the median over pairs of calls.
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
    timed = [(seconds(reference), seconds(call)) for _ in range(pairs)]
    reference_seconds, call_seconds = zip(*timed, strict=True)
    # A median of ratios, not a ratio of medians: what slows a pair cancels in it.
    return Times(
        milliseconds=1e3 * median(call_seconds),
        reference_milliseconds=1e3 * median(reference_seconds),
        faster=median(of_reference / of_call for of_reference, of_call in timed),
    )
