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
from gradflow_jax.structured.coupling.program import Dims, Frame


class Widths(Protocol):
    """What rules ask of the cut whose program is run: see `cut_program.Cut`."""

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


class Here:
    """An equation of a program that is being run cut."""

    def __init__(self, cut: Widths, frame: Frame, index: int):
        self.cut, self.frame, self.index = cut, frame, index
        self.eqn = frame.jaxpr.eqns[index]
        self.params = self.eqn.params

    def operand(self, position: int) -> Dims:
        """Returns the axes of an operand."""
        return self.frame.dims_of(self.eqn.invars[position])

    def result(self, position: int = 0) -> Dims:
        """Returns the axes of a result."""
        return self.frame.dims[self.eqn.outvars[position]]

    def bind(self, values: Sequence[Any], **changed: Any) -> list[Any]:
        """Binds the primitive with some parameters changed."""
        found = self.eqn.primitive.bind(*values, **{**self.params, **changed})
        return list(found) if self.eqn.primitive.multiple_results else [found]


Rule = Callable[[Here, Sequence[Any]], list[Any]]


def taken(value: Any, indices: np.ndarray, axis: int) -> Any:
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


def _broadcast_in_dim(here: Here, values: Sequence[Any]) -> list[Any]:
    return here.bind(values, shape=here.cut.shape(here.result()), sharding=None)


def _reshape(here: Here, values: Sequence[Any]) -> list[Any]:
    value = values[0]
    order = here.params.get("dimensions")
    return [jax.lax.reshape(value, here.cut.shape(here.result()), order)]


def _split(here: Here, values: Sequence[Any]) -> list[Any]:
    axis = here.params["axis"]
    sizes = tuple(
        here.cut.size(here.result(position)[axis])
        for position in range(len(here.eqn.outvars))
    )
    return here.bind(values, sizes=sizes)


def _slice(here: Here, values: Sequence[Any]) -> list[Any]:
    (value,) = values
    steps = here.params["strides"] or (1,) * np.ndim(value)
    found = [
        (np.cumsum(here.cut.flags(axis)) - 1)[
            start + step * np.flatnonzero(here.cut.flags(made))
        ]
        for axis, made, start, step in zip(
            here.operand(0),
            here.result(),
            here.params["start_indices"],
            steps,
            strict=True,
        )
    ]
    if all(_evenly_spaced(indices) for indices in found):
        strides = tuple(int(i[1] - i[0]) if len(i) > 1 else 1 for i in found)
        return here.bind(
            values,
            start_indices=tuple(int(indices[0]) for indices in found),
            limit_indices=tuple(int(indices[-1]) + 1 for indices in found),
            strides=None if set(strides) == {1} else strides,
        )
    for position, indices in enumerate(found):
        value = taken(value, indices, position)
    return [value]


def _evenly_spaced(indices: np.ndarray) -> bool:
    steps = np.unique(np.diff(indices))
    return len(indices) > 0 and len(steps) < 2 and bool(np.all(steps > 0))


def _picked(here: Here, value: Any, axis: Axis, wanted: np.ndarray, at: int) -> Any:
    """Takes indices, numbered as in the full model, from a cut array."""
    where = np.cumsum(here.cut.flags(axis)) - 1
    return taken(value, where[wanted], at)


def _iota(here: Here, values: Sequence[Any]) -> list[Any]:
    along = here.params["dimension"]
    dims = here.result()
    numbers = np.flatnonzero(here.cut.flags(dims[along]))
    shape = here.cut.shape(dims)
    if len(numbers) == dims[along].size:
        return here.bind(values, shape=shape)
    row = jnp.asarray(numbers, here.params["dtype"])
    return [jax.lax.broadcast_in_dim(row, shape, (along,))]


def _gather(here: Here, values: Sequence[Any]) -> list[Any]:
    numbers = here.params["dimension_numbers"]
    operand = here.operand(0)
    for i in numbers.collapsed_slice_dims:
        flags = here.cut.flags(operand[i])
        if flags.all():
            continue
        # Only constant indices may read an axis that is cut.
        indices = np.asarray(here.frame.constant(here.eqn.invars[1])).reshape(-1)
        wanted = indices[flags[indices]]
        return [_picked(here, values[0], operand[i], wanted, i)]
    sizes = tuple(
        here.cut.size(axis) if size == axis.size else size
        for axis, size in zip(operand, here.params["slice_sizes"], strict=True)
    )
    return here.bind(values, slice_sizes=sizes)


def _dynamic_slice(here: Here, values: Sequence[Any]) -> list[Any]:
    return here.bind(values, slice_sizes=here.cut.shape(here.result()))


def _conv(here: Here, values: Sequence[Any]) -> list[Any]:
    numbers = here.params["dimension_numbers"]
    features = values[0].shape[numbers.lhs_spec[1]]
    taken = values[1].shape[numbers.rhs_spec[1]]
    return here.bind(values, feature_group_count=features // taken)


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


def _inline(here: Here, values: Sequence[Any]) -> list[Any]:
    """Runs what an equation calls."""
    (frame,) = here.frame.children[here.index]
    return list(here.cut.function(frame.shared or frame)(*values))


def _remat(here: Here, values: Sequence[Any]) -> list[Any]:
    (frame,) = here.frame.children[here.index]
    run = jax.checkpoint(
        lambda *operands: here.cut.run(frame, operands),
        prevent_cse=here.params["prevent_cse"],
        policy=here.params["policy"],
    )
    return run(*values)


def _scan(here: Here, values: Sequence[Any]) -> list[Any]:
    consts, carries = scan_numbers(here.params)
    (frame,) = here.frame.children[here.index]
    fixed = values[:consts]

    def body(carry: Any, xs: Any) -> Any:
        results = here.cut.run(frame, [*fixed, *carry, *xs])
        return results[:carries], results[carries:]

    carry, stacked = jax.lax.scan(
        body,
        list(values[consts : consts + carries]),
        list(values[consts + carries :]),
        length=here.params["length"],
        reverse=here.params["reverse"],
        unroll=here.params["unroll"],
    )
    return [*carry, *stacked]


def _while(here: Here, values: Sequence[Any]) -> list[Any]:
    conds, bodies = here.params["cond_nconsts"], here.params["body_nconsts"]
    cond, body = here.frame.children[here.index]
    return jax.lax.while_loop(
        lambda carry: here.cut.run(cond, [*values[:conds], *carry])[0],
        lambda carry: here.cut.run(body, [*values[conds : conds + bodies], *carry]),
        list(values[conds + bodies :]),
    )


def _cond(here: Here, values: Sequence[Any]) -> list[Any]:
    index, *operands = values
    branches = [
        lambda *args, frame=frame: here.cut.run(frame, args)
        for frame in here.frame.children[here.index]
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
