"""What is known of a value where a program is read for its paths, and thresholds.

Of each number in a value two things are known, as 1.0 or 0.0: whether it can be other
than zero (`nonzero`), and whether the input reaches it (`reached`). A product lets a
signal through where the one factor is reached and the other can be other than zero; a
sum where any term is reached. So both are polynomials without negative coefficients in
the masks, and a weight is on a path exactly where the derivative of what is reached at
the output, by its mask, is positive. Both ways every sum is cut to 1.0 or 0.0 at once:
counts neither overflow nor vanish.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Signal(NamedTuple):
    """What is known of a value.

    Attributes:
        nonzero: 1.0 where it can be other than zero, float32 of its shape.
        reached: 1.0 where the input reaches it; None where it is computed from
            parameters and constants alone. Nowhere without `nonzero`.
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

        Where it is reached itself the weights behind it are on its own path, and not
        on that of what it multiplies.
        """
        if self.reached is None:
            return self.nonzero
        return jnp.where(self.reached > 0.5, 1.0, self.nonzero)


def constant_signal(value: Any) -> Signal:
    """Returns the signal of a value that neither inputs nor parameters make."""
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended):  # a random key
        nonzero = jnp.ones(jnp.shape(value), jnp.float32)
    else:
        nonzero = jnp.asarray(np.asarray(value) != 0, jnp.float32)
    return Signal(nonzero, constant=value, number=value)


@jax.custom_vjp
def live(count: jax.Array) -> jax.Array:
    """Returns 1.0 where a count is positive, 0.0 where it is zero, and so backwards.

    Counts are whole numbers: ½ tells them apart even where a device's convolution
    rounds.
    """
    return (count > 0.5).astype(jnp.float32)


live.defvjp(lambda count: (live(count), None), lambda _, count: (live(count),))


@jax.custom_vjp
def gated(count: jax.Array, open_: jax.Array) -> jax.Array:
    """Returns `open_`, 0.0 or 1.0; backwards what comes passes where that is 1.0."""
    return jnp.broadcast_to(open_, count.shape)


def _gated_backwards(open_: jax.Array, count: jax.Array) -> tuple[Any, Any]:
    return live(count) * open_, jnp.zeros_like(open_)


gated.defvjp(lambda count, open_: (gated(count, open_), open_), _gated_backwards)


def each(
    function: Callable[..., Any], operands: Sequence[Signal]
) -> list[tuple[jax.Array, jax.Array | None]]:
    """Returns the nonzero and the reached of what moves numbers without changing them.

    Args:
        function: moves arrays; returns one or a list of them.
        operands: what it moves.
    """
    nonzero = _listed(function(*(own.nonzero for own in operands)))
    if all(own.reached is None for own in operands):
        return [(one, None) for one in nonzero]
    reached = _listed(function(*map(reached_of, operands)))
    return list(zip(nonzero, reached, strict=True))


def reached_of(own: Signal) -> jax.Array:
    """Returns where the input reaches a value, 0.0 where it is none of its kind."""
    return jnp.zeros_like(own.nonzero) if own.reached is None else own.reached


def _listed(found: Any) -> list[jax.Array]:
    return list(found) if isinstance(found, (list, tuple)) else [found]
