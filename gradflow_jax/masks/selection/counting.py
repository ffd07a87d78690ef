"""Counts of weights: within a leaf, and sums of them that int32 could not hold."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.placement import Shard, whole

# To compile a program for a leaf of no more weights takes far longer than to copy it,
# or to count it on the host.
SMALL_LEAF = 2**16
# An int32 can count and index no more; a larger leaf is several blocks.
LARGEST_BLOCK = 2**31 - 1
# Nor can it tell more rows apart.
_MOST_ROWS = 2**31 - 1
# With no more blocks than these the sums of either half of `Totals` stay in int32.
_MOST_BLOCKS = 2**15


class Totals(NamedTuple):
    """Numbers below 2⁴⁷, as high · 2¹⁶ + low: JAX has no int64 unless it is enabled.

    Everywhere 0 ≤ low < 2¹⁶, so that two numbers are equal where both halves are, and
    compare by the high halves first. A negative number has a negative high half.

    Attributes:
        high: int32, the number shifted right by 16 bits.
        low: int32, its last 16 bits.
    """

    high: Any
    low: Any

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "Totals":
        """Returns Python's ints as totals."""
        return cls(
            np.asarray([n >> 16 for n in numbers], np.int32),
            np.asarray([n & 0xFFFF for n in numbers], np.int32),
        )

    @classmethod
    def over(cls, counts: jax.Array, group: Any, groups: int) -> "Totals":
        """Returns the sums of counts, [block, ...], over the blocks of each group.

        The numbers of groups, [block], may be traced; they ascend.
        """

        def sum_groups(halves: Any) -> Any:
            if groups == 1:
                return halves.sum(0, dtype=np.int32, keepdims=True)
            if isinstance(group, np.ndarray) and groups == len(group):
                return halves
            if isinstance(halves, np.ndarray):
                return np.add.reduceat(halves, np.unique(group, return_index=True)[1])
            return jax.ops.segment_sum(halves, group, groups, indices_are_sorted=True)

        high, low = sum_groups(counts >> 16), sum_groups(counts & 0xFFFF)
        return cls(high + (low >> 16), low & 0xFFFF)

    @classmethod
    def before(cls, counts: jax.Array, group: np.ndarray) -> "Totals":
        """Returns for each block the sum of counts over the group's earlier blocks."""
        first_of_group = np.searchsorted(group, group)

        def sum_earlier(halves: jax.Array) -> jax.Array:
            earlier = halves.cumsum(dtype=np.int32) - halves
            return earlier - earlier[first_of_group]

        high, low = sum_earlier(counts >> 16), sum_earlier(counts & 0xFFFF)
        return cls(high + (low >> 16), low & 0xFFFF)

    def numbers(self) -> list[int]:
        """Returns Python's ints of totals whose values are known."""
        high, low = (np.asarray(half).tolist() for half in self)
        return [(h << 16) + rest for h, rest in zip(high, low, strict=True)]

    def at(self, index: Any) -> "Totals":
        """Returns some of the numbers."""
        return Totals(self.high[index], self.low[index])

    def minus(self, other: "Totals") -> "Totals":
        """Returns the differences, which may be negative."""
        # The shift is arithmetic: of a negative low half it is −1, the borrow.
        low = self.low - other.low
        return Totals(self.high - other.high + (low >> 16), low & 0xFFFF)

    def reach(self, other: "Totals") -> jax.Array:
        """Returns True where these numbers are at least the other ones."""
        more, equal = self.high > other.high, self.high == other.high
        return more | (equal & (self.low >= other.low))

    def equal(self, other: "Totals") -> jax.Array:
        """Returns True where these numbers equal the other ones."""
        return (self.high == other.high) & (self.low == other.low)

    def approximately(self) -> jax.Array:
        """Returns the numbers in float32."""
        high, low = (half.astype(np.float32) for half in self)
        return high * np.float32(2**16) + low

    def within(self, most: jax.Array) -> jax.Array:
        """Returns the numbers in int32, brought between 0 and `most`."""
        xp = array_module(most)
        # The first line is right where high < 2¹⁵, for the numbers that int32 holds.
        number = xp.minimum((self.high << 16) | self.low, most)
        number = xp.where(self.high >= 2**15, most, number)
        return xp.where(self.high < 0, 0, number)


def array_module(array: Any) -> Any:
    """Returns the module, NumPy or `jax.numpy`, whose functions take the array."""
    return np if isinstance(array, np.ndarray) else jnp


class Blocks:
    """One leaf as blocks, each of at most 2³¹ − 1 weights: nearly always one.

    A block holds neighboring slices along one axis, its rows, that share the indices
    before it, so that the blocks follow each other as the weights do.

    Attributes:
        sizes: how many weights each block has.
    """

    def __init__(self, shard: Shard, local: tuple[int, ...]):
        """Splits a leaf into blocks.

        Args:
            shard: the whole leaf, and which piece of it this device has.
            local: the shape of that piece.
        """
        shape = shard.shape
        self._piece = local
        if math.prod(shape) <= LARGEST_BLOCK:
            self._shard, self._local = shard.merge_axes(local)
            self.sizes = [math.prod(shape)]
            return
        self._shard, self._local = shard, local
        # The rows lie along the first axis whose slices are no larger than a block.
        self._axis = next(
            axis
            for axis in range(len(shape))
            if math.prod(shape[axis + 1 :]) <= LARGEST_BLOCK
        )
        rows, row_size = shape[self._axis], math.prod(shape[self._axis + 1 :])
        # No more than there must be, and of as many rows each as can be.
        pieces = math.ceil(rows / (LARGEST_BLOCK // row_size))
        self._rows = math.ceil(rows / pieces)
        starts = range(0, rows, self._rows)
        sizes = [min(self._rows, rows - start) * row_size for start in starts]
        self._pieces = len(sizes)
        self.sizes = sizes * math.prod(shape[: self._axis])
        if rows > _MOST_ROWS or len(self.sizes) > _MOST_BLOCKS:
            raise ValueError(
                f"scores of shape {shape} are too many to be ranked: they make "
                f"{len(self.sizes)} blocks of {rows} rows, and {_MOST_BLOCKS} blocks "
                f"of {LARGEST_BLOCK} can be counted. Split the leaf into several, or "
                "reshape it so that no axis is longer."
            )

    @property
    def number(self) -> int:
        """How many blocks there are."""
        return len(self.sizes)

    def view(self, piece: Any) -> Any:
        """Returns a piece of the leaf, or None, in the shape it is computed in."""
        return None if piece is None else jnp.reshape(piece, self._local)

    def restore(self, mask: jax.Array) -> jax.Array:
        """Returns a mask of what `view` returned in the shape of the piece."""
        return mask.reshape(self._piece)

    def count(self, flags: Sequence[jax.Array]) -> jax.Array:
        """Counts the True of each of several bool arrays, [block, flag]."""
        inner = 0 if self.number == 1 else self._axis + 1
        local_counts = count_flags(flags, range(inner, len(self._local)))
        local_counts = local_counts.reshape(len(flags), -1).T
        local_counts = self._shard.count_once(local_counts)
        if self.number == 1:
            return local_counts
        counts = jnp.zeros((self.number, len(flags)), jnp.int32)
        return counts.at[self._local_blocks()].add(local_counts)

    def spread(self, values: jax.Array) -> jax.Array:
        """Returns values, [block], in a shape that broadcasts to the weights."""
        if self.number == 1:
            return values[0]
        leading = self._local[: self._axis + 1]
        ones = (1,) * (len(self._local) - len(leading))
        return values[self._local_blocks()].reshape(*leading, *ones)

    def backwards(self, zero: jax.Array) -> jax.Array:
        """Returns the index within the block from its end, −1 for the first weight.

        Args:
            zero: 0, but the compiler does not know: so it computes the index where it
                is needed, and does not write it to memory beforehand.
        """
        if self.number == 1:
            return -1 - self._index(0, self._local, zero)
        within = self._position(self._axis, self._local, zero) % np.int32(self._rows)
        row_size = math.prod(self._shard.shape[self._axis + 1 :])
        within *= np.int32(row_size)
        return -1 - within - self._index(self._axis + 1, self._local, zero)

    def _local_blocks(self) -> jax.Array:
        """Returns the block of each row of which this device has a piece."""
        local = self._local[: self._axis + 1]
        before = jnp.zeros(local, jnp.int32)
        if self._axis:
            before = self._index(0, local[:-1], 0)[..., None]
        row = self._position(self._axis, local, 0)
        return jnp.ravel(before * np.int32(self._pieces) + row // np.int32(self._rows))

    def _index(self, start: int, local: tuple[int, ...], zero: Any) -> jax.Array:
        """Returns the index of each weight, from the axis `start` on, in the whole."""
        shape = self._shard.shape[: len(local)]
        index = jnp.zeros(local, jnp.int32)
        for axis in range(start, len(local)):
            step = np.int32(math.prod(shape[axis + 1 :]))
            index += self._position(axis, local, zero) * step
        return index

    def _position(self, axis: int, local: tuple[int, ...], zero: Any) -> jax.Array:
        """Returns where each weight stands along an axis of the whole."""
        position = lax.broadcasted_iota(jnp.int32, local, axis)
        return position + (self._shard.start(axis, self._local[axis]) + zero)


def count_flags(flags: Sequence[jax.Array], axes: Iterable[int]) -> jax.Array:
    """Counts over some axes the True of each of several bool arrays, [flag, ...].

    One reduction of them all reads the leaf once. On the CPU it is the form that XLA
    fuses: `jnp.sum(scores >= t)` writes four bytes a weight first.
    """
    ones = tuple(flag.astype(jnp.int32) for flag in flags)
    sums = lax.reduce(
        ones,
        (np.int32(0),) * len(ones),
        lambda totals, more: tuple(map(lax.add, totals, more)),
        tuple(axes),
    )
    return jnp.stack(sums)


def count_true(mask: Any) -> int:
    """Returns how many weights a mask of known values keeps, however many it has."""
    is_here = getattr(mask, "is_fully_addressable", True)
    if is_here and jnp.size(mask) <= SMALL_LEAF:
        # Nothing is compiled for it.
        return int(np.count_nonzero(np.asarray(mask)))
    with jax.ensure_compile_time_eval():
        if math.prod(jnp.shape(mask)) <= LARGEST_BLOCK:
            return int(jnp.sum(mask))
        counts = Blocks(whole(mask.shape), mask.shape).count([mask])
    return sum(np.ravel(counts).tolist())
