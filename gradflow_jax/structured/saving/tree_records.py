"""A tree of shapes and dtypes in JSON, and the tree from it.

Dicts, ordered dicts, lists, tuples and None come back as they were; what else holds
leaves, such as a state of Flax NNX, a NamedTuple or a module, comes back as a dict by
the names of its fields.
"""

from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey

from gradflow_jax.structured.saving.leaf_arrays import dtype_of, kind_of_leaf
from gradflow_jax.trees import ArrayTree, named_leaves
from gradflow_jax.trees.names import plain_key

# Of a leaf `{"float32": [3, 4]}`; of a container its kind and its children, with their
# keys if it has any: `{"list": [child, child]}`, `{"dict": [["key", child]]}`.
Record = dict[str, list[Any]]

_SEQUENCES = {"list": list, "tuple": tuple}
_MAPPINGS = {"dict": dict, "ordered": OrderedDict}
_KINDS = {maker: kind for kind, maker in (_SEQUENCES | _MAPPINGS).items()}
# Far more than any model has, and so few that Python walks through it.
_DEEPEST = 100


def record_tree(tree: ArrayTree) -> Record:
    """Returns what JSON holds of a tree of arrays or of their shapes.

    Raises:
        TypeError: if a leaf is no array of numbers or random keys, or a key is neither
            a string, an integer nor a tuple of them.
        ValueError: if the tree is nested more than a hundred levels deep.
    """
    leaves = iter(named_leaves(tree))

    def record(node: Any, depth: int) -> Record:
        if depth > _DEEPEST:
            raise ValueError(
                f"variables are nested more than {_DEEPEST} levels deep: save fewer."
            )
        children = _children(node)
        if children is None or (depth and _is_wrapper(children)):
            path, leaf = next(leaves)
            return {kind_of_leaf(path, leaf): list(jnp.shape(leaf))}
        kind = "none" if node is None else _KINDS.get(type(node), "dict")
        if kind not in _MAPPINGS:
            return {kind: [record(child, depth + 1) for _, child in children]}
        return {
            kind: [
                [_write_key(plain_key(key)), record(child, depth + 1)]
                for key, child in children
            ]
        }

    return record(tree, 0)


def rebuild_tree(record: object, depth: int = 0) -> Any:
    """Returns the tree of shapes and dtypes that a record, at a depth, is of.

    Raises:
        ValueError: if the record is of no tree.
    """
    if not isinstance(record, dict) or len(record) != 1 or depth > _DEEPEST:
        raise ValueError("its tree has a node that is none, or one too deep")
    ((kind, parts),) = record.items()
    if not isinstance(parts, list):
        raise ValueError(f"its tree has a {kind[:40]!r} of no list")
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](rebuild_tree(part, depth + 1) for part in parts)
    if kind in _MAPPINGS:
        if not all(isinstance(part, list) and len(part) == 2 for part in parts):
            raise ValueError("its tree has a dict that is not made of pairs")
        pairs = [(_read_key(key), rebuild_tree(part, depth + 1)) for key, part in parts]
        mapping = _MAPPINGS[kind](pairs)
        if len(mapping) < len(pairs):
            raise ValueError("its tree has a key twice")
        return mapping
    if kind == "none" and not parts:
        return None
    if not all(type(size) is int and 0 <= size < 2**63 for size in parts):
        raise ValueError("its tree has a leaf of no shape")
    return jax.ShapeDtypeStruct(tuple(parts), dtype_of(kind))


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
    is_lone_value = [key for key, _ in children] == [GetAttrKey("value")]
    return is_lone_value and _children(children[0][1]) is None


def _write_key(key: Any) -> Any:
    """Returns a key as JSON holds it: a tuple as a list."""
    if isinstance(key, tuple):
        return [_write_key(part) for part in key]
    if type(key) not in (str, int, bool):
        raise TypeError(
            f"variables have the key {key!r}, a {type(key).__name__}: saved are trees "
            "whose keys are strings, integers and tuples of them. Rename it."
        )
    return key


def _read_key(key: object) -> Any:
    if isinstance(key, list):
        return tuple(map(_read_key, key))
    if type(key) not in (str, int, bool):
        raise ValueError("its tree has a key that is none")
    return key
