"""Where signals pass the primitives of a program.

A rule takes an equation and the signals of its operands, and returns for each result
where it can be other than zero and where the input reaches it. `unknown` is the rule of
every other primitive: each number of a result depends on all of each operand.

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

from gradflow_jax.connectivity.products import (
    conv_general_dilated,
    divide,
    dot_general,
    multiply,
)
from gradflow_jax.connectivity.signals import Indicators, Signal, each, live, live_sum
from gradflow_jax.programs.rules import SIGNAL_RULES
from gradflow_jax.structured.coupling.pointwise import ELEMENTWISE
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


def _sum_along(eqn: Any, array: jax.Array) -> jax.Array:
    total = jnp.sum(array, eqn.params.get("dimension", -1), keepdims=True)
    return jnp.broadcast_to(total, eqn.outvars[0].aval.shape)


def look_up(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Reads the indicators of a table at the places where its numbers are read.

    Where the places are no constants a result may be read anywhere along the axes that
    they index, and depends on all that stands there. Where the input reaches a place,
    it reaches what is read there.
    """
    table, *places = operands
    shape, sizes = table.nonzero.shape, eqn.params["slice_sizes"]
    indices = [place.constant for place in places]
    numbers = eqn.params.get("dimension_numbers")
    axes = range(len(shape)) if numbers is None else numbers.start_index_map
    summed_axes: tuple[int, ...] = ()
    if any(index is None for index in indices):
        # Any indices will do: along the summed axes the same stands at all of them.
        indices = [
            np.zeros(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars[1:]
        ]
        # A slice of a whole axis can only start at its beginning.
        summed_axes = tuple(i for i in axes if sizes[i] != shape[i])
    params = dict(eqn.params)
    if "fill_value" in params:
        # Outside of the table stands no signal, where the program may fill in NaN.
        params["fill_value"] = 0

    def read(array: jax.Array) -> jax.Array:
        total = jnp.sum(array, summed_axes, keepdims=True)
        table_of_sums = live(jnp.broadcast_to(total, shape))
        return eqn.primitive.bind(table_of_sums, *indices, **params)

    ((nonzero, reached),) = each(read, [table])
    place_reached = [place.reached for place in places if place.reached is not None]
    if place_reached:
        any_place = live(sum(jnp.sum(array) for array in place_reached))
        by_places = any_place * read(table.factor)
        reached = live(by_places if reached is None else by_places + reached)
    return [(nonzero, reached)]


def update(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Puts indicators in the places of others, if these places are constants."""
    table, new, *places = operands
    if any(place.constant is None for place in places):
        return unknown(eqn, operands)
    indices = [place.constant for place in places]
    return each(
        lambda *arrays: eqn.primitive.bind(*arrays, *indices, **eqn.params),
        [table, new],
    )


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
    return [
        (
            jnp.ones(atom.aval.shape, jnp.float32),
            None if reached is None else jnp.broadcast_to(reached, atom.aval.shape),
        )
        for atom in eqn.outvars
    ]


SIGNAL_RULES.fill(
    {
        **dict.fromkeys(ELEMENTWISE, elementwise),
        **dict.fromkeys(
            """copy copy_p device_put mesh_cast name optimization_barrier pvary
        sharding_constraint stop_gradient""".split(),
            identity,
        ),
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
        **dict.fromkeys(("sort", "top_k"), _rule_of_sets(_sum_along)),
        "mul": multiply,
        "div": divide,
        "dot_general": dot_general,
        "conv_general_dilated": conv_general_dilated,
        "select_n": select_n,
        **dict.fromkeys(("gather", "dynamic_slice"), look_up),
        "dynamic_update_slice": update,
    }
)
