"""Reads tar archives of data, in one pass and never unpacked to disk."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Self

from gradflow_jax.experiments.data.errors import DataError

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
# tarfile and the decompressors raise these on damaged bytes.
_ERRORS = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)


def is_tar(path: Path) -> bool:
    """Tells whether a path is a file whose name ends as a tar's does."""
    return path.is_file() and path.name.lower().endswith(TAR_ENDINGS)


def stem(path: Path) -> str:
    """Returns the last part of a path without its ending, .tar.xz as a whole."""
    for ending in TAR_ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def names(path: Path) -> Iterator[PurePosixPath]:
    """Yields the names of the files in a tar, reading no further than asked.

    Raises:
        DataError: if the archive is damaged.
    """
    with _open_tar(path) as tar:
        for member in tar:
            if member.isreg():
                yield PurePosixPath(member.name)


def contents(
    path: Path, is_asked_for: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields name and bytes of the files of a tar that are asked for, in its order.

    Links and devices are left out: only regular files are data.

    Raises:
        DataError: if the archive is damaged.
    """
    with _open_tar(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if member.isreg() and is_asked_for(name):
                file = tar.extractfile(member)
                assert file is not None, "a regular file has contents"
                with file:
                    yield name, file.read()
        # gzip and xz have their checksum behind the end of the tar, and check it when
        # they are read that far.
        while tar.fileobj is not None and tar.fileobj.read(1 << 20):
            pass


class _Header(tarfile.TarInfo):
    """A header which is an error where it is damaged; tarfile takes it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # A tar ends with a block of zeros, which is no damage.
            if buf == bytes(tarfile.BLOCKSIZE):
                raise
            raise tarfile.ReadError(f"damaged: {error}") from error


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Opens a tar, and turns what damaged bytes raise inside of the block to DataError.

    Raises:
        DataError: if the archive is damaged.
    """
    try:
        with tarfile.open(path, tarinfo=_Header) as tar:
            yield tar
    except _ERRORS as error:
        # Where nothing can read a file, tarfile says so in a line per decompressor; the
        # command's errors are one line.
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as tar: {reason}") from error
