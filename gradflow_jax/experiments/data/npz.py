"""Reads the four arrays of an .npz without trusting what its headers say."""

import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradflow_jax.experiments.data import regular_files
from gradflow_jax.experiments.errors import DataError, abridge, reason_of

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""The names of images and labels."""

# A header is a line of text, to which NumPy gives as much at most.
_MAX_HEADER = 10_000
_MAGIC = b"\x93NUMPY"
# Images have four axes.
_MAX_AXES = 4


def read(path: Path, names: Sequence[str] = ARRAYS) -> dict[str, np.ndarray]:
    """Reads arrays of numbers by their names.

    Args:
        path: of the .npz.
        names: of the arrays.

    Raises:
        DataError: if one is absent, damaged, no array of numbers, or says of itself
            what its bytes do not bear out.
    """
    try:
        with regular_files.open_regular(path) as file, zipfile.ZipFile(file) as archive:
            there = [name.removesuffix(".npy") for name in archive.namelist()]
            if missing := [name for name in names if name not in there]:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}: an .npz needs "
                    f"{', '.join(names)}; it has "
                    f"{abridge(', '.join(there) or 'nothing')}."
                )
            return {name: _read_member(archive, name, path) for name in names}
    except DataError:
        raise
    # zipfile and the decompressors raise nearly every exception on damaged bytes.
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as .npz: {reason_of(error)}."
        ) from error


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    inside = {entry.removesuffix(".npy"): entry for entry in archive.namelist()}
    member = archive.getinfo(inside[name])
    # An archive may say of a member that it is larger than the archive.
    compressed = min(member.compress_size, path.stat().st_size)
    limit = regular_files.swelling_limit(compressed)
    regular_files.check_size(member.file_size, limit, f"{name} of {path}")
    with archive.open(member) as file:
        shape, is_fortran, dtype = _read_header(file, f"{name} of {path}")
        _check_header(shape, dtype, f"{name} of {path}")
        size = math.prod(shape) * dtype.itemsize
        # The payload is of what the archive says, and no reading goes beyond that.
        regular_files.check_size(size, limit, f"{name} of {path}, by its header,")
        raw = regular_files.read_up_to(file, size + 1)
    if len(raw) != size:
        more = "more than " * (len(raw) > size)
        raise DataError(
            f"{name} of {path} is damaged: its header says {dtype}{list(shape)}, "
            f"{size} bytes, and {more}{min(len(raw), size)} follow."
        )
    array = np.frombuffer(raw, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def _read_header(file: Any, where: str) -> tuple[tuple[Any, ...], bool, np.dtype]:
    """Reads what stands before the numbers of an .npy.

    Raises:
        DataError: if that is no header.
    """
    start = file.read(8)
    # Versions differ in how many bytes give the length of the text.
    digits = {b"\x01\x00": 2, b"\x02\x00": 4}.get(start[6:])
    if start[:6] != _MAGIC or digits is None:
        raise DataError(f"{where} is no array: it starts with {start!r}.")
    length = file.read(digits)
    if int.from_bytes(length, "little") > _MAX_HEADER:
        raise DataError(f"{where} is damaged: its header is longer than any is.")
    header = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
    parse = np.lib.format.read_array_header_1_0
    if digits == 4:
        parse = np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            # Python's parser and NumPy warn of odd text, of which an error follows.
            warnings.simplefilter("ignore")
            return parse(header)
    # The text is parsed as Python, by which it may fail in many ways.
    except Exception as error:
        raise DataError(f"{where} is no array: {reason_of(error)}.") from error


def _check_header(shape: tuple[Any, ...], dtype: np.dtype, where: str) -> None:
    if dtype.kind not in "biufc":
        reason = (
            "pickled objects are not read" if dtype.hasobject else "read are numbers"
        )
        raise DataError(f"{where} is an array of {abridge(dtype)}: {reason}.")
    if len(shape) > _MAX_AXES:
        raise DataError(
            f"{where} has {len(shape)} axes: images have {_MAX_AXES} and labels one."
        )
    # Integers of thousands of digits cannot even be shown.
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise DataError(f"{where} is damaged: its header says a size that none has.")
