"""How each primitive is bound again at other widths.

Most take their shapes from their operands. The rules here are of those that have them
in their parameters, and of those that call other programs.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.calls import CALLS, scan_numbers
from gradflow_jax.programs.rules import REBINDING_RULES
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.frames import Dims, Frame


class Widths(Protocol):
    """What rules ask of the cut whose program is run: see `cut_program.Plan`."""

    def flags(self, axis: Axis) -> np.ndarray:
        """Returns which indices of an axis stay."""
        ...

    def size(self, axis: Axis) -> int:
        """Returns how many indices of an axis stay."""
        ...

    def shape(self, dims: Dims) -> tuple[int, ...]:
        """Returns the shape that dimensions are cut to."""
        ...

    def run(self, frame: Frame, operands: Sequence[Any]) -> list[Any]:
        """Runs a frame on operands that are cut already."""
        ...

    def function(self, frame: Frame) -> Callable:
        """Returns a frame as a function, with its custom derivative if it has one."""
        ...


class CutEquation:
    """An equation of a program that is being run cut."""

    def __init__(self, cut: Widths, frame: Frame, index: int):
        self.cut, self.frame, self.index = cut, frame, index
        self.source = frame.jaxpr.eqns[index]
        self.params = self.source.params

    def operand(self, position: int) -> Dims:
        """Returns the axes of an operand."""
        return self.frame.dims_of(self.source.invars[position])

    def result(self, position: int = 0) -> Dims:
        """Returns the axes of a result."""
        return self.frame.dims[self.source.outvars[position]]

    def bind(self, values: Sequence[Any], **changed: Any) -> list[Any]:
        """Binds the primitive with some parameters changed."""
        results = self.source.primitive.bind(*values, **{**self.params, **changed})
        return list(results) if self.source.primitive.multiple_results else [results]


Rule = Callable[[CutEquation, Sequence[Any]], list[Any]]
# What is computed again within so many others that are is no longer told from them: JAX
# traces each from inside of the one around it, and Python ends at some hundred.
_DEEPEST_REMAT = 10


def take(value: Any, indices: np.ndarray, axis: int) -> Any:
    """Takes indices along an axis: a slice where they are evenly spaced."""
    if isinstance(value, np.ndarray):
        return np.take(value, indices, axis)
    if not _evenly_spaced(indices):
        return jnp.take(value, indices, axis, mode="clip")
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    start, stop = int(indices[0]), int(indices[-1]) + 1
    if (start, stop, step) == (0, value.shape[axis], 1):
        return value
    return jax.lax.slice_in_dim(value, start, stop, step, axis)


def _broadcast_in_dim(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    return eqn.bind(values, shape=eqn.cut.shape(eqn.result()), sharding=None)


def _reshape(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    value = values[0]
    order = eqn.params.get("dimensions")
    return [jax.lax.reshape(value, eqn.cut.shape(eqn.result()), order)]


def _split(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    axis = eqn.params["axis"]
    sizes = tuple(
        eqn.cut.size(eqn.result(position)[axis])
        for position in range(len(eqn.source.outvars))
    )
    return eqn.bind(values, sizes=sizes)


def _slice(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    (value,) = values
    steps = eqn.params["strides"] or (1,) * np.ndim(value)
    indices_by_axis = [
        (np.cumsum(eqn.cut.flags(axis)) - 1)[
            start + step * np.flatnonzero(eqn.cut.flags(axis_of_result))
        ]
        for axis, axis_of_result, start, step in zip(
            eqn.operand(0),
            eqn.result(),
            eqn.params["start_indices"],
            steps,
            strict=True,
        )
    ]
    if all(_evenly_spaced(indices) for indices in indices_by_axis):
        # Of one index the step does not matter, and is that of the whole program.
        strides = tuple(
            int(indices[1] - indices[0]) if len(indices) > 1 else step
            for indices, step in zip(indices_by_axis, steps, strict=True)
        )
        return eqn.bind(
            values,
            start_indices=tuple(int(indices[0]) for indices in indices_by_axis),
            limit_indices=tuple(int(indices[-1]) + 1 for indices in indices_by_axis),
            strides=None if set(strides) == {1} else strides,
        )
    for position, indices in enumerate(indices_by_axis):
        value = take(value, indices, position)
    return [value]


def _evenly_spaced(indices: np.ndarray) -> bool:
    steps = np.unique(np.diff(indices))
    return len(indices) > 0 and len(steps) < 2 and bool(np.all(steps > 0))


def _take_from_cut(
    eqn: CutEquation, value: Any, axis: Axis, indices: np.ndarray, position: int
) -> Any:
    """Takes indices, numbered as in the full model, from a cut array."""
    place_of = np.cumsum(eqn.cut.flags(axis)) - 1
    return take(value, place_of[indices], position)


def _iota(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    along = eqn.params["dimension"]
    dims = eqn.result()
    numbers = np.flatnonzero(eqn.cut.flags(dims[along]))
    shape = eqn.cut.shape(dims)
    if len(numbers) == dims[along].size:
        return eqn.bind(values, shape=shape)
    row = jnp.asarray(numbers, eqn.params["dtype"])
    return [jax.lax.broadcast_in_dim(row, shape, (along,))]


def _gather(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    numbers = eqn.params["dimension_numbers"]
    operand = eqn.operand(0)
    for i in numbers.collapsed_slice_dims:
        flags = eqn.cut.flags(operand[i])
        if flags.all():
            continue
        # Only constant indices may read an axis that is cut.
        indices = np.asarray(eqn.frame.constant(eqn.source.invars[1])).reshape(-1)
        kept = indices[flags[indices]]
        return [_take_from_cut(eqn, values[0], operand[i], kept, i)]
    sizes = tuple(
        eqn.cut.size(axis) if size == axis.size else size
        for axis, size in zip(operand, eqn.params["slice_sizes"], strict=True)
    )
    return eqn.bind(values, slice_sizes=sizes)


def _dynamic_slice(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    return eqn.bind(values, slice_sizes=eqn.cut.shape(eqn.result()))


def _conv(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    numbers = eqn.params["dimension_numbers"]
    features = values[0].shape[numbers.lhs_spec[1]]
    group_features = values[1].shape[numbers.rhs_spec[1]]
    return eqn.bind(values, feature_group_count=features // group_features)


REBINDING_RULES.fill(
    {
        "broadcast_in_dim": _broadcast_in_dim,
        "reshape": _reshape,
        "split": _split,
        "slice": _slice,
        "iota": _iota,
        "gather": _gather,
        "dynamic_slice": _dynamic_slice,
        "conv_general_dilated": _conv,
    }
)


def _inline(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    """Runs what an equation calls."""
    (frame,) = eqn.frame.children[eqn.index]
    return list(eqn.cut.function(frame.shared or frame)(*values))


def _remat(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    (frame,) = eqn.frame.children[eqn.index]
    if len(frame.callers) > _DEEPEST_REMAT:
        return eqn.cut.run(frame, values)
    run = jax.checkpoint(
        lambda *operands: eqn.cut.run(frame, operands),
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return run(*values)


def _scan(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    consts, carries = scan_numbers(eqn.params)
    (frame,) = eqn.frame.children[eqn.index]
    fixed = values[:consts]

    def body(carry: Any, xs: Any) -> Any:
        results = eqn.cut.run(frame, [*fixed, *carry, *xs])
        return results[:carries], results[carries:]

    carry, stacked = jax.lax.scan(
        body,
        list(values[consts : consts + carries]),
        list(values[consts + carries :]),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*carry, *stacked]


def _while(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    conds, bodies = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond, body = eqn.frame.children[eqn.index]
    return jax.lax.while_loop(
        lambda carry: eqn.cut.run(cond, [*values[:conds], *carry])[0],
        lambda carry: eqn.cut.run(body, [*values[conds : conds + bodies], *carry]),
        list(values[conds + bodies :]),
    )


def _cond(eqn: CutEquation, values: Sequence[Any]) -> list[Any]:
    index, *operands = values
    branches = [
        lambda *args, frame=frame: eqn.cut.run(frame, args)
        for frame in eqn.frame.children[eqn.index]
    ]
    return jax.lax.switch(jnp.asarray(index, jnp.int32), branches, *operands)


REBINDING_RULES.fill(
    {
        **dict.fromkeys(CALLS, _inline),
        **dict.fromkeys(("remat2", "remat", "checkpoint"), _remat),
        "scan": _scan,
        "while": _while,
        "cond": _cond,
    }
)
