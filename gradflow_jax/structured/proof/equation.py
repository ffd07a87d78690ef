"""An equation as the rules of the proof see it."""

from collections.abc import Callable, Sequence
from typing import Any

from gradflow_jax.structured.coupling.frames import Frame, shape_of
from gradflow_jax.structured.proof.removed_values import (
    UNKNOWN,
    Entries,
    Refusal,
    Slices,
    refuse,
)

# It returns the equations of a frame, by index, that removed axes of these numbers
# touch.
Touched = Callable[[Frame, frozenset[int]], Sequence[int]]


class ProofEquation:
    """An equation and what is known of its operands' removed slices."""

    def __init__(self, slices: Slices, frame: Frame, index: int, touched: Touched):
        self.slices, self.frame, self.index = slices, frame, index
        self.equations_touching = touched
        self.source = frame.jaxpr.eqns[index]
        self.params = self.source.params
        self.operands = [slices.get(frame, atom) for atom in self.source.invars]

    def uniform(self, position: int) -> Any:
        """Returns the number an operand is all over, or UNKNOWN."""
        return self.slices.uniform(self.frame, self.source.invars[position])

    def lost(self, position: int) -> list[bool]:
        """Says which dimensions of a result lose indices."""
        dims = self.frame.dims[self.source.outvars[position]]
        return [self.slices.loses(axis) for axis in dims]

    def refuse(self, text: str, *, leaks: bool = False) -> Refusal:
        """Makes a refusal at this equation."""
        return refuse(text, self.frame, self.source, leaks=leaks)

    def shape(self, position: int) -> tuple[int, ...]:
        """Returns the shape of an operand."""
        return shape_of(self.source.invars[position])


ValueRule = Callable[[ProofEquation], list[Entries]]


def is_known(value: Any) -> bool:
    """Says whether an entry is a number."""
    return value is not UNKNOWN and value is not None
