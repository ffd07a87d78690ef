"""Files of tensors in the safetensors format, by the library of that name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def is_native(dtype: np.dtype) -> bool:
    """Says whether the library writes arrays of a dtype, and reads them into NumPy."""
    is_of_numpy = dtype.isbuiltin == 1 and dtype.kind in "biuf"
    return is_of_numpy or dtype.name == "bfloat16"


def pack_tensors(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> bytes:
    """Returns what a file of contiguous arrays and of strings, by name, consists of.

    The library's own writer heeds no umask, and its errors are not the system's.

    Raises:
        ValueError: if the format has no room for a name.
    """
    for name in tensors:
        # Names are text of UTF-8, in which half of a surrogate pair is none.
        if name == "__metadata__" or any("\ud800" <= sign <= "\udfff" for sign in name):
            raise ValueError(
                f"variables leaf {name!r} has a name that a safetensors file does not "
                "hold: rename it."
            )
    return _import_safetensors().numpy.save({**tensors}, {**metadata})


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the tensors and the strings of a file, by name.

    Raises:
        ValueError: that says in which way the file is none of this format.
        OSError: if it cannot be read.
    """
    safetensors = _import_safetensors()
    # A pipe would be waited for.
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is a device, a pipe or a socket")
    # The errors of `open` name the path.
    open(path, "rb").close()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, file.metadata() or {}
    # NumPy lacks some of the dtypes that the library looks for in it.
    except (safetensors.SafetensorError, AttributeError) as error:
        raise ValueError(str(error)) from None
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error}") from None


def _import_safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "saving and loading cut models needs safetensors: "
            "pip install 'gradflow-jax[saving]'."
        ) from error
    return safetensors
