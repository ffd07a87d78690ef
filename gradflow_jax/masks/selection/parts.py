"""Leaves at hand: one that is counted where it lies, or small ones on the host."""

import functools
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.bracketing import PIVOTS
from gradflow_jax.masks.selection.counting import Blocks, count_flags
from gradflow_jax.masks.selection.gaps import Chunks, Gap
from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.pieces import (
    Flags,
    Row,
    kept,
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

# A device counts the ranks of so many neighbors together.
_CHUNK = 128

Counting = Callable[[], np.ndarray]
"""Counts that are under way: the call waits for them."""


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


class Operands(NamedTuple):
    """What is handed on to the flags of a pass, beside the ranks.

    Attributes:
        per_group: the rows of the group, [...] each.
        per_block: the rows of the blocks, [block, ...] each.
    """

    per_group: Sequence[Any]
    per_block: Sequence[Any]


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
        self._way = _Way(order, known_placement([leaf]), leaf.is_fully_replicated)
        self.blocks = [Blocks(whole(leaf.shape), leaf.shape).sizes]
        (*others, device) = leaf.devices()
        # What lies whole in the host's memory can be looked at without a copy.
        self._is_near = not others and device.platform == "cpu"
        self._chunks, self._gap = None, None
        if self._is_near and len(self.blocks[0]) == 1 and leaf.size % _CHUNK == 0:
            chunks = leaf.size // _CHUNK
            self._chunks = Chunks(_CHUNK, chunks, order.rank_kind())

    def sample(self, step: int) -> np.ndarray:
        """Returns each so many-th rank, or none that the host would have to copy."""
        if not self._is_near:
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
        mask, operands = _masking(low, high, cuts, self.blocks[0])
        return [_mask(self._row, operands, mask=mask, way=self._way)]

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
        ranks = self._some_ranks(lambda piece: piece.reshape(-1, _CHUNK)[chunks])
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
    leaf, among, first = (
        None if piece is None else jnp.reshape(piece, (-1, _CHUNK)) for piece in row
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
    def mask_piece(rank: Any, block: Blocks, operands: Any, axes: Any) -> Any:
        return [block.restore(mask(rank, block, 0, *operands))]

    (masked,) = _over_devices(mask_piece, row, operands, way, LEAVES)
    return masked


class HostLeaves:
    """Small leaves of one group and dtype that NumPy computes on, each one block.

    Their ranks lie end to end in one array, so that what is done to all of them costs
    one call.

    Attributes:
        leaves: their scores.
        blocks: of each leaf, the size of its one block.
    """

    def __init__(self, rows: Sequence[Row], order: Order):
        # What is ranked leaf by leaf stays in the cache.
        self._rank = np.concatenate(
            [
                rank_leaf(_flat(scores), _flat(among), _flat(first), order)
                for scores, among, first in rows
            ]
        )
        self.leaves = [leaf for leaf, *_ in rows]
        self._sizes = [leaf.size for leaf in self.leaves]
        self.blocks = [[size] for size in self._sizes]
        self._spans = [
            slice(end - size, end)
            for end, size in zip(accumulate(self._sizes), self._sizes, strict=True)
        ]
        # The last pass that counted what reaches pivots: gap, pivots and counts.
        self._last: tuple[Gap, np.ndarray, np.ndarray] | None = None

    def sample(self, step: int) -> np.ndarray:
        """Returns each so many-th rank."""
        return self._rank[::step]

    def count(self, flags: Flags, operands: Operands, asked: np.ndarray) -> Counting:
        """Counts in the blocks that are asked for: [block, flag]."""
        if flags is reaching:
            counts = self._count_reaching(*operands.per_group)
            return lambda: counts
        counts = np.zeros((len(self._sizes), PIVOTS), np.int32)
        for i in np.flatnonzero(asked).tolist():
            rank = self._rank[self._spans[i]]
            rows = [values[i : i + 1] for values in operands.per_block]
            flagged = flags(rank, _HostBlock(rank.size), 0, *operands.per_group, *rows)
            counts[i] = [np.count_nonzero(flag) for flag in flagged]
        return lambda: counts

    def _count_reaching(self, pivots: np.ndarray) -> np.ndarray:
        """Returns how many ranks of each block reach each of ascending pivots."""
        gap = None
        if self._last is not None:
            last_gap, *counted = self._last
            gap = last_gap.around(pivots, *counted)
        if gap is None:
            gap = Gap.of_all(self._rank, self._sizes)
        counts = gap.count_reaching(pivots)
        self._last = gap, pivots, counts
        return counts

    def masks(self, low: Any, high: Any, cuts: np.ndarray) -> list[np.ndarray]:
        """Returns the masks of the leaves, on the host: see `kept`."""
        mask, operands = _masking(low, high, cuts, self._sizes)
        if mask is _at_least:
            joined = mask(self._rank, None, 0, *operands)
            pieces = [joined[span] for span in self._spans]
        else:
            # Equal scores are cut within one of these leaves, or between two.
            pieces = []
            for i, span in enumerate(self._spans):
                own, size = cuts[i : i + 1], self._sizes[i]
                mask, operands = _masking(low, high, own, [size])
                pieces.append(mask(self._rank[span], _HostBlock(size), 0, *operands))
        return [
            piece.reshape(leaf.shape)
            for piece, leaf in zip(pieces, self.leaves, strict=True)
        ]


def _flat(piece: Any) -> Any:
    """Returns a small leaf on the host as a vector, None as it is."""
    return None if piece is None else np.asarray(piece).reshape(-1)


def _masking(
    low: Any, high: Any, cuts: np.ndarray, sizes: Sequence[int]
) -> tuple[Callable[..., Any], list[Any]]:
    """Returns what makes the masks of blocks, and its operands: see `kept`.

    Where of all that tie none is cut, or each, no index has to be computed.
    """
    if (cuts <= np.negative(sizes)).all():
        return _at_least, [low]
    if not cuts.any():
        return _at_least, [high + 1]
    return kept, [low, high, cuts]


def _at_least(rank: Any, block: Any, zero: Any, threshold: Any) -> Any:
    """Returns the mask of what reaches a rank."""
    return rank >= threshold


class _HostBlock:
    """One leaf as one block of NumPy's arrays: what `Blocks` is for JAX's."""

    def __init__(self, size: int):
        self._size = size

    def spread(self, values: np.ndarray) -> Any:
        """Returns values, [block], in a shape that broadcasts to the weights."""
        return values[0]

    def backwards(self, zero: int) -> np.ndarray:
        """Returns the index from the end of the block, −1 for the first weight."""
        return -1 - np.arange(self._size, dtype=np.int32)
