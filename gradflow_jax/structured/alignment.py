"""Which leaf of a model each leaf of another tree belongs to.

An optimizer's state, masks, averages and initial weights mirror the parameters: a
leaf's path ends with the path of its parameter. So no tree needs a handler of its own.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.masks.packing import packed_shape
from gradflow_jax.trees import ArrayTree, describe, named_leaves

Leaves = Mapping[str, jax.ShapeDtypeStruct]


def align(
    tree: ArrayTree, leaves: Leaves, *, what: str, strangers: bool = False
) -> list[str | None]:
    """Returns for each leaf of a tree the path of the leaf it mirrors, or None.

    Args:
        tree: variables, parameters, or anything that holds mirrors of them.
        leaves: the model's.
        what: what an error calls the tree.
        strangers: let arrays be that mirror no leaf.

    Raises:
        ValueError: if no leaf mirrors any, if a mirror has another shape, or if an
            array mirrors no leaf of the model and none is let be.
    """
    names = _names(leaves)
    owners: list[str | None] = []
    for path, leaf in named_leaves(tree):
        owner = _owner(path, names)
        if owner is None and strangers:
            owners.append(None)
        else:
            owners.append(owner if _mirrors(path, leaf, owner, leaves, what) else None)
    if all(owner is None for owner in owners):
        leaf_paths = ", ".join(path for path, _ in named_leaves(tree)[:3])
        raise ValueError(
            f"{what} holds no leaf of the model: it has {leaf_paths or 'no leaves'}, "
            f"the model {', '.join(list(leaves)[:3])}."
        )
    return owners


def _names(leaves: Leaves) -> dict[str, str]:
    """Returns what a leaf may be called, by its path, and without its collection.

    Flax linen keeps parameters under "params" and hands optimizers what is under it.
    """
    names = {path: path for path in leaves}
    collections = {path.split("/")[0] for path in leaves}
    if "params" in collections:
        for path in leaves:
            short = path.partition("/")[2]
            if short and (short not in names or path.startswith("params/")):
                names[short] = path
    return names


def _owner(path: str, names: Mapping[str, str]) -> str | None:
    """Returns the leaf with the longest name that a path ends with."""
    pieces = path.split("/") if path else []
    if not pieces or "" in names:
        return names.get("")
    for start in range(len(pieces)):
        name = "/".join(pieces[start:])
        if name in names:
            return names[name]
    return None


def is_packed(leaf: Any, shape: tuple[int, ...]) -> bool:
    """Says whether a leaf holds a mask of this shape as bits."""
    return (
        jnp.shape(leaf) != shape
        and getattr(leaf, "dtype", None) == jnp.uint8
        and bool(shape)
        and jnp.shape(leaf) == packed_shape(shape)
    )


def _mirrors(
    path: str, leaf: Any, owner: str | None, leaves: Leaves, what: str
) -> bool:
    shape = jnp.shape(leaf)
    if owner is None:
        # Counts, keys and rates are numbers of no weight.
        if jnp.size(leaf) <= 1 or not _is_array_of_numbers(leaf):
            return False
        raise ValueError(
            f"{what} leaf {path!r}, {describe(leaf)}, ends with the path of no leaf "
            "of the model, so it cannot be told how to cut it. To carry it over, pass "
            "like=jax.eval_shape(tx.init, small_params), which the result is checked "
            "against; or cut the tree without it."
        )
    shape_of_leaf = leaves[owner].shape
    if shape[len(shape) - len(shape_of_leaf) :] == shape_of_leaf or is_packed(
        leaf, shape_of_leaf
    ):
        return True
    if jnp.size(leaf) <= 1:
        return False
    raise ValueError(
        f"{what} leaf {path!r} is {describe(leaf)}, but the model's {owner!r} is "
        f"{describe(leaves[owner])}. If the model changed, find its units again; if "
        "it is a factored state such as Adafactor's, initialize it anew from the cut "
        "parameters by tx.init."
    )


def _is_array_of_numbers(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended)
