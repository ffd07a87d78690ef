"""Feeds batches to a step of training, in an order that a seed decides."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gradflow_jax.dynamics.options import checked_count
from gradflow_jax.observations.arguments import (
    check_function,
    check_iterable,
    checked_items,
    checked_seed,
)
from gradflow_jax.trees import describe

State = TypeVar("State")
Batch = TypeVar("Batch")
Output = TypeVar("Output")


class Step(NamedTuple):
    """A step that was taken.

    Attributes:
        number: from 1.
        batch: what it was given.
        state: what it left.
        outputs: of all steps so far, its own last.
    """

    number: int
    batch: Any
    state: Any
    outputs: list[Any]


def fit(
    step: Callable[[State, Batch], tuple[State, Output]],
    state: State,
    batches: Iterable[Batch],
    *,
    after: Callable[[Step], None] | None = None,
) -> tuple[State, list[Output]]:
    """Trains by one step a batch.

    Args:
        step: `step(state, batch) -> (state, output)`, compiled. It may donate its
            state.
        state: whatever a step changes: parameters, the state of an optimizer.
        batches: as many as there are to be steps.
        after: called after each step.

    Returns:
        The last state, and the output of each step. Both are on the device still, so
        that no step waits for the one before.

    Raises:
        TypeError: for a step or an `after` that is no function, batches that cannot be
            iterated, or a step that returns no pair.

    Example:
        >>> step = lambda weight, slope: (weight - slope / 2, slope**2)
        >>> fit(step, 4.0, [2.0, 6.0])
        (0.0, [4.0, 36.0])
    """
    check_function(step, "step", "step(state, batch) -> (state, output)")
    check_iterable(batches, "batches", such_as="a list or an iterator of batches")
    if after is not None:
        check_function(after, "after", "after(step), or None")
    outputs: list[Output] = []
    for number, batch in enumerate(batches, 1):
        result = step(state, batch)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TypeError(
                f"step returned {describe(result)}: return a pair, the state and an "
                "output."
            )
        state, output = result
        outputs.append(output)
        if after is not None:
            after(Step(number, batch, state, outputs))
    return state, outputs


def draw_batches(
    examples: int, batch_size: int, seed: int | Sequence[int]
) -> Iterator[np.ndarray]:
    """Returns the indices of batches without end: each pass has an order of its own.

    What is left of a pass and fills no batch is left out of it.

    Args:
        examples: how many there are.
        batch_size: at most all examples are taken.
        seed: of the orders; several numbers are one seed together.

    Returns:
        An iterator of integers [batch].

    Raises:
        TypeError: for a seed that is no whole number, and no list of them.
        ValueError: if `examples` or `batch_size` is no whole number above 0, or a seed
            is not from 0 to 2³² − 1.

    Example:
        >>> batches = draw_batches(3, 2, seed=0)
        >>> [next(batches).tolist() for _ in range(3)]
        [[2, 0], [2, 1], [2, 0]]
    """
    examples = checked_count(examples, "examples")
    batch_size = min(checked_count(batch_size, "batch_size"), examples)
    is_list = isinstance(seed, Iterable) and getattr(seed, "ndim", 1)
    numbers = seed if is_list else [seed]
    numbers = checked_items(numbers, "seed", checked_seed, such_as="a whole number")
    return _draw(examples, batch_size, np.random.default_rng(numbers))


def _draw(
    examples: int, batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    while True:
        order = rng.permutation(examples)
        for start in range(0, examples - batch_size + 1, batch_size):
            yield order[start : start + batch_size]
