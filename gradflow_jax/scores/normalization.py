"""Finds the normalization layers of a parameter tree, whose channels are scored."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.trees import ArrayTree, Prunable, named_leaves

ChannelScores = dict[str, jax.Array]


def norm_layers(
    tree: ArrayTree, prunable: Prunable | None, names: tuple[str, str]
) -> dict[str, dict[str, Any]]:
    """Returns each layer's leaves by name, `{"bn1": {"scale": ..., "bias": ...}}`.

    A layer is a subtree with a one-dimensional leaf called `names[0]`, beside which
    stands nothing but, perhaps, a leaf called `names[1]` of the same shape.

    Raises:
        ValueError: if there is none.
    """
    layers: dict[str, dict[str, Any]] = {}
    for path, leaf in named_leaves(tree):
        parent, _, name = path.rpartition("/")
        layers.setdefault(parent, {})[name] = leaf
    scale = names[0]
    norms = {
        parent: leaves
        for parent, leaves in layers.items()
        if _is_norm(leaves, names)
        and (prunable is None or prunable(f"{parent}/{scale}", leaves[scale]))
    }
    if not norms:
        condition = "" if prunable is None else " that `prunable` accepts"
        raise ValueError(
            f"params have no normalization layer{condition}: no subtree holds only "
            f"{names[0]!r} and {names[1]!r} of shape [channel]. Pass names=(...) if "
            "yours are called otherwise."
        )
    return norms


def _is_norm(leaves: dict[str, Any], names: tuple[str, str]) -> bool:
    shapes = {jnp.shape(leaf) for leaf in leaves.values()}
    return (
        names[0] in leaves
        and set(leaves) <= set(names)
        and len(shapes) == 1
        and len(next(iter(shapes))) == 1
    )
