"""Finds data sets that are asked for by name: in a folder, or in scikit-learn."""

import os
from pathlib import Path

import numpy as np

from gradflow_jax.experiments.data import archive, cifar, image_folder
from gradflow_jax.experiments.errors import DataError

FOLDER_VARIABLE = "GRADFLOW_JAX_DATA"
_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
NAMES = tuple(_TITLES)

_TEST_STRIDE = 5
"""One digit of so many is of the test set."""


def find(name: str) -> Path:
    """Returns where a named data set is, in the first of its forms that is there.

    Args:
        name: one of NAMES.

    Raises:
        DataError: if it is in none; one line that says how to get it.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE) or "data").expanduser()
    layouts = [layout for layout in cifar.LAYOUTS if layout.name == _TITLES[name]]
    files = [file for layout in layouts for file in (layout.folder, layout.archive)]
    files += [f"{name}.npz", name, *(name + end for end in archive.TAR_ENDINGS)]
    place = next((folder / file for file in files if (folder / file).exists()), None)
    if place is None:
        torchvision = _TITLES[name].replace("-", "")
        raise DataError(
            f"{name} is not in {folder.absolute()}: put {layouts[0].archive} there, as "
            f"torchvision.datasets.{torchvision}({str(folder)!r}, download=True) does, "
            f"or {name}.npz made from Hugging Face's uoft-cs/{name}, or images "
            f"{name}/{image_folder.FORM}; {FOLDER_VARIABLE} names another folder."
        )
    return place


def read_digits() -> dict[str, np.ndarray]:
    """Returns 1,797 handwritten digits of 8×8 pixels, every fifth to test.

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
