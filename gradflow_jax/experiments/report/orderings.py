"""Tests what the paper says of measures on pairs of runs of one seed each.

The claims are of Lubana and Dick, A Gradient Flow Framework For Analyzing Network
Pruning, ICLR 2021. A pair is two runs that differ in the measure alone, or in the
number of rounds alone; what is tested is the mean of the differences of the pairs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, NamedTuple

from gradflow_jax.experiments.formatting import rounds_in_words
from gradflow_jax.experiments.reproduction.record import RunRecord, RunSettings
from gradflow_jax.observations.findings import Verdict, confidence_interval, verdict_on


class Claim(NamedTuple):
    """One sentence of the paper, as a sign of a difference.

    Attributes:
        letter: its name in tables.
        sentence: what is claimed.
        difference: what is subtracted from what; the claim is that it is positive.
        unit: of the difference; points are of accuracies, which are fractions here.
        strict: whether 0 is against the claim.
    """

    letter: str
    sentence: str
    difference: str
    unit: str
    strict: bool


GRASP = Claim(
    "a",
    "gradient_norm_preservation beats grasp in test accuracy",
    "gradient_norm_preservation − grasp",
    "points",
    strict=True,
)
BIASED = Claim(
    "b",
    "biased_loss_preservation is no worse than loss_preservation in test accuracy",
    "biased_loss_preservation − loss_preservation",
    "points",
    strict=False,
)
FASTER = Claim(
    "c",
    "after the last round the training loss falls faster where magnitude chose than "
    "where loss_preservation did: the area under it is smaller",
    "loss_preservation − magnitude",
    "nats·epochs",
    strict=True,
)
ROUNDS = Claim(
    "d",
    "more rounds do not hurt test accuracy",
    "most rounds − fewest rounds",
    "points",
    strict=False,
)
CLAIMS = (GRASP, BIASED, FASTER, ROUNDS)
"""Accuracies are those after the last epoch."""


@dataclass(frozen=True)
class Ordering:
    """One claim on one set of pairs.

    Attributes:
        claim: what is tested.
        where: the rounds of the pairs, or their measure and rounds.
        seeds: of the pairs.
        differences: one a seed; positive is as claimed.
        mean: of the differences.
        interval: of the mean, by Student's t over the seeds; None of a single seed.
            Seeds that agree exactly make it a point.
        verdict: what they say of the claim.
    """

    claim: Claim
    where: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    verdict: Verdict


def judge_claims(records: Iterable[RunRecord]) -> list[Ordering]:
    """Tests every claim on the runs that it is about, claim by claim.

    Args:
        records: complete runs, no two with equal settings. They may be of several
            models or data sets: only runs that differ in nothing but the measure, the
            number of rounds or the seed are compared or averaged.

    Returns:
        One for each claim, number of rounds (of the last claim: measure) and rest of
        the settings for which there is at least one pair.
    """
    groups: dict[Any, list[RunRecord]] = {}
    for record in records:
        if record.settings.rounds > 0:
            groups.setdefault(comparable_part(record), []).append(record)
    orderings: list[Ordering] = []
    for group in groups.values():
        runs = {
            (r.settings.measure, r.settings.rounds, r.settings.seed): r for r in group
        }
        orderings += [
            *_compare_measures(
                runs, GRASP, "gradient_norm_preservation", "grasp", _gain
            ),
            *_compare_measures(
                runs, BIASED, "biased_loss_preservation", "loss_preservation", _gain
            ),
            *_compare_measures(
                runs, FASTER, "loss_preservation", "magnitude", _area_saved
            ),
            *_compare_rounds(runs),
        ]
    return sorted(orderings, key=lambda ordering: ordering.claim.letter)


def comparable_part(record: RunRecord) -> tuple[str, RunSettings]:
    """Returns what runs that can be compared share: their data and most settings.

    Measure, rounds and seed are blanked, since these may differ; so is how often
    measures were correlated, which decides no number of a run.
    """
    common = {"measure": "", "rounds": 0, "seed": 0, "correlate_every": 0}
    return record.data, replace(record.settings, **common)


def judge_differences(
    claim: Claim, where: str, seeds: Sequence[int], differences: Sequence[float]
) -> Ordering:
    """Returns the mean of differences, its interval and what they say of the claim."""
    if not differences:
        raise ValueError(f"({claim.letter}), {where}: there is no pair to test it on.")
    center = mean(differences)
    interval = confidence_interval(differences)
    verdict = verdict_on(center, interval, strict=claim.strict)
    return Ordering(
        claim=claim,
        where=where,
        seeds=tuple(seeds),
        differences=tuple(differences),
        mean=center,
        interval=interval,
        verdict=verdict,
    )


def final_accuracy(record: RunRecord) -> float:
    """Returns the test accuracy after the last epoch."""
    return record.epochs[-1].test_accuracy


_Runs = dict[tuple[str, int, int], RunRecord]
_Difference = Callable[[RunRecord, RunRecord], float | None]


def _gain(better: RunRecord, worse: RunRecord) -> float:
    return final_accuracy(better) - final_accuracy(worse)


def _area_saved(slower: RunRecord, faster: RunRecord) -> float | None:
    """Returns the difference of areas over the epochs after the last round of both.

    A row's loss is the mean over its epoch, so the area is the sum of the rows.
    """
    ends = [run.rounds[-1].epoch for run in (slower, faster) if run.rounds]
    start = max(ends, default=0)
    areas = []
    for run in (slower, faster):
        losses = [row.train_loss for row in run.epochs if row.epoch > start]
        if not losses:
            return None
        areas.append(sum(losses))
    return areas[0] - areas[1]


def _compare_measures(
    runs: _Runs, claim: Claim, first: str, second: str, difference: _Difference
) -> Iterable[Ordering]:
    """Compares two measures, one test for each number of rounds."""
    for count in sorted({rounds for _, rounds, _ in runs}):
        by_seed = {}
        for seed in sorted({seed for _, _, seed in runs}):
            pair = [runs.get((measure, count, seed)) for measure in (first, second)]
            if pair[0] is not None and pair[1] is not None:
                gap = difference(pair[0], pair[1])
                if gap is not None:
                    by_seed[seed] = gap
        if by_seed:
            where = rounds_in_words(count)
            yield judge_differences(claim, where, list(by_seed), list(by_seed.values()))


def _compare_rounds(runs: _Runs) -> Iterable[Ordering]:
    """Compares the most rounds with the fewest, one test for each measure."""
    for measure in dict.fromkeys(name for name, _, _ in runs):
        counts = {rounds for name, rounds, _ in runs if name == measure}
        fewest, most = min(counts), max(counts)
        if fewest == most:
            continue
        by_seed = {}
        for seed in sorted({seed for _, _, seed in runs}):
            few, many = (runs.get((measure, n, seed)) for n in (fewest, most))
            if few is not None and many is not None:
                by_seed[seed] = _gain(many, few)
        if by_seed:
            where = f"{measure}, {most} and {rounds_in_words(fewest)}"
            yield judge_differences(
                ROUNDS, where, list(by_seed), list(by_seed.values())
            )
