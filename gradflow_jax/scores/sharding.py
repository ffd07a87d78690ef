"""Derivatives lie on a mesh as their parameters do."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding

from gradflow_jax.trees import PyTree, is_traced

# For each leaf where it lies, or None where that needs no saying.
Shardings = tuple[NamedSharding | None, ...]


def shardings_of(params: PyTree) -> Shardings:
    """Returns where each leaf lies, of those that a mesh of automatic axes splits.

    Left alone, XLA's partitioner may gather a gradient on every device. Explicit axes
    need no word: there a gradient has the sharding of its parameter by its type.
    """

    def sharding(leaf: Any) -> NamedSharding | None:
        found = None if is_traced(leaf) else getattr(leaf, "sharding", None)
        if not isinstance(found, NamedSharding) or found.mesh.size == 1:
            return None
        automatic = set(found.mesh.axis_types) == {AxisType.Auto}
        return found if automatic else None

    return tuple(map(sharding, jax.tree.leaves(params)))


def constrained(tree: PyTree, shardings: Shardings) -> PyTree:
    """Returns a tree like params that XLA keeps where the parameters lie."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        leaf if found is None else jax.lax.with_sharding_constraint(leaf, found)
        for leaf, found in zip(leaves, shardings, strict=True)
    )
