"""Trained networks of several seeds, with what they were on the way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradflow_jax.masks import global_masks, prune
from gradflow_jax.observations.problem import Batch, Problem
from gradflow_jax.scores import Derivatives, differentiate
from gradflow_jax.transforms import apply_mask, replace_masks
from gradflow_jax.trees import PyTree


class SeededRun(NamedTuple):
    """One network on its way.

    Attributes:
        seed: of the weights and of the order of the data.
        initial: θ₀.
        steps: after which params were kept, [moment].
        params: θ after each of them.
        soon: θ a few steps later, for finite differences.
        losses: of each step's batch, before it, in nats.
    """

    seed: int
    initial: PyTree
    steps: tuple[int, ...]
    params: list[PyTree]
    soon: list[PyTree]
    losses: np.ndarray


Runs = Sequence[SeededRun]


@dataclass(frozen=True, eq=False)
class Study:
    """How the networks of one problem are trained and pruned: what is observed.

    Everything is compiled once, whatever seeds, masks, temperatures and numbers of
    steps come.

    Attributes:
        problem: the classifier and its data.
        optimizer: any of optax; the default is that of the paper, at a constant rate.
        batch_size: inputs a step.
        steps: of training.
        moments: how many networks on the way of each run are looked at.
        lag: steps from a moment to the one that finite differences take.
        finetuning: steps after pruning.
        sparsity: the fraction of the prunable weights that is removed.
        floor: the fraction of each layer that is kept; by the paper 5 %.
    """

    problem: Problem
    optimizer: optax.GradientTransformation = field(
        default_factory=lambda: optax.sgd(0.05, momentum=0.9)
    )
    batch_size: int = 64
    steps: int = 200
    moments: int = 8
    lag: int = 2
    finetuning: int = 100
    sparsity: float = 0.8
    floor: float = 0.05

    def run(self, seed: int) -> SeededRun:
        """Trains a network from its first weights."""
        initial = self.problem.init(jax.random.key(seed))
        steps = self._moments()
        wanted = {*steps, *(step + self.lag for step in steps)}
        kept, losses = self.train(initial, max(wanted), seed=seed, keep=wanted)
        return SeededRun(
            seed,
            initial,
            steps,
            [kept[step] for step in steps],
            [kept[step + self.lag] for step in steps],
            losses,
        )

    def runs(self, seeds: Iterable[int]) -> list[SeededRun]:
        """Trains a network of each seed."""
        return [self.run(seed) for seed in seeds]

    def pruned_from(self, run: SeededRun) -> PyTree:
        """Returns the network that is pruned: that of the middle moment.

        Before, there is little to lose yet; at the end gradients say little.
        """
        return run.params[len(run.params) // 2]

    def train(
        self,
        params: PyTree,
        steps: int,
        *,
        seed: int,
        masks: PyTree | None = None,
        keep: Sequence[int] | set[int] = (),
    ) -> tuple[dict[int, PyTree], np.ndarray]:
        """Trains from given weights, masked or not.

        Args:
            params: where to start from; with masks they are applied first.
            steps: how many.
            seed: of the order of the data.
            masks: a tree like params of bool, True keeps.
            keep: steps after which params are returned; the last is always.

        Returns:
            Params by step, and the loss of each step's batch before it.
        """
        step_fn, transform = self._compiled
        if masks is not None:
            params = prune(params, masks)
        state = transform.init(params)
        if masks is not None:
            state = replace_masks(transform, state, params, masks)
        kept, losses = {}, []
        order = _batches(len(self.problem.labels), self.batch_size, seed)
        data = self.problem.data
        for step in range(1, steps + 1):
            params, state, loss = step_fn(params, state, data, next(order))
            losses.append(loss)
            if step in keep or step == steps:
                kept[step] = params
        return kept, np.asarray(jax.device_get(losses))

    def derivatives(self, params: PyTree, *, temperature: float = 1.0) -> Derivatives:
        """Returns θ, g and Hg of the loss on all data."""
        return self._differentiate(params, self.problem.data, temperature=temperature)

    def loss(self, params: PyTree) -> float:
        """Returns the loss on all data, in nats."""
        return float(self._loss(params, self.problem.data))

    def masks(
        self,
        scores: PyTree,
        *,
        sparsity: float | None = None,
        previous: PyTree | None = None,
    ) -> PyTree:
        """Returns masks that keep the highest scores, by the paper's rules."""
        sparsity = self.sparsity if sparsity is None else sparsity
        return global_masks(
            scores, sparsity=sparsity, floor=self.floor, previous=previous
        )

    def _moments(self) -> tuple[int, ...]:
        last = max(1, self.steps - self.lag)
        return tuple(
            sorted({*np.linspace(1, last, self.moments).round().astype(int).tolist()})
        )

    @cached_property
    def _loss(self) -> Any:
        return jax.jit(self.problem.loss)

    @cached_property
    def _differentiate(self) -> Any:
        return differentiate(self.problem.loss)

    @cached_property
    def _compiled(self) -> tuple[Any, optax.GradientTransformationExtraArgs]:
        transform = optax.chain(self.optimizer, apply_mask())
        loss_and_gradient = jax.value_and_grad(self.problem.loss)

        @jax.jit
        def step(params: PyTree, state: Any, data: Batch, chosen: Any) -> Any:
            batch = jax.tree.map(lambda leaf: leaf[chosen], data)
            loss, gradient = loss_and_gradient(params, batch)
            updates, state = transform.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, loss

        return step, transform


def _batches(examples: int, size: int, seed: int) -> Iterator[Any]:
    """Yields indices: each pass over the data in another order."""
    rng = np.random.default_rng(seed)
    size = min(size, examples)
    while True:
        order = rng.permutation(examples)
        for start in range(0, examples - size + 1, size):
            yield jnp.asarray(order[start : start + size])


def at_moments(runs: Runs, number: Callable[[SeededRun, int], float]) -> np.ndarray:
    """Returns a number of each run at each of its moments, [seed, moment]."""
    return np.array([[number(run, i) for i in range(len(run.steps))] for run in runs])
