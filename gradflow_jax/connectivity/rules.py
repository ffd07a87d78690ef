"""Where signals pass the primitives of a program.

A rule takes an equation and the signals of its operands, and returns for each result
where it can be other than zero and where the input reaches it. `signals.unknown` is the
rule of every other primitive: each number of a result depends on all of each operand.

A rule may claim too many paths, never too few: then a weight that does nothing counts
as effective, and no weight that does something is dropped. Both indicators are sums of
products of those of the operands, cut by `live`, so that their derivatives are the
paths (see `signals`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.connectivity.indexing import look_up, scatter, update
from gradflow_jax.connectivity.products import (
    conv_general_dilated,
    divide,
    dot_general,
    multiply,
    ragged_dot_general,
)
from gradflow_jax.connectivity.signals import Indicators, Signal, each, live, live_sum
from gradflow_jax.programs.rules import SIGNAL_RULES
from gradflow_jax.structured.coupling.pointwise import ELEMENTWISE, IDENTITIES
from gradflow_jax.structured.proof.removed_values import evaluate

Rule = Callable[[Any, Sequence[Signal]], list[Indicators]]


def elementwise(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Lets every operand through, index by index.

    A result is nonzero where an operand that is no constant may be, and where the
    primitive makes something else of zeros, as cos does and sin does not.
    """
    nonzero = [signal.nonzero for signal in operands if signal.constant is None]
    reached = [signal.reached for signal in operands if signal.reached is not None]
    # Scalars may stand beside arrays: the zeros give every sum the result's shape.
    zeros = jnp.zeros(eqn.outvars[0].aval.shape, jnp.float32)
    return [
        (
            live(sum(nonzero, _result_of_zeros(eqn, operands))),
            live(sum(reached, zeros)) if reached else None,
        )
    ]


def _result_of_zeros(eqn: Any, operands: Sequence[Signal]) -> jax.Array:
    """Returns 1.0 where a primitive makes something else of zeros and its constants."""
    result = eqn.outvars[0].aval
    dtypes = [atom.aval.dtype for atom in (*eqn.invars, *eqn.outvars)]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return jnp.ones(result.shape, jnp.float32)
    arrays = [
        np.asarray(0 if signal.constant is None else signal.constant, atom.aval.dtype)
        for atom, signal in zip(eqn.invars, operands, strict=True)
    ]
    if any(array.size == 0 for array in arrays):
        return jnp.zeros(result.shape, jnp.float32)
    firsts = [array.reshape(-1)[0] for array in arrays]
    if all(np.all(array == first) for array, first in zip(arrays, firsts, strict=True)):
        # Arrays of one number each are evaluated at one index for all.
        outputs = evaluate(eqn, [first.item() for first in firsts])
    else:
        full_arrays = [np.broadcast_to(array, result.shape) for array in arrays]
        with jax.ensure_compile_time_eval():
            outputs = eqn.primitive.bind(*full_arrays, **eqn.params)
    nonzero = jnp.asarray(np.asarray(outputs) != 0, jnp.float32)
    return jnp.broadcast_to(nonzero, result.shape)


def select_n(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Lets the cases through, and the choice where there is something to choose."""
    which, *cases = operands
    if which.constant is not None:
        chosen = jnp.asarray(which.constant)
        return each(lambda *values: lax.select_n(chosen, *values), cases)
    return [_choose(which, cases)]


def _choose(which: Signal, cases: Sequence[Signal]) -> Indicators:
    """Lets any case through; and the choice, where a case is not always zero."""
    nonzero = [case.nonzero for case in cases]
    terms = [case.reached for case in cases if case.reached is not None]
    if which.reached is not None:
        factors = [case.factor for case in cases]
        terms.append(which.reached * sum(factors[1:], factors[0]))
    return live(sum(nonzero[1:], nonzero[0])), live_sum(terms)


def branches(which: Signal, results: Sequence[Sequence[Signal]]) -> list[Indicators]:
    """Lets through, of programs of which one is chosen, what any of them does.

    Args:
        which: the index of the chosen one, or a bool.
        results: the signals of the results of each program.
    """
    # A sum without axes is a scalar, which multiplies results of any shape.
    index = which._replace(
        reached=None if which.reached is None else live(jnp.sum(which.reached))
    )
    return [_choose(index, cases) for cases in zip(*results, strict=True)]


def identity(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Leaves every number what and where it is."""
    return [(signal.nonzero, signal.reached) for signal in operands]


def move(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Moves the indicators as the primitive moves the numbers."""
    return each(lambda *arrays: eqn.primitive.bind(*arrays, **eqn.params), operands)


def _rule_of_sets(
    sum_over_sets: Callable[[Any, jax.Array], jax.Array], *, keeps_zeros: bool = True
) -> Rule:
    """Makes the rule of a primitive whose every result depends on a set of numbers.

    Args:
        sum_over_sets: `sum_over_sets(eqn, array)` sums an indicator over the set of
            each number of the result.
        keeps_zeros: whether it makes zero of zeros, as a sum does and argmax does not.
    """

    def rule(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
        def sum_arrays(*arrays: jax.Array) -> jax.Array:
            return live(sum(sum_over_sets(eqn, array) for array in arrays))

        # Operands are sorted together, so each result depends on all of them.
        ((nonzero, reached),) = each(sum_arrays, operands)
        if not keeps_zeros:
            nonzero = jnp.ones_like(nonzero)
        return [(nonzero, reached)] * len(eqn.outvars)

    return rule


def _sum_reduced(eqn: Any, array: jax.Array) -> jax.Array:
    return jnp.sum(array, eqn.params["axes"])


def _sum_cumulated(eqn: Any, array: jax.Array) -> jax.Array:
    return lax.cumsum(array, eqn.params["axis"], eqn.params["reverse"])


def _sum_windows(eqn: Any, array: jax.Array) -> jax.Array:
    names = """window_dimensions window_strides padding base_dilation
    window_dilation""".split()
    # The names are in the order of the arguments of `reduce_window`.
    window = [eqn.params[name] for name in names if name in eqn.params]
    return lax.reduce_window(array, 0.0, lax.add, *window)


def _sum_ordered(eqn: Any, array: jax.Array) -> jax.Array:
    names = ("dimension", "axis", "reduction_dimension")
    # `top_k` of older versions names no axis: it takes the last.
    axis = next((eqn.params[name] for name in names if name in eqn.params), -1)
    total = jnp.sum(array, axis, keepdims=True)
    return jnp.broadcast_to(total, eqn.outvars[0].aval.shape)


def top_k(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Lets each number of an axis reach the chosen ones, and their positions."""
    values, positions = _rule_of_sets(_sum_ordered)(eqn, operands)
    # Zeros too have positions.
    return [values, (jnp.ones_like(positions[0]), positions[1])]


def _sum_transformed(eqn: Any, array: jax.Array) -> jax.Array:
    axes = range(-len(eqn.params["fft_lengths"]), 0)
    total = jnp.sum(array, tuple(axes), keepdims=True)
    return jnp.broadcast_to(total, eqn.outvars[0].aval.shape)


SIGNAL_RULES.fill(
    {
        **dict.fromkeys(ELEMENTWISE, elementwise),
        **dict.fromkeys(IDENTITIES, identity),
        **dict.fromkeys(
            """broadcast_in_dim concatenate expand_dims pad reshape rev slice split
            squeeze stack tile transpose unstack""".split(),
            move,
        ),
        **dict.fromkeys(
            """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or
        reduce_xor""".split(),
            _rule_of_sets(_sum_reduced),
        ),
        **dict.fromkeys(
            ("argmax", "argmin"), _rule_of_sets(_sum_reduced, keeps_zeros=False)
        ),
        **dict.fromkeys(
            "cumsum cumprod cummax cummin".split(), _rule_of_sets(_sum_cumulated)
        ),
        "cumlogsumexp": _rule_of_sets(_sum_cumulated, keeps_zeros=False),
        **dict.fromkeys(
            "reduce_window_sum reduce_window_max reduce_window_min".split(),
            _rule_of_sets(_sum_windows),
        ),
        "sort": _rule_of_sets(_sum_ordered),
        **dict.fromkeys(("top_k", "approx_top_k"), top_k),
        "fft": _rule_of_sets(_sum_transformed),
        "mul": multiply,
        "div": divide,
        "dot_general": dot_general,
        "ragged_dot_general": ragged_dot_general,
        "conv_general_dilated": conv_general_dilated,
        "select_n": select_n,
        **dict.fromkeys(("gather", "dynamic_slice"), look_up),
        "dynamic_update_slice": update,
        **dict.fromkeys(
            """scatter scatter-add scatter-sub scatter-mul scatter-max
        scatter-min""".split(),
            scatter,
        ),
    }
)
