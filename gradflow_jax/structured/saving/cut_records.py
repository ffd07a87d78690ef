"""What a file says of its tensors: of which model they are a cut, and their digest."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gradflow_jax.structured.composing import Indices
from gradflow_jax.structured.saving.leaf_arrays import dtype_of
from gradflow_jax.structured.saving.tensor_files import bytes_of, is_size, parse_json
from gradflow_jax.structured.saving.tree_records import Record, rebuild_tree

VERSION = 2
# The shape of a leaf, and what it holds: a dtype's name, or whose random keys.
Leaf = tuple[tuple[int, ...], str]


@dataclass(frozen=True)
class CutRecord:
    """What a file says of a cut.

    Attributes:
        leaves: of the original model, by path.
        saved: the leaves that are in the file; with the leaves that are cut, smaller.
        keep: bool [units] for each family, True stays.
        indices: which indices of the original leaves stay, of those that are cut.
        tree: the containers of the original variables.
        saved_tree: those of the variables in the file.
    """

    leaves: Mapping[str, Leaf]
    saved: Mapping[str, Leaf]
    keep: Mapping[str, np.ndarray]
    indices: Indices
    tree: Record
    saved_tree: Record


def write_record(record: CutRecord, tensors: Mapping[str, np.ndarray]) -> str:
    """Returns a record as JSON, with a SHA-256 of itself and of the tensors."""
    content = {
        "version": VERSION,
        "leaves": record.leaves,
        "saved": record.saved,
        "keep": {
            name: "".join("01"[flag] for flag in flags.tolist())
            for name, flags in record.keep.items()
        },
        "indices": {
            name: {str(axis): kept.tolist() for axis, kept in kept_by_axis.items()}
            for name, kept_by_axis in record.indices.items()
        },
        "tree": record.tree,
        "saved_tree": record.saved_tree,
    }
    return json.dumps(content | {"sha256": _digest(content, tensors)})


def read_record(text: str, tensors: Mapping[str, np.ndarray]) -> CutRecord:
    """Returns the record of a file, checked against its tensors and its digest.

    Nothing is allocated by what the record says: its sizes are compared with those of
    the tensors, and the flags of units are as many as it spells out.

    Raises:
        ValueError: that says in which way the record is wrong.
    """
    content = parse_json(text)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise ValueError(
            f"it is of version {str(version)[:20]}, and {VERSION} is read here"
        )
    parts = {"leaves", "saved", "keep", "indices", "tree", "saved_tree"}
    if content.keys() != parts | {"version", "sha256"}:
        odd = sorted(content.keys() ^ (parts | {"version", "sha256"}))
        raise ValueError(f"its record lacks, or has besides, {odd[0][:40]!r}")
    leaves = _map_dict(content["leaves"], "leaves", _read_leaf)
    saved = _map_dict(content["saved"], "saved", _read_leaf)
    keep = _map_dict(content["keep"], "keep", _read_flags)
    indices = _map_dict(content["indices"], "indices", _read_indices)
    for name, kept_by_axis in indices.items():
        if name not in leaves:
            raise ValueError(f"its indices are of {name!r}, which is no leaf")
        for axis, kept in kept_by_axis.items():
            shape, _ = leaves[name]
            if axis >= len(shape) or kept[-1] >= shape[axis]:
                raise ValueError(f"its indices of {name!r} are of another shape")
    for name, (shape, _) in saved.items():
        if name not in leaves or shape != _cut_shape(name, leaves, indices):
            raise ValueError(f"its leaf {name!r} is not what the indices leave")
    if tensors.keys() != saved.keys():
        odd = min(tensors.keys() ^ saved.keys())
        raise ValueError(f"its record and its tensors differ in {odd!r}")
    digest = content.pop("sha256")
    if digest != _digest(content, tensors):
        raise ValueError("its SHA-256 is another: it is not as it was written")
    # What the trees are is looked at last, since they are made for that.
    rebuild_tree(content["tree"], leaves)
    rebuild_tree(content["saved_tree"], saved)
    arrays = {
        name: {axis: np.asarray(kept) for axis, kept in kept_by_axis.items()}
        for name, kept_by_axis in indices.items()
    }
    return CutRecord(
        leaves, saved, keep, arrays, content["tree"], content["saved_tree"]
    )


def shape_of(leaf: Leaf) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a leaf of a record."""
    shape, kind = leaf
    return jax.ShapeDtypeStruct(shape, dtype_of(kind))


def _digest(content: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        sha256.update(bytes_of(tensors[name]))
    return sha256.hexdigest()


def _map_dict(
    value: object, what: str, read: Callable[[str, object], Any]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"its {what} are no JSON object")
    return {name: read(name, part) for name, part in value.items()}


def _read_leaf(name: str, value: object) -> Leaf:
    if isinstance(value, list) and len(value) == 2:
        shape, kind = value
        if isinstance(shape, list) and isinstance(kind, str) and len(shape) <= 32:
            if all(map(is_size, shape)):
                dtype_of(kind)
                return tuple(shape), kind
    raise ValueError(f"its leaf {name!r} is given by no shape and dtype")


def _read_flags(name: str, value: object) -> np.ndarray:
    if not isinstance(value, str) or set(value) - {"0", "1"} or "1" not in value:
        raise ValueError(f"what it keeps of {name!r} is no row of 0 and 1 with a 1")
    return np.frombuffer(value.encode(), np.uint8) == ord("1")


def _read_indices(name: str, value: object) -> dict[int, list[int]]:
    def read(axis: str, kept: object) -> list[int]:
        if axis not in map(str, range(32)) or not isinstance(kept, list) or not kept:
            raise ValueError(f"its indices of {name!r} are of no axis, or none")
        if not all(map(is_size, kept)) or any(
            low >= high for low, high in zip(kept, kept[1:], strict=False)
        ):
            raise ValueError(f"its indices of {name!r} do not ascend")
        return kept

    by_axis = _map_dict(value, "indices", read)
    return {int(axis): kept for axis, kept in by_axis.items()}


def _cut_shape(
    name: str,
    leaves: Mapping[str, Leaf],
    indices: Mapping[str, Mapping[int, list[int]]],
) -> tuple[int, ...]:
    sizes = list(leaves[name][0])
    for axis, kept in indices.get(name, {}).items():
        sizes[axis] = len(kept)
    return tuple(sizes)
