import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gradflow_jax.experiments.report.orderings import (
    BIASED,
    CLAIMS,
    FASTER,
    GRASP,
    ROUNDS,
    judge_claims,
    judge_differences,
)
from tests.experiments.report.made_runs import MEASURES, made_run

GRADIENT_NORM, LOSS, BIASED_LOSS = MEASURES[4], MEASURES[1], MEASURES[2]


def pairs(first, second, accuracies, rounds=1, **settings):
    """Returns two runs a seed, of two measures and these final accuracies."""
    return [
        made_run(measure, rounds, seed, accuracy=accuracy, **settings)
        for seed, both in enumerate(accuracies)
        for measure, accuracy in zip((first, second), both, strict=True)
    ]


@pytest.mark.parametrize(
    "differences, better, no_worse",
    [
        ([0.01, 0.011, 0.012], "held", "held"),
        ([-0.01, -0.011, -0.012], "contradicted", "contradicted"),
        (
            [0.01, 0.02, -0.01],
            "held on average, interval includes 0",
            "undecided, mean above 0",
        ),
        (
            [0.01, -0.02, -0.01],
            "not held on average, interval includes 0",
            "undecided, mean below 0",
        ),
        (
            [0.01, -0.01],
            "not held on average, interval includes 0",
            "undecided, mean 0",
        ),
        # An interval that is the point 0: no loss, but no gain either.
        ([0.0, 0.0], "not held on average, interval includes 0", "held"),
        ([0.5], "too few seeds", "too few seeds"),
        (
            [0.5, math.nan],
            "no verdict, a run diverged",
            "no verdict, a run diverged",
        ),
    ],
)
def test_verdicts_follow_from_the_interval(differences, better, no_worse):
    seeds = range(len(differences))
    found = judge_differences(GRASP, "1 round", seeds, differences)
    assert found.verdict == better
    assert judge_differences(BIASED, "1 round", seeds, differences).verdict == no_worse
    np.testing.assert_allclose(found.mean, np.mean(differences), atol=1e-12)


def test_no_pair_is_an_error():
    with pytest.raises(ValueError, match=r"\(a\), 1 round: there is no pair"):
        judge_differences(GRASP, "1 round", [], [])


def test_accuracies_are_paired_by_seed():
    runs = pairs(GRADIENT_NORM, "grasp", [(0.9, 0.8), (0.7, 0.61), (0.8, 0.69)])
    # Of a seed that the other measure lacks.
    runs.append(made_run("grasp", 1, 9, accuracy=0.1))
    (found,) = judge_claims(reversed(runs))
    assert (found.claim, found.where) == (GRASP, "1 round")
    assert found.seeds == (0, 1, 2) and found.verdict == "held"
    assert found.differences == pytest.approx((0.1, 0.09, 0.11))
    test = stats.ttest_rel([0.9, 0.7, 0.8], [0.8, 0.61, 0.69])
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_biased_loss_preservation_may_be_as_good():
    (found,) = judge_claims(pairs(BIASED_LOSS, LOSS, [(0.9, 0.9), (0.8, 0.8)]))
    assert found.claim == BIASED and found.verdict == "held"
    (found,) = judge_claims(
        pairs(BIASED_LOSS, LOSS, [(0.8, 0.9), (0.69, 0.8), (0.7, 0.8)])
    )
    assert found.verdict == "contradicted"


def losing(record, losses):
    """Returns a record whose training losses are these."""
    rows = zip(record.epochs, losses, strict=True)
    return replace(
        record, epochs=tuple(replace(row, train_loss=loss) for row, loss in rows)
    )


def test_the_area_is_under_the_losses_after_the_last_round():
    short = {"schedule": ((5, 0.1),)}
    slow, fast = ([9, 9, 3.0, 2.0, 1.0], [50, 9, 2.0, 1.0, 0.5])
    runs = []
    for seed in range(2):
        runs.append(losing(made_run("magnitude", 2, seed, **short), fast))
        more = [loss + 0.1 * seed for loss in slow]
        runs.append(losing(made_run(LOSS, 2, seed, **short), more))
    (found,) = judge_claims(runs)
    assert (found.claim, found.where) == (FASTER, "2 rounds")
    assert found.differences == pytest.approx((6 - 3.5, 6.3 - 3.5))
    assert found.verdict == "held"
    # No epoch is after the last round: there is nothing to compare.
    ends = {"schedule": ((2, 0.1),)}
    best = [made_run(name, 1, 0, **ends) for name in ("magnitude", LOSS)]
    assert [one.claim for one in judge_claims(best)] == [FASTER]
    last = [
        replace(run, rounds=(replace(run.rounds[0], epoch=2),), best_accuracy=None)
        for run in best
    ]
    assert judge_claims(last) == []


def test_the_most_rounds_are_compared_with_the_fewest():
    accuracies = {1: (0.8, 0.81), 5: (0.1, 0.1), 8: (0.7, 0.7)}
    runs = [
        made_run("grasp", rounds, seed, accuracy=accuracy)
        for rounds, of_seeds in accuracies.items()
        for seed, accuracy in enumerate(of_seeds)
    ]
    (found,) = judge_claims([*runs, made_run("random", 1, 0)])
    assert (found.claim, found.where) == (ROUNDS, "grasp, 8 and 1 round")
    assert found.differences == pytest.approx((-0.1, -0.11))
    assert found.verdict == "contradicted"


@pytest.mark.parametrize(
    "other", [{"prune": 0.6}, {"model": "resnet56"}, {"data": "CIFAR-100"}], ids=str
)
def test_runs_that_differ_in_more_are_not_paired(other):
    assert judge_claims([made_run(GRADIENT_NORM), made_run("grasp", **other)]) == []
    assert judge_claims([made_run("grasp", 1), made_run("grasp", 5, **other)]) == []


def test_correlating_meanwhile_makes_no_other_run_and_dense_runs_are_no_round():
    runs = [made_run(GRADIENT_NORM, correlated=MEASURES), made_run("grasp")]
    (found,) = judge_claims([*runs, made_run("grasp", 0)])
    assert found.claim == GRASP and found.verdict == "too few seeds"


def test_all_claims_of_a_full_set_in_order():
    runs = [
        made_run(measure, rounds, seed)
        for seed in range(2)
        for rounds in (1, 5)
        for measure in MEASURES
    ]
    found = judge_claims(runs)
    letters = [one.claim.letter for one in found]
    assert letters == sorted(letters) == list("aabbccddddd")
    assert {one.claim for one in found} == set(CLAIMS)
    # Each twice: by one model and by another.
    both = [*runs, *(made_run(measure, model="vgg16") for measure in MEASURES)]
    assert len(judge_claims(both)) == len(found) + 3
