"""The pieces of all leaves that lie on one device, and one pass over them."""

import functools
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.bracketing import PIVOTS
from gradflow_jax.masks.selection.counting import Blocks, array_module
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


class Pieces:
    """What of each leaf lies on this device, in the program that is being traced.

    Attributes:
        order: the integers by which scores are compared.
        block_leaves: [block], the leaf of each block.
        block_groups: [block], its group.
        block_sizes: [block], how many weights the whole block has.
    """

    def __init__(
        self,
        scores: Scores,
        leaf_groups: tuple[int, ...],
        shards: Sequence[Shard],
        mesh_axes: tuple[str, ...],
    ):
        self._rows, self._shards, self._mesh_axes = scores.rows(), shards, mesh_axes
        self.order = Order.of(scores.leaves)
        sizes = [
            Blocks(shard, leaf.shape).sizes
            for shard, leaf in zip(shards, scores.leaves, strict=True)
        ]
        self.block_groups, self.block_sizes = join_blocks(sizes, leaf_groups)
        numbers = np.array([len(of_leaf) for of_leaf in sizes])
        self.block_leaves = np.repeat(np.arange(len(sizes)), numbers)
        smallest = min(scores.leaves, key=lambda leaf: leaf.size)
        self._starts = _hide(np.cumsum(numbers) - numbers, jnp.max(smallest) > 0)

    def count(self, is_of_indices: Any, edges: Sequence[Any], pivots: Any) -> jax.Array:
        """Counts on all devices, in each block, what reaches pivots: [block, 4].

        Args:
            is_of_indices: whether backwards indices are compared, of what lies in the
                brackets, or all ranks.
            edges: the lowest and the highest rank of each bracket, [group] each.
            pivots: [block, 4], ascending.
        """
        low, high = (edge[self.block_groups] for edge in edges)
        counts = self._map_leaves(_count_piece, is_of_indices, low, high, pivots)
        return reduce_devices(lax.psum, jnp.concatenate(counts), self._mesh_axes)

    def masks(self, low: Any, high: Any, cuts: Any) -> list[jax.Array]:
        """Returns the masks of the pieces: see `kept`."""
        low, high = low[self.block_groups], high[self.block_groups]
        return self._map_leaves(_mask_piece, low, high, cuts)

    def _map_leaves(self, function: Callable[..., Any], *operands: Any) -> list[Any]:
        zero = jnp.zeros((), jnp.int32)
        # All operands stand behind one barrier, lest XLA compute the ranks and the
        # indices once for all passes and write them to memory: see the room's page.
        rows, starts, zero, operands = lax.optimization_barrier(
            (self._rows, self._starts, zero, operands)
        )
        return [
            function(row, start, zero, *operands, shard=shard, order=self.order)
            for row, start, shard in zip(rows, starts, self._shards, strict=True)
        ]


def _hide(numbers: np.ndarray, unforeseen: jax.Array) -> list[jax.Array]:
    """Returns numbers as scalars of which the compiler does not know the values.

    XLA compiles what differs in no constant once: so leaves of one shape share their
    loops, if where their blocks begin is no constant. A loop adds 0 to them, or is not
    entered.

    Args:
        numbers: int32 each.
        unforeseen: which of the two, a bool that depends on the scores.
    """

    def add(state: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        step, hidden = state
        return step + 1, [number + step for number in hidden]

    start = unforeseen.astype(jnp.int32)
    hidden = [jnp.int32(number) for number in numbers]
    return lax.while_loop(lambda state: state[0] < 1, add, (start, hidden))[1]


_of_a_piece = functools.partial(jax.jit, static_argnames=("shard", "order"))


@_of_a_piece
def _count_piece(
    row: Row,
    start: Any,
    zero: Any,
    is_of_indices: Any,
    low: Any,
    high: Any,
    pivots: Any,
    *,
    shard: Shard,
    order: Order,
) -> jax.Array:
    rank, block, (low, high, pivots) = _read(
        row, start, (low, high, pivots), shard, order
    )
    is_tied = (rank >= block.spread(low)) & (rank <= block.spread(high))
    index = block.backwards(zero).astype(rank.dtype)
    of_ties = jnp.where(is_tied, index, jnp.iinfo(rank.dtype).min)
    place = jnp.where(is_of_indices, of_ties, rank)
    return block.count([place >= block.spread(pivots[:, i]) for i in range(PIVOTS)])


@_of_a_piece
def _mask_piece(
    row: Row,
    start: Any,
    zero: Any,
    low: Any,
    high: Any,
    cuts: Any,
    *,
    shard: Shard,
    order: Order,
) -> jax.Array:
    rank, block, (low, high, cuts) = _read(row, start, (low, high, cuts), shard, order)
    low, high = block.spread(low), block.spread(high)
    return block.restore(kept(rank, block, zero, low, high, cuts))


def _read(
    row: Row, start: Any, operands: Sequence[Any], shard: Shard, order: Order
) -> tuple[Any, Blocks, list[Any]]:
    """Returns a piece's ranks, its blocks, and what of operands, [block], is theirs."""
    block = Blocks(shard, row[0].shape)
    leaf, among, first = map(block.view, row)
    theirs = [
        lax.dynamic_slice_in_dim(values, start, block.number) for values in operands
    ]
    return rank_leaf(leaf, among, first, order), block, theirs


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


def reduce_devices(
    collective: Callable[..., Any], values: jax.Array, mesh_axes: tuple[str, ...]
) -> jax.Array:
    """Applies `lax.psum` or its like over the mesh, where the pieces lie on one."""
    return collective(values, mesh_axes) if mesh_axes else values
