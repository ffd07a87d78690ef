"""Files of tensors in the safetensors format, https://github.com/huggingface/safetensors.

A file is the length of its header in eight bytes, the header in JSON, and the bytes of
the tensors. The header gives for each tensor its dtype, its shape, and where its bytes
begin and end; under `__metadata__` it has strings by name. This reader believes nothing
before it has been compared with the size of the file.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

METADATA = "__metadata__"
_LONGEST_HEADER = 100_000_000
_NAME_OF = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_DTYPE_OF = {name: jnp.dtype(dtype) for dtype, name in _NAME_OF.items()}


def has_name(dtype: np.dtype) -> bool:
    """Says whether the format has a name for a dtype."""
    return dtype.name in _NAME_OF


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a file.

    Args:
        path: of the file.
        tensors: arrays by name, of dtypes that `has_name`; no name is `METADATA`.
        metadata: strings by name.
    """
    # The widest stand first, so that each begins at a multiple of its width.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {METADATA: dict(metadata)}
    begin = 0
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": _NAME_OF[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.nbytes],
        }
        begin += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            file.write(bytes_of(tensors[name]))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a file.

    Returns:
        The tensors and the strings, by name.

    Raises:
        ValueError: that says in which way the file is none of this format.
        OSError: if it cannot be read.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not path.is_file():
            raise ValueError("it is a device, a pipe or a socket")
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"its {size} bytes hold no header of {length}")
        header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise ValueError(f"{METADATA} is not made of strings")
        places = {name: _place_of(name, entry) for name, entry in header.items()}
        in_order = sorted(places, key=lambda name: places[name][2:])
        position = 0
        for name in in_order:
            _, _, begin, end = places[name]
            if begin != position:
                raise ValueError(f"tensor {name!r} begins at {begin}, not {position}")
            position = end
        if position != size - 8 - length:
            raise ValueError(
                f"its tensors are {position} bytes and not {size - 8 - length}"
            )
        return {name: _read_tensor(file, *places[name]) for name in in_order}, metadata


def parse_json(text: bytes | str) -> Any:
    """Returns what JSON says, if it says so once and in numbers that are whole.

    Raises:
        ValueError: at what is no JSON, a repeated name, a fraction, NaN or infinity, or
            what is nested too deeply.
    """

    def refuse(text: str) -> Any:
        raise ValueError(f"it holds the number {text[:20]}")

    try:
        return json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_distinct,
            parse_float=refuse,
            parse_constant=refuse,
        )
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def bytes_of(array: np.ndarray) -> memoryview:
    """Returns the bytes of an array without copying them, if they are contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def is_size(value: object) -> bool:
    """Says whether a value of JSON may be a size, or a place in a file."""
    return type(value) is int and 0 <= value < 2**63


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("its JSON gives a name twice")
    return result


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file without waiting for whoever would write to a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _place_of(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Returns the dtype, the shape and the place of a tensor, checked to agree."""
    if not isinstance(entry, dict) or entry.keys() != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise ValueError(f"tensor {name!r} is not given by dtype, shape, data_offsets")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_OF:
        raise ValueError(f"tensor {name!r} has a dtype that is not read here")
    if not isinstance(shape, list) or not all(map(is_size, shape)) or len(shape) > 32:
        raise ValueError(f"tensor {name!r} has a shape that is none")
    if not isinstance(place, list) or not all(map(is_size, place)) or len(place) != 2:
        raise ValueError(f"tensor {name!r} has a place that is none")
    begin, end = place
    if end - begin != math.prod(shape) * _DTYPE_OF[dtype].itemsize:
        raise ValueError(f"tensor {name!r} has not as many bytes as its shape needs")
    return _DTYPE_OF[dtype], tuple(shape), begin, end


def _read_tensor(
    file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...], begin: int, end: int
) -> np.ndarray:
    data = np.fromfile(file, np.uint8, end - begin)
    if data.size != end - begin:
        raise ValueError("it became shorter while it was read")
    if dtype.kind == "b" and (data > 1).any():
        raise ValueError("it holds a bool that is neither 0 nor 1")
    return data.view(dtype).reshape(shape)
