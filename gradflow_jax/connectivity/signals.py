"""What is known of a value where a program is read for its paths.

Two things are known of each number in a value, as 1.0 or 0.0: whether it can be other
than zero (`nonzero`), and whether the input reaches it (`reached`). A product lets a
signal through where the one factor is reached and the other can be other than zero; a
sum where any term is reached. So both are polynomials without negative coefficients in
the masks, and a weight is on a path exactly where the derivative of what is reached at
the output, by its mask, is positive.

For y = w₃ · (w₁ x₁ + w₂ x₂) with masks m, the output is reached by m₃ (m₁ + m₂). Its
derivatives are m₃ by m₁, m₃ by m₂ and m₁ + m₂ by m₃: w₁ is on a path if it is kept and
w₃ is, and w₃ if it is kept and w₁ or w₂ is.

Counts of paths grow exponentially with depth, so every sum is cut to 1.0 or 0.0 at
once, forwards and backwards (`live`): they neither overflow nor vanish.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Indicators = tuple[jax.Array, jax.Array | None]
"""The `nonzero` and the `reached` of a value, as in `Signal`."""


class Signal(NamedTuple):
    """What is known of a value.

    Attributes:
        nonzero: 1.0 where it can be other than zero, float32 of its shape.
        reached: 1.0 where the input reaches it; None where it is computed from
            parameters and constants alone. It is 1.0 only where `nonzero` is.
        constant: its numbers, where neither inputs nor parameters make them.
        number: its numbers in one run of the model, where they are known.
        carried: 1.0 where a signal arrives or a constant other than zero stands, where
            numbers are asked for.
    """

    nonzero: jax.Array
    reached: jax.Array | None = None
    constant: Any = None
    number: Any = None
    carried: jax.Array | None = None

    @property
    def factor(self) -> jax.Array:
        """1.0 where it lets through what it is multiplied by.

        Where the value is reached itself, the factor is the constant 1.0, which has no
        derivative: the weights behind it are on its own path, and not on that of what
        it multiplies.
        """
        if self.reached is None:
            return self.nonzero
        return jnp.where(self.reached > 0.5, 1.0, self.nonzero)


def constant_signal(value: Any) -> Signal:
    """Returns the signal of a value that neither inputs nor parameters make."""
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended):
        # A random key cannot be compared with zero.
        nonzero = jnp.ones(jnp.shape(value), jnp.float32)
    else:
        nonzero = jnp.asarray(np.asarray(value) != 0, jnp.float32)
    return Signal(nonzero, constant=value, number=value)


@jax.custom_vjp
def live(count: jax.Array) -> jax.Array:
    """Returns 1.0 where a count is positive and 0.0 where it is zero.

    Its derivative does the same to the count that comes back, instead of the step's
    derivative, which is zero. Counts are whole numbers: ½ tells 0 and 1 apart even
    where a device's convolution rounds.
    """
    return (count > 0.5).astype(jnp.float32)


live.defvjp(lambda count: (live(count), None), lambda _, count: (live(count),))


def live_sum(terms: Sequence[jax.Array]) -> jax.Array | None:
    """Returns 1.0 where any term is positive; None where there are no terms."""
    return live(sum(terms[1:], terms[0])) if terms else None


@jax.custom_vjp
def gate(count: jax.Array, open_: jax.Array) -> jax.Array:
    """Returns `open_`, 0.0 or 1.0; backwards, counts pass to `count` where that is 1.0.

    It replaces what is known of a value in general by what is known of it in one run,
    and leaves the weights on the way back.
    """
    return jnp.broadcast_to(open_, count.shape)


def _gate_backwards(open_: jax.Array, count: jax.Array) -> tuple[Any, Any]:
    return live(count) * open_, jnp.zeros_like(open_)


gate.defvjp(lambda count, open_: (gate(count, open_), open_), _gate_backwards)


def each(function: Callable[..., Any], operands: Sequence[Signal]) -> list[Indicators]:
    """Applies a function that moves numbers, such as a reshape, to both indicators.

    Args:
        function: moves arrays; returns one or a list of them.
        operands: what it moves.
    """
    nonzero = _as_list(function(*(signal.nonzero for signal in operands)))
    if all(signal.reached is None for signal in operands):
        return [(array, None) for array in nonzero]
    reached = _as_list(function(*map(reached_of, operands)))
    return list(zip(nonzero, reached, strict=True))


def reached_of(signal: Signal) -> jax.Array:
    """Returns where the input reaches a value: zeros where it has no `reached`."""
    if signal.reached is None:
        return jnp.zeros_like(signal.nonzero)
    return signal.reached


def _as_list(arrays: Any) -> list[jax.Array]:
    return list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]


def unknown(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Lets every number of every operand reach every number of a result."""
    totals = [
        jnp.sum(signal.reached) for signal in operands if signal.reached is not None
    ]
    reached = None
    if totals:
        # The factors add nothing to the value. They are here for its derivative: the
        # weights that are operands count as multiplied by the signal.
        factors = live(jnp.asarray(sum(jnp.sum(signal.factor) for signal in operands)))
        reached = live(live(sum(totals)) * (1.0 + factors))
    # It is 1.0 whatever the operands are, and a function of them for its derivative:
    # weights that are operands count where the result is multiplied by a signal.
    operands_nonzero = sum(jnp.sum(signal.nonzero) for signal in operands)
    nonzero = live(1.0 + jnp.asarray(operands_nonzero, jnp.float32))
    return [
        (
            jnp.broadcast_to(nonzero, atom.aval.shape),
            None if reached is None else jnp.broadcast_to(reached, atom.aval.shape),
        )
        for atom in eqn.outvars
    ]
