"""What a study returns of each seed: a network at several moments of its training."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradflow_jax.observations.arguments import checked_items, checked_seed
from gradflow_jax.trees import Params


class SeededRun(NamedTuple):
    """A network at several moments of its training.

    Attributes:
        seed: of the weights and of the order of the data.
        initial: θ₀, the weights before training.
        steps: after which params were kept, [moment].
        params: θ after each of them.
        soon: θ a few steps later, for finite differences.
        losses: of each step's batch, before it, in nats.
    """

    seed: int
    initial: Params
    steps: tuple[int, ...]
    params: list[Params]
    soon: list[Params]
    losses: np.ndarray


Runs = Sequence[SeededRun]


def checked_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """Returns the seeds of networks, each another one.

    Raises:
        TypeError: for what are no whole numbers.
        ValueError: if there is none, or one comes twice, by which an interval over
            seeds would be narrower than it is.
    """
    seeds = checked_items(seeds, "seeds", checked_seed, such_as="range(5)")
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            raise ValueError(f"seeds has {seed} twice: a network takes its own seed.")
    return seeds


def checked_run(run: Any, name: str) -> SeededRun:
    """Returns a run of a study, which has one moment at least.

    Raises:
        TypeError: for what is no run.
        ValueError: if it has not as many networks as moments, or none.
    """
    if not isinstance(run, SeededRun):
        raise TypeError(
            f"{name} is a {type(run).__name__}: pass what study.runs(range(5)) returns."
        )
    lists = run.steps, run.params, run.soon
    if not all(isinstance(kept, (list, tuple)) for kept in lists):
        raise TypeError(
            f"{name} holds no lists of moments: pass it as study.run made it."
        )
    if not run.params or len({*map(len, lists)}) > 1:
        raise ValueError(
            f"{name} has {len(run.steps)} steps, and params of {len(run.params)} and "
            f"{len(run.soon)} moments: pass it as study.run made it."
        )
    return run


def at_moments(runs: Runs, measure: Callable[[SeededRun, int], float]) -> np.ndarray:
    """Measures each run at each of its moments, [seed, moment].

    Args:
        runs: one a seed.
        measure: `measure(run, moment)`, with the moment's number from 0.
    """
    return np.array([[measure(run, i) for i in range(len(run.steps))] for run in runs])
