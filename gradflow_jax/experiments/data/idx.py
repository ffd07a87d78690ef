"""Reads the IDX files of the MNIST family, plain or compressed."""

import math
import os
from pathlib import Path

import numpy as np

from gradflow_jax.experiments.data import regular_files
from gradflow_jax.experiments.errors import DataError

_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
# Images have three axes, or a fourth of channels, and labels one.
_MAX_AXES = 4


def is_folder(folder: Path) -> bool:
    """Tells whether a folder has any of the four files."""
    return any(_find(folder, stem) for stem in _FILES.values())


def read(folder: Path) -> dict[str, np.ndarray]:
    """Reads the four files of a folder.

    Raises:
        DataError: if one is absent or damaged.
    """
    arrays = {}
    for name, stem in _FILES.items():
        file = _find(folder, stem)
        if file is None:
            raise DataError(
                f"{folder} lacks {stem}[.gz]: a folder needs the four IDX files "
                f"{', '.join(_FILES.values())}, plain or .gz."
            )
        arrays[name] = _read_idx(file)
    return arrays


def _find(folder: Path, stem: str) -> Path | None:
    # Some copies have a dot in place of the dash: train-images.idx3-ubyte.
    names = [stem, stem.replace("-idx", ".idx")]
    candidates = [folder / (n + end) for n in names for end in ("", ".gz")]
    return next((path for path in candidates if os.path.lexists(path)), None)


def _read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file: two zero bytes, 8 for uint8, the rank, each size, the data.

    No more is read than the header says, and its sizes are compared with the file's
    before there is an array.
    """
    with regular_files.open_decompressed(path) as (file, limit, is_compressed):
        start = file.read(4)
        if len(start) < 4 or start[:3] != b"\x00\x00\x08":
            raise DataError(
                f"{path} is no IDX file of bytes: it starts with {start!r}."
            )
        rank = start[3]
        if not 1 <= rank <= _MAX_AXES:
            raise DataError(
                f"{path} is damaged: its header says {rank} axes; images have 3 and "
                "labels 1."
            )
        sizes = file.read(4 * rank)
        if len(sizes) < 4 * rank:
            raise DataError(f"{path} is damaged: it ends within its header.")
        shape = tuple(np.frombuffer(sizes, ">u4").tolist())
        # The product is of Python's integers, which do not overflow.
        size = math.prod(shape)
        regular_files.check_size(size, regular_files.MAX_BYTES, f"the array of {path}")
        follow, bound = limit - 4 - 4 * rank, "at most " * is_compressed
        if size <= follow:
            raw = regular_files.read_up_to(file, size + 1)
            if len(raw) == size:
                return np.frombuffer(raw, np.uint8).reshape(shape)
            follow, bound = min(len(raw), size), "more than " * (len(raw) > size)
    raise DataError(
        f"{path} is damaged: its header says {shape}, {bound}{follow} bytes follow."
    )
