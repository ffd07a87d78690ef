"""A program's equations, with the symbolic axes of every value in it.

`Coupling` fills the frames of a whole program by applying to each equation the rule of
its primitive. What no rule knows is pinned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gradflow_jax.programs.equations import describe
from gradflow_jax.structured.coupling import axes, unification
from gradflow_jax.structured.coupling.axes import Axis, Reason
from gradflow_jax.structured.coupling.frames import (
    Constants,
    Dims,
    Frame,
    Source,
    shape_of,
)

Kind = Literal["producing", "consuming", "elementwise"]


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
        constants: what its frames compute from numbers alone.
    """

    def __init__(self, rules: dict[str, Rule]):
        self.rules = rules
        self.marks: list[Mark] = []
        self.products: list[Product] = []
        self.groups: dict[str, tuple[Axis, Axis]] = {}
        self.unknown: set[str] = set()
        self.custom: dict[str, tuple[Frame, Sequence[Dims]]] = {}
        self.dropped: set[str] = set()
        self.constants = Constants()

    def run(
        self, frame: Frame, dims: Sequence[Dims], sources: Sequence[Source]
    ) -> list[Dims]:
        """Fills a frame from the axes and sources of its inputs."""
        frame.constants = self.constants
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
