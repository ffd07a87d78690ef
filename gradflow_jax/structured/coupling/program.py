"""A program's equations, with the symbolic axes of every value in it.

A `Frame` is a jaxpr at one place where it is called: the same jaxpr called twice has
two frames, since its values have other axes there. `Coupling` makes the frames of a
whole program by applying to each equation the rule of its primitive. What no rule
knows is pinned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn
from jax.extend.core import Literal as LiteralAtom

from gradflow_jax.programs.equations import describe
from gradflow_jax.structured.coupling import axes, unification
from gradflow_jax.structured.coupling.axes import Axis, Reason

Dims = tuple[Axis, ...]
Kind = Literal["producing", "consuming", "elementwise"]


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

    def dims_of(self, atom: Any) -> Dims:
        """Returns the axes of a variable or a literal."""
        if isinstance(atom, LiteralAtom):
            return tuple(axes.new(size) for size in np.shape(atom.val))
        return self.dims[atom]

    def source_of(self, atom: Any) -> Source:
        """Returns what a variable or a literal was computed from."""
        return Source() if isinstance(atom, LiteralAtom) else self.sources[atom]

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

    def constant(self, atom: Any) -> Any:
        """Returns a value that depends on no input and no leaf, or None."""
        if isinstance(atom, LiteralAtom):
            return atom.val
        if atom in self.jaxpr.constvars:
            return self.consts[self.jaxpr.constvars.index(atom)]
        elsewhere = self.outer.get(atom) or self.inside(atom)
        if elsewhere is not None:
            frame, outer_atom = elsewhere
            return frame.constant(outer_atom)
        index = self.made_by.get(atom)
        if index is None or index in self.children:
            return None
        eqn = self.jaxpr.eqns[index]
        operands = [self.constant(operand) for operand in eqn.invars]
        if any(value is None for value in operands):
            return None
        with jax.ensure_compile_time_eval():
            evaluated = eqn.primitive.bind(*operands, **eqn.params)
            results = evaluated if eqn.primitive.multiple_results else [evaluated]
            result = results[eqn.outvars.index(atom)]
            is_key = jnp.issubdtype(result.dtype, jax.dtypes.extended)
            return result if is_key else np.asarray(result)


@dataclass(frozen=True)
class Mark:
    """What a contraction says of a leaf's axis.

    Attributes:
        leaves: the leaves the weight was computed from.
        axis: the weight's axis.
        kind: whether the contraction makes, sums over or only carries its indices.
        reads_input: whether what it meets depends on no leaf: a first layer.
    """

    leaves: frozenset[str]
    axis: Axis
    kind: Kind
    reads_input: bool


@dataclass(frozen=True)
class Product:
    """A contraction's multiply-accumulates: a number times the sizes of axes."""

    number: int
    axes: Dims


class Equation:
    """An equation as the rule of its primitive sees it.

    Attributes:
        source: the equation of the jaxpr.
        params: its parameters.
        operands: the axes of its operands.
        shapes: of its results.
        in_shapes: of its operands.
    """

    def __init__(self, coupling: "Coupling", frame: Frame, index: int):
        eqn = frame.jaxpr.eqns[index]
        self.coupling, self.frame, self.index, self.source = coupling, frame, index, eqn
        self.params = eqn.params
        self.operands = [frame.dims_of(atom) for atom in eqn.invars]
        self.in_shapes = [shape_of(atom) for atom in eqn.invars]
        self.shapes = [shape_of(atom) for atom in eqn.outvars]

    def blame(self, text: str) -> Reason:
        """Makes a reason that names this equation."""
        return Reason(text, describe(self.source, self.frame.callers))

    def unite(self, first: Axis, second: Axis) -> None:
        """Lets the indices of two axes of one size be removed together only."""
        unification.unite(first, second, self.blame)

    def pin(self, dims: Sequence[Axis], text: str) -> None:
        """Forbids to remove any index of these axes, for this reason."""
        for axis in dims:
            axes.pin(axis, self.blame(text))

    def new_pinned(self, shape: Sequence[int], text: str) -> Dims:
        """Returns new axes of which no index may be removed."""
        return tuple(axes.new_pinned(size, self.blame(text)) for size in shape)

    def whole(self, axis: Axis, text: str) -> Axis:
        """Returns an axis fit to be a dimension: of a size of 1, it must stay."""
        if axis.size == 1:
            axes.pin(axis, self.blame(text))
        return axis

    def constant(self, position: int) -> np.ndarray | None:
        """Returns an operand's value where it depends on no input and no leaf."""
        return self.frame.constant(self.source.invars[position])

    def contracts(
        self, position: int, met_position: int, kinds: Sequence[tuple[Axis, Kind]]
    ) -> None:
        """Notes what an operand's axes are for, if it is a weight.

        Args:
            position: the operand's.
            met_position: that of the operand it meets.
            kinds: of the operand's axes.
        """
        source, met = (
            self.frame.source_of(self.source.invars[place])
            for place in (position, met_position)
        )
        if source.leaves and not source.data:
            reads_input = met.data and not met.leaves
            self.coupling.marks += [
                Mark(source.leaves, axis, kind, reads_input) for axis, kind in kinds
            ]

    def costs(self, number: int, dims: Sequence[Axis]) -> None:
        """Counts multiply-accumulates: a number times the sizes of axes."""
        product = Product(number * self.frame.repeats, tuple(dims))
        self.coupling.products.append(product)


Rule = Callable[[Equation], Sequence[Dims]]


class Coupling:
    """Applies the rules of primitives to a program.

    Attributes:
        rules: by the primitive's name.
        marks: what contractions said of the leaves' axes.
        products: the contractions' costs.
        groups: of kernels of grouped convolutions, by path, the features they are fed
            and those one group takes.
        unknown: the primitives met that have no rule.
        custom: the functions with rules of differentiation that are being traced.
        dropped: those whose rule is lost when the cut program is run.
    """

    def __init__(self, rules: dict[str, Rule]):
        self.rules = rules
        self.marks: list[Mark] = []
        self.products: list[Product] = []
        self.groups: dict[str, tuple[Axis, Axis]] = {}
        self.unknown: set[str] = set()
        self.custom: dict[str, tuple[Frame, Sequence[Dims]]] = {}
        self.dropped: set[str] = set()

    def run(
        self, frame: Frame, dims: Sequence[Dims], sources: Sequence[Source]
    ) -> list[Dims]:
        """Fills a frame from the axes and sources of its inputs."""
        for variable, value in zip(frame.jaxpr.constvars, frame.consts, strict=True):
            frame.dims[variable] = tuple(axes.new(size) for size in np.shape(value))
            frame.sources[variable] = Source()
        for variable, dims_of_variable, source in zip(
            frame.jaxpr.invars, dims, sources, strict=True
        ):
            frame.dims[variable], frame.sources[variable] = dims_of_variable, source
        for index, eqn in enumerate(frame.jaxpr.eqns):
            at = Equation(self, frame, index)
            source = Source()
            for atom in eqn.invars:
                source |= frame.source_of(atom)
            frame.sources.update((variable, source) for variable in eqn.outvars)
            rule = self.rules.get(eqn.primitive.name, _unknown)
            results = rule(at)
            for variable, dims_of_variable in zip(eqn.outvars, results, strict=True):
                frame.dims[variable] = dims_of_variable
        return [frame.dims_of(atom) for atom in frame.jaxpr.outvars]


def _unknown(eqn: Equation) -> list[Dims]:
    """Pins all axes at a primitive without a rule."""
    name = eqn.source.primitive.name
    eqn.coupling.unknown.add(name)
    text = (
        f"the primitive {name!r} has no rule; "
        f"gf.structured.register_rule({name!r}, rule) adds one"
    )
    for dims in eqn.operands:
        eqn.pin(dims, text)
    return [eqn.new_pinned(shape, text) for shape in eqn.shapes]
