"""Evaluates observation 5: preserving the gradient norm beats increasing it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks import prune
from gradflow_jax.observations.arguments import checked_items, checked_temperature
from gradflow_jax.observations.averages import geometric_mean
from gradflow_jax.observations.findings import Finding, finding
from gradflow_jax.observations.runs import Runs
from gradflow_jax.observations.study import Study, checked_runs
from gradflow_jax.scores import score
from gradflow_jax.trees import ArrayTree

INCREASE, PRESERVE = "grasp", "gradient_norm_preservation"


@dataclass(frozen=True)
class PreservingGradientNorm:
    """Observation 5: preserving the gradient norm beats increasing it.

    Attributes:
        measures: names, [measure].
        loss: before pruning, right after it and after fine-tuning, in nats,
            [measure, seed, 3].
        gradient_norm: ‖g‖² likewise.
        findings: of the loss right after pruning and fine-tuned, and of ‖g‖².
    """

    measures: tuple[str, ...]
    loss: np.ndarray
    gradient_norm: np.ndarray
    findings: tuple[Finding, ...]

    @property
    def mean_loss(self) -> np.ndarray:
        """The geometric mean of the loss over the seeds, [measure, 3]."""
        return geometric_mean(self.loss, axis=1)

    @property
    def mean_gradient_norm(self) -> np.ndarray:
        """The geometric mean of ‖g‖² over the seeds, [measure, 3]."""
        return geometric_mean(self.gradient_norm, axis=1)


def preserving_gradient_norm_is_better(
    study: Study,
    runs: Runs,
    *,
    temperatures: tuple[float, float] = (200.0, 1.0),
) -> PreservingGradientNorm:
    """Evaluates observation 5 of the paper.

    Args:
        study: the problem, and how networks are trained and pruned.
        runs: of `study`, one a seed.
        temperatures: of GraSP and of gradient-norm preservation; the paper's.

    Returns:
        Losses in nats and squared gradient norms, on all data.

    Raises:
        TypeError: for what is no study, what are no runs, or temperatures that are no
            real numbers.
        ValueError: if there is no run, or the temperatures are not two, both above 0.

    Example:
        >>> import jax, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda params, x: x @ params["w"]
        >>> init = lambda key: {"w": jax.random.normal(key, (5, 3))}
        >>> x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
        >>> problem = gf.observations.Problem(init, apply, x, np.arange(24) % 3)
        >>> study = gf.observations.Study(problem, steps=4, moments=1, finetuning=2)
        >>> run = study.run(seed=0)
        >>> fifth = gf.observations.preserving_gradient_norm_is_better(study, [run])
        >>> fifth.measures, fifth.loss.shape
        (('grasp', 'gradient_norm_preservation'), (2, 1, 3))
    """
    runs = checked_runs(study, runs)
    temperature_of_each = checked_items(
        temperatures, "temperatures", checked_temperature, such_as="(200.0, 1.0)"
    )
    measures = INCREASE, PRESERVE
    if len(temperature_of_each) != len(measures):
        raise ValueError(
            f"temperatures are {list(temperature_of_each)}: pass two, that of GraSP "
            "and that of gradient-norm preservation."
        )
    losses, norms = [], []
    for measure, temperature in zip(measures, temperature_of_each, strict=True):
        for run in runs:
            params = study.pruned_from(run)
            masks = study.masks(
                score(study.derivatives(params, temperature=temperature), measure)
            )
            tuned, _ = study.train(params, study.finetuning, seed=run.seed, masks=masks)
            states = params, prune(params, masks), tuned[study.finetuning]
            derivatives = [study.derivatives(state) for state in states]
            losses.append([float(d.loss) for d in derivatives])
            norms.append([_squared_norm(d.gradient) for d in derivatives])
    shape = len(measures), len(runs), 3
    loss, norm = np.array(losses).reshape(shape), np.array(norms).reshape(shape)
    # Measure 0 increases the gradient norm, measure 1 preserves it; on the last axis, 0
    # is before pruning, 1 right after it and 2 after fine-tuning.
    gap = loss[0] - loss[1]
    changed = np.abs(np.log(norm[..., 1] / norm[..., 0]))
    return PreservingGradientNorm(
        measures,
        loss,
        norm,
        (
            finding(
                "right after pruning, the loss is smaller by preservation than by "
                "GraSP",
                gap[:, 1],
                "nats",
            ),
            finding(
                "so it is after fine-tuning",
                gap[:, 2],
                "nats",
            ),
            finding(
                "preservation changes ‖g‖² less than GraSP, as a factor",
                changed[0] - changed[1],
                "log",
            ),
        ),
    )


def _squared_norm(gradient: ArrayTree) -> float:
    return float(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
