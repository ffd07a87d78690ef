"""Reads the IDX files of the MNIST family, plain or compressed."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from gradflow_jax.experiments.data.errors import DataError

_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


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
    return next((path for path in candidates if path.is_file()), None)


def _read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file: two zero bytes, 8 for uint8, the rank, each size, the data."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path} is no IDX file of bytes: it starts with {raw[:4]!r}.")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start], ">u4").tolist())
    if len(raw) - start != np.prod(shape, dtype=np.int64):
        raise DataError(
            f"{path} is damaged: its header says {shape}, "
            f"{len(raw) - start} bytes follow."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
