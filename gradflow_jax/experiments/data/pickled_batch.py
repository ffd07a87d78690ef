"""Reads a pickled batch of CIFAR without running what the pickle names.

A pickle is a program that builds its objects by calling functions it names, so a file
from somewhere can do anything. Here the five names that a numpy array needs stand for
stand-ins that note their arguments; any other name is refused. What was noted is
checked, and only then does numpy see the bytes.
"""

import io
import pickle
from typing import Any

import numpy as np

from gradflow_jax.experiments.data.errors import DataError

PIXELS = 3 * 32 * 32
"""The numbers of an image: 32 × 32 in three colors."""


def read(raw: bytes, label_key: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one batch, and calls nothing that the pickle names.

    Args:
        raw: the pickle of a dict.
        label_key: the key of the labels.
        where: the file, for errors.

    Returns:
        The pixels, uint8 [example, 3072], and the labels, int32 [example].

    Raises:
        DataError: if it is damaged or asks for anything but a numpy array of bytes.
    """
    try:
        batch = _BatchUnpickler(raw, where).load()
    except DataError:
        raise
    # Bytes that are no pickle make it raise nearly every exception that there is.
    except Exception as error:
        raise DataError(
            f"{where} cannot be read as a pickled batch: {error or type(error)}"
        ) from error
    if not isinstance(batch, dict) or not {b"data", label_key} <= batch.keys():
        content = list(batch) if isinstance(batch, dict) else type(batch).__name__
        raise DataError(
            f"{where} has {content}: a batch is a dict with the keys b'data' and "
            f"{label_key!r}."
        )
    pixels, labels = batch[b"data"], batch[label_key]
    if not isinstance(pixels, _PickledArray) or not pixels.is_batch():
        raise DataError(
            f"data in {where} is {pixels!r}: it is a uint8 array [example, {PIXELS}] "
            "with all its bytes."
        )
    count = pixels.shape[0]
    integers = isinstance(labels, list) and all(type(i) is int for i in labels)
    if not integers or len(labels) != count or not all(0 <= i < 256 for i in labels):
        raise DataError(
            f"{label_key.decode()} in {where} is no list of {count} classes, one "
            f"integer for each image: it is {str(labels)[:40]}."
        )
    return pixels.to_numpy(), np.array(labels, np.int32)


class _PickledArray:
    """What a pickle says of a numpy array, before numpy sees any of it."""

    shape: Any = None
    dtype: Any = None
    is_fortran: Any = None
    raw: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.raw = state

    def __repr__(self) -> str:
        return f"an array {self.dtype!r}{self.shape!r}"

    def is_batch(self) -> bool:
        """Tells whether these are rows of pixels, each a byte, and all of them."""
        return (
            isinstance(self.shape, tuple)
            and len(self.shape) == 2
            and all(type(size) is int for size in self.shape)
            and self.shape[1] == PIXELS
            and isinstance(self.dtype, _PickledDtype)
            and self.dtype.name in ("u1", "|u1", b"u1", b"|u1")
            and isinstance(self.raw, bytes)
            and len(self.raw) == self.shape[0] * PIXELS > 0
        )

    def to_numpy(self) -> np.ndarray:
        """Returns the array, a view of the pickle's bytes."""
        order = "F" if self.is_fortran else "C"
        return np.frombuffer(self.raw, np.uint8).reshape(self.shape, order=order)


class _PickledDtype:
    """What a pickle says of a dtype: its name; a byte has no more to it."""

    def __init__(self, name: Any):
        self.name = name

    def __setstate__(self, state: Any) -> None:
        del state

    def __repr__(self) -> str:
        return str(self.name)


class _StandIns:
    """Has the methods that are called in place of numpy's functions.

    They are bound methods, since a pickle can set attributes of what it names but not
    of a bound method. They are not the unpickler's own: its memo keeps them, and in
    that circle of references batches would outlive their use.
    """

    def array(self, *args: Any) -> _PickledArray:
        # The arguments make an empty array, whose state the pickle sets afterwards.
        del args
        return _PickledArray()

    def dtype(self, name: Any, *args: Any) -> _PickledDtype:
        del args
        return _PickledDtype(name)

    def encode(self, text: str, encoding: str) -> bytes:
        # Python 3 writes bytes so where the protocol is as old as 2.
        del encoding
        return text.encode("latin1")


class _BatchUnpickler(pickle.Unpickler):
    """Reads containers, numbers, strings and arrays of bytes, and refuses all else."""

    def __init__(self, raw: bytes, where: str):
        # Python 2 wrote the keys and the pixels as its str, which are bytes.
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self._where = where

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Returns the stand-in for a name, or refuses it."""
        name = f"{module_name}.{global_name}"
        stand_ins = _StandIns()
        allowed = {
            "numpy.core.multiarray._reconstruct": stand_ins.array,
            "numpy._core.multiarray._reconstruct": stand_ins.array,
            "numpy.ndarray": "numpy.ndarray",
            "numpy.dtype": stand_ins.dtype,
            "_codecs.encode": stand_ins.encode,
        }
        if name not in allowed:
            raise DataError(
                f"{self._where} asks to run {name!r}, which was refused: a batch of "
                "CIFAR holds a numpy array of bytes and lists."
            )
        return allowed[name]
