"""Labelled images: the subset the package ships, and files on disk."""

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Where Debian's package dataset-fashion-mnist puts the full set.
FULL_SET = Path("/usr/share/datasets/fashion-mnist")
_SUBSET = Path(__file__).parent / "fashion_mnist" / "subset.npz"
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
# Of the pixels of the 60,000 training images, in the order of the original file.
_FASHION_MNIST_SHA256 = (
    "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"
)


class DataError(ValueError):
    """Data that cannot be read; the message is for whoever named them."""


class Dataset(NamedTuple):
    """Labelled images, split into training and test.

    Attributes:
        name: what every printed accuracy names.
        x_train: uint8 [example, height, width, channel].
        y_train: integers [example], from 0 to classes − 1.
        x_test: as x_train.
        y_test: as y_train.
        classes: how many classes there are.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int

    def __str__(self) -> str:
        return f"{self.name} ({len(self.x_train):,} + {len(self.x_test):,} images)"


def load(source: str = "subset") -> Dataset:
    """Loads a data set; nothing is ever downloaded.

    Args:
        source: "subset", the 5,000 + 1,000 images of Fashion-MNIST in this package;
            "auto", all of Fashion-MNIST where Debian's dataset-fashion-mnist is
            installed, else the subset; or a path: a folder of the four IDX files of
            the MNIST family, plain or .gz, or an .npz with x_train, y_train, x_test
            and y_test (uint8 images [example, height, width, channel] or without the
            channel).

    Raises:
        DataError: if there is no such data or they are malformed; one line that says
            what was found and what is read.
    """
    if source == "auto":
        source = str(FULL_SET) if FULL_SET.is_dir() else "subset"
    if source == "subset":
        return _checked("Fashion-MNIST subset", _read_npz(_SUBSET), str(_SUBSET))
    path = Path(source).expanduser()
    if path.is_dir():
        arrays = _read_idx_folder(path)
    elif path.is_file() and path.suffix == ".npz":
        arrays = _read_npz(path)
    else:
        found = "is another kind of file" if path.is_file() else "does not exist"
        raise DataError(
            f"{source} {found}: pass 'subset', 'auto', a folder of IDX files or an "
            f".npz with {', '.join(_ARRAYS)}."
        )
    pixels = hashlib.sha256(arrays["x_train"].tobytes()).hexdigest()
    name = "Fashion-MNIST" if pixels == _FASHION_MNIST_SHA256 else path.stem
    return _checked(name, arrays, source)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in _ARRAYS if name not in file]
            if missing:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}: an .npz needs "
                    f"{', '.join(_ARRAYS)}; it has {', '.join(file) or 'nothing'}."
                )
            return {name: file[name] for name in _ARRAYS}
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from error


def _read_idx_folder(folder: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for name, stem in _IDX_FILES.items():
        # The dot stands for the dash in some copies: train-images.idx3-ubyte.
        names = [stem, stem.replace("-idx", ".idx")]
        candidates = [folder / (n + end) for n in names for end in ("", ".gz")]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise DataError(
                f"{folder} lacks {stem}[.gz]: a folder needs the four IDX files "
                f"{', '.join(_IDX_FILES.values())}, plain or .gz."
            )
        arrays[name] = _read_idx(found)
    return arrays


def _read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file: two zero bytes, 8 for uint8, the rank, each size, the data."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path} is no IDX file of bytes: it starts with {raw[:4]!r}.")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start], ">u4").tolist())
    if len(raw) - start != np.prod(shape, dtype=np.int64):
        raise DataError(
            f"{path} is damaged: its header says {shape}, "
            f"{len(raw) - start} bytes follow."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _checked(name: str, arrays: dict[str, np.ndarray], source: str) -> Dataset:
    """Returns the data set after checking shapes, dtypes and labels."""
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.ndim == 3:
            x = arrays[f"x_{split}"] = x[..., None]
        if x.ndim != 4 or x.dtype != np.uint8 or not len(x):
            raise DataError(
                f"x_{split} of {source} is {x.dtype}{list(x.shape)}: images are uint8 "
                "[example, height, width, channel], at least one."
            )
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise DataError(
                f"y_{split} of {source} is {y.dtype}{list(y.shape)}: labels are one "
                f"integer for each of the {len(x)} images."
            )
        arrays[f"y_{split}"] = y.astype(np.int32)
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise DataError(
            f"images of {source} differ in shape: {arrays['x_train'].shape[1:]} to "
            f"train, {arrays['x_test'].shape[1:]} to test."
        )
    present = np.unique(arrays["y_train"])
    classes = int(present[-1]) + 1
    if present[0] != 0 or len(present) != classes or classes < 2:
        raise DataError(
            f"y_train of {source} has the classes {present.tolist()[:12]}: they are "
            "numbered from 0 without a gap, at least two."
        )
    if arrays["y_test"].min() < 0 or arrays["y_test"].max() >= classes:
        raise DataError(f"y_test of {source} has classes that y_train lacks.")
    return Dataset(name, **arrays, classes=classes)
