"""Reads a program for its paths: signals instead of numbers, equation by equation.

The reader goes through a program as `jax.core.eval_jaxpr` does, with a `Signal` in
place of each value. It does one of four things with an equation:

    operands are constants   it is evaluated, and its results are constants, unless it
                             calls back to Python or is too large
    it calls a program       that is read in its place; of branches the one that a
                             constant chooses, or else all of them
    it is a scan             its body is read once, and the reading is scanned
    else                     the rule of its primitive, or `signals.unknown`

Where the operands also have the numbers of one run of the model, the results have them
too, and say where constants are carried on (`_add_numbers`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from gradflow_jax.connectivity import rules
from gradflow_jax.connectivity.rules import Rule
from gradflow_jax.connectivity.signals import (
    Indicators,
    Signal,
    constant_signal,
    gate,
    reached_of,
    unknown,
)
from gradflow_jax.programs.calls import (
    CALLS,
    LOOPS_AND_BRANCHES,
    callee_of,
    open_program,
    scan_numbers,
)
from gradflow_jax.programs.constants import Allowance, evaluate_equation
from gradflow_jax.programs.rules import COUPLING_RULES, SIGNAL_RULES
from gradflow_jax.structured.coupling.pointwise import elementwise as couple_by_index

PROGRAMS = CALLS | LOOPS_AND_BRANCHES
# Constants as large as the signals beside them may be held, such as a causal mask.
_LARGEST, _HOLDING = 1 << 24, 1 << 26


class Reader:
    """Reads programs.

    Attributes:
        guessed: the primitives met without a rule, of which every result counts as
            depending on every operand.
        allowance: how many constants may still be evaluated.
    """

    def __init__(self) -> None:
        self.guessed: set[str] = set()
        self.allowance = Allowance(_HOLDING)

    def begin(self) -> None:
        """Begins another program, in which as many constants may be evaluated."""
        self.allowance = Allowance(_HOLDING)

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
        signals = dict(zip(jaxpr.invars, operands, strict=True))
        signals.update(zip(jaxpr.constvars, map(constant_signal, consts), strict=True))

        def signal_of(atom: Any) -> Signal:
            if isinstance(atom, Literal):
                dtype = jnp.result_type(atom.aval)
                return constant_signal(np.asarray(atom.val, dtype))
            return signals[atom]

        for eqn in jaxpr.eqns:
            inputs = [signal_of(atom) for atom in eqn.invars]
            values = self._fold(eqn, inputs)
            if values is None:
                outputs = self._read_equation(eqn, inputs)
            else:
                outputs = [constant_signal(value) for value in values]
            signals.update(zip(eqn.outvars, outputs, strict=True))
        return [signal_of(atom) for atom in jaxpr.outvars]

    def _fold(self, eqn: JaxprEqn, operands: Sequence[Signal]) -> Sequence[Any] | None:
        """Evaluates an equation whose operands are constants, also inside of a trace.

        Returns None of others, and of what an analysis does not run.
        """
        constants = [signal.constant for signal in operands]
        if eqn.primitive.name in PROGRAMS or any(value is None for value in constants):
            return None
        return evaluate_equation(eqn, constants, self.allowance, _LARGEST)

    def _read_equation(self, eqn: JaxprEqn, operands: Sequence[Signal]) -> list[Signal]:
        name = eqn.primitive.name
        if name == "scan":
            return self._read_scan(eqn, operands)
        if name == "cond" and operands[0].constant is not None:
            # As in JAX, an index outside of the branches chooses the nearest.
            last = len(eqn.params["branches"]) - 1
            number = int(np.clip(operands[0].constant, 0, last))
            return self.read(
                *open_program(eqn.params["branches"][number]), operands[1:]
            )
        if name in CALLS:
            return self.read(*open_program(callee_of(eqn.params)), operands)
        rule = self._rule_of(name)
        indicators = rule(eqn, operands)
        if _have_numbers(operands):
            return _add_numbers(eqn, operands, indicators, rule)
        return [Signal(nonzero, reached) for nonzero, reached in indicators]

    def _rule_of(self, name: str) -> Rule:
        if name == "cond":
            return self._read_branches
        if name in SIGNAL_RULES:
            return SIGNAL_RULES[name]
        # A user who registered a primitive as one that couples index by index need not
        # say once more that signals pass it so.
        if COUPLING_RULES.get(name) is couple_by_index:
            return rules.elementwise
        self.guessed.add(name)
        return unknown

    def _read_branches(
        self, eqn: JaxprEqn, operands: Sequence[Signal]
    ) -> list[Indicators]:
        """Reads all branches of a choice that is no constant; it is a rule."""
        # Without numbers each branch is read for its indicators alone: `_add_numbers`
        # evaluates the choice once, as a whole.
        which, *inputs = (
            signal._replace(number=None, carried=None) for signal in operands
        )
        results = [
            self.read(*open_program(branch), inputs)
            for branch in eqn.params["branches"]
        ]
        return rules.branches(which, results)

    def _read_scan(self, eqn: JaxprEqn, operands: Sequence[Signal]) -> list[Signal]:
        """Reads a loop's body once, and runs what was read as often as the loop runs.

        The signals of the carries are carried, since the input may reach a carry from
        some step on: they need the same parts before and after each step.
        """
        const_count, carry_count = scan_numbers(eqn.params)
        if not _have_numbers(operands):
            # A loop has numbers in all of its operands or in none.
            operands = [signal._replace(number=None) for signal in operands]
        consts = operands[:const_count]
        first_carry = [
            _make_carry(signal)
            for signal in operands[const_count : const_count + carry_count]
        ]
        # Each step reads another slice of a stacked constant, and as a tracer.
        stacked = [
            signal._replace(constant=None)
            for signal in operands[const_count + carry_count :]
        ]

        def read_step(carry: list[Signal], slices: list[Signal]) -> tuple[Any, Any]:
            jaxpr, values = open_program(eqn.params["jaxpr"])
            results = self.read(jaxpr, values, [*consts, *carry, *slices])
            next_carry = [_make_carry(signal) for signal in results[:carry_count]]
            outputs = [
                signal._replace(constant=None) for signal in results[carry_count:]
            ]
            return next_carry, outputs

        length, reverse = eqn.params["length"], eqn.params["reverse"]
        last_carry, outputs = jax.lax.scan(
            read_step, first_carry, stacked, length, reverse
        )
        return [*last_carry, *outputs]


def _have_numbers(signals: Sequence[Signal]) -> bool:
    return all(signal.number is not None for signal in signals)


def _evaluate(eqn: JaxprEqn, numbers: Sequence[Any]) -> Sequence[Any]:
    results = eqn.primitive.bind(*numbers, **eqn.params)
    return results if eqn.primitive.multiple_results else [results]


def _make_carry(signal: Signal) -> Signal:
    """Returns a signal with the parts that it may have at any step of a loop."""
    carried = signal.carried
    if signal.number is not None and carried is None:
        carried = jnp.zeros_like(signal.nonzero)
    return signal._replace(reached=reached_of(signal), constant=None, carried=carried)


def _add_numbers(
    eqn: JaxprEqn,
    operands: Sequence[Signal],
    indicators: Sequence[Indicators],
    rule: Rule,
) -> list[Signal]:
    """Adds the numbers of a run, and where a signal or a constant is carried on.

    A value that the input does not reach is the same in every run, so its number says
    whether it is zero. What is carried on is told by the same rule, asked a second time
    about operands that count as reached where something is carried (`carried`), and as
    nonzero where their number is not zero. A result carries where that arrives, if it
    is reached or its own number is not zero: relu(b) with b < 0 carries nothing on.
    """
    numbers = _evaluate(eqn, [signal.number for signal in operands])
    carrying = [
        signal._replace(
            nonzero=gate(signal.nonzero, _is_nonzero(signal)), reached=signal.carried
        )
        for signal in operands
    ]
    results = []
    for (nonzero, reached), number, (_, arriving) in zip(
        indicators, numbers, rule(eqn, carrying), strict=True
    ):
        carried = None
        if reached is not None and arriving is not None:
            is_nonzero = _is_nonzero(Signal(nonzero, number=number))
            carried = gate(arriving, jnp.maximum(reached, is_nonzero))
        results.append(Signal(nonzero, reached, None, number, carried))
    return results


def _is_nonzero(signal: Signal) -> jax.Array:
    """Returns 1.0 where a value's number in the run is not zero."""
    if jnp.issubdtype(signal.number.dtype, jax.dtypes.extended):
        # A random key has no number to compare with zero.
        return signal.nonzero
    return jnp.asarray(signal.number != 0, jnp.float32)
