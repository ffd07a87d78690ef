"""What a file says of its tensors: of which model they are a cut, and their digest."""

import hashlib
import json
from collections.abc import ItemsView, Mapping
from typing import Any, NamedTuple

import numpy as np

from gradflow_jax.structured.composing import Indices
from gradflow_jax.structured.saving.tree_records import rebuild_tree, record_tree
from gradflow_jax.trees import ArrayTree, named_leaves

VERSION = 2
_PARTS = {"version", "original", "saved", "keep", "indices"}


class CutRecord(NamedTuple):
    """What a file says of a cut.

    Attributes:
        original: the shapes and dtypes of the original variables.
        saved: those of the variables in the file.
        keep: bool [units] for each family, True stays.
        indices: which indices of the original leaves stay, of those that are cut.
    """

    original: ArrayTree
    saved: ArrayTree
    keep: dict[str, np.ndarray]
    indices: Indices


def write_record(record: CutRecord, tensors: Mapping[str, np.ndarray]) -> str:
    """Returns a record as JSON, with a SHA-256 of itself and of the tensors."""
    shapes = {name: leaf.shape for name, leaf in named_leaves(record.original)}
    content = {
        "version": VERSION,
        "original": record_tree(record.original),
        "saved": record_tree(record.saved),
        "keep": {name: _write_flags(flags) for name, flags in record.keep.items()},
        "indices": {
            name: {
                str(axis): _write_flags(np.isin(np.arange(shapes[name][axis]), kept))
                for axis, kept in kept_by_axis.items()
            }
            for name, kept_by_axis in record.indices.items()
        },
    }
    return json.dumps(content | {"sha256": _digest(content, tensors)})


def read_record(text: str, tensors: Mapping[str, np.ndarray]) -> CutRecord:
    """Returns the record of a file, checked against its digest and its tensors.

    Nothing is allocated by the sizes that a record gives: flags are as many as it
    spells out, and tensors are what the file holds.

    Raises:
        ValueError: that says in which way the record is wrong.
        RecursionError: if its JSON is nested too deeply.
    """
    content = json.loads(text)
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ValueError(
            f"it is of version {str(version)[:20]}, and {VERSION} is read here"
        )
    digest = content.pop("sha256", None)
    if odd := content.keys() ^ _PARTS:
        raise ValueError(f"its record lacks, or has besides, {min(odd)[:40]!r}")
    if digest != _digest(content, tensors):
        raise ValueError("its SHA-256 is another: it is not as it was written")
    # Who writes a digest may still write a record that contradicts itself.
    original, saved = rebuild_tree(content["original"]), rebuild_tree(content["saved"])
    keep = {name: _read_flags(name, flags) for name, flags in _items(content["keep"])}
    indices: Indices = {}
    shapes = {name: list(leaf.shape) for name, leaf in named_leaves(original)}
    for name, flags_by_axis in _items(content["indices"]):
        sizes = {str(axis): size for axis, size in enumerate(shapes.get(name, ()))}
        for axis, text_of_flags in _items(flags_by_axis):
            flags = _read_flags(name, text_of_flags)
            if flags.size != sizes.get(axis):
                raise ValueError(f"its indices of {name!r} are of another shape")
            indices.setdefault(name, {})[int(axis)] = np.flatnonzero(flags)
            shapes[name][int(axis)] = np.count_nonzero(flags)
    saved_shapes = {name: list(leaf.shape) for name, leaf in named_leaves(saved)}
    for name, shape in saved_shapes.items():
        if shape != shapes.get(name):
            raise ValueError(f"its leaf {name!r} is not what the indices leave")
    if odd := tensors.keys() ^ saved_shapes.keys():
        raise ValueError(f"its record and its tensors differ in {min(odd)!r}")
    return CutRecord(original, saved, keep, indices)


def _digest(content: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        sha256.update(tensors[name].reshape(-1).view(np.uint8).data)
    return sha256.hexdigest()


def _items(value: object) -> ItemsView[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("its record has no object where one belongs")
    return value.items()


def _write_flags(flags: np.ndarray) -> str:
    return "".join("01"[flag] for flag in flags.tolist())


def _read_flags(name: str, text: object) -> np.ndarray:
    if not isinstance(text, str) or set(text) - {"0", "1"} or "1" not in text:
        raise ValueError(f"what it keeps of {name!r} is no row of 0 and 1 with a 1")
    return np.frombuffer(text.encode(), np.uint8) == ord("1")
