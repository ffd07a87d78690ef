"""Honest data of every format in a few kilobytes, and damage to their bytes by seed."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from gradflow_jax.experiments.data import DataError, load

ROWS = np.arange(4 * 3072, dtype=np.uint64).reshape(4, 3072).astype(np.uint8)
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def idx(sizes, payload=b""):
    """Returns an IDX file of bytes that says such sizes of itself."""
    header = struct.pack(">HBB", 0, 8, len(sizes))
    return header + b"".join(struct.pack(">I", size) for size in sizes) + payload


def encoded_image(form="PNG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def tar_of(files, mode="w"):
    """Returns a tar of files by their names."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def npz_of(**changes):
    """Returns an .npz of four images to train and two to test."""
    arrays = {
        "x_train": np.arange(100, dtype=np.uint8).reshape(4, 5, 5),
        "y_train": np.arange(4) % 2,
        "x_test": np.arange(50, dtype=np.uint8).reshape(2, 5, 5),
        "y_test": np.arange(2),
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **{**arrays, **changes})
    return packed.getvalue()


def _images(form="PNG"):
    ending = form.lower()
    return {
        f"{split}/{label}/{i}.{ending}": encoded_image(form, i)
        for split in ("train", "test")
        for label in ("a", "b")
        for i in range(2)
    }


def _idx_files(compress=False):
    files = {}
    for split in ("train", "t10k"):
        files[f"{split}-images-idx3-ubyte"] = idx((4, 5, 5), bytes(range(100)))
        files[f"{split}-labels-idx1-ubyte"] = idx((4,), bytes([0, 1, 0, 1]))
    if compress:
        files = {f"{name}.gz": gzip.compress(raw) for name, raw in files.items()}
    return files


def _batches():
    batch = {b"data": ROWS, b"labels": [0, 1, 0, 1]}
    return {name: pickle.dumps(batch, protocol=2) for name in BATCHES}


_BINARY = b"".join(bytes([i % 2]) + ROWS[i].tobytes() for i in range(4))

# Of each format, its files by name. A folder is loaded, unless there is but one file.
FORMATS = {
    "CIFAR pickles": _batches(),
    "CIFAR records": {f"{name}.bin": _BINARY for name in BATCHES},
    "IDX": _idx_files(),
    "IDX compressed": _idx_files(compress=True),
    "npz": {"set.npz": npz_of()},
    "PNG folder": _images(),
    "JPEG folder": _images("JPEG"),
    "tar of images": {"set.tar": tar_of(_images())},
    "tar.gz of pickles": {"set.tar.gz": tar_of(_batches(), "w:gz")},
    "tar.xz of images": {"set.tar.xz": tar_of(_images(), "w:xz")},
    "tar.bz2 of images": {"set.tar.bz2": tar_of(_images(), "w:bz2")},
}


def write_files(folder, files):
    """Writes files by their names; returns what `load` is given."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / next(iter(files)) if len(files) == 1 else folder


def damage(raw, rng):
    """Returns bytes that are damaged somewhere, most often near the beginning."""
    kind = rng.integers(6)
    longest = len(raw) if rng.random() < 0.4 else min(len(raw), 200)
    at = int(rng.integers(longest))
    if kind == 0:
        return raw[:at]
    changed = bytearray(raw)
    if kind == 1:
        changed[at:at] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == 2:
        end = min(len(raw), at + int(rng.integers(1, 12)))
        changed[at:end] = b"\xff" * (end - at)
    elif kind == 3:
        del changed[at : at + int(rng.integers(1, 40))]
    else:
        for place in rng.integers(longest, size=int(rng.integers(1, 4))):
            changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def check_refusal(path):
    """Loads what may be damaged; returns the error's line, None if it is read.

    Any error but `DataError` is raised, and lines that are none fail.
    """
    try:
        load(path)
    except DataError as error:
        line = str(error)
        assert line.isprintable() and len(line) < 600 + 2 * len(str(path)), line
        assert str(path) in line or Path(path).name in line, line
        return line
    return None


def damaged_and_loaded(folder, name, count, seed=0):
    """Damages one file of a format, so many times; returns how many were refused."""
    rng = np.random.default_rng([seed, list(FORMATS).index(name)])
    files = FORMATS[name]
    path = write_files(folder, files)
    refused = 0
    for _ in range(count):
        victim = list(files)[int(rng.integers(len(files)))]
        (folder / victim).write_bytes(damage(files[victim], rng))
        refused += check_refusal(path) is not None
        (folder / victim).write_bytes(files[victim])
    return refused
