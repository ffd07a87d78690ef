"""Tar archives of data, read in one pass and never unpacked to disk."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Self

from gradflow_jax.experiments.data.errors import DataError

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
# What tarfile and the decompressors raise on damaged bytes.
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
    with _opened(path) as tar:
        for member in tar:
            if member.isreg():
                yield PurePosixPath(member.name)


def contents(
    path: Path, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields name and bytes of the wanted files of a tar, in the tar's order.

    Links and devices are left out: only regular files are data.

    Raises:
        DataError: if the archive is damaged.
    """
    with _opened(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if member.isreg() and wanted(name):
                file = tar.extractfile(member)
                assert file is not None, "a regular file has contents"
                with file:
                    yield name, file.read()
        # The checksum of gzip and xz stands behind the end of the tar.
        while tar.fileobj is not None and tar.fileobj.read(1 << 20):
            pass


class _Header(tarfile.TarInfo):
    """A header which is an error where it is damaged; tarfile takes it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # Of zeros is the block that ends a tar.
            if buf == bytes(tarfile.BLOCKSIZE):
                raise
            raise tarfile.ReadError(f"damaged: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, tarinfo=_Header) as tar:
            yield tar
    except _ERRORS as error:
        # Where nothing can read a file, tarfile tells of each decompressor in a line.
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as tar: {reason}") from error
