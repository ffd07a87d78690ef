"""Rules of coupling for primitives that move indices."""

from collections.abc import Sequence

from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling import axes, unification
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.program import Dims, Equation
from gradflow_jax.structured.coupling.reshaping import regroup


def broadcast_in_dim(eqn: Equation) -> list[Dims]:
    """Axes that are there are carried, others are new and free."""
    (shape,) = eqn.shapes
    result = [axes.new(size) for size in shape]
    for axis, target in zip(
        eqn.operands[0], eqn.params["broadcast_dimensions"], strict=True
    ):
        if axis.size == shape[target]:
            result[target] = axis
    return [tuple(result)]


def reshape(eqn: Equation) -> list[Dims]:
    """Axes are merged and split in row-major order."""
    dims = eqn.operands[0]
    order = eqn.params.get("dimensions")
    if order is not None:
        dims = tuple(dims[position] for position in order)
    return [tuple(regroup(dims, eqn.shapes[0], eqn.blame))]


def transpose(eqn: Equation) -> list[Dims]:
    """Axes are permuted."""
    return [tuple(eqn.operands[0][position] for position in eqn.params["permutation"])]


def squeeze(eqn: Equation) -> list[Dims]:
    """Axes of size 1 are dropped."""
    dropped = {d % len(eqn.operands[0]) for d in eqn.params["dimensions"]}
    return [tuple(d for i, d in enumerate(eqn.operands[0]) if i not in dropped)]


def expand_dims(eqn: Equation) -> list[Dims]:
    """Axes of size 1 are inserted."""
    new = {d % len(eqn.shapes[0]) for d in eqn.params["dimensions"]}
    remaining = iter(eqn.operands[0])
    return [
        tuple(
            axes.new(1) if i in new else next(remaining)
            for i in range(len(eqn.shapes[0]))
        )
    ]


def concatenate(eqn: Equation) -> list[Dims]:
    """Along one axis a sum, elsewhere elementwise."""
    along = eqn.params["dimension"]
    first = eqn.operands[0]
    for dims in eqn.operands[1:]:
        for position, axis in enumerate(dims):
            if position != along:
                eqn.unite(first[position], axis)
    total = axes.add(dims[along] for dims in eqn.operands)
    return [(*first[:along], total, *first[along + 1 :])]


def stack(eqn: Equation) -> list[Dims]:
    """A new axis, elsewhere elementwise."""
    first = eqn.operands[0]
    for dims in eqn.operands[1:]:
        for first_axis, axis in zip(first, dims, strict=True):
            eqn.unite(first_axis, axis)
    along = eqn.params["axis"]
    (stacked,) = eqn.new_pinned([len(eqn.operands)], "arrays are stacked along it")
    return [(*first[:along], stacked, *first[along:])]


def unstack(eqn: Equation) -> list[Dims]:
    """An axis less, for each of its indices."""
    along, dims = eqn.params["axis"], eqn.operands[0]
    eqn.pin([dims[along]], "arrays are taken apart along it")
    return [(*dims[:along], *dims[along + 1 :])] * len(eqn.shapes)


def split(eqn: Equation) -> list[Dims]:
    """Along one axis consecutive parts."""
    along = eqn.params["axis"]
    dims = eqn.operands[0]
    parts = unification.split(dims[along], eqn.params["sizes"], eqn.blame)
    return [
        (*dims[:along], eqn.whole(part, "a part of one index"), *dims[along + 1 :])
        for part in parts
    ]


def pick(eqn: Equation, axis: Axis, indices: Sequence[int]) -> Axis:
    """Returns the axis of some indices of an axis, in that order."""
    start, stop = (indices[0], indices[-1] + 1) if len(indices) else (0, 0)
    if list(indices) == list(range(start, stop)):
        sizes = [start, stop - start, axis.size - stop]
        parts = unification.split(axis, [size for size in sizes if size], eqn.blame)
        chosen = parts[1 if start else 0] if stop > start else axes.new(0)
    else:
        ones = unification.singles(axis, eqn.blame)
        chosen = axes.add(ones[index] for index in indices)
    return eqn.whole(chosen, "a slice of one index")


def slice_(eqn: Equation) -> list[Dims]:
    """Parts of axes, whichever of their indices are taken."""
    strides = eqn.params["strides"] or [1] * len(eqn.operands[0])
    result = [
        axis
        if (start, stop, step) == (0, axis.size, 1)
        else pick(eqn, axis, range(start, stop, step))
        for axis, start, stop, step in zip(
            eqn.operands[0],
            eqn.params["start_indices"],
            eqn.params["limit_indices"],
            strides,
            strict=True,
        )
    ]
    return [tuple(result)]


def rev(eqn: Equation) -> list[Dims]:
    """Indices in reverse."""
    return [
        tuple(
            pick(eqn, axis, range(axis.size)[::-1])
            if i in eqn.params["dimensions"]
            else axis
            for i, axis in enumerate(eqn.operands[0])
        )
    ]


def pad(eqn: Equation) -> list[Dims]:
    """What is padded on stays; padding between indices pins."""
    result = []
    for axis, (low, high, inner) in zip(
        eqn.operands[0], eqn.params["padding_config"], strict=True
    ):
        if inner or low < 0 or high < 0:
            text = "it is padded between its indices, or cropped by a pad"
            eqn.pin([axis], text)
            size = axis.size + low + high + inner * max(axis.size - 1, 0)
            result += eqn.new_pinned([size], text)
            continue
        before, after = eqn.new_pinned([low, high], "padding")
        parts = [before, axis, after]
        result.append(axes.add(part for part in parts if part.size))
    return [tuple(result)]


def tile(eqn: Equation) -> list[Dims]:
    """Repetitions of an axis: a product of a new axis and itself."""
    result = []
    for axis, times in zip(eqn.operands[0], eqn.params["reps"], strict=True):
        if times == 1:
            result.append(axis)
        else:
            text = "an array is tiled along it"
            result.append(axes.multiply([*eqn.new_pinned([times], text), axis]))
    return [tuple(result)]


def iota(eqn: Equation) -> list[Dims]:
    """New axes; when cut, the numbers of the indices that stay are counted on."""
    return [tuple(axes.new(size) for size in eqn.shapes[0])]


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
