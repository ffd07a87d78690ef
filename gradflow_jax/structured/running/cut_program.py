"""Runs a program at the widths that a cut leaves.

The equations are the recorded ones, bound again with the shapes that follow from the
axes. So whatever Python computed from a width when the model was traced (the divisor
of a mean, 1/√d of attention) stays what it was in the full model, which is what makes
the result equal the masked full model's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from gradflow_jax.programs.rules import REBINDING_RULES
from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.frames import Dims, Frame
from gradflow_jax.structured.running.rebinding import CutEquation, take

Keep = dict[Axis, np.ndarray]


class Plan:
    """Which indices of each axis stay.

    Attributes:
        keep: flags of the undefined axes that lose indices, True keeps.
    """

    def __init__(self, keep: Keep):
        self.keep = {axes.find(axis): np.asarray(flags) for axis, flags in keep.items()}
        self._flags: dict[int, np.ndarray] = {}
        self._functions: dict[Frame, Callable] = {}

    def flags(self, axis: Axis) -> np.ndarray:
        """Returns which indices of an axis stay."""
        axis = axes.find(axis)
        if axis.number not in self._flags:
            self._flags[axis.number] = axes.kept(axis, self.keep)
        return self._flags[axis.number]

    def size(self, axis: Axis) -> int:
        """Returns how many indices of an axis stay."""
        return axes.kept_size(axis, self.keep)

    def shape(self, dims: Dims) -> tuple[int, ...]:
        """Returns the shape that dimensions are cut to."""
        return tuple(self.size(axis) for axis in dims)

    def take(self, value: Any, dims: Dims) -> Any:
        """Takes what stays of an array of the full shape."""
        for position, axis in enumerate(dims):
            flags = self.flags(axis)
            if not flags.all():
                value = take(value, np.flatnonzero(flags), position)
        return value

    def run(self, frame: Frame, operands: Sequence[Any]) -> list[Any]:
        """Runs a frame on operands that are cut already."""
        env = dict(zip(frame.jaxpr.invars, operands, strict=True))
        for variable, value in zip(frame.jaxpr.constvars, frame.consts, strict=True):
            env[variable] = self.take(value, frame.dims[variable])

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        for index, eqn in enumerate(frame.jaxpr.eqns):
            equation = CutEquation(self, frame, index)
            values = [read(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if name in REBINDING_RULES:
                results = REBINDING_RULES[name](equation, values)
            else:
                results = equation.bind(values)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in frame.jaxpr.outvars]

    def function(self, frame: Frame) -> Callable:
        """Returns a frame as a function, with its custom derivative if it has one."""
        if frame not in self._functions:

            def primal(*operands: Any) -> Any:
                return tuple(self.run(frame, operands))

            self._functions[frame] = primal
            if frame.tangents is not None:
                self._functions[frame] = self._differentiable(primal, frame.tangents)
        return self._functions[frame]

    def _differentiable(self, primal: Callable, tangents: Frame) -> Callable:
        custom = jax.custom_jvp(primal)

        @custom.defjvp
        def jvp(primals: Any, directions: Any) -> Any:
            results = self.run(tangents, [*primals, *directions])
            half = len(results) // 2
            return tuple(results[:half]), tuple(results[half:])

        del jvp
        return custom
