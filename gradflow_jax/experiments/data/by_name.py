"""Finds data sets that are asked for by name."""

import os
from pathlib import Path

from gradflow_jax.experiments.data import archive, cifar, image_folder
from gradflow_jax.experiments.data.errors import DataError

FOLDER_VARIABLE = "GRADFLOW_JAX_DATA"
_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
NAMES = tuple(_TITLES)


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
