"""The paper's observation 1: larger weights converge faster."""

from dataclasses import dataclass

import jax
import numpy as np

from gradflow_jax.masks import prune
from gradflow_jax.observations.findings import Finding, finding
from gradflow_jax.observations.study import Runs, Study
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
    """
    largest, others, by_size, by_loss = [], [], [], []
    for run in runs:
        params = study.pruned_from(run)
        d = study.derivatives(params)
        size = magnitude(params)
        keep = study.masks(size)
        largest.append(study.loss(prune(params, keep)))
        smallest = study.masks(jax.tree.map(lambda leaf: -leaf, size))
        others.append(study.loss(prune(params, smallest)))
        preserved = study.masks(score(d, "loss_preservation"))
        for masks, curves in ((keep, by_size), (preserved, by_loss)):
            _, losses = study.train(
                params, study.finetuning, seed=run.seed, masks=masks
            )
            curves.append(losses)
    found = [np.asarray(part) for part in (largest, others, by_size, by_loss)]
    largest, others, by_size, by_loss = found
    return LargerWeights(
        largest,
        others,
        by_size,
        by_loss,
        (
            finding(
                "keeping the k largest weights, the loss is smaller than keeping the "
                "k smallest",
                others - largest,
                "nats",
            ),
            finding(
                "pruned by magnitude, the training loss falls faster than pruned by "
                "loss preservation",
                (by_loss - by_size).mean(1),
                "nats",
            ),
        ),
    )
