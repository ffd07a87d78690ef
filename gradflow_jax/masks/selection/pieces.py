"""The pieces of all leaves that lie on one device, and one pass over them."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.bracketing import PIVOTS, Bracket
from gradflow_jax.masks.selection.counting import Blocks, Totals, array_module
from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.placement import Shard

Flags = Callable[..., list[Any]]
"""What a pass counts: `flags(rank, block, zero, *group_row, *block_rows)` returns bool
arrays like `rank`, the ranks of a leaf. `block` is its `Blocks`, and `zero` is one that
the compiler does not know, to compute indices with."""


Row = tuple[Any, Any, Any]
"""The scores of one leaf and what restricts them, or None."""


class Scores(NamedTuple):
    """The scores of one selection and what restricts it: columns of leaves, or None."""

    leaves: Sequence[Any]
    among: Sequence[Any] | None
    first: Sequence[Any] | None

    def rows(self) -> list[Row]:
        """Returns for each leaf its scores and what restricts them."""
        absent = [None] * len(self.leaves)
        columns = self.leaves, self.among or absent, self.first or absent
        return list(zip(*columns, strict=True))


class Beginning(NamedTuple):
    """What a search begins with.

    Attributes:
        is_finite: whether no score is NaN or infinite.
        bracket: what holds all ranks of each group that may be chosen.
        counted: the pivots, [group, 4], and the counts, [block, 4], of a pass that was
            made already, or None.
    """

    is_finite: Any
    bracket: Bracket
    counted: Any


class Pieces:
    """What of each leaf lies on this device, in the program that is being traced.

    Attributes:
        order: the integers by which scores are compared.
        leaf_groups: the group of each leaf, ascending.
        block_groups: [block], the group of each block of all leaves.
        block_sizes: [block], how many weights the whole block has.
    """

    def __init__(
        self,
        scores: Scores,
        leaf_groups: tuple[int, ...],
        shards: Sequence[Shard],
        mesh_axes: tuple[str, ...],
    ):
        self._mesh_axes = mesh_axes
        self._blocks = [
            Blocks(shard, leaf.shape)
            for shard, leaf in zip(shards, scores.leaves, strict=True)
        ]
        self._rows = [
            tuple(map(block.view, row))
            for block, row in zip(self._blocks, scores.rows(), strict=True)
        ]
        self.order = Order.of(scores.leaves)
        self._is_restricted = is_restricted(scores)
        self.leaf_groups = leaf_groups
        self.block_groups, self.block_sizes = join_blocks(
            [block.sizes for block in self._blocks], leaf_groups
        )
        self._leaf_ends = np.cumsum([block.number for block in self._blocks])[:-1]

    def count(
        self,
        flags: Flags,
        per_group: Sequence[jax.Array],
        per_block: Sequence[jax.Array],
        asked: Any = None,
    ) -> jax.Array:
        """Counts on all devices, in each block, what the flags select: [block, flag].

        Args:
            flags: of which leaf what is counted.
            per_group: arrays [group, ...], handed on as the row of the leaf's group.
            per_block: arrays [block, ...], handed on as the rows of the leaf's blocks.
            asked: whether a block's counts are; one program counts them all.
        """
        del asked

        def count_leaf(rank: jax.Array, block: Blocks, *operands: Any) -> jax.Array:
            return block.count(flags(rank, block, *operands))

        counts = jnp.concatenate(self._map_leaves(count_leaf, per_group, per_block))
        return reduce_devices(lax.psum, counts, self._mesh_axes)

    def masks(self, low: Any, high: Any, cuts: Any) -> list[jax.Array]:
        """Returns the masks of the pieces: see `kept`."""

        def mask_leaf(rank: jax.Array, block: Blocks, *operands: Any) -> jax.Array:
            return block.restore(kept(rank, block, *operands))

        return self._map_leaves(mask_leaf, [low, high], [cuts])

    def begin(self, keep: Totals) -> Beginning:
        """Returns what holds all ranks of each group, by their lowest and highest."""
        # The barrier keeps these reductions apart from what computes the scores.
        (rows,) = lax.optimization_barrier((self._rows,))
        pairs = [_find_extremes(self.order.rank(leaf)) for leaf, *_ in rows]
        lowest, top = jnp.stack(pairs, 1)
        lowest = reduce_devices(lax.pmin, lowest, self._mesh_axes)
        top = reduce_devices(lax.pmax, top, self._mesh_axes)
        # The ranks of infinities and NaN lie beyond those of all finite numbers.
        largest = self.order.largest()
        is_finite = jnp.all((lowest >= -largest) & (top <= largest))
        groups, group_count = np.asarray(self.leaf_groups), len(keep.low)
        bracket = Bracket(
            jax.ops.segment_min(lowest, groups, group_count),
            jax.ops.segment_max(top, groups, group_count),
            reaching_low=jnp.asarray(self.block_sizes),
            above_high=jnp.zeros(len(self.block_groups), jnp.int32),
        )
        if self._is_restricted:
            # A weight outside `among` ranks below the bracket and one of `first` above
            # it, so a pass counts both ends instead.
            low, high = bracket.low, bracket.high
            edges = jnp.stack([low, low, high, high + 1], axis=-1)
            counts = self.count(reaching, [edges], [])
            bracket = bracket._replace(
                reaching_low=counts[:, 0], above_high=counts[:, -1]
            )
        return Beginning(is_finite, bracket, None)

    def _map_leaves(
        self,
        function: Callable[..., Any],
        per_group: Sequence[jax.Array],
        per_block: Sequence[jax.Array],
    ) -> list[Any]:
        zero = jnp.zeros((), jnp.int32)
        # All operands stand behind one barrier, lest XLA compute the ranks and the
        # indices once for all passes and write them to memory: see the room's page.
        rows, zero, per_group, per_block = lax.optimization_barrier(
            (self._rows, zero, per_group, per_block)
        )
        per_leaf = [jnp.split(values, self._leaf_ends) for values in per_block]
        return [
            function(
                rank_leaf(row[0], row[1], row[2], self.order),
                block,
                zero,
                *(values[g] for values in per_group),
                *operands,
            )
            for row, block, g, *operands in zip(
                rows, self._blocks, self.leaf_groups, *per_leaf, strict=True
            )
        ]


def is_restricted(scores: Scores) -> bool:
    """Says whether some scores are never chosen, or chosen before all others."""
    return scores.among is not None or scores.first is not None


def join_blocks(
    sizes: Sequence[Sequence[int]], leaf_groups: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the group and the size of each block of all leaves: [block], twice."""
    groups = np.repeat(leaf_groups, [len(of_leaf) for of_leaf in sizes])
    return groups, np.asarray([*chain(*sizes)], np.int32)


def rank_leaf(leaf: Any, among: Any, first: Any, order: Order) -> Any:
    """Returns the ranks of one leaf, the lowest or highest integer where restricted."""
    rank = order.rank(leaf)
    if among is None and first is None:
        return rank
    limits, xp = jnp.iinfo(rank.dtype), array_module(rank)
    if among is not None:
        rank = xp.where(among, rank, limits.min)
    if first is not None:
        rank = xp.where(first, limits.max, rank)
    return rank


def reaching(rank: Any, block: Any, zero: Any, pivots: Any) -> list[Any]:
    """Flags what ranks at or above each of the pivots."""
    return [rank >= pivots[i] for i in range(PIVOTS)]


def early(
    rank: Any, block: Any, zero: Any, low: Any, high: Any, pivots: Any
) -> list[Any]:
    """Flags what lies in the bracket, at each of the indices or before."""
    tied, index = (rank >= low) & (rank <= high), block.backwards(zero)
    places = [block.spread(pivots[:, i]) for i in range(PIVOTS)]
    return [tied & (index >= place) for place in places]


def kept(rank: Any, block: Any, zero: Any, low: Any, high: Any, cuts: Any) -> Any:
    """Returns the mask: what ranks above the bracket, or in it at the cut or before."""
    is_early = block.backwards(zero) >= block.spread(cuts)
    return (rank > high) | ((rank >= low) & is_early)


def _find_extremes(rank: jax.Array) -> jax.Array:
    """Returns the lowest and the highest of ranks."""
    limits = np.iinfo(rank.dtype)
    # One reduction finds both, and so reads the leaf once.
    pair = lax.reduce(
        (rank, rank),
        (np.array(limits.max, rank.dtype), np.array(limits.min, rank.dtype)),
        lambda a, b: (jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])),
        tuple(range(rank.ndim)),
    )
    return jnp.stack(pair)


def reduce_devices(
    collective: Callable[..., Any], values: jax.Array, mesh_axes: tuple[str, ...]
) -> jax.Array:
    """Applies `lax.psum` or its like over the mesh, where the pieces lie on one."""
    return collective(values, mesh_axes) if mesh_axes else values
