"""The highest of many scores, exactly, by counting: nothing is sorted or copied.

The k-th highest is found by counting, leaf by leaf, how many scores reach each of a few
pivots; ties at it are then cut by index, in the same way. Only counts leave a leaf, so
that sharded scores stay where they lie.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.bracketing import PIVOTS, Bracket, narrowed
from gradflow_jax.masks.selection.counting import Blocks, Totals
from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.placement import (
    Placement,
    Shard,
    known_placement,
    whole,
)


class _Scores(NamedTuple):
    """The scores of one selection and what restricts it: columns of leaves, or None."""

    leaves: Sequence[Any]
    among: Sequence[Any] | None
    first: Sequence[Any] | None


def highest(
    leaves: Sequence[Any],
    keep: Sequence[int],
    groups: Sequence[int],
    *,
    among: Sequence[Any] | None = None,
    first: Sequence[Any] | None = None,
) -> tuple[list[jax.Array], jax.Array]:
    """Chooses the `keep[g]` highest of all leaves of group g together, for every g.

    Among equal scores the earlier leaf, then the lower index is chosen. The numbers to
    keep are data, not constants: new ones compile nothing.

    Args:
        leaves: arrays of scores, each of any shape.
        keep: how many of each group.
        groups: the group of each leaf, from 0 to len(keep) − 1.
        among: bool leaves; False is never chosen. A group with fewer than it keeps
            keeps those.
        first: bool leaves; True is chosen before all others, no more of them than the
            group keeps.

    Returns:
        Bool leaves, True at the chosen; and whether all scores are finite.
    """
    # The leaves of a group stand together, so that sums over it are of neighbours.
    order = [int(i) for i in np.argsort(groups, kind="stable") if leaves[i].size]
    if not order:
        return [jnp.zeros(leaf.shape, bool) for leaf in leaves], jnp.asarray(True)
    present = sorted({groups[i] for i in order})

    def ordered(column: Sequence[Any] | None) -> list[Any] | None:
        return None if column is None else [column[i] for i in order]

    scores = _Scores([leaves[i] for i in order], ordered(among), ordered(first))
    chosen, finite = _highest(
        scores,
        Totals.of([keep[g] for g in present]),
        groups=tuple(present.index(groups[i]) for i in order),
        placement=known_placement(scores.leaves),
    )
    masks = dict(zip(order, chosen, strict=True))
    empty = [i for i, leaf in enumerate(leaves) if not leaf.size]
    masks |= {i: jnp.zeros(leaves[i].shape, bool) for i in empty}
    return [masks[i] for i in range(len(leaves))], finite


@functools.partial(jax.jit, static_argnames=("groups", "placement"))
def _highest(
    scores: _Scores,
    keep: Totals,
    *,
    groups: tuple[int, ...],
    placement: Placement | None,
) -> tuple[list[jax.Array], jax.Array]:
    shapes = [leaf.shape for leaf in scores.leaves]
    if placement is None:
        return _choose(scores, keep, groups, [whole(shape) for shape in shapes], ())
    shards, names = placement.shards(shapes), tuple(placement.mesh.axis_names)
    return placement.mapped(
        lambda columns, keep: _choose(_Scores(*columns), keep, groups, shards, names)
    )(scores, keep)


def _choose(
    scores: _Scores,
    keep: Totals,
    groups: tuple[int, ...],
    shards: Sequence[Shard],
    names: tuple[str, ...],
) -> tuple[list[jax.Array], jax.Array]:
    """The selection itself, by what of each leaf lies here.

    Args:
        scores: the pieces.
        keep: [group], how many of each.
        groups: the group of each leaf, ascending.
        shards: where the pieces lie.
        names: the mesh axes over which the pieces are spread.
    """
    order = Order.of(scores.leaves)
    blocks = [
        Blocks(shard, leaf.shape)
        for shard, leaf in zip(shards, scores.leaves, strict=True)
    ]
    numbers = [block.number for block in blocks]
    group, ends = np.repeat(groups, numbers), np.cumsum(numbers)[:-1]

    def each(function: Callable[..., Any], of_group: Any, of_block: Any) -> list[Any]:
        """Maps `function(rank, block, zero, *of group, *of block)` over leaves.

        A pass computes the ranks anew: behind the barrier XLA does not find that it
        could compute them, and the indices, once, and write them to memory.
        """
        zero = jnp.zeros((), jnp.int32)
        held, *rest = lax.optimization_barrier((scores, zero, of_group, of_block))
        zero, of_group, of_block = rest
        own = [jnp.split(values, ends) for values in of_block]
        return [
            function(rank, block, zero, *(values[g] for values in of_group), *values)
            for rank, block, g, *values in zip(
                _ranks(held, order), blocks, groups, *own, strict=True
            )
        ]

    def total(counts: list[jax.Array]) -> jax.Array:
        return _over(lax.psum, jnp.concatenate(counts), names)

    def reaching(pivots: jax.Array) -> jax.Array:
        def count(rank, block, zero, pivots):
            return block.count([rank >= pivot for pivot in pivots])

        return total(each(count, [pivots], []))

    lowest, top = _extremes(scores, order, names)
    bracket = Bracket(
        jax.ops.segment_min(lowest, np.asarray(groups), len(keep.low)),
        jax.ops.segment_max(top, np.asarray(groups), len(keep.low)),
        jnp.asarray(np.repeat([block.size for block in blocks], numbers), jnp.int32),
        jnp.zeros(len(group), jnp.int32),
    )
    if scores.among is not None or scores.first is not None:
        ends_of = jnp.stack([bracket.low, bracket.high + 1], -1)
        at_low, above = jnp.split(reaching(ends_of), 2, axis=1)
        bracket = bracket._replace(at_low=at_low[:, 0], above=above[:, 0])
    found = narrowed(reaching, keep, group, bracket)

    # What is between low and high is tied, or kept whole: of it so many of each block.
    between = found.at_low - found.above
    need = keep.minus(Totals.over(found.above, group, len(keep.low)))
    share = need.at(group).minus(Totals.before(between, group)).within(between)

    def early(pivots: jax.Array) -> jax.Array:
        def count(rank, block, zero, low, high, pivots):
            tied, index = (rank >= low) & (rank <= high), block.backwards(zero)
            places = [block.spread(pivots[:, i]) for i in range(PIVOTS)]
            return block.count([tied & (index >= place) for place in places])

        return total(each(count, [found.low, found.high], [pivots]))

    sizes = np.repeat([block.size for block in blocks], numbers)
    cuts = narrowed(
        early,
        Totals(share >> 16, share & 0xFFFF),
        np.arange(len(group)),
        Bracket(
            # Of a block that gives none the cut is before its first index.
            jnp.where(share == 0, 0, jnp.asarray(-sizes, jnp.int32)),
            jnp.where(share == 0, 0, jnp.full(len(group), -1, jnp.int32)),
            between,
            jnp.zeros_like(between),
        ),
    )

    def mask(rank, block, zero, low, high, cut):
        early = block.backwards(zero) >= block.spread(cut)
        return (rank > high) | ((rank >= low) & early)

    masks = each(mask, [found.low, found.high], [cuts.low])
    finite = (lowest >= -order.largest()) & (top <= order.largest())
    return masks, jnp.all(finite)


def _ranks(scores: _Scores, order: Order) -> list[jax.Array]:
    """Returns integers in the order of the scores, with `first` and `among` obeyed."""
    none = [None] * len(scores.leaves)
    columns = scores.leaves, scores.among or none, scores.first or none
    return [
        _rank(leaf, among, first, order)
        for leaf, among, first in zip(*columns, strict=True)
    ]


def _rank(leaf: Any, among: Any, first: Any, order: Order) -> jax.Array:
    rank = order.rank(leaf)
    limits = jnp.iinfo(rank.dtype)
    if among is not None:
        rank = jnp.where(among, rank, limits.min)
    if first is not None:
        rank = jnp.where(first, limits.max, rank)
    return rank


def _extremes(
    scores: _Scores, order: Order, names: tuple[str, ...]
) -> tuple[jax.Array, jax.Array]:
    """Returns each leaf's lowest and highest rank, of all its scores: [leaf]."""
    pairs = []
    (leaves,) = lax.optimization_barrier((scores.leaves,))
    for leaf in leaves:
        rank = _rank(leaf, None, None, order)
        limits = np.iinfo(rank.dtype)
        # Both in one reduction, which reads the leaf once.
        pair = lax.reduce(
            (rank, rank),
            (np.array(limits.max, rank.dtype), np.array(limits.min, rank.dtype)),
            lambda a, b: (jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])),
            tuple(range(rank.ndim)),
        )
        pairs.append(jnp.stack(pair))
    lowest, top = jnp.stack(pairs, 1)
    return _over(lax.pmin, lowest, names), _over(lax.pmax, top, names)


def _over(collective: Callable[..., Any], values: jax.Array, names: Any) -> jax.Array:
    return collective(values, names) if names else values
