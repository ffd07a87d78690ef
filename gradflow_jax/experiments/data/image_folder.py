"""Reads images in folders named after their classes, on disk or in a tar."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from gradflow_jax.experiments.data import archive, regular_files
from gradflow_jax.experiments.errors import DataError, reason_of

FORM = "train/CLASS/*.png (or .jpg, .jpeg) and the same of test (or val, valid)"
_ENDINGS = (".png", ".jpg", ".jpeg")
# What a file holds decides how it is read, and its name whether it is. Pillow knows
# some forty more formats, and starts other programs for some.
_FORMATS = ("PNG", "JPEG")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_MAX_PIXELS = 2**24
# A pixel takes four bytes at most, and what cameras say beside them no more than this.
_MAX_BESIDE = 2**21
_MAX_FILE = _MAX_BESIDE + 4 * _MAX_PIXELS
# The first of these that has images is read as the test set.
_TEST_SPLITS = ("test", "val", "valid")
_SPLITS = ("train", *_TEST_SPLITS)


class _Place(NamedTuple):
    """Where an image stands; images are in the order of these.

    Attributes:
        split: "train" or a name of the test set.
        label: the folder of its class.
        name: of the file.
        root: the leading folder, or nothing.
    """

    split: str
    label: str
    name: str
    root: str

    def __str__(self) -> str:
        return f"{self.split}/{self.label}/{self.name}"


def is_folder(path: Path) -> bool:
    """Tells whether a folder, or a folder in it, has a folder train."""
    return path.is_dir() and bool(_roots(path))


def is_image(file: PurePosixPath) -> bool:
    """Tells whether a file of an archive is an image of a split."""
    return _place(file) is not None


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads and decodes the images.

    Classes are numbered in the order of their names, and images stand in the order of
    class and name. They become RGB, unless all are gray: then they have one channel.

    Args:
        path: a folder or a tar, with at most one leading folder.

    Returns:
        x_train, y_train, x_test and y_test: uint8 [example, height, width, channel]
        and int32 [example].

    Raises:
        DataError: if images are absent, damaged or of several sizes, or pillow is
            absent.
    """
    encoded = dict(_from_tar(path) if archive.is_tar(path) else _from_folder(path))
    places = {split: [] for split in _SPLITS}
    for place in sorted(encoded):
        places[place.split].append(place)
    train = places["train"]
    test = next((places[name] for name in _TEST_SPLITS if places[name]), [])
    if not train or not test:
        raise DataError(
            f"{path} has {len(train):,} images to train and {len(test):,} to test: an "
            f"image folder has {FORM}."
        )
    roots = sorted({place.root for place in encoded})
    if len(roots) > 1:
        raise DataError(
            f"{path} has images in several folders, {', '.join(map(repr, roots[:3]))}: "
            f"pass one that has {FORM}."
        )
    classes = {label: i for i, label in enumerate(sorted({p.label for p in train}))}
    unknown = next((place for place in test if place.label not in classes), None)
    if unknown is not None:
        raise DataError(f"{path} has {unknown} of a class that train lacks.")
    images = _decode([(place, encoded[place]) for place in (*train, *test)], path)
    labels = np.array([classes[place.label] for place in (*train, *test)], np.int32)
    return {
        "x_train": images[: len(train)],
        "y_train": labels[: len(train)],
        "x_test": images[len(train) :],
        "y_test": labels[len(train) :],
    }


def _roots(folder: Path) -> list[Path]:
    if (folder / "train").is_dir():
        return [folder]
    return [child for child in folder.iterdir() if (child / "train").is_dir()]


def _from_folder(folder: Path) -> Iterator[tuple[_Place, Path]]:
    for root in _roots(folder):
        for split in _SPLITS:
            for file in (root / split).rglob("*"):
                place = _place(PurePosixPath(file.relative_to(folder).as_posix()))
                if place is not None:
                    regular_files.check_regular(file)
                    yield place, file


def _from_tar(path: Path) -> Iterator[tuple[_Place, bytes]]:
    # Encoded images take a fraction of the memory of decoded ones, so all are held and
    # one pass through the tar is enough, whatever order they are in.
    for file, raw in archive.contents(path, is_image, _MAX_FILE):
        place = _place(file)
        assert place is not None, "`is_image` asked for files that have a place"
        yield place, raw


def _place(file: PurePosixPath) -> _Place | None:
    parts = file.parts
    # macOS puts ._NAME beside each NAME in a tar.
    if file.suffix.lower() not in _ENDINGS or file.name.startswith("."):
        return None
    if len(parts) in (3, 4) and parts[-3] in _SPLITS:
        return _Place(*parts[-3:], root="".join(parts[:-3]))
    if len(parts) > 3 and (parts[0] in _SPLITS or parts[1] in _SPLITS):
        raise DataError(f"{file} lies too deep: an image folder has {FORM}.")
    return None


def _decode(files: list[tuple[_Place, Path | bytes]], path: Path) -> np.ndarray:
    images, all_gray = np.empty(0, np.uint8), True
    for i, (place, source) in enumerate(files):
        if isinstance(source, bytes):
            encoded = source
        else:
            encoded = regular_files.read_bytes(source, _MAX_FILE)
        what = f"{place} of {path}"
        with _open_image(encoded, what) as image:
            if i == 0:
                shape = (len(files), image.height, image.width, 3)
                regular_files.check_size(
                    math.prod(shape), regular_files.MAX_BYTES, f"what {path} holds"
                )
                images = np.empty(shape, np.uint8)
            elif (image.height, image.width) != images.shape[1:3]:
                raise DataError(
                    f"{what} is of {_size(image.height, image.width)} pixels and "
                    f"{files[0][0]} of {_size(*images.shape[1:3])}: images are of one "
                    "size."
                )
            all_gray = all_gray and image.mode == "L"
            images[i] = image if image.mode == "RGB" else image.convert("RGB")
    return np.ascontiguousarray(images[..., :1]) if all_gray else images


@contextmanager
def _open_image(encoded: bytes, what: str) -> Iterator[Any]:
    """Opens a PNG or JPEG, of which nothing is decoded yet.

    Raises:
        DataError: if it is none, or damaged, also later, inside of the block; or it has
            more pixels than are read, or not of 8 bits.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            f"images such as {what} are decoded by pillow: pip install pillow."
        ) from error
    if not encoded.startswith(_SIGNATURES):
        raise DataError(
            f"{what} cannot be read as PNG or JPEG: it starts with {encoded[:8]!r}."
        )
    with warnings.catch_warnings():
        # Pillow warns of odd files, which it reads all the same.
        warnings.simplefilter("ignore")
        try:
            # The beginning tells the size, and by that how long the whole may be.
            beginning = io.BytesIO(encoded[:_MAX_BESIDE])
            with Image.open(beginning, formats=_FORMATS) as image:
                _check_image(image, len(encoded), what)
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                yield image
        except DataError:
            raise
        except UnidentifiedImageError as error:
            raise DataError(f"{what} cannot be read: it is damaged.") from error
        # Damaged bytes raise nearly every exception that there is.
        except Exception as error:
            raise DataError(f"{what} cannot be read: {reason_of(error)}.") from error


def _check_image(image: Any, length: int, what: str) -> None:
    """Checks what an image says of itself before any pixel is decoded.

    Raises:
        DataError: if it has more pixels than are read, or not of 8 bits, or more bytes
            than such pixels take.
    """
    pixels = image.width * image.height
    if pixels > _MAX_PIXELS:
        raise DataError(
            f"{what} has {_size(image.height, image.width)} pixels: at most "
            f"{_MAX_PIXELS:,} are read."
        )
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{what} has pixels of mode {image.mode}: they are of 8 bits.")
    regular_files.check_size(length, _MAX_BESIDE + 4 * pixels, what)


def _size(height: int, width: int) -> str:
    return f"{width}×{height}"
