"""Writes and deletes files so that they are whole or absent, however a process ends."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a file beside `path` and puts it in its place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def delete_whole(path: Path) -> None:
    """Deletes a file or a folder, which loses its name before any of it goes."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _delete(path.rename(partial))


def tidy(folder: Path) -> None:
    """Deletes what a killed process had not finished writing or deleting there."""
    for partial in folder.glob(".*.partial*"):
        _delete(partial)


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
