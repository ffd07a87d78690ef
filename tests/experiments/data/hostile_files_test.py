"""Files that would be waited for, swell, run programs or lie are refused in a line."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest

from gradflow_jax.experiments.data import DataError, load, pickled_batch, regular_files
from tests.experiments.data.hostile_files import (
    FORMATS,
    ROWS,
    check_refusal,
    damaged_and_loaded,
    encoded_image,
    idx,
    npz_of,
    tar_of,
    write_files,
)

LABELS = b"labels"


def refusal(path, seconds=5.0):
    """Returns the line by which a path is refused, soon."""
    start = time.monotonic()
    line = check_refusal(path)
    assert line is not None, "it was read"
    assert time.monotonic() - start < seconds
    return line


FOREIGN = {
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n%%EOF\n",
    "EPS of DOS": b"\xc5\xd0\xd3\xc6" + struct.pack("<I", 30) + bytes(30),
    "GIF": encoded_image("GIF"),
    "TIFF": encoded_image("TIFF"),
    "BMP": encoded_image("BMP"),
    "ICO": encoded_image("ICO"),
    "PPM": encoded_image("PPM"),
    "nothing": b"",
    "text": b"no image",
}


@pytest.mark.parametrize("kind", list(FOREIGN))
def test_images_are_png_or_jpeg_by_what_they_hold(tmp_path, monkeypatch, kind):
    """Whatever they are called; for some formats Pillow starts another program."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\nexit 1\n")
    (tools / "gs").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for name in ("train/a/x.png", "test/b/x.jpg"):
        files = {**FORMATS["PNG folder"], name: FOREIGN[kind]}
        folder = write_files(tmp_path / name.replace("/", "-"), files)
        line = refusal(folder)
        assert f"{name} of {folder} cannot be read as PNG or JPEG: it starts" in line
        tar = tmp_path / "zoo.tar"
        tar.write_bytes(tar_of(files))
        assert name in refusal(tar)
    assert not (tmp_path / "executed").exists()


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        # The address of a socket is short: it is made where it stands.
        here = os.getcwd()
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(here)


SPECIAL = {
    "named pipe": (make_pipe, "is a named pipe: data are in regular files"),
    "socket": (make_socket, "is a socket: data are in regular files"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "terminal": (lambda path: path.symlink_to("/dev/tty"), "is a device"),
    "broken link": (lambda path: path.symlink_to("absent"), "it is a link to nothing"),
    "link to itself": (lambda path: path.symlink_to(path), "it is a link to nothing"),
    "link to a folder": (
        lambda path: path.symlink_to(path.parent),
        "is a folder|lacks",
    ),
}
PLACES = {
    "PNG folder": "train/a/0.png",
    "IDX": "train-images-idx3-ubyte",
    "CIFAR pickles": "data_batch_3",
    "CIFAR records": "test_batch.bin",
}


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such files")
@pytest.mark.parametrize("form", list(PLACES))
@pytest.mark.parametrize("kind", list(SPECIAL))
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, form, kind):
    folder = write_files(tmp_path, FORMATS[form])
    place = folder / PLACES[form]
    place.unlink()
    make, message = SPECIAL[kind]
    make(place)
    line = refusal(folder, seconds=1.0)
    assert place.name in line and any(part in line for part in message.split("|"))


def test_a_link_to_a_regular_file_is_that_file(tmp_path):
    folder = write_files(tmp_path / "set", FORMATS["PNG folder"])
    (folder / "train/a/0.png").rename(tmp_path / "elsewhere.png")
    (folder / "train/a/0.png").symlink_to(tmp_path / "elsewhere.png")
    assert check_refusal(folder) is None


def test_names_are_shown_as_one_line(tmp_path):
    folder = write_files(tmp_path, FORMATS["PNG folder"])
    (folder / "train/a/\x1b[31m\n.png").write_bytes(b"red")
    assert r"train/a/\x1b[31m\n.png" in refusal(folder)


def test_sources_that_are_no_paths():
    for source in ("a\0b", "a" * 5000, "~no-such-user/x"):
        with pytest.raises(DataError, match="does not exist|cannot be read"):
            load(source)
    with pytest.raises(TypeError, match="of type int: pass a path, or a name"):
        load(3)


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width, height, *extra, pixels=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), *extra, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def jpeg_of_size(width, height):
    raw = bytearray(encoded_image("JPEG"))
    frame = raw.index(b"\xff\xc0")
    raw[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


PICTURES = {
    "2,500 megapixels": (lambda: png(50_000, 50_000), "cannot be read: Image size"),
    "144 megapixels": (lambda: png(12_000, 12_000), "12000×12000 pixels: at most"),
    "a line of 2³¹ − 1": (lambda: png(2**31 - 1, 1), "cannot be read"),
    "no pixel": (lambda: png(0, 4), "cannot be read: it is damaged"),
    "JPEG of 65,500²": (lambda: jpeg_of_size(65_500, 65_500), "cannot be read: Image"),
    "JPEG of 60,000 × 1,000": (lambda: jpeg_of_size(60_000, 1000), "60000×1000 pixels"),
    "less than it says": (lambda: png(900, 900), "cannot be read: "),
    "text that swells": (
        lambda: png(4, 4, (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**25)))),
        "cannot be read: Decompressed data too large",
    ),
    "much beside its pixels": (
        lambda: png(4, 4, pixels=bytes(52)) + bytes(2**22),
        "has 4,194,",
    ),
}


@pytest.mark.parametrize("case", list(PICTURES))
def test_pictures_that_swell_are_refused_by_their_headers(tmp_path, case):
    make, message = PICTURES[case]
    files = {**FORMATS["PNG folder"], "train/a/0.png": make()}
    line = refusal(write_files(tmp_path, files))
    assert "train/a/0.png" in line and message in line


def text(content):
    return b"U" + bytes([len(content)]) + content


ARRAY = pickle.dumps(ROWS, protocol=2)[2:-1]


def batch(labels):
    return b"\x80\x02}(" + text(b"data") + ARRAY + text(LABELS) + labels + b"u."


def spelled(name, *arguments, close=b"R"):
    return (
        b"c" + name.replace(".", "\n").encode() + b"\n(" + b"".join(arguments) + close
    )


PICKLES = {
    "doubled lists": batch(
        b"(l" + b"".join(b"q%c0(h%ch%cl" % (i, i, i) for i in range(40))
    ),
    "a list in itself": batch(b"]q\0h\0a"),
    "lists in lists": batch(b"]" + b"\x85" * 200_000),
    "tuples as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "a tuple as a key": b"\x80\x02})Ns.",
    "an integer of 5,000 bytes": batch(
        b"(\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000 + b"l"
    ),
    "5,000 digits": batch(b"(I" + b"9" * 5000 + b"\nl"),
    "an integer of 2 GiB": batch(b"(\x8b" + struct.pack("<i", 2**31 - 1) + b"l"),
    "a negative length": batch(b"T" + struct.pack("<i", -1)),
    "bytes of 4 GiB": batch(b"B" + struct.pack("<I", 2**32 - 1)),
    "bytes of 2⁶²": batch(b"\x8e" + struct.pack("<Q", 2**62)),
    "a bytearray of 2⁶²": batch(b"\x96" + struct.pack("<Q", 2**62)),
    "a frame of 2⁶³": b"\x80\x04\x95" + b"\xff" * 8 + b".",
    "the last memo": batch(b"Nr\xff\xff\xff\xff"),
    "a negative memo": batch(b"Np-1\n"),
    "a memo that is not there": batch(b"h\x63"),
    "a mark for a value": b"\x80\x02(.",
    "nothing to pop": b"\x80\x02R.",
    "many keys": b"\x80\x02}(%su." % b"".join(b"U\3%03dN" % i for i in range(200)),
    "a million lists": batch(b"(" + b"]" * 1_000_000 + b"l"),
    "text encoded again and again": (
        b"\x80\x02](c_codecs\nencode\nq\0X"
        + struct.pack("<I", 9000) + b"a" * 9000 + b"q\1" + text(b"latin1") + b"\x86q\2"
        + b"h\0h\2R" * 1000 + b"e."
    ),
    "no text to encode": spelled("_codecs.encode", b"N", text(b"x"), close=b"tR."),
    "a name of no function": spelled("numpy.ndarray", close=b"tR."),
    "arguments that are none": b"\x80\x02cnumpy\ndtype\nK\1R.",
    "an attribute of a function": b"\x80\x02c_codecs\nencode\n}U\1aK\1sb.",
    "a slot of a function": b"\x80\x02c_codecs\nencode\n(N}U\1aK\1stb.",
    "the state of a list": b"\x80\x02]}b.",
    "a name without end": b"\x80\x02cnumpy",
    "a name of a megabyte": b"\x80\x02c" + b"x" * 10**6 + b"\ny\n.",
    "a name that is a list": b"\x80\x04]]\x93.",
    "a string without quotes": batch(b"Sabc\n"),
    "an escape that is cut": batch(b"S'\\x'\n"),
    "a persistent object": b"\x80\x02Pname\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "nothing set": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(tR.",
    "no type but a shape": batch(b"N").replace(b"U\2u1", b"U\2f4", 1),
}  # fmt: skip


@pytest.mark.parametrize("case", list(PICKLES))
def test_hostile_pickles_end_at_once_and_are_not_printed(case):
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        pickled_batch.read(PICKLES[case], LABELS, "batch 3")
    line = str(caught.value)
    assert "batch 3" in line and len(line) < 300 and line.isprintable()
    assert time.monotonic() - start < 2


def test_nothing_that_a_pickle_sets_is_there_for_the_next():
    honest = batch(b"](K\0K\1K\0K\1e")
    first, _ = pickled_batch.read(honest, LABELS, "honest")
    for state in (b"}" + text(b"read") + b"K\1s", b"(N}" + text(b"raw") + b"K\1stb"):
        for name in (b"_codecs\nencode", b"numpy\ndtype", b"numpy\nndarray"):
            with pytest.raises(DataError):
                raw = b"\x80\x02c" + name + b"\n" + state + b"b."
                pickled_batch.read(raw, LABELS, "hostile")
    second, labels = pickled_batch.read(honest, LABELS, "honest")
    np.testing.assert_array_equal(first, ROWS)
    np.testing.assert_array_equal(second, ROWS)
    assert labels.tolist() == [0, 1, 0, 1]


IDX_LIES = {
    "a product of 2⁶⁴": idx((2**16,) * 4),
    "64 axes": idx((2,) * 64),
    "100 axes of 1": idx((1,) * 100, b"\0"),
    "255 axes": b"\0\0\x08\xff",
    "no axis": idx(()),
    "4 GiB": idx((2**16, 2**16)),
    "an axis that is cut off": idx((4, 5, 5))[:-2],
    "no image": idx((0, 5, 5)),
    "no width": idx((4, 5, 0)),
    "a byte too few": idx((4, 5, 5), bytes(99)),
    "a byte too many": idx((4, 5, 5), bytes(101)),
    "another type": b"\0\0\x0d" + idx((4, 5, 5), bytes(400))[3:],
    "nothing": b"",
}


@pytest.mark.parametrize("case", list(IDX_LIES))
def test_idx_sizes_are_compared_with_the_file(tmp_path, case):
    raw = IDX_LIES[case]
    for form, ending, content in (
        ("IDX", "", raw),
        ("IDX compressed", ".gz", gzip.compress(raw)),
    ):
        name = f"train-images-idx3-ubyte{ending}"
        folder = write_files(tmp_path / form, {**FORMATS[form], name: content})
        line = refusal(folder, seconds=1.0)
        assert name in line or f"x_train of {folder}" in line


def npy(shape=(), dtype="|u1", payload=b"", version=1, header=None):
    """Returns an .npy whose header says what it likes."""
    if header is None:
        header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}"
    line = header.encode("latin1") + b"\n"
    length = len(line).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + line + payload


def npz_with(**members):
    """Returns an .npz in which members are other bytes."""
    packed = io.BytesIO(npz_of())
    out = io.BytesIO()
    with np.load(packed) as arrays:
        whole = {name: arrays[name] for name in arrays}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in whole.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", members.get(name, content.getvalue()))
    return out.getvalue()


NPZ_LIES = {
    "text": (b"not an array", "is no array: it starts with b'not an a'"),
    "nothing": (b"", "is no array: it starts with b''"),
    "a product of 2⁶⁴": (npy("(2**16,)"), "is no array"),
    "4 EiB": (npy((2**31, 2**31)), "bytes: at most"),
    "a size of 2⁴⁰": (npy((2**40,)), "a size that none has"),
    "a size of 9,000 digits": (npy(f"(0x{'f' * 9000},)"), "a size that none has"),
    "a negative size": (npy((-4, 5, 5)), "a size that none has"),
    "True for a size": (npy("(True, 5, 5)"), "a size that none has"),
    "100 axes": (npy((1,) * 100, payload=b"\0"), "has 100 axes"),
    "a byte too few": (npy((4, 5, 5), payload=bytes(99)), "100 bytes, and 99 follow"),
    "a byte too many": (npy((4, 5, 5), payload=bytes(101)), "and more than 100 follow"),
    "objects": (npy((4,), "|O", pickle.dumps([1] * 4)), "pickled objects are not read"),
    "no bytes each": (npy((2**39,), "|V0"), "an array of |V0: read are numbers"),
    "text each": (npy((4,), "<U3", bytes(48)), "an array of <U3: read are numbers"),
    "records": (npy((4,), [("a", "|u1")], bytes(4)), "read are numbers"),
    "a header of 4 GiB": (b"\x93NUMPY\2\0\xff\xff\xff\xff", "longer than any is"),
    "a header that is nested": (npy(0, header="(" * 5000), "is no array"),
    "a header that is a call": (npy(0, header="print(1)"), "is no array"),
    "version 9": (npy((4, 5, 5), version=9), "is no array: it starts"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(NPZ_LIES))
def test_npz_headers_are_compared_with_their_bytes(tmp_path, case):
    content, message = NPZ_LIES[case]
    path = tmp_path / "set.npz"
    path.write_bytes(npz_with(x_train=content))
    line = refusal(path, seconds=1.0)
    assert message in line and f"x_train of {path}" in line


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 2**32, 1]), r"y_train of .* the classes \[0, 1, 4294967296\]"),
        (np.array([0, 1, 2**63, 1], np.uint64), "the classes .*9223372036854775808"),
        (np.array([0, 1, -(2**32), 1]), r"the classes \[-4294967296, 0, 1\]"),
        (np.array([0, 1, 2**40 + 1, 1]), "the classes .*1099511627777"),
        (np.array([False, True] * 2), r"y_train of .* is bool\[4\]"),
        (np.array([[0, 1], [0, 1]]), r"y_train of .* is int64\[2, 2\]"),
    ],
)  # fmt: skip
def test_labels_are_refused_by_value_and_do_not_wrap(tmp_path, labels, message):
    (tmp_path / "set.npz").write_bytes(npz_of(y_train=labels))
    with pytest.raises(DataError, match=message):
        load(tmp_path / "set.npz")


def test_labels_to_test_do_not_wrap_either(tmp_path):
    (tmp_path / "set.npz").write_bytes(npz_of(y_test=np.array([0, 2**32])))
    with pytest.raises(DataError, match="4294967296 is none from 0 to 1"):
        load(tmp_path / "set.npz")


def zeros_in(opener, path, mebibytes, name):
    """Writes a compressed tar with a file of zeros."""
    member = tarfile.TarInfo(name)
    member.size = mebibytes << 20
    with opener(path, "wb") as file:
        file.write(member.tobuf())
        for _ in range(mebibytes):
            file.write(bytes(2**20))
    return path


@pytest.mark.parametrize(
    ("opener", "ending"),
    [(gzip.open, "gz"), (bz2.open, "bz2"), (lzma.open, "xz")],
)
def test_archives_that_swell_are_read_no_further(tmp_path, monkeypatch, opener, ending):
    assert regular_files.swelling_limit(1000) == 2**26 + 64_000
    assert regular_files.swelling_limit(2**40) == 2**33
    monkeypatch.setattr(regular_files, "_FREE_BYTES", 2**18)
    path = zeros_in(opener, tmp_path / f"set.tar.{ending}", 2, "of no use")
    line = refusal(path)
    assert f"{path} swells beyond " in line
    assert "at most 64 times its size is read, and 262,144 bytes" in line


def test_compressed_idx_that_swells(tmp_path, monkeypatch):
    monkeypatch.setattr(regular_files, "_FREE_BYTES", 2**18)
    name = "train-images-idx3-ubyte.gz"
    swollen = gzip.compress(idx((4, 5, 5), bytes(100)) + bytes(2**21), 1)
    folder = write_files(tmp_path, {**FORMATS["IDX compressed"], name: swollen})
    assert f"{name} swells beyond " in refusal(folder)


def header(name, size=0, kind=tarfile.REGTYPE, form=tarfile.GNU_FORMAT):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(form)


SPARSE = b"22 GNU.sparse.map=a,b\n"
TARS = {
    "larger than the archive": (header("data_batch_1", 2**20), "unexpected end"),
    "2⁵⁰ bytes": (header("data_batch_1", 2**50), "data_batch_1 in .* bytes: at most"),
    "up and out": (header("../data_batch_1") + bytes(1024), "leads out of it"),
    "from the root": (header("/data_batch_1") + bytes(1024), "leads out of it"),
    "out in the middle": (header("a/../../test_batch"), "leads out of it"),
    "an empty batch": (header("test_batch") + bytes(1024), "test_batch in .* is empty"),
    "a name of 2⁴⁰": (header("x", 2**40, tarfile.XHDTYPE), "a header of 1,099"),
    "a long name of 2⁴⁰": (header("x", 2**40, tarfile.GNUTYPE_LONGNAME), "a header of"),
    "names upon names": (header("x", 0, tarfile.XHDTYPE) * 3000, "recursion|damaged"),
    "a sparse file": (
        header("x", len(SPARSE), tarfile.XHDTYPE) + SPARSE.ljust(512, b"\0")
        + header("data_batch_1"),
        "cannot be read as tar",
    ),
    "many empty files": (header("x") * 11_000, "more than 10,000 files that"),
    "many folders": (header("x", 0, tarfile.DIRTYPE) * 11_000, "more than 10,000 file"),
    "nothing": (b"", "cannot be read as tar"),
    "text": (b"no tar" * 200, "cannot be read as tar"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(TARS))
def test_archives_that_lie(tmp_path, case):
    content, message = TARS[case]
    path = tmp_path / "set.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_links_and_devices_of_an_archive_are_no_data(tmp_path):
    files = dict(FORMATS["CIFAR pickles"])
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        del files["test_batch"]
        path = tmp_path / "set.tar"
        path.write_bytes(header("test_batch", kind=kind) + tar_of(files))
        assert "lacks test_batch" in refusal(path)
        files["test_batch"] = b""


@pytest.mark.parametrize("form", list(FORMATS))
def test_damaged_files_are_refused_or_read(tmp_path, form):
    assert check_refusal(write_files(tmp_path / "whole", FORMATS[form])) is None
    assert damaged_and_loaded(tmp_path / "damaged", form, 30) >= 8


# The process may have 1 GiB beside what its libraries map, and 60 s of a processor.
BOUNDED = """
import resource, sys, tempfile
from pathlib import Path
from tests.experiments.data.hostile_files import FORMATS, damaged_and_loaded
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
for form in FORMATS:
    with tempfile.TemporaryDirectory() as folder:
        print(form, damaged_and_loaded(Path(folder), form, int(sys.argv[1]), seed=1))
"""


@pytest.mark.runs
@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded as Linux does")
def test_many_damaged_files_take_little_memory():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", BOUNDED, "300"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(FORMATS)
