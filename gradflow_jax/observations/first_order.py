"""The paper's observations 1 to 3, of magnitude and loss preservation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from gradflow_jax.observations.findings import Finding, finding
from gradflow_jax.scores.rank_agreement import spearman
from gradflow_jax.observations.study import Runs, SeededRun, Study
from gradflow_jax.masks import apply
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
        largest.append(study.loss(apply(params, keep)))
        smallest = study.masks(jax.tree.map(lambda leaf: -leaf, size))
        others.append(study.loss(apply(params, smallest)))
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
        study: as of `larger_weights_converge_faster`.
        runs: likewise.
    """

    def correlation(run: SeededRun, moment: int) -> float:
        before, after = run.params[moment], run.soon[moment]
        change = jax.tree.map(lambda a, b: abs(b**2 - a**2), before, after)
        return spearman(change, score(study.derivatives(before), "loss_preservation"))

    found = _at_moments(runs, correlation)
    return SlowWeights(
        runs[0].steps,
        found,
        (
            finding(
                "weights of small loss-preservation scores change slowest",
                found.mean(1),
                "ρ",
            ),
        ),
    )


@dataclass(frozen=True)
class PreservingMagnitude:
    """Observation 3: with heuristics, magnitude preserves the loss.

    Attributes:
        steps: of training, [moment].
        correlation: Spearman's ρ of |θ| with |θ ⊙ g|, [seed, moment].
        rounds: in how many rounds magnitude pruned, [choice].
        change: Σ |ΔL| over the cuts of all rounds, [seed, choice], in nats.
        largest: |ΔL| of the cut that changes the loss most, likewise.
        biased: |ΔL| of one round by |θ − θ₀| |θ ⊙ g|, [seed].
        findings: that the two are related; of more rounds; of the distance.
    """

    steps: tuple[int, ...]
    correlation: np.ndarray
    rounds: tuple[int, ...]
    change: np.ndarray
    largest: np.ndarray
    biased: np.ndarray
    findings: tuple[Finding, ...]


def magnitude_preserves_loss(
    study: Study, runs: Runs, *, rounds: Sequence[int] = (1, 5, 25)
) -> PreservingMagnitude:
    """Evaluates observation 3 of the paper.

    Magnitude and loss preservation rank alike; in more rounds, with training between
    them, the cuts by magnitude change the loss less in all; and so does one cut by
    loss preservation biased by the distance from the first weights.

    Args:
        study: as of `larger_weights_converge_faster`.
        runs: likewise.
        rounds: from fewest to most. `study.finetuning` steps are divided among them.
    """

    def correlation(run: SeededRun, moment: int) -> float:
        params = run.params[moment]
        preserving = score(study.derivatives(params), "loss_preservation")
        return spearman(magnitude(params), preserving)

    found = _at_moments(runs, correlation)
    cuts = [[_in_rounds(study, run, n) for n in rounds] for run in runs]
    change = np.array([[sum(own) for own in row] for row in cuts])
    largest = np.array([[max(own) for own in row] for row in cuts])
    once, biased = [], []
    for run in runs:
        params = study.pruned_from(run)
        d = study.derivatives(params)._replace(origin=run.initial)
        for measure, into in (
            ("magnitude", once),
            ("biased_loss_preservation", biased),
        ):
            masks = study.masks(score(d, measure))
            into.append(abs(study.loss(apply(params, masks)) - study.loss(params)))
    once, biased = np.asarray(once), np.asarray(biased)
    return PreservingMagnitude(
        runs[0].steps,
        found,
        tuple(rounds),
        change,
        largest,
        biased,
        (
            finding(
                "magnitude and loss preservation rank weights alike",
                found.mean(1),
                "ρ",
            ),
            finding(
                f"no cut by magnitude in {rounds[-1]} rounds changes the loss as much "
                f"as the largest in {rounds[0]}",
                largest[:, 0] - largest[:, -1],
                "nats",
            ),
            finding(
                f"all cuts by magnitude in {rounds[-1]} rounds change the loss less "
                f"than in {rounds[0]}",
                change[:, 0] - change[:, -1],
                "nats",
            ),
            finding(
                "biased by the distance from the first weights, loss preservation "
                "changes the loss less than magnitude",
                once - biased,
                "nats",
            ),
        ),
    )


def _at_moments(runs: Runs, number: Callable[[SeededRun, int], float]) -> np.ndarray:
    """Returns a number of each run at each of its moments, [seed, moment]."""
    return np.array([[number(run, i) for i in range(len(run.steps))] for run in runs])


def _in_rounds(study: Study, run: SeededRun, rounds: int) -> list[float]:
    """Returns how much the cut by magnitude of each round changes the loss."""
    params, masks, changes = study.pruned_from(run), None, []
    between = max(1, study.finetuning // rounds)
    for k in range(1, rounds + 1):
        # What is left after each round is a hyperbola that ends at the density.
        density = 1 - study.sparsity
        left = rounds * density / (k * study.sparsity + rounds * density)
        masks = study.masks(magnitude(params), sparsity=1 - left, previous=masks)
        cut = apply(params, masks)
        changes.append(abs(study.loss(cut) - study.loss(params)))
        params = study.train(cut, between, seed=run.seed + k, masks=masks)[0][between]
    return changes
