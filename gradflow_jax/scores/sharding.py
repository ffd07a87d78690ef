"""Keeps derivatives on a mesh where their parameters lie."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding

from gradflow_jax.trees import ArrayTree, Params, is_traced

# This holds the sharding of each leaf; None if XLA infers it (explicit axes, one
# device).
Shardings = tuple[NamedSharding | None, ...]


def shardings_of(params: Params) -> Shardings:
    """Returns the sharding of each leaf that lies on a mesh of automatic axes.

    XLA's partitioner may gather a gradient on every device unless it is told not to. On
    explicit axes it is not asked: the type of a gradient says that it lies where its
    parameter does.
    """

    def automatic_sharding(leaf: Any) -> NamedSharding | None:
        sharding = None if is_traced(leaf) else getattr(leaf, "sharding", None)
        if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
            return None
        is_automatic = set(sharding.mesh.axis_types) == {AxisType.Auto}
        return sharding if is_automatic else None

    return tuple(map(automatic_sharding, jax.tree.leaves(params)))


def constrain(tree: ArrayTree, shardings: Shardings) -> ArrayTree:
    """Constrains a tree like params to lie where the parameters do."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        leaf if sharding is None else jax.lax.with_sharding_constraint(leaf, sharding)
        for leaf, sharding in zip(leaves, shardings, strict=True)
    )
