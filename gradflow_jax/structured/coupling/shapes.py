"""Rules of coupling for primitives that move indices."""

from collections.abc import Sequence

from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling import axes, unification
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.program import Dims, Equation
from gradflow_jax.structured.coupling.reshaping import regroup


def broadcast_in_dim(at: Equation) -> list[Dims]:
    """Axes that are there are carried, others are new and free."""
    (shape,) = at.shapes
    result = [axes.new(size) for size in shape]
    for axis, target in zip(
        at.operands[0], at.params["broadcast_dimensions"], strict=True
    ):
        if axis.size == shape[target]:
            result[target] = axis
    return [tuple(result)]


def reshape(at: Equation) -> list[Dims]:
    """Axes are merged and split in row-major order."""
    dims = at.operands[0]
    order = at.params.get("dimensions")
    if order is not None:
        dims = tuple(dims[position] for position in order)
    return [tuple(regroup(dims, at.shapes[0], at.blame))]


def transpose(at: Equation) -> list[Dims]:
    """Axes are permuted."""
    return [tuple(at.operands[0][position] for position in at.params["permutation"])]


def squeeze(at: Equation) -> list[Dims]:
    """Axes of size 1 are dropped."""
    dropped = {d % len(at.operands[0]) for d in at.params["dimensions"]}
    return [tuple(d for i, d in enumerate(at.operands[0]) if i not in dropped)]


def expand_dims(at: Equation) -> list[Dims]:
    """Axes of size 1 are inserted."""
    new = {d % len(at.shapes[0]) for d in at.params["dimensions"]}
    rest = iter(at.operands[0])
    return [
        tuple(axes.new(1) if i in new else next(rest) for i in range(len(at.shapes[0])))
    ]


def concatenate(at: Equation) -> list[Dims]:
    """Along one axis a sum, elsewhere elementwise."""
    along = at.params["dimension"]
    first = at.operands[0]
    for dims in at.operands[1:]:
        for position, axis in enumerate(dims):
            if position != along:
                at.unite(first[position], axis)
    total = axes.add(dims[along] for dims in at.operands)
    return [(*first[:along], total, *first[along + 1 :])]


def stack(at: Equation) -> list[Dims]:
    """A new axis, elsewhere elementwise."""
    first = at.operands[0]
    for dims in at.operands[1:]:
        for mine, other in zip(first, dims, strict=True):
            at.unite(mine, other)
    along = at.params["axis"]
    (own,) = at.pinned([len(at.operands)], "arrays are stacked along it")
    return [(*first[:along], own, *first[along:])]


def unstack(at: Equation) -> list[Dims]:
    """An axis less, for each of its indices."""
    along, dims = at.params["axis"], at.operands[0]
    at.pin([dims[along]], "arrays are taken apart along it")
    return [(*dims[:along], *dims[along + 1 :])] * len(at.shapes)


def split(at: Equation) -> list[Dims]:
    """Along one axis consecutive parts."""
    along = at.params["axis"]
    dims = at.operands[0]
    parts = unification.split(dims[along], at.params["sizes"], at.blame)
    return [
        (*dims[:along], at.whole(part, "a part of one index"), *dims[along + 1 :])
        for part in parts
    ]


def pick(at: Equation, axis: Axis, indices: Sequence[int]) -> Axis:
    """Returns the axis of some indices of an axis, in that order."""
    start, stop = (indices[0], indices[-1] + 1) if len(indices) else (0, 0)
    if list(indices) == list(range(start, stop)):
        sizes = [start, stop - start, axis.size - stop]
        parts = unification.split(axis, [size for size in sizes if size], at.blame)
        found = parts[1 if start else 0] if stop > start else axes.new(0)
    else:
        ones = unification.singles(axis, at.blame)
        found = axes.add(ones[index] for index in indices)
    return at.whole(found, "a slice of one index")


def slice_(at: Equation) -> list[Dims]:
    """Parts of axes, whichever of their indices are taken."""
    strides = at.params["strides"] or [1] * len(at.operands[0])
    result = [
        axis
        if (start, stop, step) == (0, axis.size, 1)
        else pick(at, axis, range(start, stop, step))
        for axis, start, stop, step in zip(
            at.operands[0],
            at.params["start_indices"],
            at.params["limit_indices"],
            strides,
            strict=True,
        )
    ]
    return [tuple(result)]


def rev(at: Equation) -> list[Dims]:
    """Indices in reverse."""
    return [
        tuple(
            pick(at, axis, range(axis.size)[::-1])
            if i in at.params["dimensions"]
            else axis
            for i, axis in enumerate(at.operands[0])
        )
    ]


def pad(at: Equation) -> list[Dims]:
    """What is padded on stays; padding between indices pins."""
    result = []
    for axis, (low, high, inner) in zip(
        at.operands[0], at.params["padding_config"], strict=True
    ):
        if inner or low < 0 or high < 0:
            text = "it is padded between its indices, or cropped by a pad"
            at.pin([axis], text)
            size = axis.size + low + high + inner * max(axis.size - 1, 0)
            result += at.pinned([size], text)
            continue
        before, after = at.pinned([low, high], "padding")
        parts = [before, axis, after]
        result.append(axes.add(part for part in parts if part.size))
    return [tuple(result)]


def tile(at: Equation) -> list[Dims]:
    """Repetitions of an axis: a product of a new axis and itself."""
    result = []
    for axis, times in zip(at.operands[0], at.params["reps"], strict=True):
        if times == 1:
            result.append(axis)
        else:
            text = "an array is tiled along it"
            result.append(axes.multiply([*at.pinned([times], text), axis]))
    return [tuple(result)]


def iota(at: Equation) -> list[Dims]:
    """New axes; when cut, the numbers of the indices that stay are counted on."""
    return [tuple(axes.new(size) for size in at.shapes[0])]


COUPLING_RULES.fill(
    {
        "broadcast_in_dim": broadcast_in_dim,
        "reshape": reshape,
        "transpose": transpose,
        "squeeze": squeeze,
        "expand_dims": expand_dims,
        "concatenate": concatenate,
        "stack": stack,
        "unstack": unstack,
        "split": split,
        "slice": slice_,
        "rev": rev,
        "pad": pad,
        "tile": tile,
        "iota": iota,
    }
)
