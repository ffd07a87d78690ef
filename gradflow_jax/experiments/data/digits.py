"""The handwritten digits that come with scikit-learn: 1,797 images of 8×8 pixels."""

import numpy as np

from gradflow_jax.experiments.data.errors import DataError

_TEST = 5
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
    # Sixteen shades.
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    test = np.arange(len(labels)) % _TEST == 0
    return {
        "x_train": images[~test],
        "y_train": labels[~test],
        "x_test": images[test],
        "y_test": labels[test],
    }
