"""Evaluates all five observations of the paper, with a verdict on each."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from gradflow_jax.observations.arguments import check_function
from gradflow_jax.observations.fifth import (
    PreservingGradientNorm,
    preserving_gradient_norm_is_better,
)
from gradflow_jax.observations.findings import Finding
from gradflow_jax.observations.first import (
    LargerWeights,
    larger_weights_converge_faster,
)
from gradflow_jax.observations.fourth import (
    IncreasingGradientNorm,
    increasing_gradient_norm_raises_loss,
)
from gradflow_jax.observations.runs import checked_seeds
from gradflow_jax.observations.second import (
    SlowWeights,
    loss_preservation_removes_the_slowest,
)
from gradflow_jax.observations.study import Study, check_study
from gradflow_jax.observations.third import (
    PreservingMagnitude,
    magnitude_preserves_loss,
)

_FUNCTIONS = (
    larger_weights_converge_faster,
    loss_preservation_removes_the_slowest,
    magnitude_preserves_loss,
    increasing_gradient_norm_raises_loss,
    preserving_gradient_norm_is_better,
)


class Observations(NamedTuple):
    """The five observations; prints as a list of findings.

    Attributes:
        first: larger weights converge faster.
        second: loss preservation removes the weights that change slowest.
        third: with heuristics, magnitude preserves the loss.
        fourth: increasing the gradient norm removes what raises the loss.
        fifth: preserving the gradient norm beats increasing it.
    """

    first: LargerWeights
    second: SlowWeights
    third: PreservingMagnitude
    fourth: IncreasingGradientNorm
    fifth: PreservingGradientNorm

    @property
    def findings(self) -> list[tuple[int, Finding]]:
        """Each finding with the number of its observation."""
        return [
            (number, finding)
            for number, observation in enumerate(self, 1)
            for finding in observation.findings
        ]

    def __str__(self) -> str:
        return "\n".join(f"({number}) {finding}" for number, finding in self.findings)


def observe(
    study: Study,
    *,
    seeds: Iterable[int] = range(5),
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Observations:
    """Evaluates the five observations of Lubana & Dick on a classifier of your own.

    Networks of several seeds are trained, looked at on the way, pruned in the middle
    and fine-tuned. Nothing is assumed of the outcome: on another model, schedule or
    sparsity an observation may fail, and the verdict then says so.

    Args:
        study: the problem, and how its networks are trained and pruned.
        seeds: one network each, none twice; an interval takes two at least, and five
            are better.
        progress: called with (done, of) before each part: each seed's training, then
            each observation.

    Returns:
        Arrays and findings, one row a seed.

    Raises:
        TypeError: for what is no study, seeds that are no whole numbers, or a progress
            that is no function.
        ValueError: if there is no seed, one comes twice, or one is not from 0 to
            2³² − 1.

    Example:
        Of a network so small, trained so little, only the form of the findings counts:

        >>> import jax, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda params, x: x @ params["w"]
        >>> init = lambda key: {"w": jax.random.normal(key, (5, 3))}
        >>> x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
        >>> problem = gf.observations.Problem(init, apply, x, np.arange(24) % 3)
        >>> study = gf.observations.Study(problem, steps=4, moments=1, finetuning=2)
        >>> observations = gf.observations.observe(study, seeds=range(2))
        >>> print(observations)
        (1) keeping the k largest weights, the loss is smaller than keeping the k ...
        >>> [number for number, _ in observations.findings]
        [1, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5]

    Reference:
        E. S. Lubana and R. P. Dick, A Gradient Flow Framework for Analyzing Network
        Pruning, ICLR 2021.
    """
    check_study(study)
    seeds = checked_seeds(seeds)
    check_function(progress, "progress", "progress(done, of)")
    parts = len(seeds) + len(_FUNCTIONS)
    runs = []
    for seed in seeds:
        progress(len(runs), parts)
        runs.append(study.run(seed))
    observations = []
    for evaluate in _FUNCTIONS:
        progress(len(seeds) + len(observations), parts)
        observations.append(evaluate(study, runs))
    progress(parts, parts)
    return Observations(*observations)
