"""Where signals pass the primitives of a program.

A rule takes an equation and what is known of its operands, and returns for each result
where it can be other than zero and where the input reaches it. Beyond the rules there
is one for all: a result depends on every operand.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.connectivity.signals import Signal, each, live
from gradflow_jax.programs.rules import SIGNAL_RULES
from gradflow_jax.structured.coupling.pointwise import ELEMENTWISE
from gradflow_jax.structured.proof.removed_values import evaluate

Found = list[tuple[jax.Array, jax.Array | None]]
Rule = Callable[[Any, Sequence[Signal]], Found]


def bilinear(
    function: Callable[..., jax.Array], a: Signal, b: Signal
) -> tuple[jax.Array, jax.Array | None]:
    """Products, summed or not: one factor is reached, the other not always zero."""
    nonzero = live(function(a.nonzero, b.nonzero))
    terms = []
    if a.reached is not None:
        terms.append(function(a.reached, b.factor))
    if b.reached is not None:
        terms.append(function(a.factor, b.reached))
    return nonzero, live(sum(terms[1:], terms[0])) if terms else None


def multiply(eqn: Any, operands: Sequence[Signal]) -> Found:
    """A signal passes where the other factor is not always zero."""
    return [bilinear(jnp.multiply, *operands)]


def divide(eqn: Any, operands: Sequence[Signal]) -> Found:
    """As a product with 1 / b, which is nowhere zero."""
    above, below = operands
    inverse = below._replace(nonzero=jnp.ones_like(below.nonzero))
    return [bilinear(jnp.multiply, above, inverse)]


def dot_general(eqn: Any, operands: Sequence[Signal]) -> Found:
    """Sums of products."""
    numbers = eqn.params["dimension_numbers"]
    return [
        bilinear(
            lambda a, b: lax.dot_general(a, b, dimension_numbers=numbers), *operands
        )
    ]


def conv_general_dilated(eqn: Any, operands: Sequence[Signal]) -> Found:
    """Sums of products."""
    names = """window_strides padding lhs_dilation rhs_dilation dimension_numbers
    feature_group_count batch_group_count""".split()
    options = {name: eqn.params[name] for name in names}
    return [
        bilinear(
            lambda a, b: lax.conv_general_dilated(a, b, **options),
            *operands,
        )
    ]


def elementwise(eqn: Any, operands: Sequence[Signal]) -> Found:
    """Any operand passes; of zeros it makes what the primitive makes of zeros."""
    shape = eqn.outvars[0].aval.shape
    unknown = [own for own in operands if own.constant is None]
    nonzero = [own.nonzero for own in unknown]
    reached = [own.reached for own in operands if own.reached is not None]
    return [
        (
            live(sum(nonzero, _of_zeros(eqn, operands))),
            live(sum(reached, jnp.zeros(shape, jnp.float32))) if reached else None,
        )
    ]


def _of_zeros(eqn: Any, operands: Sequence[Signal]) -> jax.Array:
    """Returns 1.0 where a primitive makes of zeros something else."""
    result = eqn.outvars[0].aval
    kinds = [atom.aval.dtype for atom in (*eqn.invars, *eqn.outvars)]
    if any(jnp.issubdtype(kind, jnp.complexfloating) for kind in kinds):
        return jnp.ones(result.shape, jnp.float32)
    held = [
        np.asarray(0 if own.constant is None else own.constant, atom.aval.dtype)
        for atom, own in zip(eqn.invars, operands, strict=True)
    ]
    if any(value.size == 0 for value in held):
        return jnp.zeros(result.shape, jnp.float32)
    firsts = [value.reshape(-1)[0] for value in held]
    if all(np.all(value == first) for value, first in zip(held, firsts, strict=True)):
        made = evaluate(eqn, [first.item() for first in firsts])
    else:
        whole = [np.broadcast_to(value, result.shape) for value in held]
        with jax.ensure_compile_time_eval():
            made = eqn.primitive.bind(*whole, **eqn.params)
    nonzero = jnp.asarray(np.asarray(made) != 0, jnp.float32)
    return jnp.broadcast_to(nonzero, result.shape)


def select_n(eqn: Any, operands: Sequence[Signal]) -> Found:
    """What is chosen passes; so does the choice, where there is something to choose."""
    which, *cases = operands
    if which.constant is not None:
        chosen = jnp.asarray(which.constant)
        return each(lambda *values: lax.select_n(chosen, *values), cases)
    return [_chosen(which, [(own.nonzero, own.reached, own.factor) for own in cases])]


def _chosen(which: Signal, cases: Sequence[Any]) -> tuple[Any, Any]:
    nonzero, reached, factor = zip(*cases, strict=True)
    terms = [one for one in reached if one is not None]
    if which.reached is not None:
        terms.append(which.reached * sum(factor[1:], factor[0]))
    found = live(sum(terms[1:], terms[0])) if terms else None
    return live(sum(nonzero[1:], nonzero[0])), found


def branches(which: Signal, results: Sequence[Sequence[Signal]]) -> Found:
    """Returns what any of several programs lets through of which one is chosen."""
    one = which._replace(
        reached=None if which.reached is None else live(jnp.sum(which.reached))
    )
    return [
        _chosen(one, [(own.nonzero, own.reached, own.factor) for own in cases])
        for cases in zip(*results, strict=True)
    ]


def identity(eqn: Any, operands: Sequence[Signal]) -> Found:
    """Numbers stay what and where they are."""
    return [(own.nonzero, own.reached) for own in operands]


def moved(eqn: Any, operands: Sequence[Signal]) -> Found:
    """Numbers stay what they are and go elsewhere."""
    return each(lambda *arrays: eqn.primitive.bind(*arrays, **eqn.params), operands)


def _summing(function: Callable[[Any, jax.Array], jax.Array], *, always: bool) -> Rule:
    """Makes the rule of what any number of a set reaches.

    Args:
        function: `function(eqn, array)` sums over the set.
        always: whether it makes of zeros something else.
    """

    def rule(eqn: Any, operands: Sequence[Signal]) -> Found:
        found = each(lambda *all_: live(sum(function(eqn, a) for a in all_)), operands)
        results = found * len(eqn.outvars)
        if always:
            results = [
                (jnp.ones_like(nonzero), reached) for nonzero, reached in results
            ]
        return results

    return rule


def _reduced(eqn: Any, array: jax.Array) -> jax.Array:
    return jnp.sum(array, eqn.params["axes"])


def _cumulated(eqn: Any, array: jax.Array) -> jax.Array:
    return lax.cumsum(array, eqn.params["axis"], eqn.params["reverse"])


def _windowed(eqn: Any, array: jax.Array) -> jax.Array:
    names = """window_dimensions window_strides padding base_dilation
    window_dilation""".split()
    given = [eqn.params[name] for name in names if name in eqn.params]
    return lax.reduce_window(array, 0.0, lax.add, *given)


def _along(eqn: Any, array: jax.Array) -> jax.Array:
    total = jnp.sum(array, eqn.params.get("dimension", -1), keepdims=True)
    return jnp.broadcast_to(total, eqn.outvars[0].aval.shape)


def looked_up(eqn: Any, operands: Sequence[Signal]) -> Found:
    """At constant places what stands there; elsewhere all that may be looked up."""
    table, *places = operands
    shape, sizes = table.nonzero.shape, eqn.params["slice_sizes"]
    known = [own.constant for own in places]
    numbers = eqn.params.get("dimension_numbers")
    axes = range(len(shape)) if numbers is None else numbers.start_index_map
    if any(value is None for value in known):
        known = [np.zeros(a.aval.shape, a.aval.dtype) for a in eqn.invars[1:]]
        smeared = tuple(i for i in axes if sizes[i] != shape[i])
    else:
        smeared = ()
    # What is looked up outside is 0 here, where the program may have NaN.
    outside = {"fill_value": 0} if "fill_value" in eqn.params else {}

    def taken(array: jax.Array) -> jax.Array:
        spread = jnp.broadcast_to(jnp.sum(array, smeared, keepdims=True), shape)
        return eqn.primitive.bind(live(spread), *known, **{**eqn.params, **outside})

    ((nonzero, reached),) = each(taken, [table])
    arriving = [own.reached for own in places if own.reached is not None]
    if arriving:
        where = live(sum(jnp.sum(one) for one in arriving))
        through = where * taken(table.factor)
        reached = live(through if reached is None else through + reached)
    return [(nonzero, reached)]


def updated(eqn: Any, operands: Sequence[Signal]) -> Found:
    """At constant places new numbers for old; elsewhere anything."""
    table, new, *places = operands
    if any(own.constant is None for own in places):
        return unknown(eqn, operands)
    known = [own.constant for own in places]
    return each(
        lambda *arrays: eqn.primitive.bind(*arrays, *known, **eqn.params), [table, new]
    )


def unknown(eqn: Any, operands: Sequence[Signal]) -> Found:
    """Every number of a result may depend on every number of every operand."""
    arriving = [jnp.sum(own.reached) for own in operands if own.reached is not None]
    reached = None
    if arriving:
        weights = sum(jnp.sum(own.factor) for own in operands)
        reached = live(live(sum(arriving)) * (1.0 + live(jnp.asarray(weights))))
    return [
        (
            jnp.ones(atom.aval.shape, jnp.float32),
            None if reached is None else jnp.broadcast_to(reached, atom.aval.shape),
        )
        for atom in eqn.outvars
    ]


_sums = functools.partial(_summing, always=False)

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
            moved,
        ),
        **dict.fromkeys(
            """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or
        reduce_xor""".split(),
            _sums(_reduced),
        ),
        **dict.fromkeys(("argmax", "argmin"), _summing(_reduced, always=True)),
        **dict.fromkeys("cumsum cumprod cummax cummin".split(), _sums(_cumulated)),
        "cumlogsumexp": _summing(_cumulated, always=True),
        **dict.fromkeys(
            "reduce_window_sum reduce_window_max reduce_window_min".split(),
            _sums(_windowed),
        ),
        **dict.fromkeys(("sort", "top_k"), _sums(_along)),
        "mul": multiply,
        "div": divide,
        "dot_general": dot_general,
        "conv_general_dilated": conv_general_dilated,
        "select_n": select_n,
        **dict.fromkeys(("gather", "dynamic_slice"), looked_up),
        "dynamic_update_slice": updated,
    }
)
