"""Small leaves as one, where each would be counted by a loop of its own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.selection import counting
from gradflow_jax.masks.selection.pieces import Pieces, Scores


class Joined(NamedTuple):
    """Leaves, of which small ones stand end to end.

    Attributes:
        scores: of fewer leaves.
        groups: of these.
        run_of_leaf: [leaf], in which of them each leaf stands.
        offsets: [leaf], behind how many weights of others.
    """

    scores: Scores
    groups: tuple[int, ...]
    run_of_leaf: np.ndarray
    offsets: np.ndarray

    def part_cuts(self, cuts: Any, pieces: Pieces, joined: Pieces) -> Any:
        """Returns the cuts of the pieces' blocks, [block], of those of joined ones.

        A cut is an index backwards, from −1 for the first weight of a block. So many
        weights as stand before a leaf, so much further up is its cut.
        """
        leaves = pieces.block_leaves
        # A leaf of several blocks stands alone, and its blocks follow each other.
        within = np.arange(len(leaves)) - np.searchsorted(leaves, leaves)
        run_starts = np.searchsorted(joined.block_leaves, self.run_of_leaf)
        return cuts[run_starts[leaves] + within] + self.offsets[leaves]


def join_neighbors(scores: Scores, groups: Sequence[int]) -> Joined:
    """Joins small leaves of one group and dtype that follow each other.

    They stay in their order, so that of equal scores the same ones come first.

    Args:
        scores: of all leaves, in the order of their groups.
        groups: the group of each leaf.
    """
    runs: list[list[int]] = []
    size_of_run = 0
    for i, leaf in enumerate(scores.leaves):
        before = scores.leaves[i - 1]
        is_next = (
            bool(runs)
            and max(leaf.size, before.size) <= counting.SMALL_LEAF
            and size_of_run + leaf.size <= counting.LARGEST_BLOCK
            and (groups[i], leaf.dtype) == (groups[i - 1], before.dtype)
        )
        if is_next:
            runs[-1].append(i)
            size_of_run += leaf.size
        else:
            runs.append([i])
            size_of_run = leaf.size

    def join(column: Sequence[Any]) -> list[Any]:
        return [_flat([column[i] for i in run]) for run in runs]

    among, first = (column and join(column) for column in scores[1:])
    sizes = [[scores.leaves[i].size for i in run] for run in runs]
    return Joined(
        Scores(join(scores.leaves), among, first),
        tuple(groups[run[0]] for run in runs),
        np.repeat(np.arange(len(runs)), [len(run) for run in runs]),
        np.concatenate(
            [np.cumsum(of_run) - of_run for of_run in sizes], dtype=np.int32
        ),
    )


def _flat(leaves: Sequence[Any]) -> Any:
    """Returns leaves end to end; a single one as it is."""
    if len(leaves) == 1:
        return leaves[0]
    return jnp.concatenate([jnp.reshape(leaf, -1) for leaf in leaves])
