"""What a dimension of a value is made of: pieces that come from axes of leaves.

A dimension is a row-major product of pieces. A reshape merges and splits them, a
product of arrays carries those of free axes into its result, and an addition lays
those of its operands over each other.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

AxisKey = tuple[str, int]
"""An axis of a leaf: the leaf's path, and the axis counted from 0."""


class Origin(NamedTuple):
    """An axis of a leaf, as a piece of a dimension.

    Attributes:
        path: the leaf's.
        axis: counted from 0.
        whole: whether an index of the piece is an index of the axis, and no block of
            them nor a place within blocks.
    """

    path: str
    axis: int
    whole: bool

    @property
    def key(self) -> AxisKey:
        """The axis of the leaf."""
        return self.path, self.axis


class Piece(NamedTuple):
    """A factor of a dimension.

    Attributes:
        size: of it.
        origins: the axes of leaves that run along it.
        is_window: whether its indices are shifts of one array: a convolution that is
            written as a product sums over them.
    """

    size: int
    origins: frozenset[Origin] = frozenset()
    is_window: bool = False

    def part(self, size: int) -> "Piece":
        """Returns a factor of this piece, or what is left where pieces are mixed."""
        parts = (origin._replace(whole=False) for origin in self.origins)
        return Piece(size, frozenset(parts))


Dim = tuple[Piece, ...]


class Value(NamedTuple):
    """A value of the program.

    Attributes:
        dims: its dimensions.
        data: whether it depends on the model's inputs. What does not, and has origins,
            is a weight: leaves that were moved, cast or scaled.
        slice_of: the variable that it is a slice of, maybe with new axes of size 1.
    """

    dims: tuple[Dim, ...]
    data: bool
    slice_of: Any = None

    @property
    def is_weight(self) -> bool:
        """Whether it is computed from leaves alone, and their axes are known in it."""
        return not self.data and any(map(origins_of, self.dims))


def plain(shape: Iterable[int], data: bool) -> Value:
    """Returns a value that no axis of a leaf runs along."""
    return Value(tuple((Piece(size),) for size in shape), data)


def size_of(dim: Dim) -> int:
    """Returns the size of a dimension."""
    return math.prod(piece.size for piece in dim)


def origins_of(dim: Dim) -> frozenset[Origin]:
    """Returns the axes of leaves that a dimension holds."""
    return frozenset().union(*(piece.origins for piece in dim))


def regroup(dims: Sequence[Dim], shape: Sequence[int]) -> list[Dim] | None:
    """Returns the dimensions of a reshape, or None where it mixes pieces.

    Pieces of one index are dropped.
    """
    pieces = [piece for dim in dims for piece in dim if piece.size != 1]
    if 0 in shape:
        return None
    result = []
    for size in shape:
        dim: list[Piece] = []
        while size > 1:
            piece = pieces.pop(0)
            common = math.gcd(size, piece.size)
            if common not in (size, piece.size):
                return None
            if common < piece.size:
                pieces.insert(0, piece.part(piece.size // common))
                piece = piece.part(common)
            dim.append(piece)
            size //= common
        result.append(tuple(dim) or (Piece(1),))
    return result


def merge(first: Dim, second: Dim) -> Dim:
    """Returns a dimension along which the axes of both of these run."""
    if not origins_of(first) or not origins_of(second):
        return first if origins_of(first) else second
    size = size_of(first)
    sizes = [size] if size <= 1 else _common_sizes(first, second)
    if sizes is None:
        return mix([first, second], size)
    if size <= 1:
        return (Piece(size, origins_of(first) | origins_of(second)),)
    refined = (regroup([dim], sizes) or [] for dim in (first, second))
    return tuple(
        Piece(a.size, a.origins | b.origins)
        for (a,), (b,) in zip(*refined, strict=True)
    )


def mix(dims: Sequence[Dim], size: int) -> Dim:
    """Returns a dimension of which is known only what runs somewhere along it."""
    origins = frozenset().union(*map(origins_of, dims))
    return (Piece(size, origins).part(size),)


def take(dim: Dim, size: int, start: int | None = None) -> Dim:
    """Returns some consecutive indices of a dimension, from an index if it is known."""
    if size == size_of(dim):
        return dim
    pieces = [piece for piece in dim if piece.size != 1] or list(dim)
    inner = size_of(tuple(pieces[1:]))
    if inner > 1 and (start is None or start % inner or size % inner):
        return mix([dim], size)
    return (Piece(size // inner, pieces[0].origins), *pieces[1:])


def pick(dim: Dim, size: int) -> Dim:
    """Returns some indices of a dimension, in any order."""
    return (Piece(size, dim[0].origins),) if len(dim) == 1 else mix([dim], size)


def join(dims: Sequence[Dim]) -> Dim:
    """Returns dimensions laid end to end; an index of it is one of either."""
    size = sum(map(size_of, dims))
    if all(len(dim) == 1 for dim in dims):
        return (Piece(size, frozenset().union(*map(origins_of, dims))),)
    return mix(dims, size)


def _common_sizes(first: Dim, second: Dim) -> list[int] | None:
    """Returns the sizes that refine both dimensions, or None where there are none."""
    boundaries = {1}
    for dim in (first, second):
        for position in range(len(dim)):
            boundaries.add(size_of(dim[position:]))
    rising = sorted(boundaries)
    steps = list(zip(rising, rising[1:], strict=False))
    if any(larger % smaller for smaller, larger in steps):
        return None
    return [larger // smaller for smaller, larger in reversed(steps)]
