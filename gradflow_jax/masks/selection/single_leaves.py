"""One leaf that is at hand: counted where it lies, or by NumPy on the host."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.counting import Blocks
from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.pieces import (
    Flags,
    Row,
    rank_leaf,
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
    """

    order: Order
    placement: Placement | None
    is_whole: bool


class DeviceLeaf:
    """A leaf that is computed on where it lies, by the programs of its shape.

    Attributes:
        leaf: its scores.
        blocks: how its weights are counted.
    """

    def __init__(self, row: Row, order: Order):
        # What NumPy holds would be copied to the device in every pass.
        self._row: Row = jax.tree.map(jnp.asarray, row)
        self.leaf = leaf = self._row[0]
        self._way = _Way(order, known_placement([leaf]), leaf.is_fully_replicated)
        self.blocks = Blocks(whole(leaf.shape), leaf.shape)

    def sample(self, step: int) -> np.ndarray:
        """Returns each so many-th rank, or none that the host would have to copy."""
        (*others, device) = self.leaf.devices()
        if others or device.platform != "cpu":
            return np.zeros(0, self._way.order.rank_kind())
        scores, among, first = (
            piece if piece is None else np.asarray(piece).reshape(-1)[::step]
            for piece in self._row
        )
        return rank_leaf(scores, among, first, self._way.order)

    def count(self, flags: Flags, operands: Sequence[Any]) -> jax.Array:
        """Returns [block, flag], on the device."""
        return _count(self._row, operands, flags=flags, way=self._way)

    def mask(self, mask: Callable[..., Any], operands: Sequence[Any]) -> jax.Array:
        """Returns the mask, which lies as the leaf does."""
        return _mask(self._row, operands, mask=mask, way=self._way)


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
    def mask_piece(rank: Any, block: Blocks, operands: Any, axes: Any) -> Any:
        return [block.restore(mask(rank, block, 0, *operands))]

    (masked,) = _over_devices(mask_piece, row, operands, way, LEAVES)
    return masked


class HostLeaf:
    """A leaf that NumPy computes on.

    Attributes:
        leaf: its scores.
        blocks: how its weights are counted.
    """

    def __init__(self, row: Row, order: Order):
        self.leaf, *_ = row
        scores, among, first = (
            piece if piece is None else np.asarray(piece).reshape(-1) for piece in row
        )
        self._rank = rank_leaf(scores, among, first, order)
        self.blocks = _HostBlock(self._rank.size)

    def sample(self, step: int) -> np.ndarray:
        """Returns each so many-th rank."""
        return self._rank[::step]

    def count(self, flags: Flags, operands: Sequence[Any]) -> np.ndarray:
        """Returns [block, flag]."""
        counted = flags(self._rank, self.blocks, 0, *operands)
        return np.array([[np.count_nonzero(flag) for flag in counted]], np.int32)

    def mask(self, mask: Callable[..., Any], operands: Sequence[Any]) -> np.ndarray:
        """Returns the mask, on the host."""
        return mask(self._rank, self.blocks, 0, *operands).reshape(self.leaf.shape)


class _HostBlock:
    """One leaf as one block of NumPy's arrays: what `Blocks` is for JAX's.

    Attributes:
        number: how many blocks there are.
        sizes: how many weights each has.
    """

    number = 1

    def __init__(self, size: int):
        self.sizes = [size]

    def spread(self, values: np.ndarray) -> Any:
        """Returns values, [block], in a shape that broadcasts to the weights."""
        return values[0]

    def backwards(self, zero: int) -> np.ndarray:
        """Returns the index from the end of the block, −1 for the first weight."""
        return -1 - np.arange(self.sizes[0], dtype=np.int32)
