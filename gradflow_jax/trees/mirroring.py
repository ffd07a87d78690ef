"""Which leaf of a model each leaf of another tree mirrors.

An optimizer's state, masks, averages and initial weights mirror the parameters: a
leaf's path ends with the path of its parameter. So no tree needs a handler of its own.
`optax.tree.map_params` does without paths and instead calls `init` with a placeholder,
in which there is nothing to be checked or to be laid out: `gf.apply_mask` and
`optax.lbfgs` fail on it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from gradflow_jax.trees.dtypes import is_numeric
from gradflow_jax.trees.names import named_leaves
from gradflow_jax.trees.types import ArrayTree

MASKS_PER_BYTE = 8


class Mirror(NamedTuple):
    """A leaf of a tree, beside the leaf of a model that it is named after.

    Attributes:
        path: of the leaf of the tree.
        leaf: of the tree.
        of: the path of the model's leaf, or None where there is none.
        kind: "same" where they have one shape; "stacked" where copies of the model's
            leaf lie along leading axes, as the last steps of L-BFGS do; "packed" where
            it is a mask of that leaf as bits; None where the shapes have nothing to
            do with each other, as of factored moments, and where `of` is None.
    """

    path: str
    leaf: Any
    of: str | None
    kind: Literal["same", "stacked", "packed"] | None


def find_mirrors(tree: ArrayTree, of: ArrayTree | Mapping[str, Any]) -> list[Mirror]:
    """Returns of each leaf of a tree which leaf of a model it mirrors, and how.

    It is the one with the longest path that its own path ends with. A single integer
    mirrors none: a count of steps has the shape of a scalar parameter.

    Args:
        tree: anything that holds mirrors of the model's leaves.
        of: the model's leaves, or their shapes; a dict of them by path will do.
    """
    model_leaves = dict(named_leaves(of))
    names = _names(model_leaves)
    mirrors = []
    for path, leaf in named_leaves(tree):
        owner = None if _is_count(leaf) else _longest_ending(path, names)
        shape = () if owner is None else jnp.shape(model_leaves[owner])
        kind = None if owner is None else _kind(leaf, shape)
        mirrors.append(Mirror(path, leaf, owner, kind))
    return mirrors


def is_packed(leaf: Any, shape: tuple[int, ...]) -> bool:
    """Says whether a leaf holds a mask of this shape as bits."""
    return (
        jnp.shape(leaf) != shape
        and getattr(leaf, "dtype", None) == jnp.uint8
        and bool(shape)
        and jnp.shape(leaf) == packed_shape(shape)
    )


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a mask's bytes: eight of the last axis are one."""
    return (*shape[:-1], -(-shape[-1] // MASKS_PER_BYTE)) if shape else ()


def _kind(
    leaf: Any, shape: tuple[int, ...]
) -> Literal["same", "stacked", "packed"] | None:
    leaf_shape = jnp.shape(leaf)
    if leaf_shape == shape:
        return "same"
    if is_packed(leaf, shape):
        return "packed"
    return "stacked" if leaf_shape[len(leaf_shape) - len(shape) :] == shape else None


def _is_count(leaf: Any) -> bool:
    return (
        is_numeric(leaf)
        and jnp.shape(leaf) == ()
        and jnp.issubdtype(jnp.result_type(leaf), jnp.integer)
    )


def _names(paths: Iterable[str]) -> dict[str, str]:
    """Returns what a leaf may be called, by its path, and without its collection.

    Flax linen keeps parameters under "params" and hands optimizers what is under it.
    """
    names = {path: path for path in paths}
    collections = {path.split("/")[0] for path in paths}
    if "params" in collections:
        for path in paths:
            short = path.partition("/")[2]
            if short and (short not in names or path.startswith("params/")):
                names[short] = path
    return names


def _longest_ending(path: str, names: Mapping[str, str]) -> str | None:
    """Returns the leaf with the longest name that a path ends with."""
    pieces = path.split("/") if path else []
    if not pieces or "" in names:
        return names.get("")
    for start in range(len(pieces)):
        name = "/".join(pieces[start:])
        if name in names:
            return names[name]
    return None
