"""Checks that each leaf of a tree mirrors a leaf of the model, or that it need not."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees import ArrayTree, describe, named_leaves
from gradflow_jax.trees.mirroring import Mirror, find_mirrors


def align(
    tree: ArrayTree, variables: ArrayTree, *, what: str, strangers: bool = False
) -> list[str | None]:
    """Returns for each leaf of a tree the path of the leaf it mirrors, or None.

    Args:
        tree: variables, parameters, or anything that holds mirrors of them.
        variables: the model's, or their shapes.
        what: what an error calls the tree.
        strangers: let arrays be that mirror no leaf.

    Raises:
        ValueError: if no leaf mirrors any, if a mirror has another shape, or if an
            array mirrors no leaf of the model and none is let be.
    """
    mirrors, leaves = find_mirrors(tree, variables), dict(named_leaves(variables))
    for mirror in mirrors:
        if mirror.kind is None and not (strangers and mirror.of is None):
            _check_number_of_no_weight(mirror, leaves, what)
    owners = [None if mirror.kind is None else mirror.of for mirror in mirrors]
    if all(owner is None for owner in owners):
        leaf_paths = ", ".join(mirror.path for mirror in mirrors[:3])
        raise ValueError(
            f"{what} holds no leaf of the model: it has {leaf_paths or 'no leaves'}, "
            f"the model {', '.join(list(leaves)[:3])}."
        )
    return owners


def _check_number_of_no_weight(
    mirror: Mirror, leaves: Mapping[str, Any], what: str
) -> None:
    """Raises ValueError at an array that mirrors nothing; counts and keys may be."""
    path, leaf, owner, _ = mirror
    if math.prod(np.shape(leaf)) <= 1:
        return
    if owner is not None:
        raise ValueError(
            f"{what} leaf {path!r} is {describe(leaf)}, but the model's {owner!r} is "
            f"{describe(leaves[owner])}. If the model changed, find its units again; "
            "if it is a factored state such as Adafactor's, initialize it anew from "
            "the cut parameters by tx.init."
        )
    if _is_array_of_numbers(leaf):
        raise ValueError(
            f"{what} leaf {path!r}, {describe(leaf)}, stands where no copy of the "
            "model has a leaf, so it cannot be told how to cut it. To carry it, pass "
            "like=jax.eval_shape(tx.init, small_params), which the result is checked "
            "against; or cut the tree without it."
        )


def _is_array_of_numbers(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended)
