"""Loads labeled images: the subset that the package ships, and files on disk."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradflow_jax.experiments.data import (
    archive,
    by_name,
    cifar,
    idx,
    image_folder,
    npz,
)
from gradflow_jax.experiments.errors import DataError as DataError
from gradflow_jax.experiments.errors import in_one_line, reason_of

FULL_SET = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the full set."""

_SUBSET = Path(__file__).parent / "fashion_mnist" / "subset.npz"
# The hash is of the pixels of the 60,000 training images, in the original order.
_FASHION_MNIST_SHA256 = (
    "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"
)


class Dataset(NamedTuple):
    """Labeled images, split into training and test.

    Attributes:
        name: of the images, beside every accuracy that is printed.
        x_train: uint8 [example, height, width, channel].
        y_train: integers [example], from 0 to classes − 1.
        x_test: as x_train.
        y_test: as y_train.
        classes: how many classes there are.
        counted: whether the name tells the numbers of images already.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    counted: bool = False

    def __str__(self) -> str:
        if self.counted:
            return self.name
        return f"{self.name} ({len(self.x_train):,} + {len(self.x_test):,} images)"


def load(source: str | os.PathLike[str] = "subset") -> Dataset:
    """Loads a data set; nothing is ever downloaded.

    Args:
        source: "subset", the 5,000 + 1,000 images of Fashion-MNIST in this package;
            "digits", the 1,437 + 360 images of 8×8 pixels that scikit-learn has;
            "auto", all of Fashion-MNIST where Debian's dataset-fashion-mnist is
            installed, else the subset; "cifar10" or "cifar100", looked up in the folder
            that the environment variable GRADFLOW_JAX_DATA names, data by default; or a
            path:

            - an .npz with x_train, y_train, x_test and y_test (uint8 images [example,
              height, width, channel] or without the channel);
            - a folder of the four IDX files of the MNIST family, plain or .gz;
            - CIFAR-10 or CIFAR-100 as published, the python or the binary form, its tar
              or its folder;
            - a folder or a tar of images train/CLASS/*.png and test/CLASS/*.png, or
              .jpg.

    Raises:
        DataError: if there is no such data or they are malformed; one line that says
            what was found and what is read. No more is read than files bear out:
            8 GiB at most, of a compressed file 64 MiB and 64 times its size.
        TypeError: if the source is neither text nor a path.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"the source of data is of type {type(source).__name__}: pass a path, or "
            "a name such as 'subset'."
        )
    source = os.fspath(source)
    if source == "auto":
        source = str(FULL_SET) if FULL_SET.is_dir() else "subset"
    if source == "digits":
        return _check_arrays("scikit-learn's digits", by_name.read_digits(), source)
    if source == "subset":
        return _check_arrays("Fashion-MNIST subset", npz.read(_SUBSET), str(_SUBSET))
    try:
        if source in by_name.NAMES:
            path = by_name.find(source)
        else:
            path = Path(source).expanduser()
        name, arrays = _read(path)
    # Names that are too long and folders that may not be read are no mere absence.
    except (OSError, MemoryError, RuntimeError) as error:
        raise DataError(f"{source} cannot be read: {reason_of(error)}.") from error
    return _check_arrays(name, arrays, str(path))


def some_of(dataset: Dataset, examples: int, tests: int | None = None) -> Dataset:
    """Returns the first images of each class, equally many of each, in their order.

    Args:
        dataset: where from.
        examples: training images to keep; where no multiple of the classes, fewer are
            kept, though at least one of each class.
        tests: likewise test images; None keeps all.

    Returns:
        A data set whose name tells what it has of how many.

    Raises:
        DataError: if there are fewer images, in all or of a class.
    """
    train = _indices_of_first_per_class(dataset, "train", examples)
    every_test = len(dataset.y_test) if tests is None else tests
    test = _indices_of_first_per_class(dataset, "test", every_test)
    totals = (len(dataset.y_train), len(dataset.y_test))
    if (len(train), len(test)) == totals:
        return dataset
    kept, whole = f"{len(train):,} + {len(test):,}", "{:,} + {:,}".format(*totals)
    return Dataset(
        name=f"{dataset.name}, {kept} of {whole} images",
        x_train=dataset.x_train[train],
        y_train=dataset.y_train[train],
        x_test=dataset.x_test[test],
        y_test=dataset.y_test[test],
        classes=dataset.classes,
        counted=True,
    )


def _indices_of_first_per_class(dataset: Dataset, split: str, count: int) -> np.ndarray:
    labels = getattr(dataset, f"y_{split}")
    if not 1 <= count <= len(labels):
        raise DataError(
            f"{count:,} {split} images of {dataset} were asked for: there are "
            f"{len(labels):,}."
        )
    if count == len(labels):
        return np.arange(count)
    each = max(count // dataset.classes, 1)
    chosen = [np.flatnonzero(labels == c)[:each] for c in range(dataset.classes)]
    fewest = min(range(dataset.classes), key=lambda c: len(chosen[c]))
    if len(chosen[fewest]) < each:
        raise DataError(
            f"{each:,} {split} images of each class of {dataset} were asked for: class "
            f"{fewest} has {len(chosen[fewest]):,}."
        )
    return np.sort(np.concatenate(chosen))


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Returns the name and the arrays of what a path holds."""
    if path.is_file() and path.suffix == ".npz":
        arrays = npz.read(path)
    elif path.is_dir() and idx.is_folder(path):
        arrays = idx.read(path)
    elif layout := _cifar_layout(path):
        return layout.name, cifar.read(path, layout)
    elif archive.is_tar(path) or image_folder.is_folder(path):
        arrays = image_folder.read(path)
    else:
        problem = "does not exist"
        if path.exists():
            problem = f"is another kind of {'folder' if path.is_dir() else 'file'}"
        raise DataError(
            f"{path} {problem}: pass 'subset', 'digits', 'auto', 'cifar10', "
            f"'cifar100', an .npz with {', '.join(npz.ARRAYS)}, a folder of IDX files, "
            f"CIFAR as published, or a folder or tar of images {image_folder.FORM}."
        )
    return _known_name(arrays["x_train"]) or in_one_line(archive.stem(path)), arrays


def _cifar_layout(path: Path) -> cifar.Layout | None:
    if path.is_dir():
        return cifar.layout_of_folder(path)
    if archive.is_tar(path):
        known = archive.find(
            path,
            lambda file: (
                bool(cifar.layout_of_file(file)) or image_folder.is_image(file)
            ),
        )
        return cifar.layout_of_file(known) if known else None
    return None


def _known_name(images: np.ndarray) -> str | None:
    # Images of another shape are another set, and their hash would only cost time.
    if images.shape[:3] != (60_000, 28, 28):
        return None
    pixels = hashlib.sha256(images.tobytes()).hexdigest()
    return "Fashion-MNIST" if pixels == _FASHION_MNIST_SHA256 else None


def _check_arrays(name: str, arrays: dict[str, np.ndarray], source: str) -> Dataset:
    """Checks shapes, dtypes and labels, and returns the data set.

    Raises:
        DataError: naming the first array that is not as it must be.
    """
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.ndim == 3:
            x = arrays[f"x_{split}"] = x[..., None]
        if x.ndim != 4 or x.dtype != np.uint8 or not x.size:
            raise DataError(
                f"x_{split} of {source} is {x.dtype}{list(x.shape)}: images are uint8 "
                "[example, height, width, channel], at least one, of one pixel."
            )
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise DataError(
                f"y_{split} of {source} is {y.dtype}{list(y.shape)}: labels are one "
                f"integer for each of the {len(x)} images."
            )
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise DataError(
            f"images of {source} differ in shape: {arrays['x_train'].shape[1:]} to "
            f"train, {arrays['x_test'].shape[1:]} to test."
        )
    # Labels become int32 after they were checked: before, 2³² would become 0.
    present = np.unique(arrays["y_train"])
    classes = int(present[-1]) + 1
    if present[0] != 0 or len(present) != classes or classes < 2:
        raise DataError(
            f"y_train of {source} has the classes {present.tolist()[:12]}: they are "
            "numbered from 0 without a gap, at least two."
        )
    for extreme in (arrays["y_test"].min(), arrays["y_test"].max()):
        if not 0 <= extreme < classes:
            raise DataError(
                f"y_test of {source} has classes that y_train lacks: {extreme} is none "
                f"from 0 to {classes - 1}."
            )
    for name_of_labels in ("y_train", "y_test"):
        arrays[name_of_labels] = arrays[name_of_labels].astype(np.int32)
    return Dataset(name, **arrays, classes=classes, counted=False)
