"""Names leaves by paths such as `"conv1/kernel"`, whatever holds the leaves.

Dicts, lists, NamedTuples, dataclasses, Flax and Equinox modules name theirs alike.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.tree_util import GetAttrKey

from gradflow_jax.trees.types import ArrayTree


def named_leaves(tree: ArrayTree) -> list[tuple[str, Any]]:
    """Returns `(path, leaf)` for each leaf, in the order of `jax.tree.leaves`.

    The `value` with which Flax NNX wraps every variable is left out of paths. A field
    of that name stays where its object has further leaves.

    Args:
        tree: any pytree.

    Returns:
        A pair for each leaf; paths join names and numbers by slashes.

    Example:
        >>> named_leaves({"conv": {"kernel": 1.0, "bias": 2.0}})
        [('conv/bias', 2.0), ('conv/kernel', 1.0)]
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    # The leaves of each subtree are counted: a lone `value` is a wrapper and no field.
    leaf_counts = Counter(
        _join(path[:depth]) for path, _ in leaves for depth in range(len(path))
    )
    paths_and_leaves = []
    for path, leaf in leaves:
        ends_in_value = len(path) > 1 and path[-1] == GetAttrKey("value")
        if ends_in_value and leaf_counts[_join(path[:-1])] == 1:
            path = path[:-1]
        paths_and_leaves.append((_join(path), leaf))
    return paths_and_leaves


def _join(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def map_named(fn: Callable[..., Any], tree: ArrayTree, *more_trees: ArrayTree) -> Any:
    """Maps `fn(path, leaf, *leaves_of_more_trees)` over a tree.

    Args:
        fn: returns the new leaf.
        tree: any pytree.
        *more_trees: trees of the same structure.

    Returns:
        A tree of that structure, of what `fn` returned.

    Example:
        >>> map_named(lambda path, leaf: f"{path}: {leaf}", {"conv": {"bias": 2}})
        {'conv': {'bias': 'conv/bias: 2'}}
    """
    paths = jax.tree.structure(tree).unflatten(path for path, _ in named_leaves(tree))
    return jax.tree.map(fn, paths, tree, *more_trees)


def label(path: str) -> str:
    """Returns what an error calls a leaf: by its path, if it has one.

    Args:
        path: as `named_leaves` gives it; empty where the tree is one array.

    Returns:
        A noun.

    Example:
        >>> label("conv/bias"), label("")
        ("leaf 'conv/bias'", '(the array itself)')
    """
    return f"leaf {path!r}" if path else "(the array itself)"
