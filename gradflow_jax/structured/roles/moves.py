"""Rules of primitives that move, join and drop indices, or compute index by index."""

import math
from collections.abc import Sequence

from jax.extend.core import JaxprEqn

from gradflow_jax.structured.roles.pieces import (
    Dim,
    Piece,
    Value,
    join,
    merge,
    origins_of,
    pick,
    plain,
    regroup,
    size_of,
    take,
)
from gradflow_jax.structured.roles.products import shape_of
from gradflow_jax.structured.roles.uses import Uses, keys, paths_summed_apart


def overlay(values: Sequence[Value], shape: Sequence[int], uses: Uses) -> Value:
    """Returns what values make that meet index by index, sizes of 1 broadcast."""
    data = any(value.data for value in values)
    meeting = [value for value in values if len(value.dims) == len(shape)]
    dims: list[Dim] = []
    for position, size in enumerate(shape):
        dim: Dim = (Piece(size),)
        for value in meeting:
            other = value.dims[position]
            if size_of(other) == size:
                dim = merge(dim, other)
        dims.append(dim)
    if data:
        for value in values:
            if value.is_weight:
                # What a leaf meets as an addition or a scale, it is added to.
                for position, dim in enumerate(value.dims):
                    fits = len(value.dims) == len(shape)
                    uses.add(dim, [dims[position]] if fits else [])
    return Value(tuple(dims), data)


def elementwise(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Indices meet those of the same position."""
    if len(eqn.outvars) == len(operands) and len(operands) > 1:
        return list(operands)
    (shape,) = map(shape_of, eqn.outvars)
    if any(value.dims and len(value.dims) != len(shape) for value in operands):
        return give_up(eqn, operands, uses)
    if eqn.primitive.name == "mul" and any(value.data for value in operands):
        weights = [value for value in operands if value.is_weight]
        uses.multiplied |= {path for value in weights for path, _ in keys(value.dims)}
    return [overlay(operands, shape, uses)]


def give_up(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """What a primitive of which nothing is known makes of leaves is unknown."""
    for value in operands:
        if value.is_weight:
            uses.say("unknown", value.dims)
    data = any(value.data for value in operands)
    return [plain(shape_of(atom), data) for atom in eqn.outvars]


def along_axes(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Axes that keep their size are carried: sorts, cumulative sums, pooling."""
    results = []
    data = any(value.data for value in operands)
    for shape in map(shape_of, eqn.outvars):
        value = operands[0]
        dims = tuple(
            dim if size_of(dim) == size else (Piece(size),)
            for dim, size in zip(value.dims, shape, strict=True)
        )
        results.append(Value(dims, data))
    return results


def reduction(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Reduced axes are dropped; the sum of a product may be a contraction."""
    dropped = set(eqn.params["axes"])
    results = []
    for value in operands[: len(eqn.outvars)]:
        kept = tuple(dim for i, dim in enumerate(value.dims) if i not in dropped)
        if value.data and eqn.primitive.name == "reduce_sum":
            summed = [value.dims[i] for i in dropped]
            uses.mixed |= paths_summed_apart(summed, kept) & uses.multiplied
        results.append(Value(kept, value.data))
    return results


def reshape(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Dimensions are merged and split in row-major order."""
    value = operands[0]
    (shape,) = map(shape_of, eqn.outvars)
    order = eqn.params.get("dimensions")
    dims = value.dims if order is None else tuple(value.dims[i] for i in order)
    regrouped = regroup(dims, shape)
    if regrouped is None:
        return give_up(eqn, operands, uses)
    if value.is_weight:
        _say_stack(uses, [dim for dim in dims if size_of(dim) == 1])
    return [Value(tuple(regrouped), value.data)]


def _say_stack(uses: Uses, dims: Sequence[Dim]) -> None:
    """Notes axes of which one index was taken, and which then are dropped."""
    uses.say("stack", dims)


def squeeze(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Axes of size 1 are dropped."""
    value = operands[0]
    dropped = {d % len(value.dims) for d in eqn.params["dimensions"]}
    if value.is_weight:
        _say_stack(uses, [value.dims[i] for i in dropped])
    kept = tuple(dim for i, dim in enumerate(value.dims) if i not in dropped)
    return [Value(kept, value.data)]


def expand_dims(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Axes of size 1 are inserted."""
    (shape,) = map(shape_of, eqn.outvars)
    new = {d % len(shape) for d in eqn.params["dimensions"]}
    remaining = iter(operands[0].dims)
    dims = ((Piece(1),) if i in new else next(remaining) for i in range(len(shape)))
    return [operands[0]._replace(dims=tuple(dims))]


def broadcast_in_dim(
    eqn: JaxprEqn, operands: Sequence[Value], uses: Uses
) -> list[Value]:
    """Axes that are there are carried, others are new."""
    (shape,) = map(shape_of, eqn.outvars)
    dims: list[Dim] = [(Piece(size),) for size in shape]
    targets = eqn.params["broadcast_dimensions"]
    value = operands[0]
    for dim, target in zip(value.dims, targets, strict=True):
        if size_of(dim) == shape[target]:
            dims[target] = dim
    grows = math.prod(shape) > math.prod(map(size_of, value.dims))
    slice_of = None if grows else value.slice_of
    return [Value(tuple(dims), any(value.data for value in operands), slice_of)]


def transpose(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Axes are permuted."""
    value = operands[0]
    return [Value(tuple(value.dims[i] for i in eqn.params["permutation"]), value.data)]


def carry(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """The order of indices does not matter: an array in reverse."""
    return [operands[0]]


def slice_(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Parts of axes."""
    value = operands[0]
    (shape,) = map(shape_of, eqn.outvars)
    strides = eqn.params["strides"] or [1] * len(shape)
    dims = tuple(
        take(dim, size, start) if step == 1 else pick(dim, size)
        for dim, size, start, step in zip(
            value.dims, shape, eqn.params["start_indices"], strides, strict=True
        )
    )
    return [Value(dims, value.data, value.slice_of or eqn.invars[0])]


def split(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Along one axis consecutive parts."""
    value, along = operands[0], eqn.params["axis"]
    results, start = [], 0
    for size in eqn.params["sizes"]:
        dims = [*value.dims]
        dims[along] = take(dims[along], size, start)
        results.append(Value(tuple(dims), value.data))
        start += size
    return results


def concatenate(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Along one axis one after the other, elsewhere index by index."""
    (shape,) = map(shape_of, eqn.outvars)
    along = eqn.params["dimension"]
    result = overlay(operands, shape, uses)
    dims = [*result.dims]
    dims[along] = join([value.dims[along] for value in operands])
    if shape[along] == len(operands) and not origins_of(dims[along]):
        return [_along_new_axis(result._replace(dims=tuple(dims)), operands, along)]
    return [Value(tuple(dims), result.data)]


def _along_new_axis(value: Value, operands: Sequence[Value], along: int) -> Value:
    """Returns what arrays make side by side, a window if all are slices of one."""
    slices = {operand.slice_of for operand in operands}
    if len(operands) == 1 or len(slices) > 1 or None in slices:
        return value
    dims = [*value.dims]
    dims[along] = (Piece(len(operands), is_window=True),)
    return Value(tuple(dims), value.data, slices.pop())


def stack(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """A new axis, elsewhere index by index."""
    (shape,) = map(shape_of, eqn.outvars)
    along = eqn.params["axis"]
    inner = overlay(operands, (*shape[:along], *shape[along + 1 :]), uses)
    new: Dim = (Piece(shape[along]),)
    dims = (*inner.dims[:along], new, *inner.dims[along:])
    return [_along_new_axis(Value(dims, inner.data), operands, along)]


def unstack(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """An axis less, for each of its indices."""
    value, along = operands[0], eqn.params["axis"]
    if value.is_weight:
        _say_stack(uses, [value.dims[along]])
    inner = (*value.dims[:along], *value.dims[along + 1 :])
    return [Value(inner, value.data)] * len(eqn.outvars)


def pad(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Axes with padding are still these axes."""
    value = operands[0]
    (shape,) = map(shape_of, eqn.outvars)
    dims = tuple(
        dim if size_of(dim) == size else pick(dim, size)
        for dim, size in zip(value.dims, shape, strict=True)
    )
    return [Value(dims, any(value.data for value in operands))]


def tile(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Repetitions of an axis: a product of a new axis and itself."""
    dims = tuple(
        dim if times == 1 else (Piece(times), *dim)
        for dim, times in zip(operands[0].dims, eqn.params["reps"], strict=True)
    )
    return [Value(dims, operands[0].data)]


def overwrite(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """What is written to keeps its axes; a leaf that is written somewhere is lost."""
    value, *others = operands
    for other in others:
        if other.is_weight:
            uses.say("unknown", other.dims)
    data = any(operand.data for operand in operands)
    if value.is_weight and data:
        for dim in value.dims:
            uses.add(dim, [])
    return [Value(value.dims, data)]


RULES = {
    "broadcast_in_dim": broadcast_in_dim,
    "concatenate": concatenate,
    "dynamic_update_slice": overwrite,
    "expand_dims": expand_dims,
    "pad": pad,
    "reshape": reshape,
    "rev": carry,
    "slice": slice_,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
    "unstack": unstack,
    **dict.fromkeys(
        """scatter scatter-add scatter-sub scatter-mul scatter-min
        scatter-max""".split(),
        overwrite,
    ),
    **dict.fromkeys(
        """argmax argmin reduce_sum reduce_max reduce_min reduce_prod reduce_and
        reduce_or reduce_xor""".split(),
        reduction,
    ),
    **dict.fromkeys(
        """cumsum cumprod cummax cummin cumlogsumexp sort top_k approx_top_k fft
        reduce_window reduce_window_sum reduce_window_max reduce_window_min
        reduce_precision""".split(),
        along_axes,
    ),
}
