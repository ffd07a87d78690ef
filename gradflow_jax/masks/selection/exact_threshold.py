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
from jax import lax

from gradflow_jax.masks.selection.bracketing import PIVOTS, Bracket, narrow
from gradflow_jax.masks.selection.counting import Totals
from gradflow_jax.masks.selection.pieces import (
    Pieces,
    Scores,
    rank_leaf,
    reduce_devices,
)
from gradflow_jax.masks.selection.placement import Placement, known_placement, whole


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
    chosen, outcome = _highest(
        scores,
        Totals.of([keep[g] for g in present]),
        groups=tuple(present.index(groups[i]) for i in order),
        placement=known_placement(scores.leaves),
    )
    masks = dict(zip(order, chosen, strict=True))
    empty = [i for i, leaf in enumerate(leaves) if not leaf.size]
    masks |= {i: jnp.zeros(leaves[i].shape, bool) for i in empty}
    return [masks[i] for i in range(len(leaves))], outcome


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
        pieces = Pieces(scores, groups, [whole(shape) for shape in shapes], ())
        return _choose(pieces, keep)
    shards, axes = placement.shards(shapes), placement.axes
    return placement.map_over_devices(
        lambda columns, keep: _choose(
            Pieces(Scores(*columns), groups, shards, axes), keep
        )
    )(scores, keep)


def _choose(pieces: Pieces, keep: Totals) -> tuple[list[jax.Array], jax.Array]:
    """Chooses the `keep` highest of each group, [group], by the pieces of all leaves.

    Returns:
        The masks of the pieces; and int32 [group, 5], whether all scores are rankable
        and how many tie and are needed, as the halves of `Totals`.
    """
    lowest, top = _extremes(pieces)
    threshold = _find_threshold(pieces, keep, lowest, top)
    inside = threshold.reaching_low - threshold.above_high
    groups, group_count = pieces.block_groups, len(keep.low)
    needed = keep.minus(Totals.over(threshold.above_high, groups, group_count))
    cuts = _cut_ties(pieces, needed, inside, threshold)
    masks = _make_masks(pieces, threshold, cuts)
    # The ranks of infinities and NaN lie beyond those of all finite numbers.
    largest = pieces.order.largest()
    finite = (lowest >= -largest) & (top <= largest)
    tied = Totals.over(inside, groups, group_count)
    rankable = jnp.broadcast_to(jnp.all(finite), (group_count,)).astype(jnp.int32)
    return masks, jnp.stack([rankable, *tied, *needed], 1)


def _find_threshold(
    pieces: Pieces, keep: Totals, lowest: jax.Array, top: jax.Array
) -> Bracket:
    """Finds the bracket of ranks that ends in each group's keep-th highest.

    Args:
        pieces: of all leaves.
        keep: [group], how many are kept.
        lowest: [leaf], the lowest rank of each leaf.
        top: [leaf], the highest.
    """

    def count_reaching(pivots: jax.Array) -> jax.Array:
        def flags(rank, block, zero, pivots):
            return [rank >= pivot for pivot in pivots]

        return pieces.count(flags, [pivots], [])

    # At first the bracket holds all ranks of the group.
    groups, group_count = np.asarray(pieces.leaf_groups), len(keep.low)
    bracket = Bracket(
        jax.ops.segment_min(lowest, groups, group_count),
        jax.ops.segment_max(top, groups, group_count),
        reaching_low=jnp.asarray(pieces.block_sizes, jnp.int32),
        above_high=jnp.zeros(len(pieces.block_groups), jnp.int32),
    )
    if pieces.scores.among is not None or pieces.scores.first is not None:
        # A weight outside `among` ranks below the bracket and one of `first` above it,
        # so a pass counts both ends instead.
        edges = jnp.stack([bracket.low, bracket.high + 1], -1)
        reaching_low, above_high = jnp.split(count_reaching(edges), 2, axis=1)
        bracket = bracket._replace(
            reaching_low=reaching_low[:, 0], above_high=above_high[:, 0]
        )
    return narrow(count_reaching, keep, pieces.block_groups, bracket)


def _cut_ties(
    pieces: Pieces, needed: Totals, inside: jax.Array, threshold: Bracket
) -> jax.Array:
    """Finds in each block the index up to which scores in the bracket are kept.

    Scores above the bracket are kept. Those inside tie with the threshold, or are all
    to be kept; the earliest of them fill up what is left of the number to keep.

    Args:
        pieces: of all leaves.
        needed: [group], how many scores inside the bracket are kept.
        inside: [block], how many there are.
        threshold: the bracket of each group.

    Returns:
        [block], a backwards index (−1 for the first weight of the block).
    """
    # `share` is how many of its inside scores each block keeps: what the group needs
    # beyond the inside scores of its earlier blocks, and at most all.
    groups = pieces.block_groups
    earlier = Totals.before(inside, groups)
    share = needed.at(groups).minus(earlier).within(inside)

    def count_early(pivots: jax.Array) -> jax.Array:
        def flags(rank, block, zero, low, high, pivots):
            tied, index = (rank >= low) & (rank <= high), block.backwards(zero)
            places = [block.spread(pivots[:, i]) for i in range(PIVOTS)]
            return [tied & (index >= place) for place in places]

        return pieces.count(flags, [threshold.low, threshold.high], [pivots])

    # Every block is a group of its own, whose share-th highest backwards index is
    # sought among its inside scores. A block that keeps all of them has no search to
    # make, nor has one of share 0: its bracket is 0, past every backwards index.
    block_count = len(groups)
    bracket = Bracket(
        jnp.where(share == 0, 0, jnp.asarray(-pieces.block_sizes, jnp.int32)),
        jnp.where(share == 0, 0, jnp.full(block_count, -1, jnp.int32)),
        reaching_low=inside,
        above_high=jnp.zeros_like(inside),
    )
    share = Totals(share >> 16, share & 0xFFFF)
    return narrow(count_early, share, np.arange(block_count), bracket).low


def _make_masks(pieces: Pieces, threshold: Bracket, cuts: jax.Array) -> list[jax.Array]:
    """Keeps what ranks above the bracket, and what lies in it at the cut or before.

    What ranks below all finite numbers, −inf, is not kept, even where the bracket
    reaches down to it.
    """
    lowest = -pieces.order.largest()
    low = jnp.maximum(threshold.low, lowest)
    high = jnp.maximum(threshold.high, lowest - 1)

    def mask(rank, block, zero, low, high, cut):
        early = block.backwards(zero) >= block.spread(cut)
        return (rank > high) | ((rank >= low) & early)

    return pieces.map_leaves(mask, [low, high], [cuts])


def _extremes(pieces: Pieces) -> tuple[jax.Array, jax.Array]:
    """Returns each leaf's lowest and highest rank, of all its scores: [leaf]."""
    pairs = []
    # The barrier keeps these reductions apart from what computes the scores.
    (leaves,) = lax.optimization_barrier((pieces.scores.leaves,))
    for leaf in leaves:
        rank = rank_leaf(leaf, None, None, pieces.order)
        limits = np.iinfo(rank.dtype)
        # One reduction finds both, and so reads the leaf once.
        pair = lax.reduce(
            (rank, rank),
            (np.array(limits.max, rank.dtype), np.array(limits.min, rank.dtype)),
            lambda a, b: (jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])),
            tuple(range(rank.ndim)),
        )
        pairs.append(jnp.stack(pair))
    lowest, top = jnp.stack(pairs, 1)
    return (
        reduce_devices(lax.pmin, lowest, pieces.mesh_axes),
        reduce_devices(lax.pmax, top, pieces.mesh_axes),
    )
