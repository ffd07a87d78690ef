"""Small leaves at hand, which NumPy counts on the host."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from gradflow_jax.masks.selection.bracketing import PIVOTS
from gradflow_jax.masks.selection.gaps import Gap
from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.parts import Counting, Operands, at_least, masking
from gradflow_jax.masks.selection.pieces import Flags, Row, rank_leaf, reaching


class HostLeaves:
    """Small leaves of one group and dtype that NumPy computes on, each one block.

    Their ranks lie end to end in one array, so that what is done to all of them costs
    one call.

    Attributes:
        leaves: their scores.
        blocks: of each leaf, the size of its one block.
    """

    def __init__(self, rows: Sequence[Row], order: Order):
        # What is ranked leaf by leaf stays in the cache.
        self._rank = np.concatenate(
            [
                rank_leaf(_flat(scores), _flat(among), _flat(first), order)
                for scores, among, first in rows
            ]
        )
        self.leaves = [leaf for leaf, *_ in rows]
        self._sizes = [leaf.size for leaf in self.leaves]
        self.blocks = [[size] for size in self._sizes]
        self._spans = [
            slice(end - size, end)
            for end, size in zip(accumulate(self._sizes), self._sizes, strict=True)
        ]
        # The last pass that counted what reaches pivots: gap, pivots and counts.
        self._last: tuple[Gap, np.ndarray, np.ndarray] | None = None

    def sample(self, step: int) -> np.ndarray:
        """Returns each so many-th rank."""
        return self._rank[::step]

    def count(self, flags: Flags, operands: Operands, asked: np.ndarray) -> Counting:
        """Counts in the blocks that are asked for: [block, flag]."""
        if flags is reaching:
            counts = self._count_reaching(*operands.per_group)
            return lambda: counts
        counts = np.zeros((len(self._sizes), PIVOTS), np.int32)
        for i in np.flatnonzero(asked).tolist():
            rank = self._rank[self._spans[i]]
            rows = [values[i : i + 1] for values in operands.per_block]
            flagged = flags(rank, _HostBlock(rank.size), 0, *operands.per_group, *rows)
            counts[i] = [np.count_nonzero(flag) for flag in flagged]
        return lambda: counts

    def _count_reaching(self, pivots: np.ndarray) -> np.ndarray:
        """Returns how many ranks of each block reach each of ascending pivots."""
        gap = None
        if self._last is not None:
            last_gap, *counted = self._last
            gap = last_gap.around(pivots, *counted)
        if gap is None:
            gap = Gap.of_all(self._rank, self._sizes)
        counts = gap.count_reaching(pivots)
        self._last = gap, pivots, counts
        return counts

    def masks(self, low: Any, high: Any, cuts: np.ndarray) -> list[np.ndarray]:
        """Returns the masks of the leaves, on the host: see `kept`."""
        mask, operands = masking(low, high, cuts, self._sizes)
        if mask is at_least:
            joined = mask(self._rank, None, 0, *operands)
            pieces = [joined[span] for span in self._spans]
        else:
            # Equal scores are cut within one of these leaves, or between two.
            pieces = []
            for i, span in enumerate(self._spans):
                own, size = cuts[i : i + 1], self._sizes[i]
                mask, operands = masking(low, high, own, [size])
                pieces.append(mask(self._rank[span], _HostBlock(size), 0, *operands))
        return [
            piece.reshape(leaf.shape)
            for piece, leaf in zip(pieces, self.leaves, strict=True)
        ]


def _flat(piece: Any) -> Any:
    """Returns a small leaf on the host as a vector, None as it is."""
    return None if piece is None else np.asarray(piece).reshape(-1)


class _HostBlock:
    """One leaf as one block of NumPy's arrays: what `Blocks` is for JAX's."""

    def __init__(self, size: int):
        self._size = size

    def spread(self, values: np.ndarray) -> Any:
        """Returns values, [block], in a shape that broadcasts to the weights."""
        return values[0]

    def backwards(self, zero: int) -> np.ndarray:
        """Returns the index from the end of the block, −1 for the first weight."""
        return -1 - np.arange(self._size, dtype=np.int32)
