"""A run's state on disk: written whole, checked when read, by Orbax."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from gradflow_jax.atomic_files import delete_whole, tidy, write_whole
from gradflow_jax.experiments.data import regular_files
from gradflow_jax.experiments.errors import (
    CheckpointError,
    FolderError,
    reason_of,
)
from gradflow_jax.experiments.typed_values import describe
from gradflow_jax.trees import ArrayTree, named_leaves

_VERSION = 1
_ARRAYS, _ABOUT = "arrays", "about.json"
_MAX_ABOUT = 2**27
_KEPT = 2


class Saved(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        arrays: nested dicts of NumPy arrays.
        about: what JSON holds.
    """

    arrays: ArrayTree
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, by epoch; the last two are kept.

    A checkpoint gets its name when all of it is on disk, and loses it before any of it
    is deleted. A SHA-256 of each of its files stands in it.
    """

    def __init__(self, folder: Path):
        """Opens a folder; what an interrupted run left unfinished there is deleted.

        Raises:
            FolderError: if it cannot be made.
        """
        self._folder = folder.absolute()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolderError(f"{folder} cannot be made: {error.strerror}.") from error
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        tidy(self._folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._orbax.close()

    def save(self, epoch: int, arrays: ArrayTree, about: Mapping[str, Any]) -> None:
        """Saves what a run is after an epoch.

        Args:
            epoch: that is done.
            arrays: nested dicts of arrays.
            about: what JSON can hold, for `restore` to give back.

        Raises:
            CheckpointError: if it cannot be written; nothing of it is left then.
        """
        path = self._path(epoch)
        try:
            with _no_logging():
                write_whole(path, lambda folder: self._fill(folder, arrays, about))
        # Orbax and TensorStore raise nearly anything where a disk is full.
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint {path} cannot be written: {_reason_with_kind(error)}. "
                "The one before it is whole: make room, and start the same run again."
            ) from error
        for old in self._epochs()[:-_KEPT]:
            if (self._path(old) / _ABOUT).exists():
                delete_whole(self._path(old))

    def _fill(self, folder: Path, arrays: ArrayTree, about: Mapping[str, Any]) -> None:
        self._orbax.save(folder / _ARRAYS, arrays)
        files = {
            file.relative_to(folder).as_posix(): _sha256(file.read_bytes())
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        # `about.json` holds the hash of every other file and that of its own content,
        # so that `restore` can tell whether all is as it was written.
        content = {"files": files, "about": dict(about)}
        header = {"version": _VERSION, "sha256": _sha256(_to_json(content))}
        (folder / _ABOUT).write_bytes(_to_json({**header, **content}))

    def latest(self) -> int | None:
        """Returns the last epoch that was saved."""
        return max(self._epochs(), default=None)

    def restore(self, epoch: int) -> Saved:
        """Reads a checkpoint, all of it or nothing.

        Raises:
            CheckpointError: if it is damaged or of another version.
        """
        path = self._path(epoch)
        try:
            content = json.loads(regular_files.read_bytes(path / _ABOUT, _MAX_ABOUT))
            version, expected = content.pop("version"), content.pop("sha256")
            if version == _VERSION:
                # Hashes are checked before Orbax reads, since it trusts its files.
                _check_hashes(path, content, expected)
                arrays = self._orbax.restore(path / _ARRAYS)
                about = dict(content["about"])
                return Saved(jax.tree.map(np.asarray, arrays), about)
        # Orbax, TensorStore and JSON raise nearly anything for damaged files.
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint {path} is damaged: {_reason_with_kind(error)}. Delete "
                "that folder to go on from the one before it, or start anew with "
                "--force."
            ) from error
        raise CheckpointError(
            f"the checkpoint {path} is of format {describe(version)}, and this version "
            f"reads {_VERSION}: go on with the version that wrote it, or start anew "
            "with --force."
        )

    def _path(self, epoch: int) -> Path:
        return self._folder / str(epoch)

    def _epochs(self) -> list[int]:
        return sorted(
            int(path.name) for path in self._folder.iterdir() if is_named(path)
        )


def is_named(path: Path) -> bool:
    """Tells whether a name is that of a checkpoint: its epoch, as Python writes it."""
    # Of Arabic digits, of leading zeros and of many digits no checkpoint is named.
    return re.fullmatch("0|[1-9][0-9]{0,8}", path.name) is not None


def _check_hashes(path: Path, content: Mapping[str, Any], expected: str) -> None:
    """Checks that every file of a checkpoint is as it was written.

    Args:
        path: of the checkpoint.
        content: of its `about.json`: hashes of the other files, and what a run is.
        expected: the hash of this content.

    Raises:
        ValueError: naming the first file that is not.
    """
    if _sha256(_to_json(content)) != expected:
        raise ValueError(f"{_ABOUT} is not as it was written")
    files = {
        file.relative_to(path).as_posix(): file
        for file in path.rglob("*")
        if not file.is_dir() and file != path / _ABOUT
    }
    if odd := files.keys() ^ content["files"].keys():
        raise ValueError(f"{min(odd)} is not what it has beside {_ABOUT}")
    for name, sha256 in content["files"].items():
        if _sha256(regular_files.read_bytes(files[name])) != sha256:
            raise ValueError(f"{name} is not as it was written")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _to_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode()


@contextmanager
def _no_logging() -> Iterator[None]:
    """Keeps Orbax from logging the traceback of every thread, whose error it raises."""
    logger = logging.getLogger("absl")
    was_disabled = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was_disabled


def _reason_with_kind(error: Exception) -> str:
    return f"{type(error).__name__}: {reason_of(error)}"


def nest_by_path(tree: ArrayTree) -> ArrayTree:
    """Returns a tree as nested dicts of NumPy arrays, which files can hold."""
    result: dict[str, Any] = {}
    for path, leaf in named_leaves(tree):
        *parents, last = path.split("/")
        at = result
        for piece in parents:
            at = at.setdefault(piece, {})
        at[last] = np.asarray(leaf)
    return result


def arrange_like(arrays: ArrayTree, like: ArrayTree) -> ArrayTree:
    """Arranges arrays in the tree of `like`: it undoes what `nest_by_path` did.

    Raises:
        ValueError: if a leaf is missing, left over, or of another shape or dtype.
    """
    saved, expected = dict(named_leaves(arrays)), dict(named_leaves(like))
    odd_paths = sorted(set(saved) ^ set(expected))
    odd_paths += [
        path
        for path in sorted(set(saved) & set(expected))
        if saved[path].shape != expected[path].shape
        or saved[path].dtype != expected[path].dtype
    ]
    if odd_paths:
        raise ValueError(
            f"{odd_paths[0]!r} is not what the network of this run has there"
        )
    # `named_leaves` gives leaves in the order in which JAX flattens the tree.
    return jax.tree.structure(like).unflatten(saved[path] for path in expected)
