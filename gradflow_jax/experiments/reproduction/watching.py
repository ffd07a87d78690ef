"""Who is told what a run is doing: a command with its bars, a test, or nobody."""

from typing import Protocol


class RunWatcher(Protocol):
    """Is told what a run is doing."""

    def epoch(self, done: int) -> None:
        """So many epochs are done."""

    def begin(self, what: str, steps: int) -> None:
        """Begins a stage of so many steps; of 0 where nobody knows."""

    def step(self, loss: float, accuracy: float) -> None:
        """One step is done, with this loss and accuracy."""


class SilentRunWatcher:
    """A watcher that does nothing."""

    def epoch(self, done: int) -> None:
        """Does nothing."""

    def begin(self, what: str, steps: int) -> None:
        """Does nothing."""

    def step(self, loss: float, accuracy: float) -> None:
        """Does nothing."""
