"""Names leaves by paths such as `"conv1/kernel"`, whatever holds the leaves.

Dicts, lists, NamedTuples, dataclasses, Flax and Equinox modules name theirs alike.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.tree_util import GetAttrKey

from gradflow_jax.trees.types import ArrayTree

Keys = tuple[str, ...]
"""The keys that lead to a leaf, in text: those of dicts, numbers, names of fields."""

# The field in which Flax NNX holds the array of a variable.
_WRAPPER = GetAttrKey("value")


def named_leaves(tree: ArrayTree) -> list[tuple[str, Any]]:
    """Returns `(path, leaf)` for each leaf, in the order of `jax.tree.leaves`.

    The `value` with which Flax NNX wraps every variable is left out of paths. A field
    of that name stays where its object has further leaves.

    No two leaves have one path: where keys that hold slashes would give two the same,
    as `{"a": {"b": x}, "a/b": y}` would, each key of the two is quoted.

    Args:
        tree: any pytree.

    Returns:
        A pair for each leaf; paths join names and numbers by slashes.

    Raises:
        ValueError: if two leaves cannot be told apart by their keys, or the keys of a
            dict cannot be sorted, as 1 and "1" cannot.

    Example:
        >>> named_leaves({"conv": {"kernel": 1.0, "bias": 2.0}})
        [('conv/bias', 2.0), ('conv/kernel', 1.0)]
        >>> named_leaves({"a": {"b": 1.0}, "a/b": 2.0})
        [("'a'/'b'", 1.0), ("'a/b'", 2.0)]
    """
    keys_and_leaves = keyed_leaves(tree)
    paths = ["/".join(keys) for keys, _ in keys_and_leaves]
    counts = Counter(paths)
    # A tree of one array has the path "", so a lone empty key needs its quotes.
    lone_empty_key = any(keys == ("",) for keys, _ in keys_and_leaves)
    if len(counts) < len(paths) or lone_empty_key:
        paths = [
            path if path and counts[path] == 1 else "/".join(map(repr, keys))
            for path, (keys, _) in zip(paths, keys_and_leaves, strict=True)
        ]
        _check_distinct(paths, tree)
    return [
        (path, leaf) for path, (_, leaf) in zip(paths, keys_and_leaves, strict=True)
    ]


def keyed_leaves(
    tree: ArrayTree, is_leaf: Callable[[Any], bool] | None = None
) -> list[tuple[Keys, Any]]:
    """Returns `(keys, leaf)` for each leaf: the pieces of its path, not yet joined.

    Args:
        tree: any pytree.
        is_leaf: what else is a leaf, as `jax.tree.leaves` takes it.

    Example:
        >>> keyed_leaves({"a": {"b": 1.0}, "a/b": 2.0})
        [(('a', 'b'), 1.0), (('a/b',), 2.0)]
    """
    routes_and_leaves = routed_leaves(tree, is_leaf)
    all_keys = [
        tuple(jax.tree_util.keystr((key,), simple=True) for key in route)
        for route, _ in routes_and_leaves
    ]
    counts = Counter(all_keys)
    if len(counts) < len(all_keys):
        # An ordered dict may hold both 1 and "1": such keys are as Python writes them.
        all_keys = [
            keys if counts[keys] == 1 else tuple(repr(plain_key(key)) for key in route)
            for keys, (route, _) in zip(all_keys, routes_and_leaves, strict=True)
        ]
    return [
        (keys, leaf)
        for keys, (_, leaf) in zip(all_keys, routes_and_leaves, strict=True)
    ]


def routed_leaves(
    tree: ArrayTree, is_leaf: Callable[[Any], bool] | None = None
) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns `(route, leaf)` for each leaf: its keys as JAX's objects, of their kind.

    They tell a field of a NamedTuple from the entry of a dict with the same name.

    Args:
        tree: any pytree.
        is_leaf: what else is a leaf, as `jax.tree.leaves` takes it.
    """
    leaves, _ = flatten_with_routes(tree, is_leaf)
    wrappers = {path[:-1] for path, _ in leaves if path[1:] and path[-1] == _WRAPPER}
    # The leaves below are counted: a lone `value` is a wrapper and no field.
    counts = Counter(
        path[:depth]
        for path, _ in leaves
        for depth in range(len(path) if wrappers else 0)
        if path[:depth] in wrappers
    )
    return [
        (
            path[:-1] if path[-1:] == (_WRAPPER,) and counts[path[:-1]] == 1 else path,
            leaf,
        )
        for path, leaf in leaves
    ]


def flatten_with_routes(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[list[tuple[tuple[Any, ...], Any]], Any]:
    """Flattens a tree as JAX does, but says which dict cannot be.

    Args:
        tree: any pytree.
        is_leaf: what else is a leaf, as `jax.tree.leaves` takes it.

    Raises:
        ValueError: at a dict whose keys cannot be sorted.
    """
    try:
        return jax.tree_util.tree_flatten_with_path(tree, is_leaf)
    # JAX says so of its own dicts by a ValueError, those of Flax by a TypeError.
    except (TypeError, ValueError):
        _check_keys_have_order(tree)
        raise


def _check_keys_have_order(tree: ArrayTree) -> None:
    """Raises ValueError at a dict whose keys cannot be sorted."""

    def has_no_order(node: Any) -> bool:
        # JAX leaves an ordered dict in its order.
        if not isinstance(node, Mapping) or isinstance(node, OrderedDict):
            return False
        try:
            sorted(node)
        except TypeError:
            return True
        return False

    for route, node in jax.tree_util.tree_flatten_with_path(tree, has_no_order)[0]:
        if has_no_order(node):
            kinds = " and ".join(sorted({type(key).__name__ for key in node}))
            raise ValueError(
                f"the dict tree{jax.tree_util.keystr(route)} has keys of {kinds}, "
                "which cannot be sorted, as JAX does: name all of its leaves by texts."
            )


def plain_key(key: Any) -> Any:
    """Returns what a key of JAX's holds: a dict's key, a number, a field's name."""
    held = (name for name in ("key", "idx", "name") if hasattr(key, name))
    return getattr(key, next(held, ""), key)


def _check_distinct(paths: Sequence[str], tree: ArrayTree) -> None:
    """Raises ValueError if two leaves have one path; it names both as JAX does."""
    routes, _ = jax.tree_util.tree_flatten_with_path(tree)
    place_of: dict[str, str] = {}
    for path, (route, _) in zip(paths, routes, strict=True):
        place = jax.tree_util.keystr(route)
        if path in place_of:
            raise ValueError(
                f"two leaves of the tree would both be called {path!r}: "
                f"tree{place_of[path]} and tree{place}. Rename a key of one of them."
            )
        place_of[path] = place


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
    paths = [path for path, _ in named_leaves(tree)]
    return jax.tree.map(
        fn, jax.tree.structure(tree).unflatten(paths), tree, *more_trees
    )


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
