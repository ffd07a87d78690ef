"""What a search over leaves on the host's memory has not ruled out yet.

A search asks for ever closer pivots. What lies outside of the gap into which the next
ones fall reaches all of them or none, and need not be compared again.
"""

import functools
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

# A device is slow to count fewer neighbors at a time, and the host to look at more.
_LEAST, _MOST = 64, 512


class Gap(NamedTuple):
    """The ranks of several blocks that are at least `low` and below `high`.

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
        low, high = _limits(rank.dtype)
        return cls(low, high, rank, np.cumsum(sizes), np.zeros(len(sizes), np.int32))

    def holds(self, pivots: np.ndarray) -> bool:
        """Says whether ascending pivots lie in the gap, or at its ends."""
        return self.low <= pivots[0] and pivots[-1] <= self.high

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
        gap = _find_gap(edges, pivots)
        if gap is None:
            return None
        low, high = edges[gap : gap + 2]
        places = np.flatnonzero((self.rank >= low) & (self.rank < high))
        above = counts[:, gap] if gap < len(counted) else self.above
        ends = np.searchsorted(places, self.ends)
        return Gap(low, high, self.rank[places], ends, above)


@functools.cache
def chunk_size(shape: tuple[int, ...]) -> int:
    """Returns how many neighbors of a leaf are counted together: some 128, at best.

    They fill whole axes, or an equal part of one: others XLA finds by dividing indices.
    """
    inner = 1
    for size in reversed(shape):
        if inner * size >= _LEAST:
            parts = [part for part in range(1, _MOST // inner + 1) if size % part == 0]
            sizes = [inner * part for part in parts if inner * part >= _LEAST]
            return min(
                sizes, key=lambda n: max(n, 128) / min(n, 128), default=inner * size
            )
        inner *= size
    return inner


def has_short_rows(shape: tuple[int, ...]) -> bool:
    """Says whether the last axis of a leaf is as short as that of OIHW kernels."""
    return len(shape) > 1 and shape[-1] < _LEAST


class Edge(NamedTuple):
    """A rank, and how many of a leaf's reach it.

    Attributes:
        rank: a pivot, or one of the ends of all ranks.
        total: how many of all.
        of_chunk: how many of each chunk, [chunk], or of any.
    """

    rank: int
    total: int
    of_chunk: Any


class Chunks:
    """Which chunks of a leaf, neighbors in memory, hold ranks in the gap.

    To count how many ranks of each chunk reach the pivots takes a device no longer than
    how many of all. Once few are left, the host looks at the chunks that hold them.
    """

    # A device compares so many ranks while the host looks at one. More than one: before
    # the first pass nothing is known of any.
    _WORTH = 8

    def __init__(self, shape: tuple[int, ...], rank_kind: np.dtype):
        low, high = _limits(rank_kind)
        self._chunk_size, self._size = chunk_size(shape), math.prod(shape)
        self._all = Edge(low, self._size, self._chunk_size), Edge(high, 0, 0)
        self._gap = self._all
        self._edges: list[Edge] = []

    def note(self, pivots: np.ndarray, of_chunks: np.ndarray) -> np.ndarray:
        """Notes a pass.

        Args:
            pivots: which were asked for, ascending.
            of_chunks: [pivot, chunk], how many ranks of each chunk reach them.

        Returns:
            [1, pivot], how many of all do.
        """
        counts = of_chunks.sum(1, dtype=np.int32)
        edges = zip(pivots.tolist(), counts.tolist(), of_chunks, strict=True)
        self._edges = [Edge(*edge) for edge in edges]
        return counts[None]

    def around(
        self, pivots: np.ndarray, ranks_in: Callable[[np.ndarray], np.ndarray]
    ) -> Gap | None:
        """Returns the gap that holds the next pivots, None where the device is faster.

        Args:
            pivots: ascending.
            ranks_in: returns the ranks in chunks of these numbers.
        """
        low, high = self._gap = self._find(pivots)
        self._edges = []
        inside = (low.total - high.total) * self._chunk_size
        if inside * self._WORTH > self._size:
            return None
        places = np.flatnonzero(low.of_chunk != high.of_chunk)
        rank = ranks_in(places)
        rank = rank[(rank >= low.rank) & (rank < high.rank)]
        above = np.array([high.total], np.int32)
        return Gap(low.rank, high.rank, rank, np.array([len(rank)]), above)

    def _find(self, pivots: np.ndarray) -> tuple[Edge, Edge]:
        """Returns the edges of the gap that holds pivots."""
        low, high = self._gap
        edges = [low, *self._edges, high]
        gap = _find_gap([edge.rank for edge in edges], pivots)
        return self._all if gap is None else (edges[gap], edges[gap + 1])


def _limits(kind: np.dtype) -> tuple[int, int]:
    """Returns the least integer of a kind, and one above the greatest."""
    limits = np.iinfo(kind)
    return int(limits.min), int(limits.max) + 1


def _find_gap(edges: Sequence[int], pivots: np.ndarray) -> int | None:
    """Returns which gap between ascending edges holds ascending pivots, if one does."""
    gap = bisect_right(edges, pivots[0]) - 1
    if 0 <= gap < len(edges) - 1 and pivots[-1] <= edges[gap + 1]:
        return gap
    return None
