"""Writes and deletes files so that they are whole or absent, however a process ends.

What is being written or deleted has a name that nobody else gives, of its own for each
writer: two threads or processes that write one file leave one of the two, whole.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".gradflow-jax-partial"
"""How the names of unfinished files begin, and those of nobody else."""

# Suffixes tell some writers the format, and no format has a longer one.
_LONGEST_SUFFIX = 16


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a file beside `path` and puts it in its place in one step.

    The file has the mode that the process's umask gives. A symbolic link stays one, and
    the file that it names is written. What `write` makes may be a folder, too, where
    there is none of this name.

    Args:
        path: of the file; folders that it lacks are made.
        write: is given the path to write to, with the suffix of `path`.

    Raises:
        OSError: that names the path, if it cannot be written: a full disk, no
            permission, a folder or a device in its place, a name too long.
        ValueError: if the path holds a null character.
    """
    if "\0" in str(path):
        raise ValueError(
            f"{str(path)!r} holds a null character, as no file's name can."
        )
    with _naming(path):
        target = Path(os.path.realpath(path))
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(target)
        try:
            write(partial)
            os.replace(partial, target)
        finally:
            _delete(partial)


def delete_whole(path: Path) -> None:
    """Deletes a file or a folder, which loses its name before any of it goes."""
    _delete(path.rename(_partial(path)))


def tidy(folder: Path) -> None:
    """Deletes what a killed process had not finished writing or deleting there."""
    for partial in folder.glob(f"{PARTIAL}-*"):
        _delete(partial)


def _partial(path: Path) -> Path:
    """Returns a name beside a path that no other writer has.

    The path's own name is no part of it, lest it be too long where that is not.
    """
    suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
    return path.with_name(f"{PARTIAL}-{uuid.uuid4().hex}{suffix}")


def _check_replaceable(path: Path) -> None:
    """Raises OSError where a file would take the place of what is none."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EEXIST, "a device, a pipe or a socket is there", str(path))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes every OSError name a path, whatever file beside it failed."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path} cannot be written: {error}") from error
        reason = error.strerror or os.strerror(error.errno)
        raise OSError(error.errno, reason, str(path)) from error


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
