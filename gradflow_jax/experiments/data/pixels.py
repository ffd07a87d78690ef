"""Turns pixels into the numbers that networks take."""

from typing import TypeVar

import jax
import numpy as np

Pixels = TypeVar("Pixels", np.ndarray, jax.Array)


def normalize_pixels(images: Pixels) -> Pixels:
    """Maps pixels from 0 to 255 to float32 in [−1, 1]: mean and deviation of one half.

    Args:
        images: uint8, of any shape, in NumPy or in JAX.

    Returns:
        (x/255 − ½)/½, of the same shape, in NumPy or in JAX as they were.

    Example:
        >>> normalize_pixels(np.array([0, 255], np.uint8)).tolist()
        [-1.0, 1.0]
    """
    return (images.astype(np.float32) / 255 - 0.5) / 0.5
