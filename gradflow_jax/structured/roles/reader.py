"""Walks through a program with the origins of its values in place of numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from gradflow_jax.programs.calls import (
    CALLS,
    callee_of,
    open_program,
    scan_numbers,
)
from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling.pointwise import elementwise as couple_by_index
from gradflow_jax.structured.roles import moves, products
from gradflow_jax.structured.roles.moves import overlay
from gradflow_jax.structured.roles.pieces import Piece, Value, plain, size_of
from gradflow_jax.structured.roles.products import shape_of
from gradflow_jax.structured.roles.uses import Uses

RULES = moves.RULES | products.RULES
# What a loop carries gains origins with each pass, and there are few: a loop that needs
# more passes goes back and forth between ways to write one dimension.
_MOST_PASSES = 8


def read(
    jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Value], uses: Uses
) -> list[Value]:
    """Returns the values of a program's results, and notes what it does to leaves."""
    values = dict(zip(jaxpr.invars, operands, strict=True))
    for variable, const in zip(jaxpr.constvars, consts, strict=True):
        values[variable] = plain(np.shape(const), False)

    def value_of(atom: Any) -> Value:
        return (
            plain(shape_of(atom), False) if isinstance(atom, Literal) else values[atom]
        )

    for eqn in jaxpr.eqns:
        inputs = [value_of(atom) for atom in eqn.invars]
        values.update(zip(eqn.outvars, _read_equation(eqn, inputs, uses), strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]


def _read_equation(
    eqn: JaxprEqn, operands: Sequence[Value], uses: Uses
) -> Sequence[Value]:
    name = eqn.primitive.name
    if name in CALLS:
        return read(*open_program(callee_of(eqn.params)), operands, uses)
    if name in _CONTROL:
        return _CONTROL[name](eqn, operands, uses)
    if name in RULES:
        return RULES[name](eqn, operands, uses)
    if COUPLING_RULES.get(name) is couple_by_index:
        return moves.elementwise(eqn, operands, uses)
    return moves.give_up(eqn, operands, uses)


def _read_scan(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    """The leading axis of what a scan takes apart is a stack."""
    const_count, carry_count = scan_numbers(eqn.params)
    consts, carries = operands[:const_count], operands[const_count:][:carry_count]
    slices = []
    for value in operands[const_count + carry_count :]:
        if value.is_weight:
            uses.say("stack", value.dims[:1])
        slices.append(Value(value.dims[1:], value.data))
    program = open_program(eqn.params["jaxpr"])
    results = _read_loop(program, consts, carries, slices, uses)
    steps = (Piece(eqn.params["length"]),)
    return [
        *results[:carry_count],
        *(Value((steps, *value.dims), value.data) for value in results[carry_count:]),
    ]


def _read_while(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    conds, bodies = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    consts, carries = operands[conds : conds + bodies], operands[conds + bodies :]
    program = open_program(eqn.params["body_jaxpr"])
    results = _read_loop(program, consts, carries, [], uses)
    condition = open_program(eqn.params["cond_jaxpr"])
    (goes_on,) = read(*condition, [*operands[:conds], *results], uses)
    return [Value(value.dims, value.data or goes_on.data) for value in results]


def _read_loop(
    program: tuple[Any, Sequence[Any]],
    consts: Sequence[Value],
    carries: Sequence[Value],
    slices: Sequence[Value],
    uses: Uses,
) -> list[Value]:
    """Reads a loop's body until what it carries is what it carried before."""
    carried = list(carries)
    for _ in range(_MOST_PASSES):
        # The uses count of the last pass alone: before, a carry may seem constant.
        results = read(*program, [*consts, *carried, *slices], Uses())
        grown = [
            overlay([before, after], [*map(size_of, before.dims)], Uses())
            for before, after in zip(carried, results, strict=False)
        ]
        if grown == carried:
            break
        carried = grown
    else:
        carried = [plain(map(size_of, value.dims), True) for value in carried]
    for before, after in zip(carries, carried, strict=True):
        overlay([before, after], [*map(size_of, before.dims)], uses)
    results = read(*program, [*consts, *carried, *slices], uses)
    return [*carried, *results[len(carried) :]]


def _read_branches(eqn: JaxprEqn, operands: Sequence[Value], uses: Uses) -> list[Value]:
    which, *inputs = operands
    branches = [
        read(*open_program(branch), inputs, uses) for branch in eqn.params["branches"]
    ]
    joined = []
    for atom, values in zip(eqn.outvars, zip(*branches, strict=True), strict=True):
        value = overlay(values, shape_of(atom), uses)
        joined.append(Value(value.dims, value.data or which.data))
    return joined


_CONTROL = {"scan": _read_scan, "while": _read_while, "cond": _read_branches}
