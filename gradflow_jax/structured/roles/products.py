"""Rules of what reads a leaf: products, convolutions, lookups by index.

A value that depends on no input and no leaf counts as an input where a leaf meets it:
zeros from which a recurrent cell starts, positions as sines. Of a product of two leaves
nothing is said, since either may be the weight; its result has no origins.
"""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn

from gradflow_jax.structured.roles.pieces import (
    Dim,
    Piece,
    Value,
    merge,
    mix,
    pick,
    plain,
    regroup,
    size_of,
    take,
)
from gradflow_jax.structured.roles.uses import Uses, keys, paths_summed_apart


def shape_of(atom: object) -> tuple[int, ...]:
    """Returns the shape of a variable or a literal."""
    return tuple(atom.aval.shape)  # type: ignore[attr-defined]


def dot_general(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Axes are summed over, are a batch, or are free."""
    contracted, batch = eqn.params["dimension_numbers"]
    summed, batched, free = [], [], []
    for value, over, along in zip(operands, contracted, batch, strict=True):
        summed.append([value.dims[i] for i in over])
        batched.append([value.dims[i] for i in along])
        rest = [i for i in range(len(value.dims)) if i not in (*over, *along)]
        free.append([value.dims[i] for i in rest])
    _note_product(operands, summed, batched, free, uses)
    left, right = operands
    if left.is_weight and right.is_weight:
        return [plain(shape_of(eqn.outvars[0]), False)]
    merged = [merge(a, b) for a, b in zip(*batched, strict=True)]
    data = left.data or right.data or left.is_weight or right.is_weight
    return [Value((*merged, *free[0], *free[1]), data)]


def _note_product(
    operands: Sequence[Value],
    summed: Sequence[Sequence[Dim]],
    batched: Sequence[Sequence[Dim]],
    free: Sequence[Sequence[Dim]],
    uses: Uses,
) -> None:
    """Notes what a product says of the leaves in it, by operand."""
    are_weights = [value.is_weight for value in operands]
    for side, is_weight in enumerate(are_weights):
        other = 1 - side
        if is_weight and not are_weights[other]:
            uses.read |= {path for path, _ in keys(operands[side].dims)}
            for dim, met in zip(summed[side], summed[other], strict=True):
                shifts = any(piece.is_window for piece in met)
                uses.say("window" if shifts else "in", [dim])
            uses.say("group", batched[side])
            uses.say("out", free[side])
            uses.summed |= keys(summed[other])
            uses.batched |= keys(batched[other], whole=True)
    if all(value.data for value in operands):
        for side in (0, 1):
            uses.heads |= keys(batched[side], whole=True)
            uses.mixed |= paths_summed_apart(summed[side], free[side])


def ragged_dot_general(
    eqn: JaxprEqn, operands: Sequence[Value], uses: Uses
) -> list[Value]:
    """Each group of rows meets a matrix of its own: the experts of a mixture."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    contracted, _ = numbers.dot_dimension_numbers
    groups = numbers.rhs_group_dimensions
    rows, matrices = operands[0], operands[1]
    shape = shape_of(eqn.outvars[0])
    summed = [matrices.dims[i] for i in contracted[1]]
    left_out = (*contracted[1], *groups)
    free = [dim for i, dim in enumerate(matrices.dims) if i not in left_out]
    if matrices.is_weight:
        uses.read |= {path for path, _ in keys(matrices.dims)}
        uses.say("in", summed)
        uses.say("group", [matrices.dims[i] for i in groups])
        uses.say("out", free)
        uses.summed |= keys([rows.dims[i] for i in contracted[0]])
    lead = [(Piece(size),) for size in shape[: len(shape) - len(free)]]
    return [Value((*lead, *free), True)]


def convolution(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Features are summed over within groups; the window slides."""
    numbers = eqn.params["dimension_numbers"]
    images, kernel = operands
    (shape,) = map(shape_of, eqn.outvars)
    if images.is_weight or kernel.data:
        return [plain(shape, images.data or kernel.data)]
    groups = max(eqn.params["feature_group_count"], eqn.params["batch_group_count"])
    outputs, inputs, *window = (kernel.dims[i] for i in numbers.rhs_spec)
    features = images.dims[numbers.lhs_spec[1]]
    group, outputs = _part(outputs, groups)
    if kernel.is_weight:
        uses.read |= {path for path, _ in keys(kernel.dims)}
        uses.say("in", [inputs])
        uses.say("window", window)
        uses.say("group", [group])
        uses.say("out", [outputs])
    if eqn.params["feature_group_count"] > 1:
        feature_group, features = _part(features, groups)
        group = merge(group, feature_group)
        if kernel.is_weight and size_of(features) > 1:
            # Where each group is one channel, channels are filtered one by one, and no
            # model is divided.
            uses.batched |= keys([feature_group], whole=True)
    if kernel.is_weight:
        uses.summed |= keys([features])
    dims: list[Dim] = [(Piece(size),) for size in shape]
    dims[numbers.out_spec[0]] = take(
        images.dims[numbers.lhs_spec[0]], shape[numbers.out_spec[0]]
    )
    dims[numbers.out_spec[1]] = (*group, *outputs)
    return [Value(tuple(dims), True)]


def _part(dim: Dim, groups: int) -> tuple[Dim, Dim]:
    """Returns the groups of a dimension, and what is within each."""
    if groups == 1:
        return (Piece(1),), dim
    group, inner = regroup([dim], [groups, size_of(dim) // groups]) or [
        mix([dim], groups),
        mix([dim], size_of(dim) // groups),
    ]
    return group, inner


def gather(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Indices of some axes are looked up; the other axes are taken whole."""
    numbers = eqn.params["dimension_numbers"]
    value, indices = operands
    (shape,) = map(shape_of, eqn.outvars)
    batching = tuple(numbers.operand_batching_dims)
    collapsed = tuple(numbers.collapsed_slice_dims)
    windows = [i for i in range(len(value.dims)) if i not in (*collapsed, *batching)]
    offsets = numbers.offset_dims
    places = [i for i in range(len(shape)) if i not in offsets]
    dims: list[Dim] = [(Piece(size),) for size in shape]
    for position, dim in zip(places, indices.dims[:-1], strict=True):
        dims[position] = dim
    for position, i in zip(offsets, windows, strict=True):
        dims[position] = take(value.dims[i], shape[position])
    for i, index_axis in zip(
        batching, numbers.start_indices_batching_dims, strict=True
    ):
        dims[places[index_axis]] = merge(dims[places[index_axis]], value.dims[i])
    looked_up = [value.dims[i] for i in collapsed]
    if not value.is_weight:
        return [Value(tuple(dims), value.data or indices.data)]
    if indices.data:
        uses.say("group", [value.dims[i] for i in batching])
        sizes = eqn.params["slice_sizes"]
        partial = [i for i in windows if sizes[i] != size_of(value.dims[i])]
        _look_up(value, [*collapsed, *partial], batching, uses)
        return [Value(tuple(dims), True)]
    if len(places) == len(batching):
        uses.say("stack", looked_up)
    elif len(looked_up) == 1 and len(places) == 1:
        # Some indices of one axis, in an order of their own, are still that axis.
        dims[places[0]] = pick(looked_up[0], shape[places[0]])
        uses.picked |= keys(looked_up)
    return [Value(tuple(dims), False)]


def _look_up(
    value: Value, looked_up: Sequence[int], batching: Sequence[int], uses: Uses
) -> None:
    """Notes a lookup by data: as a product with indicators of the indices."""
    uses.say("in", [value.dims[i] for i in looked_up])
    rest = [i for i in range(len(value.dims)) if i not in (*looked_up, *batching)]
    uses.say("out", [value.dims[i] for i in rest])


def dynamic_slice(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Consecutive indices from a place that the program computes."""
    value, *starts = operands
    (shape,) = map(shape_of, eqn.outvars)
    sliced = [i for i, size in enumerate(shape) if size != size_of(value.dims[i])]
    data = any(start.data for start in starts)
    if value.is_weight and data and sliced:
        _look_up(value, sliced, (), uses)
    dims = tuple(take(dim, size) for dim, size in zip(value.dims, shape, strict=True))
    return [Value(dims, value.data or data)]


RULES = {
    "dot_general": dot_general,
    "ragged_dot_general": ragged_dot_general,
    "conv_general_dilated": convolution,
    "gather": gather,
    "dynamic_slice": dynamic_slice,
}
