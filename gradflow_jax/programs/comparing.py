"""Is a model that was traced anew at its cut widths the program that the cut predicts?

Python code may compute from widths: 1/√d, a mean over an axis, a branch. It then
traces without an error at other widths, and computes something else. So the two
programs are compared equation by equation, literals included.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters import partial_eval

from gradflow_jax.programs.calls import CALLS, called, opened, scan_numbers
from gradflow_jax.programs.equations import describe

# What changes how or where a thing is computed, not what.
_IMMATERIAL = frozenset(
    """sharding out_sharding in_shardings out_shardings name accuracy unroll
    _split_transpose linear weak_type jvp_jaxpr_fun ft_in ft_out""".split()
)
# Larger constants are left as equations.
_LARGEST = 1 << 16
# What the shapes and the starts of a slice tell.
_IMPLIED = {("limit_indices", "slice")}


def trace(function: Any, *args: Any) -> Any:
    """Returns a function's closed jaxpr, without the equations nothing needs."""
    closed = jax.make_jaxpr(lambda *given: function(*given))(*args)
    jaxpr, _ = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True
    )
    return ClosedJaxpr(jaxpr, closed.consts)


class _Flat:
    """A program with its calls written out, its values numbered in order."""

    def __init__(self, program: Any):
        self.equations: list[tuple[Any, list[Any]]] = []
        self._count = 0
        jaxpr, consts = opened(program)
        inputs = [self._new() for _ in jaxpr.invars]
        self.results = self._walk(jaxpr, [_number(c) for c in consts], inputs)
        self._keep_used()

    def _new(self) -> int:
        self._count += 1
        return self._count

    def _walk(self, jaxpr: Any, consts: Sequence, inputs: Sequence) -> list[Any]:
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Any:
            return _number(atom.val) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            if eqn.primitive.name in CALLS:
                inner, values = opened(called(eqn.params))
                results = self._walk(inner, [_number(v) for v in values], operands)
            elif _is_constant(eqn, operands):
                # Computed alike, whether it stands in the program or was before.
                results = _evaluated(eqn, operands)
            else:
                results = [self._new() for _ in eqn.outvars]
                self.equations.append((eqn, [operands, results]))
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _keep_used(self) -> None:
        used = {value for value in self.results if isinstance(value, int)}
        kept = []
        for eqn, (operands, results) in reversed(self.equations):
            if used.isdisjoint(results) and not eqn.effects:
                continue
            used |= {value for value in operands if isinstance(value, int)}
            kept.append((eqn, [operands, results]))
        self.equations = kept[::-1]


def _number(value: Any) -> np.ndarray:
    """Returns a constant as numbers: of a random key its data."""
    return np.asarray(jax.random.key_data(value) if _is_key(value) else value)


def _is_key(value: Any) -> bool:
    dtype = getattr(value, "dtype", np.float32)
    return jnp.issubdtype(dtype, jax.dtypes.extended)


def _is_constant(eqn: Any, operands: Sequence) -> bool:
    atoms = (*eqn.invars, *eqn.outvars)
    return all(isinstance(value, np.ndarray) for value in operands) and not any(
        _is_key(atom.aval) or np.prod(atom.aval.shape) > _LARGEST for atom in atoms
    )


def _evaluated(eqn: Any, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    with jax.ensure_compile_time_eval():
        found = eqn.primitive.bind(*operands, **eqn.params)
        several = eqn.primitive.multiple_results
        return [np.asarray(value) for value in (found if several else [found])]


def difference(one: Any, other: Any, order: Sequence[int] | None = None) -> str | None:
    """Returns where two programs differ, in words, or None if they are the same.

    Args:
        one: a closed jaxpr: what is predicted.
        other: a closed jaxpr: what was traced.
        order: which input of the other each input of the first one is; the same by
            default.
    """
    mine, theirs = _Flat(one), _Flat(other)
    inputs = range(len(opened(one)[0].invars)) if order is None else order
    names = {number + 1: found + 1 for number, found in enumerate(inputs)}
    for (eqn, (operands, results)), (new, (given, made)) in zip(
        mine.equations, theirs.equations, strict=False
    ):
        where = _unlike(eqn, new, operands, given, names)
        if where is not None:
            return f"{describe(new)} where {describe(eqn)} was expected{where}"
        names.update(zip(results, made, strict=True))
    if len(mine.equations) != len(theirs.equations):
        return (
            f"it has {len(theirs.equations)} equations where "
            f"{len(mine.equations)} were expected"
        )
    for expected, found in zip(mine.results, theirs.results, strict=True):
        if not _same_value(expected, found, names):
            return "its results are other values of the program"
    return None


def _unlike(
    eqn: Any, new: Any, operands: Sequence, given: Sequence, names: Mapping[int, int]
) -> str | None:
    if eqn.primitive is not new.primitive or len(operands) != len(given):
        return ""
    order = list(range(len(operands)))
    if eqn.primitive.name == "scan":
        order = _order_of_constants(eqn, operands, given, names)
    for expected, position in zip(operands, order, strict=True):
        found = given[position]
        if not _same_value(expected, found, names):
            if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray):
                if expected.ndim == 0 and found.ndim == 0:
                    return f": {found:g} for {expected:g}"
                return ": another constant"
            return ": of another value"
    for a, b in zip(eqn.outvars, new.outvars, strict=True):
        if (a.aval.shape, a.aval.dtype) != (b.aval.shape, b.aval.dtype):
            return ": of another shape"
    for name in sorted(set(eqn.params) | set(new.params)):
        a, b = eqn.params.get(name), new.params.get(name)
        if name in _IMMATERIAL or (name, eqn.primitive.name) in _IMPLIED:
            continue
        if name == "strides":
            a, b = (v or (1,) * _rank(eqn) for v in (a, b))
        if not _same_parameter(a, b, order):
            return f": with another {name}"
    return None


def _rank(eqn: Any) -> int:
    return len(eqn.invars[0].aval.shape)


def _order_of_constants(
    eqn: Any, operands: Sequence, given: Sequence, names: Mapping[int, int]
) -> list[int]:
    """Matches what a scan's body closes over, which JAX lists in the order of use."""
    consts, _ = scan_numbers(eqn.params)
    free = list(range(consts))
    order = []
    for expected in operands[:consts]:
        same = [i for i in free if _same_value(expected, given[i], names)]
        order.append(same[0] if same else free[0])
        free.remove(order[-1])
    return order + list(range(consts, len(operands)))


def _same_value(one: Any, other: Any, names: Mapping[int, int]) -> bool:
    if isinstance(one, int) or isinstance(other, int):
        return names.get(one, None) == other if isinstance(one, int) else False
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    )


def _same_parameter(one: Any, other: Any, order: Sequence[int]) -> bool:
    if _is_program(one) and _is_program(other):
        inputs = len(opened(one)[0].invars)
        return difference(one, other, order if len(order) == inputs else None) is None
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(
            _same_parameter(a, b, order) for a, b in zip(one, other, strict=True)
        )
    if callable(one) and callable(other):
        return True
    # By text too, since a fill value that is NaN differs from itself.
    return bool(np.all(one == other)) or repr(one) == repr(other)


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
