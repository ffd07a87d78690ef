"""What seeds say of a claim follows from their numbers alone."""

import itertools

import pytest
from scipy import stats

from gradflow_jax.observations.findings import (
    VERDICTS,
    confidence_interval,
    finding,
    verdict_on,
)


@pytest.mark.parametrize("values", [(1.0, 3.0), (0.1, -0.2, 0.4), (2, 2.5, 3, 1, 0)])
def test_the_interval_is_that_of_a_t_test_against_zero(values):
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert confidence_interval(values) == pytest.approx(tuple(expected))


def test_one_value_has_no_interval_and_equal_ones_a_point():
    assert confidence_interval([0.3]) is None
    assert confidence_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)


def test_an_interval_that_only_touches_zero():
    assert verdict_on(1.0, (0.0, 2.0), strict=False) == "held"
    reached = "held on average, interval includes 0"
    assert verdict_on(1.0, (0.0, 2.0), strict=True) == reached
    assert verdict_on(-1.0, (-2.0, 0.0), strict=False) == "undecided, mean below 0"


def test_every_verdict_is_listed():
    ends = [None, *itertools.combinations((-2.0, -1.0, 0.0, 1.0, 2.0), 2)]
    verdicts = {
        verdict_on(sum(end) / 2 if end else 0.0, end, strict=strict)
        for end in ends
        for strict in (True, False)
    }
    assert verdicts | {"no verdict, a run diverged"} == set(VERDICTS)


def test_a_finding_is_a_line():
    held = finding("b exceeds a", [2.0, 3.0, 4.0], "nats")
    test = stats.ttest_1samp([2, 3, 4], 0).confidence_interval(0.95)
    assert held.interval == pytest.approx(tuple(test)) and held.mean == 3.0
    assert str(held) == "b exceeds a: held (+3, +0.516 to +5.48 nats)"
    alone = finding("b exceeds a", [2.0], "ρ")
    assert str(alone) == "b exceeds a: too few seeds (+2, one seed ρ)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "^values is None: pass real numbers"),
        ("12", "^values is '12': pass real numbers"),
        ([1.0, "2"], "^values is list: pass real numbers"),
        ([1j], "^values is list: pass real numbers"),
        ([True], "^values is list: pass real numbers"),
        ({1.0: 2.0}, "^values is dict: pass real numbers"),
        (1.0, r"^values have the shape \(\): pass a list of one number a seed"),
        ([], r"^values have the shape \(0,\): pass a list"),
        ([[1.0]], r"^values have the shape \(1, 1\): pass a list"),
    ],
    ids=str,
)
def test_values_that_are_no_list_of_numbers(values, message):
    with pytest.raises((TypeError, ValueError), match=message):
        finding("b exceeds a", values, "nats")


def test_values_may_come_one_by_one():
    assert finding("b exceeds a", (n for n in (2, 4)), "nats").values == (2.0, 4.0)
