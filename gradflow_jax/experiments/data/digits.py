"""Reads the handwritten digits of scikit-learn: 1,797 images of 8×8 pixels."""

import numpy as np

from gradflow_jax.experiments.data.errors import DataError

_TEST_STRIDE = 5
"""One image of so many is of the test set."""


def read() -> dict[str, np.ndarray]:
    """Returns the arrays of the digits, every fifth image to test.

    Raises:
        DataError: if scikit-learn is absent.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(
            "digits come with scikit-learn, which is absent: pip install scikit-learn, "
            "or pass 'subset'."
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    # Shades are from 0 to 16, and are stretched to the 0 to 255 of other images.
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    is_test = np.arange(len(labels)) % _TEST_STRIDE == 0
    return {
        "x_train": images[~is_test],
        "y_train": labels[~is_test],
        "x_test": images[is_test],
        "y_test": labels[is_test],
    }
