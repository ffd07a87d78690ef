"""The ranks on the host that a search has not ruled out yet."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Gap(NamedTuple):
    """The ranks of several blocks that are at least `low` and below `high`.

    A search asks for ever closer pivots. What lies outside of the gap into which the
    next ones fall reaches all of them or none, and need not be compared again.

    Attributes:
        low: of all ranks, the least integer.
        high: of all ranks, one above the greatest integer.
        rank: those in the gap, block by block.
        ends: [block], where each block ends in `rank`.
        above: [block], how many of its ranks are `high` or higher.
    """

    low: int
    high: int
    rank: np.ndarray
    ends: np.ndarray
    above: np.ndarray

    @classmethod
    def of_all(cls, rank: np.ndarray, sizes: Sequence[int]) -> "Gap":
        """Returns the gap around all ranks, which lie block by block."""
        limits, none = np.iinfo(rank.dtype), np.zeros(len(sizes), np.int32)
        return cls(int(limits.min), int(limits.max) + 1, rank, np.cumsum(sizes), none)

    def count_reaching(self, pivots: np.ndarray) -> np.ndarray:
        """Returns how many ranks reach each pivot in the gap: int32 [block, pivot]."""
        reached = [self.rank >= pivot for pivot in pivots]
        inside = [
            [np.count_nonzero(flag[start:end]) for flag in reached]
            for start, end in pairwise([0, *self.ends.tolist()])
        ]
        return self.above[:, None] + np.array(inside, np.int32)

    def around(
        self, pivots: np.ndarray, counted: np.ndarray, counts: np.ndarray
    ) -> "Gap | None":
        """Returns the gap between two neighbors of what was counted that holds pivots.

        Args:
            pivots: the next ones, ascending.
            counted: the ones before, in this gap.
            counts: what `count_reaching` returned of them.

        Returns:
            None if the next ones lie in several gaps, or outside of this one.
        """
        edges = [self.low, *counted.tolist(), self.high]
        gap = int(np.searchsorted(counted, pivots[0], "right"))
        low, high = edges[gap], edges[gap + 1]
        if not low <= pivots[0] <= pivots[-1] <= high:
            return None
        places = np.flatnonzero((self.rank >= low) & (self.rank < high))
        above = counts[:, gap] if gap < len(counted) else self.above
        ends = np.searchsorted(places, self.ends)
        return Gap(low, high, self.rank[places], ends, above)
