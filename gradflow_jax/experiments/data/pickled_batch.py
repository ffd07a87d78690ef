"""Reads a pickled batch of CIFAR without running what the pickle names.

A pickle is a program that builds its objects by calling functions it names, so a file
from somewhere can do anything, and what it builds can be larger than any memory or
deeper than any stack. Here a machine of our own (`pickle_machine`) runs the few
operations that lists, strings and a numpy array need, for as many steps as an honest
batch takes. What it built is checked, and only then does numpy see the bytes.
"""

from typing import Any

import numpy as np

from gradflow_jax.experiments.data.pickle_machine import (
    PickledArray,
    PickledDtype,
    run_pickle,
)
from gradflow_jax.experiments.errors import DataError

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
            The message says of what type a value is and where it stands, never the
            value, which may be too large or too deep to be shown.
    """
    # An image has 3,072 bytes and some five operations: its label, its name.
    batch = run_pickle(raw, where, max_steps=10_000 + len(raw) // 100)
    if not isinstance(batch, dict) or not {b"data", label_key} <= batch.keys():
        raise DataError(
            f"{where} is {type_in_words(batch)}: a batch is a dict with the keys "
            f"b'data' and {label_key!r}."
        )
    pixels, labels = batch[b"data"], batch[label_key]
    if not isinstance(pixels, PickledArray) or not _is_batch(pixels):
        raise DataError(
            f"data in {where} is {type_in_words(pixels)}: it is a uint8 array "
            f"[example, {PIXELS}] with all its bytes."
        )
    _check_labels(labels, pixels.shape[0], f"{label_key.decode()} in {where}")
    order = "F" if pixels.is_fortran else "C"
    array = np.frombuffer(pixels.raw, np.uint8).reshape(pixels.shape, order=order)
    return array, np.array(labels, np.int32)


def type_in_words(value: Any) -> str:
    """Returns of what kind a value of a pickle is, in a few words of any value."""
    if isinstance(value, (list, tuple, bytes, str, dict)):
        return f"a {type(value).__name__} of length {len(value)}"
    if isinstance(value, PickledArray):
        shape = value.shape
        if not isinstance(shape, tuple) or not all(
            _is_size(size) for size in shape[:9]
        ):
            return "an array of no shape"
        dtype = value.dtype.name if isinstance(value.dtype, PickledDtype) else None
        return f"an array {dtype}{list(shape[:9])}"
    return f"of type {type(value).__name__}"


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _is_batch(pixels: PickledArray) -> bool:
    """Tells whether these are rows of pixels, each a byte, and all of them."""
    return (
        isinstance(pixels.shape, tuple)
        and len(pixels.shape) == 2
        and all(_is_size(size) for size in pixels.shape)
        and pixels.shape[1] == PIXELS
        and isinstance(pixels.dtype, PickledDtype)
        and pixels.dtype.name in ("u1", "|u1")
        and isinstance(pixels.raw, bytes)
        and len(pixels.raw) == pixels.shape[0] * PIXELS > 0
    )


def _check_labels(labels: Any, count: int, what: str) -> None:
    """Checks that labels are a list of so many classes.

    Raises:
        DataError: saying which is none.
    """
    expected = f"it is a list of {count} classes from 0 to 255, one for each image"
    if not isinstance(labels, list) or len(labels) != count:
        raise DataError(f"{what} is {type_in_words(labels)}: {expected}.")
    for i, label in enumerate(labels):
        if type(label) is not int:
            raise DataError(f"{what}[{i}] is {type_in_words(label)}: {expected}.")
        if not 0 <= label < 256:
            raise DataError(f"{what}[{i}] is an integer of no class: {expected}.")
