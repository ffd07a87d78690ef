"""A leaf at hand that is counted where it lies, by the programs of its shape."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.counting import Blocks, count_flags
from gradflow_jax.masks.selection.gaps import Chunks, chunk_size, has_short_rows
from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.parts import Counting, Operands, masking
from gradflow_jax.masks.selection.pieces import (
    Flags,
    Row,
    rank_leaf,
    reaching,
    reduce_devices,
)
from gradflow_jax.masks.selection.placement import (
    LEAVES,
    REPLICATED,
    Placement,
    known_placement,
    whole,
)


class _Way(NamedTuple):
    """How a leaf is read, in every program of its own.

    Attributes:
        order: the integers by which scores are compared.
        placement: how it lies on a mesh, if that is known.
        is_whole: whether it lies whole on each of its devices.
        is_near: whether it lies whole in the host's memory, where the host can look at
            it without a copy.
    """

    order: Order
    placement: Placement | None
    is_whole: bool
    is_near: bool


class DeviceLeaf:
    """A leaf that is computed on where it lies, by the programs of its shape.

    Attributes:
        leaves: its scores, alone.
        blocks: of this one leaf, the sizes of the blocks in which it is counted.
    """

    def __init__(self, row: Row, order: Order):
        # What NumPy holds would be copied to the device in every pass.
        leaf, among, first = (
            jnp.asarray(piece) if isinstance(piece, np.ndarray) else piece
            for piece in row
        )
        self._row = leaf, among, first
        self.leaves = [leaf]
        (*others, device) = leaf.devices()
        self._way = _Way(
            order,
            known_placement([leaf]),
            is_whole=leaf.is_fully_replicated,
            is_near=not others and device.platform == "cpu",
        )
        self.blocks = [Blocks(whole(leaf.shape), leaf.shape).sizes]
        self._chunks, self._gap = None, None
        if self._way.is_near and len(self.blocks[0]) == 1:
            self._chunks = Chunks(leaf.shape, order.rank_kind())

    def sample(self, step: int) -> np.ndarray:
        """Returns each so many-th rank, or none that the host would have to copy."""
        if not self._way.is_near:
            return np.zeros(0, self._way.order.rank_kind())
        return self._some_ranks(lambda piece: piece.reshape(-1)[::step])

    def count(self, flags: Flags, operands: Operands, asked: np.ndarray) -> Counting:
        """Counts in all blocks, [block, flag]; the device is at work on return."""
        del asked
        if flags is reaching and self._chunks is not None:
            return self._count_reaching(self._chunks, *operands.per_group)
        both = [*operands.per_group, *operands.per_block]
        counts = _count(self._row, both, flags=flags, way=self._way)
        return lambda: np.asarray(counts)

    def masks(self, low: Any, high: Any, cuts: np.ndarray) -> list[jax.Array]:
        """Returns the mask, which lies as the leaf does: see `kept`."""
        mask, operands = masking(low, high, cuts, self.blocks[0])
        masked = _mask(self._row, operands, mask=mask, way=self._way)
        shape = self.leaves[0].shape
        return [masked if masked.shape == shape else _reshape(masked, shape=shape)]

    def _count_reaching(self, chunks: Chunks, pivots: np.ndarray) -> Counting:
        """Counts how many ranks reach each of ascending pivots, [1, pivot]."""
        gap = self._gap
        if gap is None or not gap.holds(pivots):
            gap = self._gap = chunks.around(pivots, self._ranks_in)
        if gap is not None:
            counts = gap.count_reaching(pivots)
            return lambda: counts
        of_chunks = _count_chunks(self._row, pivots, order=self._way.order)
        return lambda: chunks.note(pivots, np.asarray(of_chunks))

    def _ranks_in(self, chunks: np.ndarray) -> np.ndarray:
        """Returns the ranks in chunks of these numbers."""
        size = chunk_size(self.leaves[0].shape)
        ranks = self._some_ranks(lambda piece: piece.reshape(-1, size)[chunks])
        return ranks.reshape(-1)

    def _some_ranks(self, look_at: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Returns the ranks of what is looked at, by the host."""
        scores, among, first = (
            None if piece is None else look_at(np.asarray(piece)) for piece in self._row
        )
        return rank_leaf(scores, among, first, self._way.order)


@functools.partial(jax.jit, static_argnames="order")
def _count_chunks(row: Row, pivots: np.ndarray, *, order: Order) -> jax.Array:
    """Returns how many ranks of each chunk reach pivots, [pivot, chunk]."""
    size = chunk_size(row[0].shape)
    leaf, among, first = (
        None if piece is None else jnp.reshape(piece, (-1, size)) for piece in row
    )
    rank = rank_leaf(leaf, among, first, order)
    return count_flags(reaching(rank, None, 0, pivots), [1])


def _over_devices(
    compute: Callable[..., Any],
    row: Row,
    operands: Sequence[Any],
    way: _Way,
    returns: Any,
) -> Any:
    """Returns `compute(rank, block, operands, mesh_axes)` of a leaf's pieces."""
    placement = way.placement
    if placement is None:
        shard, axes = whole(row[0].shape, is_certain=way.is_whole), ()
    else:
        (shard,), axes = placement.shards([row[0].shape]), placement.axes

    def on_device(columns: Sequence[Any], operands: Sequence[Any]) -> Any:
        pieces = [column and column[0] for column in columns]
        block = Blocks(shard, pieces[0].shape)
        leaf, among, first = map(block.view, pieces)
        return compute(rank_leaf(leaf, among, first, way.order), block, operands, axes)

    columns = [None if piece is None else [piece] for piece in row]
    if placement is None:
        return on_device(columns, operands)
    return placement.map_over_devices(on_device, returns)(columns, operands)


@functools.partial(jax.jit, static_argnames=("flags", "way"))
def _count(row: Row, operands: Sequence[Any], *, flags: Flags, way: _Way) -> jax.Array:
    def count(rank: Any, block: Blocks, operands: Any, axes: Any) -> jax.Array:
        counts = block.count(flags(rank, block, 0, *operands))
        return reduce_devices(lax.psum, counts, axes)

    return _over_devices(count, row, operands, way, REPLICATED)


@functools.partial(jax.jit, static_argnames=("mask", "way"))
def _mask(
    row: Row,
    operands: Sequence[Any],
    *,
    mask: Callable[..., Any],
    way: _Way,
) -> jax.Array:
    """Returns the mask, as a vector where XLA is slow to write it in its shape."""

    def mask_piece(rank: Any, block: Blocks, operands: Any, axes: Any) -> Any:
        masked = mask(rank, block, 0, *operands)
        is_slow = way.is_near and has_short_rows(row[0].shape)
        return [masked if is_slow else block.restore(masked)]

    (masked,) = _over_devices(mask_piece, row, operands, way, LEAVES)
    return masked


@functools.partial(jax.jit, static_argnames="shape")
def _reshape(mask: jax.Array, *, shape: tuple[int, ...]) -> jax.Array:
    # The copy is cheap: one byte a weight.
    return mask.reshape(shape)
