"""What numbers of several seeds say of a claim: a mean, an interval, a verdict."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import mean, stdev
from typing import Literal, NamedTuple, get_args

from gradflow_jax.trees import real_array

CONFIDENCE = 0.95
"""Every interval covers the true mean in this share of repeated experiments."""

Verdict = Literal[
    "held",
    "contradicted",
    "held on average, interval includes 0",
    "not held on average, interval includes 0",
    "undecided, mean above 0",
    "undecided, mean below 0",
    "undecided, mean 0",
    "too few seeds",
    "no verdict, a run diverged",
]
"""What numbers of several seeds can say of a claim.

"held" and "contradicted" are said where the whole interval lies on one side. Of "better
than", the interval must lie above 0; of "no worse than", at or above 0. An interval
that reaches across, or of "better than" only to, 0 decides nothing: then the verdict
says so, and on which side the mean lies.
"""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Finding(NamedTuple):
    """One claim, and what the seeds say of it.

    Attributes:
        claim: a sentence.
        unit: of the numbers.
        values: one a seed; positive is as claimed.
        mean: of the values.
        interval: of the mean, Student's at `CONFIDENCE`; None of a single seed.
        verdict: what mean and interval say of the claim.
    """

    claim: str
    unit: str
    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    verdict: Verdict

    def __str__(self) -> str:
        extent = "one seed"
        if self.interval is not None:
            extent = "{:+.3g} to {:+.3g}".format(*self.interval)
        return f"{self.claim}: {self.verdict} ({self.mean:+.3g}, {extent} {self.unit})"


class Spread(NamedTuple):
    """How one quantity varies over seeds.

    Attributes:
        mean: the mean.
        deviation: the standard deviation of the sample; 0 of a single seed.
        seeds: how many.
    """

    mean: float
    deviation: float
    seeds: int


def finding(claim: str, values: Iterable[float], unit: str) -> Finding:
    """Returns what values, one a seed, say of a claim that they are positive.

    Args:
        claim: a sentence.
        values: one a seed; positive is as claimed.
        unit: of the values.

    Returns:
        The finding; it prints as a line.

    Raises:
        TypeError: for values that are no real numbers.
        ValueError: if they are not one or more along one axis.

    Example:
        >>> finding("b exceeds a", [2.0, 3.0, 4.0], "nats").verdict
        'held'
    """
    array = real_array(
        list(values) if isinstance(values, Iterator) else values, "values"
    )
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"values have the shape {array.shape}: pass a list of one number a seed."
        )
    values = tuple(map(float, array))
    center, interval = mean(values), confidence_interval(values)
    verdict = verdict_on(center, interval, strict=True)
    return Finding(claim, unit, values, center, interval, verdict)


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Returns Student's interval of the mean at `CONFIDENCE`; None of one value.

    It is mean ± t · s / √n, with s the deviation of the sample and t the quantile at
    n − 1 degrees of freedom: 12.7 for two values, 4.3 for three, 2.8 for five. The ends
    are NaN where a value is not finite.

    Example:
        >>> low, high = confidence_interval([1.0, 3.0])
        >>> round(low, 2), round(high, 2)
        (-10.71, 14.71)
    """
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    # Importing scipy.stats takes longer than importing all of this package.
    from scipy import stats

    # `stats.t.interval` would return NaN for equal values, whose interval is a point.
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, df=len(values) - 1))
    half_width = quantile * stdev(values) / math.sqrt(len(values))
    center = mean(values)
    return center - half_width, center + half_width


def verdict_on(
    center: float, interval: tuple[float, float] | None, *, strict: bool
) -> Verdict:
    """Returns what a mean difference and its interval say of a claim.

    Args:
        center: the mean; positive is as claimed.
        interval: of the mean, or None where there is none.
        strict: whether the claim is "better than", and not "no worse than".
    """
    if not math.isfinite(center):
        return "no verdict, a run diverged"
    if interval is None:
        return "too few seeds"
    low, high = interval
    if low > 0 or (low >= 0 and not strict):
        return "held"
    if high < 0:
        return "contradicted"
    if strict:
        if center > 0:
            return "held on average, interval includes 0"
        return "not held on average, interval includes 0"
    if center > 0:
        return "undecided, mean above 0"
    return "undecided, mean below 0" if center < 0 else "undecided, mean 0"
