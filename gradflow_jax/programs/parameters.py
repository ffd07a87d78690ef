"""Parts an NNX module into its parameters and what else it holds.

What differentiates takes a tree of parameters. An `nnx.Module` holds batch statistics
and random streams beside them, which a loss of the module reads and changes. So the
module travels in two parts: its `nnx.Param`s as a tree, and all else as a
`HeldModule`, whose graph is static to `jax.jit` and whose state is traced: a module
whose weights or statistics have changed compiles nothing anew.
"""

from typing import Any

import jax

from gradflow_jax.trees import Params, is_nnx_module


@jax.tree_util.register_pytree_node_class
class HeldModule:
    """An NNX module without its parameters: its graph, static, and its other state."""

    def __init__(self, graphdef: Any, state: Params):
        self.graphdef = graphdef
        self.state = state

    def with_params(self, params: Params) -> Any:
        """Returns the module with these parameters.

        It is a copy: what a loss does to its statistics and random streams reaches
        neither the module that was parted nor a second call in the same trace.
        """
        from flax import nnx

        return nnx.merge(self.graphdef, params, self.state, copy=True)

    def tree_flatten(self) -> tuple[tuple[Params], Any]:
        """Returns what is traced, and what is static."""
        return (self.state,), self.graphdef

    @classmethod
    def tree_unflatten(cls, graphdef: Any, children: tuple[Params]) -> "HeldModule":
        """Returns the object of its parts."""
        return cls(graphdef, *children)


def part_module(params: Params) -> tuple[Params, HeldModule | None]:
    """Returns the parameters of an NNX module, and what else it holds.

    Args:
        params: an `nnx.Module`, or a tree of parameters, which is returned as it is,
            beside None.

    Returns:
        The `nnx.State` of the module's `nnx.Param`s, as `nnx.state(model, nnx.Param)`
        returns it, and the `HeldModule`.
    """
    if not is_nnx_module(params):
        return params, None
    from flax import nnx

    graphdef, state, rest = nnx.split(params, nnx.Param, ...)
    # The states of Flax hold the module's own variables, which change when it trains.
    state, rest = jax.tree.map(lambda leaf: leaf, (state, rest))
    return state, HeldModule(graphdef, rest)


def params_of(params: Params) -> Params:
    """Returns the `nnx.State` of an NNX module's parameters, or a tree as it is."""
    return part_module(params)[0]
