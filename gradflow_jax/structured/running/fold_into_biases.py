"""Adds what removed units would leave behind to the biases of the layers they feed."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.structured.proof.folds import Fold
from gradflow_jax.trees import ArrayTree, named_leaves


def fold_constants(
    folds: Sequence[tuple[str, str, Fold, np.ndarray]],
    tree: ArrayTree,
    owners: Sequence[str | None],
    leaves: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the leaves of a tree of weights that constants are folded into.

    An optimizer's state, masks and other mirrors get none: only a tree that has the
    kernel and the bias at its own top, in floating point.

    Args:
        folds: the kernel's path, the bias's path, what is folded and the removed
            indices of the kernel's axis.
        tree: being cut.
        owners: the path in the model of each of its leaves.
        leaves: the model's.
    """
    named = named_leaves(tree)
    where: dict[str, tuple[str, Any]] = {}
    for (path, leaf), owner in zip(named, owners, strict=True):
        if owner is not None and (owner == path or owner.endswith("/" + path)):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                where[owner] = (path, leaf)
    result: dict[str, Any] = {}
    for kernel, bias, fold, removed in folds:
        if kernel not in where or bias not in where:
            continue
        weight = where[kernel][1]
        path, leaf = where[bias]
        if isinstance(leaf, jax.ShapeDtypeStruct) or leaf.shape != leaves[bias].shape:
            continue
        # Many numbers are summed, so they are summed in float32 at least.
        rows = jnp.take(jnp.asarray(weight), removed, fold.axis).astype(
            jnp.promote_types(weight.dtype, jnp.float32)
        )
        added = fold.constant * jnp.sum(rows, fold.summed)
        result[path] = (result.get(path, leaf) + added).astype(leaf.dtype)
    return result
