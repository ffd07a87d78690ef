import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from gradflow_jax.experiments.data import cifar
from gradflow_jax.experiments.data.dataset import DataError, load

TEN_PY, TEN_BIN, HUNDRED_PY, HUNDRED_BIN = cifar.LAYOUTS
COUNT = 10


def batch_of(seed, classes):
    """Returns images [example, height, width, channel] and labels, all classes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (COUNT, 32, 32, 3)).astype(np.uint8)
    start = (seed * COUNT) % classes
    return images, [(start + i) % classes for i in range(COUNT)]


def planes(images):
    """Returns rows of all red, then all green, then all blue pixels, one by one."""
    return np.stack(
        [np.concatenate([i[..., c].ravel() for c in range(3)]) for i in images]
    )


def python2_pickle(entries):
    """Writes by hand the protocol 2 of Python 2 and the numpy of its time.

    Its str, pixels and keys alike, is a string of bytes to Python 3.
    """

    def text(raw):
        return b"T" + struct.pack("<i", len(raw)) + raw

    def number(value):
        return b"J" + struct.pack("<i", value)

    def value(entry):
        if isinstance(entry, bytes):
            return text(entry)
        if isinstance(entry, list):
            return b"](" + b"".join(map(number, entry)) + b"e"
        rows, columns = entry.shape
        dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
        dtype += b"(" + number(3) + text(b"|") + b"NNN"
        dtype += number(-1) + number(-1) + number(0) + b"tb"
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            + number(0) + b"\x85" + text(b"b") + b"\x87R"
            + b"(" + number(1) + number(rows) + number(columns) + b"\x86"
            + dtype + b"\x89" + text(entry.tobytes()) + b"tb"
        )  # fmt: skip

    items = b"".join(text(key) + value(entry) for key, entry in entries.items())
    return b"\x80\x02}(" + items + b"u."


def python3_pickle(entries):
    return pickle.dumps(entries, protocol=2)


def raw_files(layout, encode=python3_pickle):
    """Returns the bytes of each file of a form, and what they hold."""
    classes = 100 if layout.name == "CIFAR-100" else 10
    raw, expected = {}, {"train": [], "test": []}
    for i, file in enumerate(layout.files):
        # CIFAR-100 has one training file: it is of ten batches here, all the classes.
        pieces = range(10) if classes == 100 and file != layout.test else [i]
        batches = [batch_of(piece, classes) for piece in pieces]
        images = np.concatenate([each for each, _ in batches])
        labels = [label for _, each in batches for label in each]
        expected["test" if file == layout.test else "train"].append((images, labels))
        if layout.labels is not None:
            entries = {b"batch_label": b"of a test", b"data": planes(images)}
            if classes == 100:
                entries[b"coarse_labels"] = [label // 5 for label in labels]
            raw[file] = encode({**entries, layout.labels: labels})
        else:
            coarse = [[label // 5] if classes == 100 else [] for label in labels]
            raw[file] = b"".join(
                bytes([*c, label]) + row.tobytes()
                for c, label, row in zip(coarse, labels, planes(images), strict=True)
            )
    return raw, {
        split: [np.concatenate(part) for part in zip(*batches, strict=True)]
        for split, batches in expected.items()
    }


def write_folder(folder, raw):
    folder.mkdir()
    for name, content in raw.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path, files, links=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, links[name]
            tar.addfile(member)
    return path


def assert_holds(dataset, expected):
    for split, (images, labels) in expected.items():
        np.testing.assert_array_equal(getattr(dataset, f"x_{split}"), images)
        np.testing.assert_array_equal(getattr(dataset, f"y_{split}"), labels)
        assert getattr(dataset, f"x_{split}").flags.c_contiguous


@pytest.mark.parametrize("layout", cifar.LAYOUTS, ids=lambda each: each.folder)
def test_each_form_is_read_from_its_folder_and_its_tar(tmp_path, layout):
    raw, expected = raw_files(layout)
    # The published tars are in no useful order, and hold other files.
    files = {f"{layout.folder}/{name}": raw[name] for name in reversed(layout.files)}
    files |= {f"{layout.folder}/batches.meta": b"of no use"}
    tar = write_tar(tmp_path / layout.archive, files)
    folder = write_folder(tmp_path / "other name", raw)
    for path in (tar, folder):
        found = load(str(path))
        assert found.name == layout.name
        assert found.classes == (100 if layout.name == "CIFAR-100" else 10)
        assert_holds(found, expected)


@pytest.mark.parametrize("layout", [TEN_PY, HUNDRED_PY], ids=lambda each: each.folder)
def test_pickles_of_python_2_are_read(tmp_path, layout):
    raw, expected = raw_files(layout, python2_pickle)
    # Python's own unpickler agrees that these are such pickles.
    own = pickle.loads(raw[layout.test], encoding="bytes")
    np.testing.assert_array_equal(own[b"data"], planes(expected["test"][0]))
    assert own[layout.labels] == expected["test"][1].tolist()
    assert_holds(load(str(write_folder(tmp_path / "set", raw))), expected)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_every_protocol_without_a_new_function_is_read(tmp_path, protocol):
    raw, expected = raw_files(TEN_PY, lambda each: pickle.dumps(each, protocol))
    assert_holds(load(str(write_folder(tmp_path / "set", raw))), expected)


def test_an_array_in_columns_is_read(tmp_path):
    def encode(entries):
        return python3_pickle({**entries, b"data": np.asfortranarray(entries[b"data"])})

    raw, expected = raw_files(TEN_PY, encode)
    assert_holds(load(str(write_folder(tmp_path / "set", raw))), expected)


def test_a_pickle_that_runs_a_program_is_refused(tmp_path):
    raw, _ = raw_files(TEN_PY)
    touched = tmp_path / "touched"
    raw["data_batch_3"] = b"cos\nmkdir\n(V" + str(touched).encode() + b"\ntR."
    folder = write_folder(tmp_path / "set", raw)
    with pytest.raises(DataError, match=r"data_batch_3 of .*asks to run 'os.mkdir'"):
        load(str(folder))
    assert not touched.exists()
    pickle.loads(raw["data_batch_3"])
    assert touched.exists(), "the pickle would have touched it"


STOLEN = {
    "an attribute of what is allowed": b"cnumpy\nndarray.tofile\n.",
    "another function of numpy": b"cnumpy\nload\n(S'x'\ntR.",
    "builtins": b"cbuiltins\neval\n(S'1'\ntR.",
    "builtins under their old name": b"c__builtin__\neval\n(S'1'\ntR.",
    "an instance": b"(ios\nsystem\n.",
    "codecs": b"c_codecs\ndecode\n.",
}


@pytest.mark.parametrize("case", list(STOLEN))
def test_other_names_are_refused(tmp_path, case):
    raw, _ = raw_files(TEN_PY)
    raw["test_batch"] = STOLEN[case]
    with pytest.raises(DataError, match="which was refused"):
        load(str(write_folder(tmp_path / "set", raw)))


def test_what_is_allowed_cannot_be_changed(tmp_path):
    raw, expected = raw_files(TEN_PY)
    good = str(write_folder(tmp_path / "good", raw))
    # BUILD with a state sets attributes of whatever it is given.
    for name in (b"numpy\nndarray", b"_codecs\nencode", b"numpy\ndtype"):
        raw["test_batch"] = b"c" + name + b"\n(N}S'read'\nI1\nstb."
        bad = write_folder(tmp_path / name.decode().replace("\n", "."), raw)
        with pytest.raises(DataError, match="cannot be read as a pickled batch"):
            load(str(bad))
    assert_holds(load(good), expected)


ROWS = np.zeros((COUNT, 3072), np.uint8)
TENS = list(range(COUNT))
BAD_BATCHES = {
    "no pickle": (b"GIF89a", "cannot be read as a pickled batch"),
    "nothing": (b"", "cannot be read as a pickled batch"),
    "cut off": (python3_pickle({b"data": ROWS})[:-200], "cannot be read as a pickled"),
    "a list": (python3_pickle(TENS), r"test_batch of .* is a list of .*b'labels'"),
    "other keys": (python3_pickle({b"data": ROWS}), "a dict of length 1: .*b'labels'"),
    "a list of pixels": (
        {b"data": [0]},
        "data in .* is a list of length 1: it is a uint8",
    ),
    "float pixels": ({b"data": ROWS * 1.0}, r"an array f8\[10, 3072\]"),
    "flat pixels": ({b"data": ROWS.ravel()}, r"an array u1\[30720\]"),
    "other pixels": ({b"data": ROWS[:, :784]}, r"an array u1\[10, 784\]"),
    # Python 3 writes no bytes, at this protocol, as a call of bytes.
    "no image": ({b"data": ROWS[:0]}, "asks to run .*bytes.*refused"),
    "too few labels": (
        {b"labels": TENS[:-1]},
        "a list of length 9: it is a list of 10",
    ),
    "labels of text": (
        {b"labels": [*TENS[:-1], b"a"]},
        r"\[9\] is a bytes of length 1",
    ),
    "true for one": ({b"labels": [True] * COUNT}, r"labels in .*\[0\] is of type bool"),
    "negative labels": ({b"labels": [-1] * COUNT}, r"\[0\] is an integer of no class"),
    "large labels": ({b"labels": [2**40] * COUNT}, r"\[0\] is an integer of no class"),
    "an eleventh class": ({b"labels": [10] * COUNT}, "classes that y_train lacks"),
}


@pytest.mark.parametrize("case", list(BAD_BATCHES))
def test_malformed_batches(tmp_path, case):
    raw, _ = raw_files(TEN_PY)
    change, message = BAD_BATCHES[case]
    if isinstance(change, dict):
        change = python3_pickle({b"data": ROWS, b"labels": TENS, **change})
    raw["test_batch"] = change
    with pytest.raises(DataError, match=message) as caught:
        load(str(write_folder(tmp_path / "set", raw)))
    assert "\n" not in str(caught.value)


def test_an_array_that_lacks_bytes(tmp_path):
    raw, _ = raw_files(TEN_PY, python2_pickle)
    right, wrong = (b"J" + struct.pack("<i", count) for count in (COUNT, COUNT + 1))
    raw["test_batch"] = raw["test_batch"].replace(right, wrong, 1)
    with pytest.raises(DataError, match=r"u1\[11, 3072\]: .* with all its bytes"):
        load(str(write_folder(tmp_path / "set", raw)))


def test_records_that_are_cut_off(tmp_path):
    for layout, size in ((TEN_BIN, "3,073"), (HUNDRED_BIN, "3,074")):
        for content in (b"", raw_files(layout)[0][layout.test][:-1]):
            raw, _ = raw_files(layout)
            raw[layout.test] = content
            folder = write_folder(tmp_path / f"{size} {len(content)}", raw)
            message = f"{layout.test} of .* is damaged: .*{len(content):,}.*{size}"
            with pytest.raises(DataError, match=message):
                load(str(folder))


def test_missing_files_are_named(tmp_path):
    raw, _ = raw_files(TEN_PY)
    del raw["data_batch_2"], raw["test_batch"]
    tar = write_tar(tmp_path / "some.tar.gz", raw)
    for path in (tar, write_folder(tmp_path / "set", raw)):
        with pytest.raises(DataError, match="lacks data_batch_2, test_batch: CIFAR-10"):
            load(str(path))


def test_a_tar_that_is_cut_off(tmp_path):
    tar = write_tar(tmp_path / TEN_PY.archive, raw_files(TEN_PY)[0])
    content = tar.read_bytes()
    for length in (0, 5, len(content) // 2, len(content) - 9):
        tar.write_bytes(content[:length])
        with pytest.raises(
            DataError, match="cannot be read as tar|is damaged"
        ) as caught:
            load(str(tar))
        assert "\n" not in str(caught.value)
    # Damage in the middle is seen by whichever reads it first.
    tar.write_bytes(content[: len(content) // 2] + bytes(99) + content[-9:])
    with pytest.raises(
        DataError, match="is damaged|cannot be read as (tar|a pickled batch)"
    ):
        load(str(tar))


def test_links_in_a_tar_are_not_followed(tmp_path):
    raw, _ = raw_files(TEN_PY)
    secret = tmp_path / "secret"
    secret.write_bytes(raw.pop("test_batch"))
    path = write_tar(tmp_path / TEN_PY.archive, raw, {"test_batch": str(secret)})
    with pytest.raises(DataError, match="lacks test_batch"):
        load(str(path))


def test_the_real_set():
    path = os.environ.get("GRADFLOW_JAX_CIFAR10")
    if not path:
        pytest.skip("GRADFLOW_JAX_CIFAR10 names no tar or folder of CIFAR-10")
    found = load(path)
    assert str(found) == "CIFAR-10 (50,000 + 10,000 images)"
    assert set(np.bincount(found.y_train)) == {5000}
    assert set(np.bincount(found.y_test)) == {1000}
    # The first image to train is a frog, the first to test a cat.
    assert (found.y_train[0], found.y_test[0]) == (6, 3)
