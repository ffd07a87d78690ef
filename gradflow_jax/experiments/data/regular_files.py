"""Opens files that somebody else made: only regular ones, and no more than is stated.

A named pipe makes its reader wait for ever, a device may never end, and a compressed
file of a few kilobytes may swell to what no memory holds. So a file's kind is checked
before it is opened, and what is decompressed is counted while it is.
"""

import bz2
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, Protocol

from gradflow_jax.experiments.errors import DataError, reason_of

MAX_BYTES = 2**33
"""The most that one file or data set may hold, 8 GiB: all of it is held in memory."""

# Images and labels shrink to a fourth or so, and sets of equal ones to less: what is
# small may swell as it likes, the rest to 64 times its size.
_FREE_BYTES, _MAX_RATIO = 2**26, 64
# xz -9 needs 65 MiB to be read; a file may ask for 4 GiB.
_LZMA_MEMORY = 2**27
_CHUNK, _PIECE = 2**16, 2**20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path) -> None:
    """Checks that a path is that of a regular file, or a link to one.

    Raises:
        DataError: saying what it is, and nothing was opened.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        problem = "is a link to nothing" if os.path.islink(path) else _reason(error)
        raise DataError(f"{path} cannot be read: it {problem}.") from error
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise DataError(f"{path} is {kind}: data are in regular files.")


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file to read its bytes.

    Raises:
        DataError: if it is none or cannot be read, also later, inside of the block.
    """
    check_regular(path)
    try:
        # Should the file have become a pipe meanwhile, opening it does not wait.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DataError(f"{path} was replaced by what is no regular file.")
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read: it {_reason(error)}.") from error


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Returns what a regular file holds.

    Args:
        path: of the file.
        limit: the most bytes that such a file has.

    Raises:
        DataError: if it is no regular file, larger, or cannot be read.
    """
    with open_regular(path) as file:
        check_size(os.fstat(file.fileno()).st_size, limit, str(path))
        return bytes(read_up_to(file, limit))


def read_up_to(file: IO[bytes], count: int) -> bytearray:
    """Reads so many bytes, or all that there are; memory grows with what is there."""
    raw = bytearray()
    while piece := file.read(min(_PIECE, count - len(raw))):
        raw += piece
    return raw


def check_size(size: int, limit: int, what: str) -> None:
    """Checks that something is no larger than what is read.

    Raises:
        DataError: naming it, its size and the limit, in bytes.
    """
    if size > limit:
        raise DataError(f"{what} has {size:,} bytes: at most {limit:,} are read.")


def swelling_limit(compressed: int) -> int:
    """Returns how many bytes so many compressed ones may become."""
    return min(_FREE_BYTES + _MAX_RATIO * compressed, MAX_BYTES)


class OpenedFile(NamedTuple):
    """A file that is open, decompressed if need be.

    Attributes:
        file: to be read, from its first byte.
        limit: how many bytes it can give: its size, or what it may swell to.
        is_compressed: whether that is no more than a limit.
    """

    file: BinaryIO
    limit: int
    is_compressed: bool


@contextmanager
def open_decompressed(path: Path) -> Iterator[OpenedFile]:
    """Opens a regular file, decompressed where it begins as gzip, xz or bzip2 do.

    Raises:
        DataError: if it cannot be read, is damaged, or swells beyond
            `swelling_limit`, also later, inside of the block.
    """
    with open_regular(path) as file:
        start, size = file.read(6), os.fstat(file.fileno()).st_size
        file.seek(0)
        for magic, make in _DECOMPRESSORS.items():
            if start.startswith(magic):
                limit = swelling_limit(size)
                raw = _Decompressed(file, make, limit, str(path))
                reader = io.BufferedReader(raw, _CHUNK)
                yield OpenedFile(reader, limit, is_compressed=True)
                # The checksum stands at the end, and is checked by who reads that far.
                while reader.read(_CHUNK):
                    pass
                return
        yield OpenedFile(file, size, is_compressed=False)


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zlib:
    """Decompresses gzip; the input that is over waits inside, as in bz2 and lzma."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)


_DECOMPRESSORS: dict[bytes, Any] = {
    b"\x1f\x8b": _Zlib,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
    b"BZh": bz2.BZ2Decompressor,
}


class _Decompressed(io.RawIOBase):
    """The decompressed bytes of a file, of one stream after the other."""

    def __init__(self, file: BinaryIO, make: Any, limit: int, where: str):
        self._file, self._make, self._where = file, make, where
        self._limit = self._left = limit
        self._decompressor: _Decompressor = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        self._left -= len(data)
        if self._left < 0:
            raise DataError(
                f"{self._where} swells beyond {self._limit:,} bytes when it is "
                f"decompressed: at most {_MAX_RATIO} times its size is read, and "
                f"{_FREE_BYTES:,} bytes."
            )
        return len(data)

    def _next(self, length: int) -> bytes:
        """Returns some bytes, none at the end."""
        fresh = b""
        try:
            while True:
                if self._decompressor.eof:
                    # Another stream may follow, and zeros may fill up the end.
                    fresh = self._decompressor.unused_data.lstrip(b"\0")
                    while not fresh:
                        if not (fresh := self._file.read(_CHUNK)):
                            return b""
                        fresh = fresh.lstrip(b"\0")
                    self._decompressor = self._make()
                if data := self._decompressor.decompress(fresh, length):
                    return data
                if not self._decompressor.eof and not (
                    fresh := self._file.read(_CHUNK)
                ):
                    raise DataError(f"{self._where} is damaged: it is cut off.")
        except (zlib.error, lzma.LZMAError, MemoryError, OSError, EOFError) as error:
            raise DataError(f"{self._where} is damaged: {reason_of(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is absent"
    if isinstance(error, PermissionError):
        return "may not be read"
    return f"gives the error {getattr(error, 'strerror', None) or error}"
