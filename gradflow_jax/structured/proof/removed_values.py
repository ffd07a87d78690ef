"""What is known of a removed slice: the constant it holds in the masked model.

For one family of units, `Slices` holds for each value of a program and each of its
dimensions that loses indices the constant found there, or `UNKNOWN`. The constants
follow from the leaves that a mask sets to zero by *evaluating* each primitive on
them: relu(0) = 0 and sigmoid(0) = ½ are computed, no layer is known by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from gradflow_jax.programs.equations import describe
from gradflow_jax.structured.coupling.axes import Reason
from gradflow_jax.structured.coupling.frames import Frame, derive
from gradflow_jax.structured.coupling.pointwise import ELEMENTWISE, IDENTITIES
from gradflow_jax.structured.proof.folds import Fold


class _Unknown:
    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Any = _Unknown()

# An entry stands for each dimension of a value: None where it loses nothing, the
# constant that its removed slice holds, or UNKNOWN.
Entries = tuple[Any, ...]


class Refusal(Exception):
    """Removing is not what masking is.

    Attributes:
        reason: why, and at which equation.
        leaks: whether a known constant other than zero reaches a contraction.
    """

    def __init__(self, reason: Reason, leaks: bool = False):
        super().__init__(str(reason))
        self.reason, self.leaks = reason, leaks


def refuse(text: str, frame: Frame, eqn: Any, *, leaks: bool = False) -> Refusal:
    """Makes a refusal at an equation of a frame."""
    return Refusal(Reason(text, describe(eqn, frame.callers)), leaks)


def join(values: Sequence[Any]) -> Any:
    """Returns the constant that all values are, or UNKNOWN."""
    first, *others = values
    same = all(other is not UNKNOWN and other == first for other in others)
    return first if first is not UNKNOWN and same else UNKNOWN


# Primitives at scalars are evaluated once; a network has some hundred.
_evaluated: dict[Any, Any] = {}
_MOST_EVALUATED = 10_000


def evaluate(eqn: Any, operands: Sequence[Any]) -> Any:
    """Returns an elementwise primitive's value at scalars, a number or UNKNOWN."""
    if eqn.primitive.name in IDENTITIES:
        # Where a value is put may be told by axes that a scalar lacks.
        return float(operands[0])
    dtypes = tuple(str(atom.aval.dtype) for atom in eqn.invars)
    key = (eqn.primitive.name, str(eqn.params), dtypes, tuple(map(float, operands)))
    if key not in _evaluated:
        try:
            scalars = [
                np.asarray(value, dtype)
                for value, dtype in zip(operands, dtypes, strict=True)
            ]
            with jax.ensure_compile_time_eval():
                evaluated = eqn.primitive.bind(*scalars, **eqn.params)
        except Exception:
            # Some primitives do not run at scalars, as where a parameter holds a shape.
            value = UNKNOWN
        else:
            value = _real_number(np.asarray(evaluated))
        if len(_evaluated) >= _MOST_EVALUATED:
            _evaluated.clear()
        _evaluated[key] = value
    return _evaluated[key]


def _real_number(value: np.ndarray) -> Any:
    """Returns a scalar as a float; with an imaginary part it is UNKNOWN."""
    number = value.item()
    if not isinstance(number, complex):
        return float(number)
    return number.real if number.imag == 0 else UNKNOWN


class Uniform:
    """Finds values that are one number all over, whatever the inputs and leaves."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, frame: Frame, atom: Any) -> Any:
        """Returns the number a value is all over, or UNKNOWN."""
        return derive(frame, atom, self._known, _number, _compute_uniform, UNKNOWN)


def _compute_uniform(
    frame: Frame, eqn: JaxprEqn, operands: Sequence[Any]
) -> Sequence[Any]:
    """Returns the numbers that an equation's results are all over."""
    del frame
    name = eqn.primitive.name
    value = UNKNOWN
    if name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims"):
        value = operands[0]
    elif name in ELEMENTWISE and len(eqn.outvars) == 1 and UNKNOWN not in operands:
        value = evaluate(eqn, operands)
    return [value] * len(eqn.outvars)


def _number(value: Any) -> Any:
    if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended):
        return UNKNOWN
    array = np.asarray(value)
    if array.size == 0 or array.dtype.kind == "c" or array.size > 1 << 20:
        return UNKNOWN
    first = array.reshape(-1)[0]
    if not bool(np.all(array == first)):
        return UNKNOWN
    return float(first)


class Slices:
    """The removed slices of one family: what each value of a program holds there.

    Attributes:
        removed: the numbers of the family's axes.
        uniform: finds constants of the whole program.
        folds: the constants to be folded, or None where they are refused.
    """

    def __init__(
        self,
        removed: frozenset[int],
        roots_of: Callable[[Any], frozenset[int]],
        uniform: Uniform,
        fold: bool,
    ):
        self.removed, self.uniform = removed, uniform
        self.folds: list[Fold] | None = [] if fold else None
        self._roots_of = roots_of
        self._entries: dict[tuple[Frame, Any], Entries] = {}

    def loses(self, axis: Any) -> bool:
        """Says whether an axis loses indices with the family."""
        return not self.removed.isdisjoint(self._roots_of(axis))

    def get(self, frame: Frame, atom: Any) -> Entries:
        """Returns what is known of a value along each of its dimensions."""
        if isinstance(atom, Literal):
            return (None,) * np.ndim(atom.val)
        if (frame, atom) not in self._entries:
            value = UNKNOWN
            losing = [self.loses(axis) for axis in frame.dims[atom]]
            if any(losing):
                value = self.uniform(frame, atom)
            return tuple(value if lost else None for lost in losing)
        return self._entries[frame, atom]

    def set(self, frame: Frame, atom: Any, entries: Sequence[Any]) -> bool:
        """Notes what is known of a value; says whether that is news."""
        entries = tuple(
            entry if self.loses(axis) else None
            for entry, axis in zip(entries, frame.dims[atom], strict=True)
        )
        news = self._entries.get((frame, atom)) != entries
        self._entries[frame, atom] = entries
        return news
