"""Differentiates forward, where every function has a forward rule, and says where not.

A function of `jax.custom_vjp` has a reverse rule alone. JAX says so only when a program
is lowered, too late to take another way: until then the derivative that is lacking
stands in the program as an equation, by which it is found.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from gradflow_jax.programs.calls import open_program
from gradflow_jax.trees import ArrayTree

_WITHOUT_FORWARD_RULE = "custom_lin"


def derivative_along(
    fn: Callable[[ArrayTree], Any], point: ArrayTree, direction: ArrayTree
) -> Any:
    """Returns the derivative of a function at a point in a direction, by `jax.jvp`.

    Args:
        fn: of a tree of arrays.
        point: where it is differentiated.
        direction: a tree like `point`, of its dtypes.

    Returns:
        What `fn` returns, of derivatives; None if a part of it has no forward rule.
    """

    def differentiate(point: ArrayTree, direction: ArrayTree) -> Any:
        return jax.jvp(fn, (point,), (direction,))[1]

    # What was traced is run, so that nothing is traced twice.
    program, shapes = jax.make_jaxpr(differentiate, return_shape=True)(point, direction)
    if any(
        eqn.primitive.name == _WITHOUT_FORWARD_RULE
        for eqn in _all_equations(program.jaxpr)
    ):
        return None
    results = jaxpr_as_fun(program)(*jax.tree.leaves((point, direction)))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _all_equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """Yields the equations of a program and of those that it calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda node: isinstance(node, _PROGRAMS)
        ):
            if isinstance(value, _PROGRAMS):
                yield from _all_equations(open_program(value)[0])


_PROGRAMS = (ClosedJaxpr, Jaxpr)
