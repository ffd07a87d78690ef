"""Which leaves scale and shift a normalized value, as a batch norm's γ and β do.

No layer is known by name, nor are its leaves. A scale is a leaf that is multiplied, on
its way to the first sum, with something of the model's input and with something that a
root was taken for: γ · (x − μ) / √(σ² + ε), in whatever order. What is added there is
its shift. The scale of a weight norm meets no input on that way.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr

from gradflow_jax.programs.comparing import Flat
from gradflow_jax.structured.coupling.tracing import Traced

_MOVES = frozenset(
    """broadcast_in_dim convert_element_type copy expand_dims reshape reshard
    sharding_constraint squeeze stop_gradient transpose""".split()
)
_PRODUCTS = frozenset("mul div neg".split())
_ROOTS = frozenset("rsqrt sqrt pow integer_pow".split())
_SUMS = frozenset("add sub".split())


class Normalization(NamedTuple):
    """The leaves that scale and shift a normalized value, by path.

    Attributes:
        scale: of γ.
        shift: of β, or None where there is none.
    """

    scale: str
    shift: str | None


def normalizations_of(traced: Traced) -> list[Normalization]:
    """Returns the normalizations of a program, but for those inside of loops."""
    graph = _Graph(traced)
    return [
        normalization
        for number, path in enumerate(traced.leaves, start=1)
        if (normalization := graph.follow(number, path)) is not None
    ]


class _Graph:
    """The products and sums of a program, both ways."""

    def __init__(self, traced: Traced):
        frame = traced.frame
        flat = Flat(ClosedJaxpr(frame.jaxpr, frame.consts))
        self._leaves = dict(enumerate(traced.leaves, start=1))
        self._maker: dict[int, tuple[str, Sequence]] = {}
        self._readers: dict[int, list[tuple[str, Sequence, int]]] = defaultdict(list)
        self._of_data = set(range(len(self._leaves) + 1, len(frame.jaxpr.invars) + 1))
        for eqn, (operands, results) in flat.equations:
            numbers = [value for value in operands if isinstance(value, int)]
            if not self._of_data.isdisjoint(numbers):
                self._of_data.update(results)
            for result in results:
                self._maker[result] = eqn.primitive.name, numbers
                for number in dict.fromkeys(numbers):
                    self._readers[number].append((eqn.primitive.name, numbers, result))

    def follow(self, number: int, path: str) -> Normalization | None:
        """Returns the normalization that a leaf scales, if it does."""
        line, meets_data, meets_root, shift = [number], False, False, None
        # The list grows while it is read.
        for value in line:
            for name, operands, result in self._readers[value]:
                others = [operand for operand in operands if operand != value]
                if name in _SUMS:
                    leaves = [self._leaf(other) for other in others]
                    shift = shift or next(filter(None, leaves), None)
                elif name in _MOVES | _PRODUCTS:
                    for other in others:
                        data, root = self._look_back(other)
                        meets_data, meets_root = meets_data or data, meets_root or root
                    line.append(result)
                elif name in _ROOTS:
                    return None
        return Normalization(path, shift) if meets_data and meets_root else None

    def _look_back(self, value: int) -> tuple[bool, bool]:
        """Says whether a factor is of the input, and whether a root is a part of it."""
        waiting, seen, has_root = [value], {value}, False
        while waiting:
            name, operands = self._maker.get(waiting.pop(), ("", ()))
            has_root = has_root or name in _ROOTS
            if name in _MOVES | _PRODUCTS:
                waiting += [operand for operand in operands if operand not in seen]
                seen.update(operands)
        return value in self._of_data, has_root

    def _leaf(self, value: int) -> str | None:
        """Returns the leaf that a value is a view of, or None."""
        name, operands = self._maker.get(value, ("", ()))
        while name in _MOVES:
            (value,) = operands
            name, operands = self._maker.get(value, ("", ()))
        return self._leaves.get(value)
