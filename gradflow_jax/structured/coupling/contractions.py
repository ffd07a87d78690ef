"""Rules of coupling for contractions, reductions and gathers."""

import math

import numpy as np

from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling import axes, unification
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.program import Dims, Equation
from gradflow_jax.structured.coupling.shapes import pick

SCATTERS = tuple(
    f"scatter{suffix}" for suffix in ("", "-add", "-sub", "-mul", "-min", "-max")
)


def dot_general(eqn: Equation) -> list[Dims]:
    """Contracted axes are united, batch axes united and carried, others carried."""
    (contracted, batch) = eqn.params["dimension_numbers"]
    left, right = eqn.operands
    for left_axis, right_axis in zip(*contracted, strict=True):
        eqn.unite(left[left_axis], right[right_axis])
    for left_axis, right_axis in zip(*batch, strict=True):
        eqn.unite(left[left_axis], right[right_axis])
    free = [
        [i for i in range(len(dims)) if i not in (*contracted[side], *batch[side])]
        for side, dims in enumerate((left, right))
    ]
    for side, dims in enumerate((left, right)):
        eqn.contracts(
            side,
            1 - side,
            [
                *((dims[i], "consuming") for i in contracted[side]),
                *((dims[i], "producing") for i in free[side]),
                *((dims[i], "elementwise") for i in batch[side]),
            ],
        )
    result = (
        *(left[i] for i in batch[0]),
        *(left[i] for i in free[0]),
        *(right[i] for i in free[1]),
    )
    eqn.costs(1, [*result, *(left[i] for i in contracted[0])])
    return [result]


def ragged_dot_general(eqn: Equation) -> list[Dims]:
    """Each group of rows meets a matrix of its own: the experts of a mixture.

    Rows and groups stay, since how many rows a group has is computed. Of the kinds of
    ragged products only this one is known: rows in groups, no batch axes.
    """
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracted, batch) = numbers.dot_dimension_numbers
    left, right, _ = eqn.operands
    rows, groups = numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions
    if batch[0] or not groups or set(rows) & set(contracted[0]):
        text = "a ragged product of this kind has no rule"
        for dims in eqn.operands:
            eqn.pin(dims, text)
        return [eqn.new_pinned(eqn.shapes[0], text)]
    eqn.pin([left[i] for i in rows], "its rows are divided into groups")
    for dims in (*([right[i]] for i in groups), eqn.operands[2]):
        eqn.pin(dims, "each of its indices is of a group of rows")
    for left_axis, right_axis in zip(*contracted, strict=True):
        eqn.unite(left[left_axis], right[right_axis])
    kept_left = [i for i in range(len(left)) if i not in contracted[0]]
    new_axes = [i for i in range(len(right)) if i not in (*contracted[1], *groups)]
    eqn.contracts(
        1,
        0,
        [
            *((right[i], "consuming") for i in contracted[1]),
            *((right[i], "producing") for i in new_axes),
        ],
    )
    result = (*(left[i] for i in kept_left), *(right[i] for i in new_axes))
    eqn.costs(1, [*result, *(left[i] for i in contracted[0])])
    return [result]


def conv_general_dilated(eqn: Equation) -> list[Dims]:
    """Features are contracted within groups; spatial axes are pinned."""
    numbers = eqn.params["dimension_numbers"]
    left, right = eqn.operands
    groups = eqn.params["feature_group_count"]
    batch, features, *space = (left[i] for i in numbers.lhs_spec)
    outputs, group_features, *window = (right[i] for i in numbers.rhs_spec)
    text = "a convolution slides along it"
    eqn.pin(space, text)
    eqn.pin(window, "it is the extent of a convolution's window")
    if eqn.params["batch_group_count"] != 1:
        eqn.pin([batch, outputs], "a convolution splits its batch into groups")
    kinds: list[tuple[Axis, str]] = []
    if groups == 1:
        eqn.unite(features, group_features)
        kinds += [(group_features, "consuming"), (outputs, "producing")]
    else:
        group, inner = unification.factor(
            features, [groups, features.size // groups], eqn.blame
        )
        output_group, multiplied = unification.factor(
            outputs, [groups, outputs.size // groups], eqn.blame
        )
        eqn.unite(group, output_group)
        if group_features.size > 1:
            eqn.unite(inner, group_features)
            kinds.append((group_features, "consuming"))
        kinds.append((output_group, "elementwise"))
        for leaf in eqn.frame.source_of(eqn.source.invars[1]).leaves:
            eqn.coupling.groups[leaf] = (features, group_features)
        if multiplied.size > 1:
            kinds.append((multiplied, "producing"))
    eqn.contracts(1, 0, kinds)  # type: ignore[arg-type]
    shape = eqn.shapes[0]
    spec = numbers.out_spec
    result: list[Axis] = [outputs] * len(shape)
    result[spec[0]] = batch
    if batch.size != shape[spec[0]]:
        (result[spec[0]],) = eqn.new_pinned([shape[spec[0]]], "a batch in groups")
    result[spec[1]] = outputs
    for position in spec[2:]:
        (result[position],) = eqn.new_pinned([shape[position]], text)
    eqn.costs(math.prod(axis.size for axis in window), [*result, group_features])
    return [tuple(result)]


def reduction(eqn: Equation) -> list[Dims]:
    """Reduced axes are dropped."""
    dropped = set(eqn.params["axes"])
    results = []
    first = eqn.operands[0]
    for dims in eqn.operands[1:]:
        for first_axis, axis in zip(first, dims, strict=False):
            eqn.unite(first_axis, axis)
    for _ in eqn.shapes:
        results.append(tuple(d for i, d in enumerate(first) if i not in dropped))
    return results


def arg_reduction(eqn: Equation) -> list[Dims]:
    """The number of an index is returned: cutting would renumber them."""
    text = "the number of its largest or smallest index is asked for"
    eqn.pin([eqn.operands[0][i] for i in eqn.params["axes"]], text)
    return reduction(eqn)


def gather(eqn: Equation) -> list[Dims]:
    """Axes taken whole are carried; looked-up ones pinned, or picked if constant."""
    numbers = eqn.params["dimension_numbers"]
    operand, indices = eqn.operands
    sizes = eqn.params["slice_sizes"]
    shape = eqn.shapes[0]
    batching = tuple(numbers.operand_batching_dims)
    index_batch = list(indices[:-1])
    for operand_axis, index_axis in zip(
        batching, numbers.start_indices_batching_dims, strict=True
    ):
        eqn.unite(operand[operand_axis], indices[index_axis])
    dropped = (*numbers.collapsed_slice_dims, *batching)
    windows = [i for i in range(len(operand)) if i not in dropped]
    text = "it is looked up by indices that the program computes"
    carried: dict[int, Axis] = {}
    kinds: list = []
    for i, axis in enumerate(operand):
        if i in batching:
            continue
        if sizes[i] == axis.size and i in windows and i not in numbers.start_index_map:
            carried[i] = axis
            kinds.append((axis, "producing"))
        elif sizes[i] == axis.size and i in windows:
            # It is looked up whole: the only start that fits is 0.
            carried[i] = axis
        elif not _is_picked(eqn, i):
            eqn.pin([axis], text)
    if all(i in (*carried, *numbers.collapsed_slice_dims) for i in range(len(operand))):
        eqn.contracts(0, 1, kinds)
    offsets = numbers.offset_dims
    result: list[Axis] = []
    batch_axes = iter(index_batch)
    for position, size in enumerate(shape):
        if position not in offsets:
            axis = next(batch_axes)
            result.append(axis if axis.size == size else axes.new(size))
            continue
        source = windows[offsets.index(position)]
        axis = carried.get(source)
        result.append(
            eqn.new_pinned([size], text)[0]
            if axis is None or axis.size != size
            else axis
        )
    for i in numbers.collapsed_slice_dims:
        if _is_picked(eqn, i):
            value = np.asarray(eqn.constant(1)).reshape(-1)
            chosen = pick(eqn, operand[i], [int(v) for v in value])
            (position,) = [p for p in range(len(shape)) if p not in offsets]
            result[position] = chosen
    return [tuple(result)]


def _is_picked(eqn: Equation, i: int) -> bool:
    """Says whether an axis is read at one list of constant indices within it."""
    numbers = eqn.params["dimension_numbers"]
    if tuple(numbers.start_index_map) != (i,) or i not in numbers.collapsed_slice_dims:
        return False
    if len(eqn.operands[1]) != 2 or numbers.operand_batching_dims:
        return False
    # The source is looked at first, since evaluating a constant costs more.
    source = eqn.frame.source_of(eqn.source.invars[1])
    if source.data or source.leaves or axes.is_pinned(eqn.operands[0][i]):
        return False
    value = eqn.constant(1)
    size = eqn.operands[0][i].size
    return value is not None and bool(np.all((value >= 0) & (value < size)))


def scatter(eqn: Equation) -> list[Dims]:
    """Windows are written at indices: axes written whole are united and carried."""
    numbers = eqn.params["dimension_numbers"]
    operand, indices, updates = eqn.operands
    batching = tuple(numbers.operand_batching_dims)
    for operand_axis, index_axis in zip(
        batching, numbers.scatter_indices_batching_dims, strict=True
    ):
        eqn.unite(operand[operand_axis], indices[index_axis])
    # Leaving out an update differs from writing zeros, so their number is fixed.
    text = "each of its indices is written at a place of its own"
    windows_of_updates = numbers.update_window_dims
    eqn.pin([d for i, d in enumerate(updates) if i not in windows_of_updates], text)
    eqn.pin(indices, text)
    dropped = (*numbers.inserted_window_dims, *batching)
    windows = [i for i in range(len(operand)) if i not in dropped]
    text = "it is written to at indices that the program computes"
    eqn.pin([operand[i] for i in numbers.inserted_window_dims], text)
    for i, position in zip(windows, numbers.update_window_dims, strict=True):
        if updates[position].size == operand[i].size:
            eqn.unite(operand[i], updates[position])
        else:
            eqn.pin([operand[i], updates[position]], text)
    return [operand]


def dynamic_slice(eqn: Equation) -> list[Dims]:
    """Axes taken whole are carried."""
    text = "a slice is taken where the program computes"
    result = []
    for axis, size in zip(eqn.operands[0], eqn.params["slice_sizes"], strict=True):
        if axis.size == size:
            result.append(axis)
        else:
            eqn.pin([axis], text)
            result += eqn.new_pinned([size], text)
    return [tuple(result)]


def dynamic_update_slice(eqn: Equation) -> list[Dims]:
    """Axes overwritten whole are united and carried."""
    text = "a slice is overwritten where the program computes"
    for axis, part in zip(eqn.operands[0], eqn.operands[1], strict=True):
        if axis.size == part.size:
            eqn.unite(axis, part)
        else:
            eqn.pin([axis, part], text)
    return [eqn.operands[0]]


COUPLING_RULES.fill(
    {
        "dot_general": dot_general,
        "ragged_dot_general": ragged_dot_general,
        "conv_general_dilated": conv_general_dilated,
        **dict.fromkeys(
            """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or
        reduce_xor""".split(),
            reduction,
        ),
        "argmax": arg_reduction,
        "argmin": arg_reduction,
        "gather": gather,
        **dict.fromkeys(SCATTERS, scatter),
        "dynamic_slice": dynamic_slice,
        "dynamic_update_slice": dynamic_update_slice,
    }
)
