"""The containers of a tree in JSON, and the tree from them.

Dicts, ordered dicts, lists, tuples and None come back as they were; what else holds
leaves, such as a state of Flax NNX, a NamedTuple or a module, comes back as a dict by
the names of its fields.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.tree_util import GetAttrKey

from gradflow_jax.trees import ArrayTree, named_leaves
from gradflow_jax.trees.names import plain_key

# An entry for each leaf, and for each container without any: the steps to it, each the
# kind of a container and a key in it, and then the path of the leaf or the kind.
Record = list[Any]

_MAKERS: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "dict": dict,
    "ordered": OrderedDict,
    "list": lambda items: [value for _, value in items],
    "tuple": lambda items: tuple(value for _, value in items),
    "none": lambda items: None,
}
# Far more than any model has, and so few that Python walks through it.
_DEEPEST = 100


def record_tree(tree: ArrayTree) -> Record:
    """Returns what JSON holds of a tree's containers.

    Raises:
        TypeError: if a key is neither a string, an integer nor a tuple of them.
        ValueError: if the tree is nested more than a hundred levels deep.
    """
    paths = iter([path for path, _ in named_leaves(tree)])
    record: Record = []
    pending: list[tuple[list[Any], Any]] = [([], tree)]
    while pending:
        steps, node = pending.pop()
        if len(steps) > _DEEPEST:
            raise ValueError(
                f"variables are nested more than {_DEEPEST} levels deep, below "
                f"{[key for _, key in steps[:5]]}: save fewer levels."
            )
        children = _children(node)
        if children is None:
            record.append([steps, "leaf", next(paths)])
        elif not children:
            record.append([steps, _kind(node), None])
        elif steps and _is_wrapper(children):
            record.append([steps, "leaf", next(paths)])
        else:
            kind = _kind(node)
            pending += [
                ([*steps, [kind, _to_json(plain_key(key))]], child)
                for key, child in reversed(children)
            ]
    return record


def rebuild_tree(record: object, leaves: Mapping[str, Any]) -> ArrayTree:
    """Returns the tree that a record is of.

    Args:
        record: from `record_tree`, by way of a file.
        leaves: by the paths that the record names them by.

    Raises:
        ValueError: if the record is of no tree, or not of one with these leaves.
    """
    if not isinstance(record, list) or not record:
        raise ValueError("its tree is no list of leaves")
    kinds: dict[tuple, str] = {}
    items: dict[tuple, dict[Any, Any]] = {}
    absent = set(leaves)

    def enter(place: tuple, kind: object, key: Any) -> None:
        """Says that a container is of a kind, and has a key."""
        if kind not in _MAKERS or kinds.setdefault(place, str(kind)) != kind:
            raise ValueError("its tree has a node of two kinds, or of none")
        items.setdefault(place, {}).setdefault(key, None)

    tree: Any = None
    for entry in record:
        steps, end, path = _check_entry(entry)
        place: tuple = ()
        for kind, key in steps:
            key = _read_key(key)
            enter(place, kind, key)
            place = (*place, key)
        if end == "leaf":
            if path not in absent:
                raise ValueError(f"its tree has {path!r} twice, or no tensor for it")
            absent.remove(path)
            value = leaves[path]
        elif end in _MAKERS and path is None:
            value = _MAKERS[end]([])
        else:
            raise ValueError("its tree has a node of two kinds, or of none")
        if place in kinds:
            raise ValueError("its tree has a leaf where it has a container")
        kinds[place] = "end"
        if place:
            items[place[:-1]][place[-1]] = value
        else:
            tree = value
    if absent:
        raise ValueError(f"its tree lacks {min(absent)!r}")
    # The deepest are made first, so that each is whole when it is put into another.
    for place in sorted(items, key=len, reverse=True):
        tree = _make(kinds[place], items[place])
        if place:
            items[place[:-1]][place[-1]] = tree
    return tree


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    """Returns the children of a node by their keys; None of a leaf."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda other: other is not node
    )
    if len(pairs) == 1 and not pairs[0][0]:
        return None
    return [(path[0], child) for path, child in pairs]


def _is_wrapper(children: list[tuple[Any, Any]]) -> bool:
    """Says whether a node is a variable of Flax NNX, around one array."""
    ((key, child), *others) = children
    return not others and key == GetAttrKey("value") and _children(child) is None


def _kind(node: Any) -> str:
    if node is None:
        return "none"
    kinds = {dict: "dict", OrderedDict: "ordered", list: "list", tuple: "tuple"}
    return kinds.get(type(node), "dict")


def _to_json(key: Any) -> Any:
    """Returns a key as JSON holds it: a tuple as a list."""
    if isinstance(key, tuple):
        return [_to_json(part) for part in key]
    if type(key) not in (str, int, bool):
        raise TypeError(
            f"variables have the key {key!r}, a {type(key).__name__}: saved are trees "
            "whose keys are strings, integers and tuples of them. Rename it."
        )
    return key


def _read_key(key: object, depth: int = 0) -> Any:
    if isinstance(key, list) and depth < _DEEPEST:
        return tuple(_read_key(part, depth + 1) for part in key)
    if type(key) not in (str, int, bool):
        raise ValueError("its tree has a key that is none")
    return key


def _check_entry(entry: object) -> tuple[list[Any], str, Any]:
    if (
        not isinstance(entry, list)
        or len(entry) != 3
        or not isinstance(entry[0], list)
        or len(entry[0]) > _DEEPEST
        or not all(isinstance(step, list) and len(step) == 2 for step in entry[0])
        or not all(isinstance(step[0], str) for step in entry[0])
        or not isinstance(entry[1], str)
        or not isinstance(entry[2], str | None)
    ):
        raise ValueError("its tree has an entry that is none")
    return entry[0], entry[1], entry[2]


def _make(kind: str, items: dict[Any, Any]) -> Any:
    if kind in ("list", "tuple") and list(items) != list(range(len(items))):
        raise ValueError(f"its tree has a {kind} with a gap")
    if kind == "none":
        raise ValueError("its tree has something in None")
    if kind == "dict":
        try:
            sorted(items)
        except TypeError:
            raise ValueError("its tree has keys that cannot be sorted") from None
    return _MAKERS[kind](list(items.items()))
