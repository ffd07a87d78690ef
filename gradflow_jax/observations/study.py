"""Trains, prunes and fine-tunes networks of several seeds, and keeps moments."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax

from gradflow_jax.dynamics.options import checked_count
from gradflow_jax.masks import global_masks, prune
from gradflow_jax.observations.arguments import checked_items, checked_seed
from gradflow_jax.observations.fitting import Step, draw_batches, fit
from gradflow_jax.observations.problem import Batch, Problem
from gradflow_jax.observations.runs import Runs, SeededRun, checked_run, checked_seeds
from gradflow_jax.scores import Derivatives, differentiate
from gradflow_jax.transforms import apply_mask, replace_masks
from gradflow_jax.trees import Masks, Params, Scores, check_floating, checked_fraction


@dataclass(frozen=True, eq=False)
class Study:
    """How the networks of one problem are trained and pruned: what is observed.

    Everything is compiled once, whatever seeds, masks, temperatures and numbers of
    steps come.

    Attributes:
        problem: the classifier and its data.
        optimizer: any of optax; the default is SGD with the paper's momentum of 0.9, at
            a constant rate of 0.05 and without weight decay. The paper's code begins
            at a rate of 0.1, has a weight decay of 1e-4, and divides the logits by
            T = 5, which a study does not: it trains at T = 1.
        batch_size: inputs a step; all that there are, if they are fewer.
        steps: of training; more than `lag`.
        moments: how many networks on the way of each run are looked at.
        lag: steps from a moment to the one that finite differences take.
        finetuning: steps after pruning. Where pruning goes in rounds they are divided
            among the rounds, as evenly as whole steps are: of fewer steps than rounds,
            some rounds have none.
        sparsity: the fraction of the prunable weights that is removed.
        floor: the fraction of each layer that is kept; by the paper 5 %.

    Raises:
        TypeError: if the problem or the optimizer is none, or a fraction is no number.
        ValueError: if a number is not as it must be.
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

    def __post_init__(self) -> None:
        """Checks the attributes, and makes numbers those of Python."""
        if not isinstance(self.problem, Problem):
            raise TypeError(
                f"problem is a {type(self.problem).__name__}: pass a classifier and "
                "its data, gf.observations.problem_of(model, inputs, labels)."
            )
        functions = [getattr(self.optimizer, name, None) for name in ("init", "update")]
        if not all(map(callable, functions)):
            raise TypeError(
                f"optimizer is a {type(self.optimizer).__name__} without the functions "
                "init and update: pass a transformation of optax, such as "
                "optax.sgd(0.05)."
            )
        for name in ("batch_size", "steps", "moments", "lag", "finetuning"):
            count = checked_count(getattr(self, name), name)
            object.__setattr__(self, name, count)
        for name in ("sparsity", "floor"):
            fraction = checked_fraction(getattr(self, name), name)
            object.__setattr__(self, name, fraction)
        if self.steps <= self.lag:
            raise ValueError(
                f"steps is {self.steps}: finite differences take {self.lag} steps from "
                "the first moment on; ask for more steps, or for a smaller lag."
            )

    def run(self, seed: int) -> SeededRun:
        """Trains a network from its first weights.

        Raises:
            TypeError: if the seed is no whole number, or `init` of the problem returns
                no tree of real floating-point arrays.
            ValueError: if the seed is not from 0 to 2³² − 1.
        """
        seed = checked_seed(seed, "seed")
        initial = self.problem.init(jax.random.key(seed))
        check_floating(initial, "params")
        moments = self._steps_of_moments()
        keep = {*moments, *(step + self.lag for step in moments)}
        params_after, losses = self.train(initial, max(keep), seed=seed, keep=keep)
        return SeededRun(
            seed,
            initial,
            moments,
            params=[params_after[step] for step in moments],
            soon=[params_after[step + self.lag] for step in moments],
            losses=losses,
        )

    def runs(self, seeds: Iterable[int]) -> list[SeededRun]:
        """Trains a network of each seed, as `run` does; no seed comes twice."""
        return [self.run(seed) for seed in checked_seeds(seeds)]

    def pruned_from(self, run: SeededRun) -> Params:
        """Returns the network that is pruned: that of the middle moment.

        Earlier it has learned little that pruning could harm; at the end of training
        its gradients are small, and scores made of them say little.
        """
        return run.params[len(run.params) // 2]

    def train(
        self,
        params: Params,
        steps: int,
        *,
        seed: int | Sequence[int],
        masks: Masks | None = None,
        keep: Sequence[int] | set[int] = (),
    ) -> tuple[dict[int, Params], np.ndarray]:
        """Trains a network on, with some weights held at zero if there are masks.

        Args:
            params: where to start from; with masks they are applied first.
            steps: how many.
            seed: of the order of the data; several numbers are one seed together.
            masks: a tree like params of bool, True keeps.
            keep: steps after which params are returned; the last is always.

        Returns:
            Params by step, and the loss of each step's batch before it.

        Raises:
            TypeError: for a seed that is no whole number, and no list of them.
            ValueError: if `steps` is no whole number above 0.
        """
        steps = checked_count(steps, "steps")
        take_step, transform = self._compiled
        if masks is not None:
            params = prune(params, masks)
        state = transform.init(params)
        if masks is not None:
            state = replace_masks(transform, state, params, masks)
        params_after = {}

        def note(step: Step) -> None:
            if step.number in keep or step.number == steps:
                params_after[step.number], _ = step.state

        batches = draw_batches(len(self.problem.labels), self.batch_size, seed)
        _, losses = fit(
            functools.partial(take_step, self.problem.data),
            (params, state),
            itertools.islice(batches, steps),
            after=note,
        )
        return params_after, np.asarray(jax.device_get(losses))

    def derivatives(self, params: Params, *, temperature: float = 1.0) -> Derivatives:
        """Returns θ, g and Hg of the loss on all data."""
        return self._differentiate(params, self.problem.data, temperature=temperature)

    def loss(self, params: Params) -> float:
        """Returns the loss on all data, in nats."""
        return float(self._loss(params, self.problem.data))

    def masks(
        self,
        scores: Scores,
        *,
        sparsity: float | None = None,
        previous: Masks | None = None,
    ) -> Masks:
        """Returns masks that keep the highest scores, by the paper's rules."""
        sparsity = self.sparsity if sparsity is None else sparsity
        return global_masks(
            scores, sparsity=sparsity, floor=self.floor, previous=previous
        )

    def _steps_of_moments(self) -> tuple[int, ...]:
        """Returns the steps after which a run is looked at, from the first on.

        They lie evenly, and the last leaves `lag` steps for its finite difference. In a
        short run several moments fall on one step, which is looked at once.
        """
        last = max(1, self.steps - self.lag)
        steps = np.linspace(1, last, min(self.moments, last)).round().astype(int)
        return tuple(sorted(set(steps.tolist())))

    @cached_property
    def _loss(self) -> Any:
        return jax.jit(self.problem.loss)

    @cached_property
    def _differentiate(self) -> Any:
        return differentiate(self.problem.loss)

    @cached_property
    def _compiled(self) -> tuple[Any, optax.GradientTransformationExtraArgs]:
        # Masks are part of the transform's state, so that one compiled step serves all.
        transform = optax.chain(self.optimizer, apply_mask())
        loss_and_gradient = jax.value_and_grad(self.problem.loss)

        @jax.jit
        def take_step(data: Batch, state: tuple[Params, Any], indices: Any) -> Any:
            params, inner = state
            batch = jax.tree.map(lambda leaf: leaf[indices], data)
            loss, gradient = loss_and_gradient(params, batch)
            updates, inner = transform.update(gradient, inner, params)
            return (optax.apply_updates(params, updates), inner), loss

        return take_step, transform


def checked_runs(study: Study, runs: Runs) -> tuple[SeededRun, ...]:
    """Returns the runs of a study, of which there is one at least.

    Raises:
        TypeError: for what is no study, and what are no runs.
        ValueError: if there is no run, or one without a moment.
    """
    check_study(study)
    return checked_items(runs, "runs", checked_run, such_as="study.runs(range(5))")


def check_study(study: Study) -> None:
    """Checks that a value is a study.

    Raises:
        TypeError: naming what was found.
    """
    if not isinstance(study, Study):
        raise TypeError(
            f"study is a {type(study).__name__}: pass how networks are trained and "
            "pruned, gf.observations.Study(problem)."
        )
