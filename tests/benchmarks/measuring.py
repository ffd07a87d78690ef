"""Times contestants in turn, in one process, and keeps the ratio of every round.

A machine that others use too is slow at times and fast at others: what is compared
runs side by side, and only ratios are. Nothing here fails for being slow.
"""

import gc
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil
import pytest
from rows import Better, Row

Contestants = Mapping[str, Callable[[], Any]]


class Took(float):
    """Seconds that a contestant measured itself; it returns them as its result."""


class Ratio(NamedTuple):
    """The time of one contestant over that of another.

    Attributes:
        work: the row's name.
        of: the numerator's name.
        to: the denominator's.
        at_most: the target, if lower is better.
        at_least: the target, if higher is better.
        accelerator: whether the target is for accelerators, not for the CPU.
        note: what else there is to say.
    """

    work: str
    of: str
    to: str
    at_most: float | None = None
    at_least: float | None = None
    accelerator: bool = False
    note: str = ""

    @property
    def better(self) -> Better:
        """Lower if the numerator is ours, higher if the denominator is."""
        if self.of == "ours" or self.at_most is not None:
            return "lower"
        return "higher" if self.to == "ours" or self.at_least is not None else ""

    @property
    def target(self) -> float | None:
        """The bound that holds on this machine's device, if there is one."""
        if self.accelerator != (jax.devices()[0].platform != "cpu"):
            return None
        return self.at_most if self.at_most is not None else self.at_least


class Measuring:
    """A plugin of pytest with the fixtures, and the rows they make.

    Attributes:
        quick: whether to measure little, to see that everything works.
        rows: those made so far.
    """

    def __init__(self, quick: bool, show: Callable[[Row], None]):
        self.quick, self.rows, self._show = quick, [], show

    @pytest.fixture(name="quick", scope="session")
    def quick_fixture(self) -> bool:
        """Whether sizes are to be small."""
        return self.quick

    @pytest.fixture
    def paired(self, benchmark: Any) -> Callable[..., None]:
        """Measures contestants: see `_Pairing.measure`."""
        return _Pairing(self, benchmark).measure

    @pytest.fixture
    def counted(self) -> Callable[..., None]:
        """Adds a row that is no ratio: `counted(work, value, unit, at_most=...)`."""

        def count(
            work: str,
            value: float,
            unit: str,
            at_most: float | None = None,
            **more: Any,
        ) -> None:
            row = Row(work, value, unit=unit, target=at_most, **more)
            row.better = "lower" if at_most is not None else ""
            self.add(row)

        return count

    @pytest.fixture
    def missing(self) -> Callable[..., None]:
        """Adds a row that says why a figure is missing: `missing(work, why)`."""
        return lambda work, why: self.add(Row(work, None, rounds=0, note=why))

    def add(self, row: Row) -> None:
        """Keeps a row and shows it."""
        if row.work in {other.work for other in self.rows}:
            raise ValueError(f"two rows are named {row.work!r}")
        self.rows.append(row)
        self._show(row)


class _Pairing:
    def __init__(self, measuring: Measuring, benchmark: Any):
        self._measuring, self._benchmark = measuring, benchmark

    def measure(
        self,
        contestants: Contestants,
        *ratios: Ratio,
        rounds: int = 15,
        warmups: int = 2,
        memory: Mapping[str, Mapping[str, float]] | None = None,
        resident: Sequence[str] = (),
    ) -> None:
        """Runs contestants in turn for so many rounds; a row for each ratio.

        Args:
            contestants: functions of nothing, by name; the library's is "ours".
            *ratios: the rows.
            rounds: in each of them every contestant runs once, in the other order
                than in the last.
            warmups: calls of each beforehand.
            memory: bytes, by contestant and kind.
            resident: whose growth of resident memory is measured, in one more call.
        """
        rounds = min(rounds, 3) if self._measuring.quick else rounds
        for call in contestants.values():
            for _ in range(warmups):
                _seconds(call)
        times = self._timed(contestants, rounds)
        held = {name: dict(kinds) for name, kinds in (memory or {}).items()}
        for name in resident:
            held.setdefault(name, {})["resident"] = growth(contestants[name])
        made = []
        for ratio in ratios:
            row = _row(ratio, times, held)
            made.append(asdict(row) | {"met": row.met})
            self._measuring.add(row)
        self._benchmark.extra_info["rows"] = made

    def _timed(self, contestants: Contestants, rounds: int) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in contestants}
        order = list(contestants)

        def one_round() -> None:
            for name in order:
                times[name].append(_seconds(contestants[name]))
            order.reverse()

        gc.collect()
        self._benchmark.pedantic(one_round, rounds=rounds, iterations=1)
        return times


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    passed = time.perf_counter() - start
    return float(result) if isinstance(result, Took) else passed


def _row(
    ratio: Ratio,
    times: Mapping[str, Sequence[float]],
    memory: dict[str, dict[str, float]],
) -> Row:
    pairs = zip(times[ratio.of], times[ratio.to], strict=True)
    ratios = [of / to for of, to in pairs]
    low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
    both = ratio.of, ratio.to
    return Row(
        ratio.work,
        middle,
        (low, high),
        better=ratio.better,
        target=ratio.target,
        milliseconds={name: 1e3 * float(np.median(times[name])) for name in both},
        memory={name: memory[name] for name in both if name in memory},
        rounds=len(ratios),
        note=ratio.note,
    )


def growth(call: Callable[[], Any]) -> float:
    """Returns the most by which resident memory grew in one call, in bytes."""
    process, done = psutil.Process(), threading.Event()
    gc.collect()
    start = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        jax.block_until_ready(call())
    finally:
        done.set()
        watcher.join()
    return float(most - start)


def temporaries(compiled: Any, weights: int | None = None) -> dict[str, float]:
    """Returns what a compiled program holds beside its arguments and results."""
    held = float(compiled.memory_analysis().temp_size_in_bytes)
    found = {"temporaries": held}
    return found | ({"bytes a weight": held / weights} if weights else {})
