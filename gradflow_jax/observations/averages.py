"""Averages over seeds, of arrays whose first axis is the seed."""

from typing import NamedTuple

import numpy as np


class SeedAverage(NamedTuple):
    """The average of an array over its first axis, the seed.

    Attributes:
        means: the array's shape without the first axis.
        deviations: the standard deviations of the sample, of the same shape; 0 of a
            single seed.
    """

    means: np.ndarray
    deviations: np.ndarray


def average_over_seeds(values: np.ndarray) -> SeedAverage:
    """Returns the mean and the deviation over the seeds, of values [seed, ...].

    Example:
        >>> average = average_over_seeds(np.array([[1.0, 5.0], [3.0, 5.0]]))
        >>> average.means.tolist(), average.deviations.round(3).tolist()
        ([2.0, 5.0], [1.414, 0.0])
    """
    means = values.mean(0)
    # The deviation of a sample divides by seeds − 1, which is 0 for a single one.
    several = len(values) > 1
    deviations = values.std(0, ddof=1) if several else np.zeros_like(means)
    return SeedAverage(means, deviations)


def geometric_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Returns the geometric mean of positive values along an axis.

    It is where the middle of points lies on a logarithmic scale.

    Example:
        >>> geometric_mean(np.array([1.0, 4.0]), 0).round(6).item()
        2.0
    """
    return np.exp(np.log(values).mean(axis))
