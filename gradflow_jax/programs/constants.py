"""Evaluates equations of numbers alone, as an analysis may: within bounds.

Tables of positions, masks and schedules are computed inside of a model. What reads its
program evaluates them, since whether an index is read, or a slice is zero, depends on
them. But it says that it only traces: so it never runs the host's code, runs no loop,
which might not end, and holds no more numbers than it says.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from gradflow_jax.programs.calls import LOOPS_AND_BRANCHES, open_program

LARGEST = 1 << 20
"""An array of more elements is not evaluated."""

_HOLDING = 1 << 24
_EACH = 256


class Allowance:
    """How many numbers one analysis may still compute and hold.

    Attributes:
        left: elements; each equation costs some, however small its results are.
    """

    def __init__(self, left: int = _HOLDING):
        self.left = left

    def take(self, eqn: Any) -> bool:
        """Says whether an equation's results may be held, and counts them."""
        self.left -= _EACH + sum(_size(atom) for atom in eqn.outvars)
        return self.left >= 0


def evaluate_equation(
    eqn: Any, operands: Sequence[Any], allowance: Allowance, largest: int = LARGEST
) -> Sequence[Any] | None:
    """Returns an equation's results of given operands, or None where it is not run.

    Args:
        eqn: the equation.
        operands: its operands' values.
        allowance: what may be computed in all.
        largest: how many elements an operand or a result may have.
    """
    atoms = (*eqn.invars, *eqn.outvars)
    if any(_size(atom) > largest for atom in atoms) or not _is_computation(eqn):
        return None
    if not allowance.take(eqn):
        return None
    try:
        with jax.ensure_compile_time_eval():
            evaluated = eqn.primitive.bind(*operands, **eqn.params)
    except Exception:
        # Some primitives run in their program alone, as on the axes of its mesh.
        return None
    return evaluated if eqn.primitive.multiple_results else [evaluated]


def _size(atom: Any) -> int:
    return int(np.prod(getattr(atom.aval, "shape", ()), dtype=np.int64))


def _is_computation(eqn: Any) -> bool:
    """Says whether an equation does nothing but compute, in a time that is bounded."""
    name = eqn.primitive.name
    if eqn.effects or name in LOOPS_AND_BRANCHES or "call" in name:
        return False
    return all(
        _is_computation(inner)
        for value in eqn.params.values()
        for program in _programs(value)
        for inner in open_program(program)[0].eqns
    )


def _programs(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _programs(part)
    elif hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns"):
        yield value
