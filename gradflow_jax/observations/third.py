"""Evaluates observation 3: with heuristics, magnitude preserves the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradflow_jax.dynamics.options import checked_count
from gradflow_jax.masks import prune
from gradflow_jax.observations.arguments import checked_items
from gradflow_jax.observations.findings import Finding, finding
from gradflow_jax.observations.runs import Runs, SeededRun, at_moments
from gradflow_jax.observations.study import Study, checked_runs
from gradflow_jax.scores import magnitude, score
from gradflow_jax.scores.rank_agreement import spearman


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
        study: the problem, and how networks are trained and pruned.
        runs: of `study`, one a seed.
        rounds: from fewest to most. `study.finetuning` steps are divided among them,
            and the data of each round have an order of their own.

    Returns:
        Correlations, and changes of the loss in nats.

    Raises:
        TypeError: for what is no study, what are no runs, or rounds that are no list.
        ValueError: if there is no run, or rounds are not whole numbers above 0, each
            larger than the last.

    Example:
        >>> import jax, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda params, x: x @ params["w"]
        >>> init = lambda key: {"w": jax.random.normal(key, (5, 3))}
        >>> x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
        >>> problem = gf.observations.Problem(init, apply, x, np.arange(24) % 3)
        >>> study = gf.observations.Study(problem, steps=4, moments=1, finetuning=2)
        >>> runs = study.runs(range(2))
        >>> third = gf.observations.magnitude_preserves_loss(study, runs, rounds=(1, 2))
        >>> third.change.shape, third.rounds
        ((2, 2), (1, 2))
    """
    runs = checked_runs(study, runs)
    rounds = checked_items(rounds, "rounds", checked_count, such_as="(1, 5, 25)")
    if list(rounds) != sorted({*rounds}):
        raise ValueError(
            f"rounds are {list(rounds)}: name them from fewest to most, which are "
            "compared."
        )

    def correlation(run: SeededRun, moment: int) -> float:
        params = run.params[moment]
        preserving = score(study.derivatives(params), "loss_preservation")
        return spearman(magnitude(params), preserving)

    correlations = at_moments(runs, correlation)
    # For each seed and each number of rounds there is a list of |ΔL|, one a round.
    changes = [[_prune_in_rounds(study, run, n) for n in rounds] for run in runs]
    change = np.array([[sum(by_round) for by_round in of_seed] for of_seed in changes])
    largest = np.array([[max(by_round) for by_round in of_seed] for of_seed in changes])
    once_changes, biased_changes = [], []
    for run in runs:
        params = study.pruned_from(run)
        d = study.derivatives(params)._replace(origin=run.initial)
        for measure, measure_changes in (
            ("magnitude", once_changes),
            ("biased_loss_preservation", biased_changes),
        ):
            masks = study.masks(score(d, measure))
            measure_changes.append(
                abs(study.loss(prune(params, masks)) - study.loss(params))
            )
    once, biased = np.asarray(once_changes), np.asarray(biased_changes)
    return PreservingMagnitude(
        runs[0].steps,
        correlations,
        rounds,
        change,
        largest,
        biased,
        (
            finding(
                "magnitude and loss preservation rank weights alike",
                correlations.mean(1),
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


def _prune_in_rounds(study: Study, run: SeededRun, rounds: int) -> list[float]:
    """Returns how much the cut by magnitude of each round changes the loss."""
    params, masks, changes = study.pruned_from(run), None, []
    done = 0
    density = 1 - study.sparsity
    for k in range(1, rounds + 1):
        # The fraction left after round k of n is n·d / (k·(1 − d) + n·d), the paper's
        # hyperbola: 1 before the first round, d after the last.
        left = rounds * density / (k * study.sparsity + rounds * density)
        masks = study.masks(magnitude(params), sparsity=1 - left, previous=masks)
        pruned = prune(params, masks)
        changes.append(abs(study.loss(pruned) - study.loss(params)))
        # After round k of n there were k/n of all steps. The data's order is of the run
        # and the round, so that no two runs share one.
        due = k * study.finetuning // rounds
        params = pruned
        if due > done:
            steps = due - done
            trained, _ = study.train(pruned, steps, seed=(run.seed, k), masks=masks)
            params, done = trained[steps], due
    return changes
