"""A model as a program with symbolic axes: what is traced, and what is pinned."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.programs import comparing
from gradflow_jax.programs.calls import open_program
from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling import axes, unification
from gradflow_jax.structured.coupling.axes import Reason
from gradflow_jax.structured.coupling.frames import Frame, Source
from gradflow_jax.structured.coupling.program import Coupling
from gradflow_jax.trees import ArrayTree, describe, named_leaves


class Traced:
    """A model's program with symbolic axes.

    Attributes:
        frame: the whole program.
        leaves: by path, the shape and dtype of each leaf of the variables.
        dims: by path, the axes of each leaf.
        coupling: the marks and costs that the rules left.
        out_tree: the structure of the model's result.
    """

    def __init__(
        self, apply: Callable[..., Any], variables: ArrayTree, inputs: Sequence
    ):
        jaxpr, consts, result = trace_program(apply, variables, inputs)
        self.frame = Frame(jaxpr, consts)
        self.coupling = Coupling(COUPLING_RULES)
        self.out_tree = jax.tree.structure(result)
        named = named_leaves(variables)
        self.leaves = {path: shape_of(leaf) for path, leaf in named}
        self.dims = {
            path: tuple(axes.new(size) for size in leaf.shape)
            for path, leaf in self.leaves.items()
        }
        input_leaves = jax.tree.leaves(inputs)
        reason = Reason("it is an axis of the model's input")
        dims = [*self.dims.values()]
        dims += [
            tuple(axes.new_pinned(n, reason) for n in jnp.shape(leaf))
            for leaf in input_leaves
        ]
        input_sources = [Source(leaves=frozenset([path])) for path in self.leaves]
        input_sources += [Source(data=True)] * len(input_leaves)
        results = self.coupling.run(self.frame, dims, input_sources)
        self._pin_results(named_leaves(result), results)

    def _pin_results(self, named: Sequence, results: Sequence) -> None:
        """Pins the axes of results, but for the new state of a leaf.

        New statistics come back beside the output, under their leaf's path. A leaf that
        a contraction reads is a weight and no statistic.
        """
        weights = {leaf for mark in self.coupling.marks for leaf in mark.leaves}
        for (path, leaf), dims in zip(named, results, strict=True):
            beside, _, name = path.partition("/")
            mirrored = [
                known
                for known, shape in self.leaves.items()
                if beside.isdigit() and shape.shape == leaf.shape
                if known not in weights and f"/{name}".endswith(f"/{known}")
            ]
            for position, axis in enumerate(dims):
                if mirrored:
                    unification.unite(axis, self.dims[mirrored[0]][position], Reason)
                else:
                    axes.pin(axis, Reason("it is an axis of the model's output"))

    def read(self) -> set[str]:
        """Returns the paths of the leaves that some equation reads."""
        used = {id(v) for eqn in self.frame.jaxpr.eqns for v in eqn.invars}
        used |= {id(v) for v in self.frame.jaxpr.outvars}
        variables = zip(self.leaves, self.frame.jaxpr.invars, strict=False)
        return {path for path, variable in variables if id(variable) in used}


def trace_program(
    apply: Callable[..., Any], variables: ArrayTree, inputs: Sequence
) -> tuple[Any, Sequence[Any], Any]:
    """Traces a model; returns its jaxpr, constants and the shapes of its result.

    What no result needs is left out of the jaxpr.

    Raises:
        ValueError: if the model fails on these inputs, or is not a pure function.
    """
    try:
        closed, result = jax.make_jaxpr(
            lambda tree, *args: apply(tree, *args), return_shape=True
        )(variables, *inputs)
        again = jax.make_jaxpr(lambda tree, *args: apply(tree, *args))(
            variables, *inputs
        )
    except Exception as error:  # The user's model may raise anything.
        printed = ", ".join(describe(leaf) for leaf in jax.tree.leaves(inputs))
        text = " ".join(str(error).split())[:300]
        raise ValueError(
            f"the model cannot be traced with these variables and inputs ({printed}): "
            f"{type(error).__name__}: {text}"
        ) from error
    if closed.effects:
        kinds = ", ".join(sorted({str(effect) for effect in closed.effects}))
        raise ValueError(
            f"the model has side effects ({kinds}): it prints or calls back to Python. "
            "Pass a pure function of variables and inputs."
        )
    changed = comparing.difference(closed, again)
    if changed is not None:
        raise ValueError(
            f"the model is not a pure function: traced twice, it is two programs, "
            f"{changed}. Keep state and randomness in its arguments."
        )
    return *open_program(comparing.drop_unused(closed)), result


def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns a leaf's shape and dtype."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    array = jnp.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
