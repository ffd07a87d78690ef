"""Evaluates observation 2: loss preservation removes the slowest weights."""

from dataclasses import dataclass

import jax
import numpy as np

from gradflow_jax.observations.findings import Finding, finding
from gradflow_jax.observations.runs import Runs, SeededRun, at_moments
from gradflow_jax.observations.study import Study, checked_runs
from gradflow_jax.scores import score
from gradflow_jax.scores.rank_agreement import spearman


@dataclass(frozen=True)
class SlowWeights:
    """Observation 2: loss preservation removes the weights that change slowest.

    Attributes:
        steps: of training, [moment].
        correlation: Spearman's ρ of |Δθ²| in the run with |θ ⊙ g|, [seed, moment].
        findings: the mean over the moments.
    """

    steps: tuple[int, ...]
    correlation: np.ndarray
    findings: tuple[Finding, ...]


def loss_preservation_removes_the_slowest(study: Study, runs: Runs) -> SlowWeights:
    """Evaluates observation 2 of the paper.

    Along the gradient flow |d‖θ‖²/dt| = 2 |θᵀg|, twice the loss-preservation score. In
    a real run, with batches and momentum, the change of θ² over `study.lag` steps is
    correlated with the score before them, weight by weight.

    Args:
        study: the problem, and how networks are trained and pruned.
        runs: of `study`, one a seed.

    Returns:
        Correlations, and what they say.

    Raises:
        TypeError: for what is no study, and what are no runs.
        ValueError: if there is no run.

    Example:
        >>> import jax, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda params, x: x @ params["w"]
        >>> init = lambda key: {"w": jax.random.normal(key, (5, 3))}
        >>> x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
        >>> problem = gf.observations.Problem(init, apply, x, np.arange(24) % 3)
        >>> study = gf.observations.Study(problem, steps=4, moments=1, finetuning=2)
        >>> run = study.run(seed=0)
        >>> second = gf.observations.loss_preservation_removes_the_slowest(study, [run])
        >>> bool(second.correlation[0, 0] > 0.9)
        True
    """
    runs = checked_runs(study, runs)

    def correlation(run: SeededRun, moment: int) -> float:
        before, after = run.params[moment], run.soon[moment]
        change = jax.tree.map(lambda a, b: abs(b**2 - a**2), before, after)
        return spearman(change, score(study.derivatives(before), "loss_preservation"))

    correlations = at_moments(runs, correlation)
    return SlowWeights(
        runs[0].steps,
        correlations,
        (
            finding(
                "weights of small loss-preservation scores change slowest",
                correlations.mean(1),
                "ρ",
            ),
        ),
    )
