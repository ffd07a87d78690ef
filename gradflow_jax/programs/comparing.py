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

from gradflow_jax.programs.calls import CALLS, callee_of, open_program, scan_numbers
from gradflow_jax.programs.constants import Allowance, evaluate_equation
from gradflow_jax.programs.equations import describe

# These parameters change how or where a thing is computed, not what.
_IMMATERIAL = frozenset(
    """sharding out_sharding in_shardings out_shardings name accuracy unroll
    _split_transpose linear weak_type jvp_jaxpr_fun ft_in ft_out""".split()
)
# Constants of more elements are left as equations, since computing them costs.
_LARGEST = 1 << 16
# The shapes and start_indices of a slice imply these, so they are not compared.
_IMPLIED = {("limit_indices", "slice")}


def trace(function: Any, *args: Any) -> Any:
    """Returns a function's closed jaxpr, without the equations nothing needs."""
    return drop_unused(jax.make_jaxpr(lambda *arguments: function(*arguments))(*args))


def drop_unused(closed: Any) -> Any:
    """Returns a closed jaxpr without the equations that nothing needs."""
    try:
        jaxpr, _ = partial_eval.dce_jaxpr(
            closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True
        )
    except RecursionError:
        # JAX goes into each call from inside of the one around it, and so cannot look
        # into some two hundred of them. What is unused there stays.
        return closed
    return ClosedJaxpr(jaxpr, closed.consts)


class Flat:
    """A program with its calls written out, its values numbered in order.

    Attributes:
        equations: each with its operands and its results, but for those of constants
            alone. Values are numbered from 1, inputs first; constants are arrays.
        results: the values that the program returns.
    """

    def __init__(self, program: Any):
        self.equations: list[tuple[Any, list[Any]]] = []
        self._count = 0
        self._allowance = Allowance()
        jaxpr, consts = open_program(program)
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
            results: list[Any] | None
            if eqn.primitive.name in CALLS:
                inner, values = open_program(callee_of(eqn.params))
                results = self._walk(inner, [_number(v) for v in values], operands)
            else:
                # What is constant is computed here, whether the program holds its
                # equation or JAX had computed it before.
                results = self._evaluate(eqn, operands)
            if results is None:
                results = [self._new() for _ in eqn.outvars]
                self.equations.append((eqn, [operands, results]))
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _evaluate(self, eqn: Any, operands: Sequence) -> list[np.ndarray] | None:
        """Returns the results of an equation of constants, or None of any other."""
        if not all(isinstance(value, np.ndarray) for value in operands) or any(
            _is_key(atom.aval) for atom in (*eqn.invars, *eqn.outvars)
        ):
            return None
        results = evaluate_equation(eqn, operands, self._allowance, _LARGEST)
        return None if results is None else [np.asarray(value) for value in results]

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


def difference(
    predicted: Any, traced: Any, order: Sequence[int] | None = None
) -> str | None:
    """Returns where two programs differ, in words, or None if they are the same.

    Args:
        predicted: a closed jaxpr.
        traced: a closed jaxpr.
        order: which input of `traced` each input of `predicted` is; the same by
            default.
    """
    expected_program, traced_program = Flat(predicted), Flat(traced)
    inputs = range(len(open_program(predicted)[0].invars)) if order is None else order
    # Values are numbered in the order in which they are made, inputs first, from 1.
    names = {number + 1: counterpart + 1 for number, counterpart in enumerate(inputs)}
    for (eqn, (operands, results)), (new, (traced_operands, traced_results)) in zip(
        expected_program.equations, traced_program.equations, strict=False
    ):
        where = _unlike(eqn, new, operands, traced_operands, names)
        if where is not None:
            return f"{describe(new)} where {describe(eqn)} was expected{where}"
        names.update(zip(results, traced_results, strict=True))
    if len(expected_program.equations) != len(traced_program.equations):
        return (
            f"it has {len(traced_program.equations)} equations where "
            f"{len(expected_program.equations)} were expected"
        )
    for expected, result in zip(
        expected_program.results, traced_program.results, strict=True
    ):
        if not _same_value(expected, result, names):
            return "its results are other values of the program"
    return None


def _unlike(
    eqn: Any,
    new: Any,
    operands: Sequence,
    traced_operands: Sequence,
    names: Mapping[int, int],
) -> str | None:
    if eqn.primitive is not new.primitive or len(operands) != len(traced_operands):
        return ""
    order = list(range(len(operands)))
    if eqn.primitive.name == "scan":
        order = _order_of_constants(eqn, operands, traced_operands, names)
    for expected, position in zip(operands, order, strict=True):
        operand = traced_operands[position]
        if not _same_value(expected, operand, names):
            if isinstance(expected, np.ndarray) and isinstance(operand, np.ndarray):
                if expected.ndim == 0 and operand.ndim == 0:
                    return f": {operand:g} for {expected:g}"
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
    eqn: Any, operands: Sequence, traced_operands: Sequence, names: Mapping[int, int]
) -> list[int]:
    """Matches what a scan's body closes over, which JAX lists in the order of use."""
    consts, _ = scan_numbers(eqn.params)
    free = list(range(consts))
    order = []
    for expected in operands[:consts]:
        same = [i for i in free if _same_value(expected, traced_operands[i], names)]
        order.append(same[0] if same else free[0])
        free.remove(order[-1])
    return order + list(range(consts, len(operands)))


def _same_value(first: Any, second: Any, names: Mapping[int, int]) -> bool:
    if isinstance(first, int) or isinstance(second, int):
        return names.get(first, None) == second if isinstance(first, int) else False
    return (
        first.shape == second.shape
        and first.dtype == second.dtype
        and bool(np.array_equal(first, second, equal_nan=first.dtype.kind == "f"))
    )


def _same_parameter(first: Any, second: Any, order: Sequence[int]) -> bool:
    if _is_program(first) and _is_program(second):
        inputs = len(open_program(first)[0].invars)
        return (
            difference(first, second, order if len(order) == inputs else None) is None
        )
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)):
        return len(first) == len(second) and all(
            _same_parameter(a, b, order) for a, b in zip(first, second, strict=True)
        )
    if callable(first) and callable(second):
        return True
    # Texts are compared too, since a fill value that is NaN differs from itself.
    return bool(np.all(first == second)) or repr(first) == repr(second)


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
