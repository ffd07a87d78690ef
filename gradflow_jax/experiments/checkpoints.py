"""A run's state on disk: written whole, checked when read, by Orbax."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from gradflow_jax.structured.saving import nested
from gradflow_jax.trees import PyTree, named_leaves

_VERSION = 1
_OLD = "old"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and what to do."""


class Saved(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        arrays: nested dicts of NumPy arrays.
        about: what JSON holds.
    """

    arrays: PyTree
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, by epoch; the last two are kept.

    A checkpoint appears under its name when all of it is on disk, and goes from its
    name before any of it is deleted. A SHA-256 of all it holds stands beside it.
    """

    def __init__(self, folder: Path):
        """Opens a folder; what an interrupted run left unfinished there is deleted."""
        self._folder = folder.absolute()
        self._old = self._folder / _OLD
        # Of a process that died while it deleted; nothing could be moved there.
        shutil.rmtree(self._old, ignore_errors=True)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                todelete_subdir=_OLD,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(self, epoch: int, arrays: PyTree, about: Mapping[str, Any]) -> None:
        """Saves what a run is after an epoch.

        Args:
            epoch: that is done.
            arrays: nested dicts of arrays.
            about: what JSON can hold, for `restore` to give back.
        """
        about = dict(about)
        found = digest(arrays, about)
        content = {"version": _VERSION, "sha256": found, "about": about}
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays),
                about=ocp.args.JsonSave(content),
            ),
            force=True,
        )
        shutil.rmtree(self._old, ignore_errors=True)

    def latest(self) -> int | None:
        """Returns the last epoch that was saved."""
        return self._manager.latest_step()

    def restore(self, epoch: int) -> Saved:
        """Reads a checkpoint, all of it or nothing.

        Raises:
            CheckpointError: if it is damaged or of another version.
        """
        path = self._folder / str(epoch)
        wanted = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
        )
        try:
            found = self._manager.restore(epoch, args=wanted)
            content = found["about"]
            version, expected = content["version"], content["sha256"]
            arrays = jax.tree.map(np.asarray, found["arrays"])
            about = content["about"]
            if version == _VERSION and digest(arrays, about) != expected:
                raise ValueError("its content is not what was written")
        # Whatever Orbax, TensorStore and JSON raise for files that are not as written.
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint {path} is damaged: {_line(error)}. Delete that folder "
                "to go on from the one before it, or start anew with --force."
            ) from error
        if version != _VERSION:
            raise CheckpointError(
                f"the checkpoint {path} is of format {version}, and this version reads "
                f"{_VERSION}: go on with the version that wrote it, or start anew with "
                "--force."
            )
        return Saved(arrays, about)


def digest(tree: PyTree, about: Any = None) -> str:
    """Returns a SHA-256 of a tree of arrays, and of what JSON says beside it."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for path, leaf in sorted(named_leaves(tree)):
        array = np.asarray(leaf)
        found.update(f"{path} {array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def by_path(tree: PyTree) -> PyTree:
    """Returns a tree as nested dicts of NumPy arrays, which files can hold."""
    return nested({path: np.asarray(leaf) for path, leaf in named_leaves(tree)})


def arranged(arrays: PyTree, like: PyTree) -> PyTree:
    """Returns arrays in the tree of `like` that they were taken from by `by_path`.

    Raises:
        ValueError: if a leaf is missing, left over, or of another shape or dtype.
    """
    found, wanted = dict(named_leaves(arrays)), dict(named_leaves(like))
    odd = sorted(set(found) ^ set(wanted))
    odd += [
        path
        for path in sorted(set(found) & set(wanted))
        if found[path].shape != wanted[path].shape
        or found[path].dtype != wanted[path].dtype
    ]
    if odd:
        raise ValueError(f"{odd[0]!r} is not what the network of this run has there")
    return jax.tree.structure(like).unflatten(found[path] for path in wanted)
