"""Small leaves as one, where each would have loops of its own in a program."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.selection import counting
from gradflow_jax.masks.selection.pieces import Scores


def join_neighbors(
    scores: Scores, groups: Sequence[int]
) -> tuple[Scores, tuple[int, ...], list[list[int]]]:
    """Joins small leaves of one group and dtype that follow each other.

    They stay in their order, so that of equal scores the same ones come first.

    Args:
        scores: of all leaves, in the order of their groups.
        groups: the group of each leaf.

    Returns:
        The scores of fewer leaves, the groups of these, and of which leaves each is
        made.
    """
    runs: list[list[int]] = []
    for i, leaf in enumerate(scores.leaves):
        is_next = (
            runs
            and max(leaf.size, scores.leaves[runs[-1][-1]].size) <= counting.SMALL_LEAF
            and groups[i] == groups[runs[-1][-1]]
            and leaf.dtype == scores.leaves[runs[-1][-1]].dtype
        )
        if is_next:
            runs[-1].append(i)
        else:
            runs.append([i])

    def join(column: Sequence[Any]) -> list[Any]:
        return [_flat([column[i] for i in run]) for run in runs]

    among, first = (column and join(column) for column in scores[1:])
    joined = Scores(join(scores.leaves), among, first)
    return joined, tuple(groups[run[0]] for run in runs), runs


def _flat(leaves: Sequence[Any]) -> Any:
    """Returns leaves end to end; a single one as it is."""
    if len(leaves) == 1:
        return leaves[0]
    return jnp.concatenate([jnp.reshape(leaf, -1) for leaf in leaves])


def part_neighbors(
    masks: Sequence[jax.Array], runs: Sequence[Sequence[int]], like: Sequence[Any]
) -> list[jax.Array]:
    """Returns the masks of the leaves that `join_neighbors` joined, in their order."""
    parts: list[jax.Array] = []
    for mask, run in zip(masks, runs, strict=True):
        ends = np.cumsum([like[i].size for i in run])[:-1]
        pieces = jnp.split(mask, ends) if len(run) > 1 else [mask]
        parts += [
            piece.reshape(like[i].shape) for piece, i in zip(pieces, run, strict=True)
        ]
    return parts
