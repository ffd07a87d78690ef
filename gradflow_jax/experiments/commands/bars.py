"""Bars while a command works, which stop it at Ctrl-C."""

import signal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class Bars:
    """Shows work as two bars, all of it and what is being done; stops it at Ctrl-C.

    The interrupt is raised at the next step, not wherever Python happens to be: inside
    a callback of the garbage collector, which JAX has, Python would only print it. A
    second Ctrl-C is raised at once.
    """

    def __init__(self, total: int, console: Console, *, of: str = "networks"):
        """Makes bars for so many networks, or of what else; a context manager."""
        self._interrupted = False
        self._progress = Progress(
            TextColumn("{task.description:<42}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=console.quiet,
        )
        self._all = self._progress.add_task(of, total=total)
        self._stage = self._progress.add_task("loading", total=None)

    def __enter__(self) -> "Bars":
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, *_: object) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def stage(self, description: str, steps: int) -> None:
        """Begins a stage; without a number of steps the bar pulses."""
        self._progress.reset(self._stage, description=description, total=steps or None)

    def step(self, description: str | None = None) -> None:
        """One step is done; what is being done may be said anew."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._progress.update(self._stage, advance=1, description=description)

    def row(self, done: int | None = None) -> None:
        """One network is done, or so many are in all."""
        if done is None:
            self._progress.advance(self._all)
        else:
            self._progress.update(self._all, completed=done)
