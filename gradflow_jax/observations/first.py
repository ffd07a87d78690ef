"""Evaluates observation 1: larger weights converge faster."""

from dataclasses import dataclass

import jax
import numpy as np

from gradflow_jax.masks import prune
from gradflow_jax.observations.findings import Finding, finding
from gradflow_jax.observations.runs import Runs
from gradflow_jax.observations.study import Study, checked_runs
from gradflow_jax.scores import magnitude, score


@dataclass(frozen=True)
class LargerWeights:
    """Observation 1: larger weights converge faster.

    Attributes:
        largest: loss with the k largest weights kept, [seed].
        others: loss with the k smallest kept, [seed].
        magnitude_losses: of each step of fine-tuning after pruning by magnitude,
            [seed, step].
        preservation_losses: likewise by loss preservation.
        findings: of the instant, and of the area under the curves.
    """

    largest: np.ndarray
    others: np.ndarray
    magnitude_losses: np.ndarray
    preservation_losses: np.ndarray
    findings: tuple[Finding, ...]


def larger_weights_converge_faster(study: Study, runs: Runs) -> LargerWeights:
    """Evaluates observation 1 of the paper.

    At an instant the loss is smaller with the k largest weights kept than with the k
    others; and a network pruned by magnitude then trains faster than one pruned by loss
    preservation: the area under its training curve is smaller.

    Args:
        study: the problem, and how networks are trained and pruned.
        runs: of `study`, one a seed.

    Returns:
        Losses in nats; areas are means over the steps.

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
        >>> runs = study.runs(range(2))
        >>> first = gf.observations.larger_weights_converge_faster(study, runs)
        >>> first.largest.shape, first.magnitude_losses.shape
        ((2,), (2, 2))
    """
    runs = checked_runs(study, runs)
    largest_losses, smallest_losses = [], []
    magnitude_curves, preservation_curves = [], []
    for run in runs:
        params = study.pruned_from(run)
        d = study.derivatives(params)
        magnitudes = magnitude(params)
        keep_largest = study.masks(magnitudes)
        largest_losses.append(study.loss(prune(params, keep_largest)))
        keep_smallest = study.masks(jax.tree.map(lambda leaf: -leaf, magnitudes))
        smallest_losses.append(study.loss(prune(params, keep_smallest)))
        keep_loss = study.masks(score(d, "loss_preservation"))
        for masks, curves in (
            (keep_largest, magnitude_curves),
            (keep_loss, preservation_curves),
        ):
            _, losses = study.train(
                params, study.finetuning, seed=run.seed, masks=masks
            )
            curves.append(losses)
    largest, smallest = np.asarray(largest_losses), np.asarray(smallest_losses)
    by_magnitude = np.asarray(magnitude_curves)
    by_preservation = np.asarray(preservation_curves)
    return LargerWeights(
        largest,
        smallest,
        by_magnitude,
        by_preservation,
        (
            finding(
                "keeping the k largest weights, the loss is smaller than keeping the "
                "k smallest",
                smallest - largest,
                "nats",
            ),
            finding(
                "pruned by magnitude, the training loss falls faster than pruned by "
                "loss preservation",
                (by_preservation - by_magnitude).mean(1),
                "nats",
            ),
        ),
    )
