"""Searches for the thresholds of groups, and then for the cuts of what ties there."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.bracketing import Bracket, narrow
from gradflow_jax.masks.selection.counting import Totals, array_module
from gradflow_jax.masks.selection.driving import DrivenLeaves
from gradflow_jax.masks.selection.pieces import Pieces, early, reaching


def search_driven(leaves: DrivenLeaves, keep: Totals) -> tuple[Any, Bracket, Any]:
    """Searches by passes that are driven from outside, in NumPy's arrays.

    Returns:
        Whether all scores are rankable, the bracket of each group, and the cut of each
        block: see `_begin_cuts`.
    """
    is_finite, bracket, counted = leaves.begin(keep)
    groups = leaves.block_groups

    def count_reaching(pivots: Any, asked: Any) -> Any:
        return leaves.count(reaching, [pivots], [], asked)

    threshold = narrow(count_reaching, keep, groups, bracket, counted)

    def count_early(pivots: Any, asked: Any) -> Any:
        return leaves.count(early, [threshold.low, threshold.high], [pivots], asked)

    bracket, share = _begin_cuts(threshold, keep, groups, leaves.block_sizes)
    blocks = np.arange(len(groups))
    return is_finite, threshold, narrow(count_early, share, blocks, bracket).low


def search_in_one_loop(pieces: Pieces, keep: Totals) -> tuple[Bracket, Any]:
    """Searches for thresholds and then for cuts by one loop over the leaves.

    Each loop over a leaf costs about as much to compile as all others, and a search
    has but one so: the same passes count ranks at first, and then the indices of what
    ties. There are as many groups as blocks in both, of which the last may be empty.

    Returns:
        The bracket of each group, and the cut of each block: see `_begin_cuts`.
    """
    groups, sizes = pieces.block_groups, jnp.asarray(pieces.block_sizes)
    group_count, blocks = len(keep.low), np.arange(len(groups))
    kind = pieces.order.rank_kind()
    limits, is_empty = np.iinfo(kind), blocks >= group_count
    # All integers are in the first bracket, those of −inf and NaN too.
    bracket = Bracket(
        jnp.asarray(np.where(is_empty, 0, limits.min), kind),
        jnp.asarray(np.where(is_empty, 0, limits.max), kind),
        reaching_low=sizes,
        above_high=jnp.zeros_like(sizes),
    )
    keep_of_block = Totals(*(jnp.pad(half, (0, is_empty.sum())) for half in keep))

    def search(state: Any, is_of_cuts: Any) -> Any:
        bracket, sought, edges = state
        group_of_block = jnp.where(is_of_cuts, blocks, groups)

        def count(pivots: Any, asked: Any) -> Any:
            return pieces.count(is_of_cuts, edges, pivots[group_of_block])

        narrowed = narrow(count, sought, group_of_block, bracket)
        threshold = narrowed._replace(
            low=narrowed.low[:group_count], high=narrowed.high[:group_count]
        )
        next_bracket, share = _begin_cuts(threshold, keep, groups, sizes)
        next_bracket = next_bracket._replace(
            low=next_bracket.low.astype(kind), high=next_bracket.high.astype(kind)
        )
        edges = threshold.low, threshold.high
        return (next_bracket, share, edges), (threshold, narrowed.low)

    no_edges = jnp.zeros(group_count, kind), jnp.zeros(group_count, kind)
    _, (thresholds, lows) = lax.scan(
        search, (bracket, keep_of_block, no_edges), np.array([False, True])
    )
    threshold = Bracket(*(of_search[0] for of_search in thresholds))
    return threshold, lows[1].astype(np.int32)


def split_at(
    threshold: Bracket, keep: Totals, groups: np.ndarray
) -> tuple[Any, Totals]:
    """Returns how many ranks lie in the bracket, [block], and how many of them to keep.

    The latter are of groups.
    """
    above = Totals.over(threshold.above_high, groups, len(keep.low))
    return threshold.reaching_low - threshold.above_high, keep.minus(above)


def _begin_cuts(
    threshold: Bracket, keep: Totals, groups: np.ndarray, sizes: Any
) -> tuple[Bracket, Totals]:
    """Begins the search of each block for the index up to which ties are kept.

    Scores above the bracket are kept. Those inside tie with the threshold, or are all
    to be kept; the earliest of them fill up what is left of the number to keep.

    Args:
        threshold: the bracket of each group.
        keep: [group], how many are kept.
        groups: [block], the group of each block.
        sizes: [block], how many weights it has.

    Returns:
        A bracket of backwards indices (−1 for the first weight of the block), and the
        share of each block. Every block is a group of its own, whose share-th highest
        backwards index is sought among its inside scores.
    """
    # The share is how many of its inside scores each block keeps: what the group needs
    # beyond the inside scores of its earlier blocks, and at most all.
    inside, needed = split_at(threshold, keep, groups)
    earlier = Totals.before(inside, groups)
    share = needed.at(groups).minus(earlier).within(inside)
    # A block that keeps all of them has no search to make, nor has one of share 0: its
    # bracket is 0, past every backwards index. Where all of a block are inside, the
    # share-th highest is −share.
    xp = array_module(inside)
    is_known = (share == 0) | (inside == sizes)
    bracket = Bracket(
        xp.where(is_known, -share, -sizes),
        xp.where(is_known, -share, np.int32(-1)),
        reaching_low=inside,
        above_high=xp.zeros_like(inside),
    )
    return bracket, Totals(share >> 16, share & 0xFFFF)
