"""Times functions in turn on any device, with nothing but jax and numpy."""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from rows import Better, Row

Calls = Mapping[str, Callable[[], Any]]

# A sample is as many calls as take this long, in seconds: a clock tells less.
_SAMPLE = 0.02


def call_together(calls: Calls) -> None:
    """Calls each once, side by side in threads, so that all compile at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda call: jax.block_until_ready(call()), calls.values()))


def seconds_of(call: Callable[[], Any], times: int = 1) -> float:
    """Returns the seconds of one of so many calls."""
    start = time.perf_counter()
    for _ in range(times):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / times


def time_in_turn(calls: Calls, rounds: int) -> dict[str, list[float]]:
    """Returns seconds of each, called in turn so many rounds, in changing order."""
    for call in calls.values():
        seconds_of(call)
    times = {
        name: max(1, int(_SAMPLE / max(seconds_of(call), 1e-6)))
        for name, call in calls.items()
    }
    order, seconds = list(calls), {name: [] for name in calls}
    for _ in range(rounds):
        for name in order:
            seconds[name].append(seconds_of(calls[name], times[name]))
        order.reverse()
    return seconds


def ratio(
    work: str,
    seconds: Mapping[str, list[float]],
    of: str,
    to: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    note: str = "",
) -> Row:
    """Returns the row of one contestant's time over another's."""
    ratios = [a / b for a, b in zip(seconds[of], seconds[to], strict=True)]
    low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
    target = at_most if at_most is not None else at_least
    better: Better = "lower" if of == "ours" or at_most is not None else "higher"
    both = of, to
    return Row(
        work,
        middle,
        (low, high),
        better=better,
        target=target,
        milliseconds={name: 1e3 * float(np.median(seconds[name])) for name in both},
        rounds=len(ratios),
        note=note,
    )


def figure(
    work: str,
    value: float,
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    note: str = "",
) -> Row:
    """Returns a row that is no ratio."""
    target = at_most if at_most is not None else at_least
    better: Better = "" if target is None else "higher" if at_most is None else "lower"
    return Row(work, float(value), unit=unit, better=better, target=target, note=note)
