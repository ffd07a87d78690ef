"""What in a folder is a run's own: its lock, and what it may replace or delete.

A folder may hold what other programs wrote. The names of locks and of unfinished files
are therefore of this package alone, and what has the name of a result or a checkpoint
without being one is refused.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gradflow_jax.atomic_files import PARTIAL
from gradflow_jax.experiments.errors import FolderError, reason_of
from gradflow_jax.experiments.reproduction.checkpoints import is_named

LOCK_NAME = ".gradflow-jax.lock"


def check_absent(paths: Iterable[Path]) -> None:
    """Checks that what a run will write replaces nothing that it did not write.

    Raises:
        FolderError: naming what is there.
    """
    for path in paths:
        if os.path.lexists(path):
            raise FolderError(
                f"{path} is of a run whose checkpoints are gone, or of another "
                "program: choose another --out, or --force to start anew."
            )


def check_own_checkpoints(folder: Path) -> None:
    """Checks that a folder holds nothing but checkpoints of a run.

    Raises:
        FolderError: naming what else it holds.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not is_named(path) and PARTIAL not in path.name:
            raise FolderError(
                f"{path} is no checkpoint, and is not deleted: move it away, or choose "
                "another --out."
            )


@contextmanager
def say_where_written(out: Path) -> Iterator[None]:
    """Turns what a full disk raises to a line.

    Raises:
        FolderError: if something cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"{out} cannot be written to: {reason_of(error)}. Its checkpoints are "
            "whole: make room, and start the same run again."
        ) from error


@contextmanager
def hold_alone(out: Path) -> Iterator[None]:
    """Holds a folder for one process; the lock goes with the process, however it ends.

    Raises:
        FolderError: if another process has it, or the lock's name is another's file.
    """
    path = out / LOCK_NAME
    # The file is empty and stays so. A link is not followed, nor a pipe waited for.
    flags = os.O_RDWR | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags, 0o666), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size:
                raise FolderError(f"{path} is no lock of a run: move it away.")
            # Windows has no such locks, and warns nobody of a second run.
            with suppress(ModuleNotFoundError):
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise FolderError(
                        f"{out} is in use by another run: wait for it, or choose "
                        "another --out."
                    ) from error
            yield
    except OSError as error:
        raise FolderError(
            f"{out} cannot be used: {reason_of(error)}. Choose another --out."
        ) from error
