"""Reads CIFAR-10 and CIFAR-100 as published, in folders or tar archives."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from gradflow_jax.experiments.data import archive, pickled_batch, regular_files
from gradflow_jax.experiments.errors import DataError

_PLANES = (3, 32, 32)
# The largest published file has 50,000 images, 155 MB.
_MAX_FILE = 2**28


class Layout(NamedTuple):
    """The files of one published form.

    Attributes:
        name: of the data set.
        archive: what the published tar is called.
        folder: the folder in it.
        train: the files of training images, in their order.
        test: the file of test images.
        labels: the key of the labels in a pickle; None where files are records.
        label_bytes: before the pixels of a record; the last is the class.
    """

    name: str
    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: bytes | None = None
    label_bytes: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        """The files of both splits."""
        return (*self.train, self.test)


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS = (
    Layout(
        "CIFAR-10",
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        _BATCHES,
        "test_batch",
        labels=b"labels",
    ),
    Layout(
        "CIFAR-10",
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        tuple(f"{batch}.bin" for batch in _BATCHES),
        "test_batch.bin",
        label_bytes=1,
    ),
    Layout(
        "CIFAR-100",
        "cifar-100-python.tar.gz",
        "cifar-100-python",
        ("train",),
        "test",
        labels=b"fine_labels",
    ),
    # A record has two labels, of which the first is the coarse one.
    Layout(
        "CIFAR-100",
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        label_bytes=2,
    ),
)


def layout_of_folder(folder: Path) -> Layout | None:
    """Returns the form of which a folder has a file, or None."""
    for layout in LAYOUTS:
        if any(_is_there(folder / file) for file in layout.files):
            return layout
    return None


def layout_of_file(file: PurePosixPath) -> Layout | None:
    """Returns the form to which a file in an archive belongs, or None."""
    for layout in LAYOUTS:
        if file.name in layout.files and len(file.parts) <= 2:
            return layout
    return None


def read(path: Path, layout: Layout) -> dict[str, np.ndarray]:
    """Reads both splits; of CIFAR-100, the 100 fine labels.

    Nothing that a pickle names is ever called.

    Args:
        path: a folder, or a tar with at most one leading folder.
        layout: of its files.

    Returns:
        x_train, y_train, x_test and y_test: uint8 [example, 32, 32, 3] and integers
        [example].

    Raises:
        DataError: if a file is absent or damaged, or a pickle asks for anything but a
            numpy array of bytes.
    """
    batches = {
        file: _batch(raw, layout, f"{file} of {path}")
        for file, raw in _raw_files(path, layout)
    }
    missing = [file for file in layout.files if file not in batches]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}: {layout.name} in this form needs "
            f"{', '.join(layout.files)}."
        )
    arrays = {}
    for split, files in (("train", layout.train), ("test", (layout.test,))):
        images, labels = zip(*(batches[file] for file in files), strict=True)
        arrays[f"x_{split}"] = np.concatenate(images)
        arrays[f"y_{split}"] = np.concatenate(labels)
    return arrays


def _raw_files(path: Path, layout: Layout) -> Iterator[tuple[str, bytes]]:
    if not path.is_dir():
        files = archive.contents(path, lambda f: layout_of_file(f) == layout, _MAX_FILE)
        for file, raw in files:
            yield file.name, raw
        return
    for name in layout.files:
        if _is_there(path / name):
            yield name, regular_files.read_bytes(path / name, _MAX_FILE)


def _is_there(path: Path) -> bool:
    # A folder of images has folders of these names; what else is no file is an error.
    return os.path.lexists(path) and not path.is_dir()


def _batch(raw: bytes, layout: Layout, where: str) -> tuple[np.ndarray, np.ndarray]:
    if layout.labels is None:
        pixels, labels = _from_records(raw, layout.label_bytes, where)
    else:
        pixels, labels = pickled_batch.read(raw, layout.labels, where)
    images = pixels.reshape(-1, *_PLANES).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def _from_records(
    raw: bytes, label_bytes: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    size = label_bytes + pickled_batch.PIXELS
    if not raw or len(raw) % size:
        raise DataError(
            f"{where} is damaged: it has {len(raw):,} bytes, no multiple of the "
            f"{size:,} of one record."
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, size)
    return records[:, label_bytes:], records[:, label_bytes - 1]
