"""Selects the highest of many scores, exactly, by counting.

The page of this room, the docstring of `gradflow_jax.masks.selection`, tells what is
searched for, by which invariant, and why the barriers stand, with an example of eight
scores. Only counts leave a leaf, so that sharded scores stay where they lie.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.selection.bracketing import Bracket
from gradflow_jax.masks.selection.counting import Totals, array_module
from gradflow_jax.masks.selection.driving import DrivenLeaves
from gradflow_jax.masks.selection.joining import join_neighbors
from gradflow_jax.masks.selection.pieces import Pieces, Scores
from gradflow_jax.masks.selection.placement import (
    LEAVES,
    REPLICATED,
    Placement,
    known_placement,
    whole,
)
from gradflow_jax.masks.selection.searching import (
    search_driven,
    search_in_one_loop,
    split_at,
)
from gradflow_jax.trees import is_traced


class Outcome(NamedTuple):
    """What a selection came upon, for each group that has scores.

    Attributes:
        rankable: whether no score is NaN or infinite.
        tied: how many scores equal the group's threshold.
        needed: how many of those are chosen, the earliest. Where it is less than
            `tied`, positions decided.
    """

    rankable: bool
    tied: list[int]
    needed: list[int]

    @classmethod
    def read(cls, row_of_group: Any) -> "Outcome":
        """Returns what `highest` hands over as one array, if its values are known."""
        rows = np.asarray(row_of_group)
        numbers = Totals(*rows[:, 1:].reshape(-1, 2).T).numbers()
        return cls(bool(rows[:, 0].all()), numbers[::2], numbers[1::2])


def highest(
    leaves: Sequence[Any],
    keep: Sequence[int],
    groups: Sequence[int],
    *,
    among: Sequence[Any] | None = None,
    first: Sequence[Any] | None = None,
) -> tuple[list[jax.Array], Any]:
    """Chooses the `keep[g]` highest of all leaves of group g together, for every g.

    Among equal scores the earlier leaf, then the lower index is chosen, and −inf never.
    The numbers to keep are data, not constants: new ones compile nothing.

    Args:
        leaves: arrays of scores, each of any shape.
        keep: how many of each group.
        groups: the group of each leaf, from 0 to len(keep) − 1.
        among: bool leaves; False is never chosen. A group with fewer than it keeps
            keeps those.
        first: bool leaves; True is chosen before all others, no more of them than the
            group keeps.

    Returns:
        Bool leaves, True at the chosen; and what `Outcome.read` makes known, in one
        array that is cheap to fetch: a row for each group, in the order of their
        numbers, but for those without a score.
    """
    # The leaves of a group stand together, so that sums over it are of neighbors.
    order = [int(i) for i in np.argsort(groups, kind="stable") if leaves[i].size]
    if not order:
        no_rows = np.zeros((0, 5), np.int32)
        return [jnp.zeros(leaf.shape, bool) for leaf in leaves], no_rows
    present = sorted({groups[i] for i in order})

    def reorder(column: Sequence[Any] | None) -> list[Any] | None:
        return None if column is None else [column[i] for i in order]

    scores = Scores([leaves[i] for i in order], reorder(among), reorder(first))
    groups_in_order = tuple(present.index(groups[i]) for i in order)
    totals = Totals.of([keep[g] for g in present])
    if _are_at_hand(scores):
        driven = DrivenLeaves(scores, groups_in_order)
        is_rankable, threshold, cuts = search_driven(driven, totals)
        chosen = _make_masks(driven, threshold, cuts)
        outcome = _outcome(is_rankable, threshold, totals, driven.block_groups)
    else:
        chosen, outcome = _highest(
            scores,
            totals,
            groups=groups_in_order,
            placement=known_placement(scores.leaves),
        )
    masks = dict(zip(order, chosen, strict=True))
    empty = [i for i, leaf in enumerate(leaves) if not leaf.size]
    masks |= {i: jnp.zeros(leaves[i].shape, bool) for i in empty}
    return [masks[i] for i in range(len(leaves))], outcome


def _are_at_hand(scores: Scores) -> bool:
    """Says whether programs can be run on the scores now, one after the other.

    Within a function that is being traced even what is known is a part of its program.
    """
    return not any(map(is_traced, [*jax.tree.leaves(scores), jnp.zeros(())]))


@functools.partial(jax.jit, static_argnames=("groups", "placement"))
def _highest(
    scores: Scores,
    keep: Totals,
    *,
    groups: tuple[int, ...],
    placement: Placement | None,
) -> tuple[list[jax.Array], jax.Array]:
    shapes = [leaf.shape for leaf in scores.leaves]
    if placement is None:
        return _choose_unplaced(scores, groups, keep)
    shards, axes = placement.shards(shapes), placement.axes
    return placement.map_over_devices(
        lambda columns, keep: _choose(
            Pieces(Scores(*columns), groups, shards, axes), keep
        ),
        (LEAVES, REPLICATED),
    )(scores, keep)


def _choose_unplaced(
    scores: Scores, groups: tuple[int, ...], keep: Totals
) -> tuple[list[jax.Array], jax.Array]:
    """Chooses in a program that may be partitioned after it was traced.

    Of several devices nobody knows yet what splits the leaves, so that each is counted
    where and as it is. A single one holds them whole, and counts small ones as one.
    """
    if jax.device_count() > 1:
        shards = [whole(leaf.shape, is_certain=False) for leaf in scores.leaves]
        return _choose(Pieces(scores, groups, shards, ()), keep)
    joined = join_neighbors(scores, groups)
    shards = [whole(leaf.shape) for leaf in joined.scores.leaves]
    counted = Pieces(joined.scores, joined.groups, shards, ())
    threshold, cuts = search_in_one_loop(counted, keep)
    shards = [whole(leaf.shape) for leaf in scores.leaves]
    pieces = Pieces(scores, groups, shards, ())
    masks = _make_masks(pieces, threshold, joined.part_cuts(cuts, pieces, counted))
    return masks, _outcome(True, threshold, keep, counted.block_groups)


def _choose(pieces: Pieces, keep: Totals) -> tuple[list[jax.Array], jax.Array]:
    """Chooses the `keep` highest of each group, [group], by the pieces of all leaves.

    Returns:
        The masks of the pieces, and their outcome. A program that is being traced
        cannot refuse scores: whether they are rankable, it does not ask.
    """
    threshold, cuts = search_in_one_loop(pieces, keep)
    masks = _make_masks(pieces, threshold, cuts)
    return masks, _outcome(True, threshold, keep, pieces.block_groups)


def _make_masks(
    pieces: Pieces | DrivenLeaves, threshold: Bracket, cuts: Any
) -> list[jax.Array]:
    xp = array_module(threshold.low)
    # What ranks below all finite numbers, −inf, is not kept, even where the bracket
    # reaches down to it.
    lowest = -pieces.order.largest()
    low = xp.maximum(threshold.low, lowest)
    high = xp.maximum(threshold.high, lowest - 1)
    return pieces.masks(low, high, cuts)


def _outcome(
    is_rankable: bool, threshold: Bracket, keep: Totals, groups: np.ndarray
) -> Any:
    """Returns int32 [group, 5]: whether all scores are rankable, how many tie, needed.

    The latter two are the halves of `Totals`.
    """
    xp = array_module(threshold.low)
    inside, needed = split_at(threshold, keep, groups)
    tied = Totals.over(inside, groups, len(keep.low))
    rankable = xp.broadcast_to(is_rankable, keep.low.shape).astype(np.int32)
    return xp.stack([rankable, *tied, *needed], 1)
