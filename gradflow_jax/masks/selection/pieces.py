"""The pieces of all leaves that lie on one device, and one pass over them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.counting import Blocks
from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.placement import Shard


class Scores(NamedTuple):
    """The scores of one selection and what restricts it: columns of leaves, or None."""

    leaves: Sequence[Any]
    among: Sequence[Any] | None
    first: Sequence[Any] | None


class Pieces:
    """What of each leaf lies on this device, and how a pass over all of it is made.

    Attributes:
        scores: the pieces of the leaves, and of what restricts them.
        order: the integers by which scores are compared.
        blocks: the blocks of each leaf.
        leaf_groups: the group of each leaf, ascending.
        block_groups: [block], the group of each block of all leaves.
        block_sizes: [block], how many weights the whole block has.
        mesh_axes: the names of the mesh axes over which the pieces are spread.
    """

    def __init__(
        self,
        scores: Scores,
        leaf_groups: tuple[int, ...],
        shards: Sequence[Shard],
        mesh_axes: tuple[str, ...],
    ):
        self.scores, self.mesh_axes = scores, mesh_axes
        self.order = Order.of(scores.leaves)
        self.blocks = [
            Blocks(shard, leaf.shape)
            for shard, leaf in zip(shards, scores.leaves, strict=True)
        ]
        numbers = [block.number for block in self.blocks]
        self.leaf_groups = leaf_groups
        self.block_groups = np.repeat(leaf_groups, numbers)
        self.block_sizes = np.concatenate([block.sizes for block in self.blocks])
        self._leaf_ends = np.cumsum(numbers)[:-1]

    def map_leaves(
        self,
        function: Callable[..., Any],
        per_group: Sequence[jax.Array],
        per_block: Sequence[jax.Array],
    ) -> list[Any]:
        """Maps `function(rank, block, zero, *group_row, *block_rows)` over leaves.

        Args:
            function: is handed the ranks of a leaf, its `Blocks`, and a zero that the
                compiler does not know, to compute indices with.
            per_group: arrays [group, ...], handed on as the row of the leaf's group.
            per_block: arrays [block, ...], handed on as the rows of the leaf's blocks.
        """
        zero = jnp.zeros((), jnp.int32)
        # All operands stand behind one barrier, lest XLA compute the ranks and the
        # indices once for all passes and write them to memory: see the room's page.
        scores, *operands = lax.optimization_barrier(
            (self.scores, zero, per_group, per_block)
        )
        zero, per_group, per_block = operands
        per_leaf = [jnp.split(values, self._leaf_ends) for values in per_block]
        return [
            function(rank, block, zero, *(values[g] for values in per_group), *rows)
            for rank, block, g, *rows in zip(
                _ranks(scores, self.order),
                self.blocks,
                self.leaf_groups,
                *per_leaf,
                strict=True,
            )
        ]

    def count(
        self,
        flags: Callable[..., list[jax.Array]],
        per_group: Sequence[jax.Array],
        per_block: Sequence[jax.Array],
    ) -> jax.Array:
        """Counts on all devices, in each block, what the flags select: [block, flag].

        `flags` takes what the function of `map_leaves` takes and returns bool arrays.
        """

        def count_leaf(rank: jax.Array, block: Blocks, *operands: Any) -> jax.Array:
            return block.count(flags(rank, block, *operands))

        counts = jnp.concatenate(self.map_leaves(count_leaf, per_group, per_block))
        return reduce_devices(lax.psum, counts, self.mesh_axes)


def _ranks(scores: Scores, order: Order) -> list[jax.Array]:
    """Returns integers in the order of the scores, with `first` and `among` obeyed."""
    absent = [None] * len(scores.leaves)
    columns = scores.leaves, scores.among or absent, scores.first or absent
    return [
        rank_leaf(leaf, among, first, order)
        for leaf, among, first in zip(*columns, strict=True)
    ]


def rank_leaf(leaf: Any, among: Any, first: Any, order: Order) -> jax.Array:
    """Returns the ranks of one leaf, the lowest or highest integer where restricted."""
    rank = order.rank(leaf)
    limits = jnp.iinfo(rank.dtype)
    if among is not None:
        rank = jnp.where(among, rank, limits.min)
    if first is not None:
        rank = jnp.where(first, limits.max, rank)
    return rank


def reduce_devices(
    collective: Callable[..., Any], values: jax.Array, mesh_axes: tuple[str, ...]
) -> jax.Array:
    """Applies `lax.psum` or its like over the mesh, where the pieces lie on one."""
    return collective(values, mesh_axes) if mesh_axes else values
