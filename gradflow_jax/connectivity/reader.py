"""Reads a program for its paths: signals instead of numbers, equation by equation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from gradflow_jax.connectivity import rules
from gradflow_jax.connectivity.rules import Found, Rule
from gradflow_jax.connectivity.signals import Signal, constant_signal, gated, reached_of
from gradflow_jax.programs.calls import (
    CALLS,
    LOOPS_AND_BRANCHES,
    called,
    opened,
    scan_numbers,
)
from gradflow_jax.programs.rules import COUPLING_RULES, SIGNAL_RULES
from gradflow_jax.structured.coupling.pointwise import elementwise as by_index

PROGRAMS = CALLS | LOOPS_AND_BRANCHES


class Reader:
    """Reads programs.

    Attributes:
        guessed: the primitives met without a rule, of which every result counts as
            depending on every operand.
    """

    def __init__(self) -> None:
        self.guessed: set[str] = set()

    def read(
        self, jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Signal]
    ) -> list[Signal]:
        """Returns the signals of a program's results.

        Args:
            jaxpr: its equations.
            consts: the values of its constvars.
            operands: the signals of its inputs. If all of them have numbers, so have
                the results.
        """
        known = dict(zip(jaxpr.invars, operands, strict=True))
        known.update(zip(jaxpr.constvars, map(constant_signal, consts), strict=True))

        def signal(atom: Any) -> Signal:
            if isinstance(atom, Literal):
                kind = jnp.result_type(atom.aval)
                return constant_signal(np.asarray(atom.val, kind))
            return known[atom]

        for eqn in jaxpr.eqns:
            given = [signal(atom) for atom in eqn.invars]
            if eqn.primitive.name not in PROGRAMS and _foldable(given):
                results = [constant_signal(value) for value in _folded(eqn, given)]
            else:
                results = self._results(eqn, given)
            known.update(zip(eqn.outvars, results, strict=True))
        return [signal(atom) for atom in jaxpr.outvars]

    def _results(self, eqn: JaxprEqn, given: Sequence[Signal]) -> list[Signal]:
        name = eqn.primitive.name
        if name == "scan":
            return self._scan(eqn, given)
        if name == "cond" and given[0].constant is not None:
            last = len(eqn.params["branches"]) - 1
            taken = eqn.params["branches"][int(np.clip(given[0].constant, 0, last))]
            return self.read(*opened(taken), given[1:])
        if name in CALLS:
            return self.read(*opened(called(eqn.params)), given)
        rule = self._rule(name)
        found = rule(eqn, given)
        if _numbered(given):
            return _with_numbers(eqn, given, found, rule)
        return [Signal(*pair) for pair in found]

    def _rule(self, name: str) -> Rule:
        if name == "cond":
            return self._cond
        if name in SIGNAL_RULES:
            return SIGNAL_RULES[name]
        if (
            COUPLING_RULES.get(name) is by_index
        ):  # a user said so by gf.structured.register_rule
            return rules.elementwise
        self.guessed.add(name)
        return rules.unknown

    def _cond(self, eqn: JaxprEqn, given: Sequence[Signal]) -> Found:
        which, *rest = (own._replace(number=None, carried=None) for own in given)
        results = [self.read(*opened(one), rest) for one in eqn.params["branches"]]
        return rules.branches(which, results)

    def _scan(self, eqn: JaxprEqn, given: Sequence[Signal]) -> list[Signal]:
        """Reads a loop's body once, and runs what was read as often as the loop runs.

        Whether the input reaches what is carried may differ from step to step.
        """
        consts, carries = scan_numbers(eqn.params)
        if not _numbered(given):
            given = [own._replace(number=None) for own in given]
        closed, carried, stacked = (
            given[:consts],
            [_carry(own) for own in given[consts : consts + carries]],
            [own._replace(constant=None) for own in given[consts + carries :]],
        )

        def body(carry: list[Signal], each: list[Signal]) -> tuple[Any, Any]:
            jaxpr, values = opened(eqn.params["jaxpr"])
            results = self.read(jaxpr, values, [*closed, *carry, *each])
            made = [own._replace(constant=None) for own in results[carries:]]
            return [_carry(own) for own in results[:carries]], made

        length, reverse = eqn.params["length"], eqn.params["reverse"]
        last, made = jax.lax.scan(body, carried, stacked, length, reverse)
        return [*last, *made]


def _foldable(given: Sequence[Signal]) -> bool:
    return all(own.constant is not None for own in given)


def _folded(eqn: JaxprEqn, given: Sequence[Signal]) -> Sequence[Any]:
    """Computes what depends on constants alone."""
    with jax.ensure_compile_time_eval():
        values = [own.constant for own in given]
        return _bound(eqn, values)


def _bound(eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
    found = eqn.primitive.bind(*values, **eqn.params)
    return found if eqn.primitive.multiple_results else [found]


def _carry(own: Signal) -> Signal:
    """Returns a signal of the kind that a loop can carry."""
    carried = own.carried
    if own.number is not None and carried is None:
        carried = jnp.zeros_like(own.nonzero)
    return own._replace(reached=reached_of(own), constant=None, carried=carried)


def _numbered(given: Sequence[Signal]) -> bool:
    return all(own.number is not None for own in given)


def _with_numbers(
    eqn: JaxprEqn, given: Sequence[Signal], found: Found, rule: Callable[..., Found]
) -> list[Signal]:
    """Adds the numbers of a run, and where a signal or a constant is carried on.

    A value that the input does not reach is a constant, whose number says whether it
    is zero; what carries it is told by the same rule.
    """
    numbers = _bound(eqn, [own.number for own in given])
    arriving = [
        own._replace(nonzero=gated(own.nonzero, _stands(own)), reached=own.carried)
        for own in given
    ]
    results = []
    for (nonzero, reached), number, (_, count) in zip(
        found, numbers, rule(eqn, arriving), strict=True
    ):
        carried = None
        if reached is not None and count is not None:
            stands = _stands(Signal(nonzero, number=number))
            carried = gated(count, jnp.maximum(reached, stands))
        results.append(Signal(nonzero, reached, None, number, carried))
    return results


def _stands(own: Signal) -> jax.Array:
    """Returns 1.0 where a value's number is not zero in the run."""
    if jnp.issubdtype(own.number.dtype, jax.dtypes.extended):  # a random key
        return own.nonzero
    return jnp.asarray(own.number != 0, jnp.float32)
