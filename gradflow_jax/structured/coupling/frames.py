"""The equations of a program where they stand, and what is made of numbers alone.

A `Frame` is a jaxpr at one place where it is called: the same jaxpr called twice has
two frames, since its values have other axes there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from gradflow_jax.programs.constants import Allowance, evaluate_equation
from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.axes import Axis

Dims = tuple[Axis, ...]


def shape_of(atom: Any) -> tuple[int, ...]:
    """Returns the shape of a variable or a literal."""
    return atom.aval.shape


@dataclass(frozen=True)
class Source:
    """What a value was computed from.

    Attributes:
        leaves: the variables' leaves it depends on, by path.
        data: whether it depends on the inputs.
    """

    leaves: frozenset[str] = frozenset()
    data: bool = False

    def __or__(self, other: "Source") -> "Source":
        return Source(self.leaves | other.leaves, self.data or other.data)


@dataclass(eq=False)
class Frame:
    """A jaxpr at one place where it is called.

    Attributes:
        jaxpr: its equations.
        consts: the values of its constvars.
        repeats: how many times it runs in one run of the program.
        outer: for its inputs, where they stand in the frame that calls it, if it is
            called once and at one place.
        is_call: whether it is called so.
        callers: the equations that call it so, outermost first.
        dims: the axes of each of its variables.
        sources: what each of its variables was computed from.
        children: the frames that an equation, by its index, calls.
        tangents: the frame of its own rule of differentiation, if it has one.
        shared: the frame that it repeats, where a rule of differentiation calls the
            function that it belongs to.
        constants: finds what the whole program computes from numbers alone.
    """

    jaxpr: Jaxpr
    consts: Sequence[Any] = ()
    repeats: int = 1
    outer: dict[Any, tuple["Frame", Any]] = field(default_factory=dict)
    is_call: bool = False
    callers: tuple[JaxprEqn, ...] = ()
    dims: dict[Any, Dims] = field(default_factory=dict)
    sources: dict[Any, Source] = field(default_factory=dict)
    children: dict[int, tuple["Frame", ...]] = field(default_factory=dict)
    tangents: "Frame | None" = None
    shared: "Frame | None" = None
    constants: "Constants" = field(default_factory=lambda: Constants())

    def dims_of(self, atom: Any) -> Dims:
        """Returns the axes of a variable or a literal."""
        if isinstance(atom, Literal):
            return tuple(axes.new(size) for size in np.shape(atom.val))
        return self.dims[atom]

    def source_of(self, atom: Any) -> Source:
        """Returns what a variable or a literal was computed from."""
        return Source() if isinstance(atom, Literal) else self.sources[atom]

    @cached_property
    def made_by(self) -> dict[Any, int]:
        """The index of the equation that makes each variable."""
        return {
            variable: index
            for index, eqn in enumerate(self.jaxpr.eqns)
            for variable in eqn.outvars
        }

    def inside(self, atom: Any) -> tuple["Frame", Any] | None:
        """Returns where a value of a called program is computed, if it is one."""
        children = self.children.get(self.made_by.get(atom, -1), ())
        if len(children) != 1 or not children[0].is_call:
            return None
        position = self.jaxpr.eqns[self.made_by[atom]].outvars.index(atom)
        return children[0], children[0].jaxpr.outvars[position]

    def origin(self, atom: Any) -> tuple["Frame", Any]:
        """Returns where a value stands in a program whose calls are written out.

        That is the frame in which an equation makes it, or to which it is given.
        """
        frame = self
        while not isinstance(atom, Literal):
            elsewhere = frame.outer.get(atom) or frame.inside(atom)
            if elsewhere is None:
                break
            frame, atom = elsewhere
        return frame, atom

    def constant(self, atom: Any) -> Any:
        """Returns a value that depends on no input and no leaf, or None."""
        return self.constants(self, atom)


def derive(
    frame: Frame,
    atom: Any,
    known: dict[tuple[Frame, Any], Any],
    of_number: Callable[[Any], Any],
    compute: Callable[[Frame, JaxprEqn, Sequence[Any]], Sequence[Any]],
    unknown: Any = None,
) -> Any:
    """Returns what is known of a value from what is known of those it is made of.

    It goes back along the equations that neither inputs nor leaves have a part in,
    however many they are: a stack holds what waits for its operands, since a model may
    have thousands in a row, more than Python lets functions call each other.

    Args:
        frame: where the value stands.
        atom: the value.
        known: what has been found, which grows.
        of_number: what is known of a number that the program holds.
        compute: what is known of an equation's results, from its operands.
        unknown: what is known of all others.
    """

    def look_up(frame: Frame, atom: Any) -> Any:
        if isinstance(atom, Literal):
            return of_number(atom.val)
        return known[frame, atom]

    first = frame.origin(atom)
    waiting = [first]
    while waiting:
        frame, atom = waiting[-1]
        if isinstance(atom, Literal) or (frame, atom) in known:
            waiting.pop()
            continue
        if atom in frame.jaxpr.constvars:
            position = frame.jaxpr.constvars.index(atom)
            known[frame, atom] = of_number(frame.consts[position])
            continue
        index = frame.made_by.get(atom)
        source = frame.sources[atom]
        if index is None or index in frame.children or source.data or source.leaves:
            known[frame, atom] = unknown
            continue
        eqn = frame.jaxpr.eqns[index]
        operands = [frame.origin(operand) for operand in eqn.invars]
        missing = [
            operand
            for operand in operands
            if not isinstance(operand[1], Literal) and operand not in known
        ]
        if missing:
            waiting += missing
            continue
        values = compute(frame, eqn, [look_up(*operand) for operand in operands])
        known.update(zip(((frame, v) for v in eqn.outvars), values, strict=True))
    return look_up(*first)


class Constants:
    """Evaluates what a program computes from numbers alone, each value once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Frame, Any], Any] = {}
        self._allowance = Allowance()

    def __call__(self, frame: Frame, atom: Any) -> Any:
        """Returns a value, or None where it is unknown."""
        value = derive(frame, atom, self._known, lambda number: number, self._compute)
        if value is None or jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended):
            return value
        return np.asarray(value)

    def _compute(
        self, frame: Frame, eqn: JaxprEqn, operands: Sequence[Any]
    ) -> Sequence[Any]:
        del frame
        results = None
        if all(value is not None for value in operands):
            results = evaluate_equation(eqn, operands, self._allowance)
        return [None] * len(eqn.outvars) if results is None else results
