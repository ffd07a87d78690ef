"""Reads tar archives of data, in one pass and never unpacked to disk."""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Self

from gradflow_jax.experiments.data import regular_files
from gradflow_jax.experiments.errors import DataError, abridge, reason_of

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
# Headers of these types say in their own bytes what the next file is called.
_NAMING = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}
_MAX_NAME = 2**16
_MAX_OTHERS = 10_000


def is_tar(path: Path) -> bool:
    """Tells whether a path is a file whose name ends as a tar's does."""
    return path.is_file() and path.name.lower().endswith(TAR_ENDINGS)


def stem(path: Path) -> str:
    """Returns the last part of a path without its ending, .tar.xz as a whole."""
    for ending in TAR_ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def find(
    path: Path, is_asked_for: Callable[[PurePosixPath], bool]
) -> PurePosixPath | None:
    """Returns the first file of a tar that is asked for, reading no further.

    Raises:
        DataError: if the archive is damaged.
    """
    with _open_tar(path) as tar:
        return next((name for _, name in _files(tar, path, is_asked_for)), None)


def contents(
    path: Path, is_asked_for: Callable[[PurePosixPath], bool], limit: int
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields name and bytes of the files of a tar that are asked for, in its order.

    Links and devices are left out: only regular files are data.

    Args:
        path: of the archive.
        is_asked_for: tells of a name whether it is asked for.
        limit: the most bytes that such a file has.

    Raises:
        DataError: if the archive is damaged, a file is empty or larger, or all of them
            together are larger than `regular_files.MAX_BYTES`.
    """
    total = 0
    with _open_tar(path) as tar:
        for member, name in _files(tar, path, is_asked_for):
            if not member.size:
                raise DataError(f"{name} in {path} is empty.")
            regular_files.check_size(member.size, limit, f"{name} in {path}")
            total += member.size
            regular_files.check_size(
                total, regular_files.MAX_BYTES, f"what {path} holds"
            )
            file = tar.extractfile(member)
            assert file is not None, "a regular file has contents"
            with file:
                yield name, file.read()


def _files(
    tar: tarfile.TarFile, path: Path, is_asked_for: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Yields the regular files of a tar that are asked for, with their names.

    Raises:
        DataError: if there are too many others, or a name leads out of the archive.
    """
    asked_for = others = 0
    while (member := tar.next()) is not None:
        # tarfile would keep the header of each file until the end.
        vars(tar)["members"].clear()
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise DataError(
                f"{path} holds {abridge(name)}, which leads out of it: names of files "
                "begin in the archive."
            )
        # A sparse file is some bytes and as many zeros as it says.
        if member.isreg() and not member.issparse() and is_asked_for(name):
            asked_for += 1
            yield member, name
            continue
        others += 1
        # A header that a compressed archive has again and again costs it nothing, and
        # its reader time. macOS puts a file beside each one.
        if others > _MAX_OTHERS + 2 * asked_for:
            raise DataError(
                f"{path} holds more than {others - 1:,} files that are no data, and "
                f"{asked_for:,} that are: no more are read."
            )


class _Header(tarfile.TarInfo):
    """A header which is an error where it is damaged; tarfile takes it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # A tar ends with a block of zeros, which is no damage.
            if buf == bytes(tarfile.BLOCKSIZE):
                raise
            raise tarfile.ReadError(f"damaged: {error}") from error
        if header.size < 0 or header.type in _NAMING and header.size > _MAX_NAME:
            raise tarfile.ReadError(f"damaged: a header of {header.size:,} bytes")
        return header


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Opens a tar, and turns what damaged bytes raise inside of the block to DataError.

    Raises:
        DataError: if the archive is damaged.
    """
    try:
        with (
            regular_files.open_decompressed(path) as opened,
            tarfile.open(fileobj=opened.file, mode="r|", tarinfo=_Header) as tar,
        ):
            yield tar
    except DataError:
        raise
    # tarfile raises nearly every exception on damaged bytes.
    except Exception as error:
        raise DataError(f"{path} cannot be read as tar: {reason_of(error)}") from error
