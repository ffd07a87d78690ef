import gzip
import struct

import numpy as np
import pytest

from gradflow_jax.experiments import data
from gradflow_jax.experiments.data import DataError, load


def write_idx(path, array, *, compress=False):
    header = (
        b"\x00\x00\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
    )
    raw = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if compress else raw)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (6, 4, 4)).astype(np.uint8),
        "y_train": np.arange(6) % 3,
        "x_test": rng.integers(0, 256, (3, 4, 4)).astype(np.uint8),
        "y_test": np.arange(3) % 3,
    }


@pytest.fixture
def idx_folder(tmp_path, arrays):
    folder = tmp_path / "small-set"
    folder.mkdir()
    names = {
        "x_train": "train-images-idx3-ubyte.gz",
        "y_train": "train-labels-idx1-ubyte",
        "x_test": "t10k-images.idx3-ubyte",
        "y_test": "t10k-labels-idx1-ubyte.gz",
    }
    for name, file in names.items():
        write_idx(folder / file, arrays[name], compress=file.endswith(".gz"))
    return folder


def test_the_embedded_subset_is_balanced():
    subset = load("subset")
    assert subset.x_train.shape == (5000, 28, 28, 1)
    assert subset.x_test.shape == (1000, 28, 28, 1)
    assert set(np.bincount(subset.y_train)) == {500}
    assert set(np.bincount(subset.y_test)) == {100}
    assert str(subset) == "Fashion-MNIST subset (5,000 + 1,000 images)"


def test_the_embedded_subset_is_the_first_of_each_class_of_the_full_set():
    if not data.FULL_SET.is_dir():
        pytest.skip(f"no {data.FULL_SET}: install Debian's dataset-fashion-mnist")
    full, subset = load("auto"), load("subset")
    assert str(full) == "Fashion-MNIST (60,000 + 10,000 images)"
    for split, count in (("train", 500), ("test", 100)):
        labels = getattr(full, f"y_{split}")
        chosen = np.concatenate(
            [np.flatnonzero(labels == c)[:count] for c in range(10)]
        )
        chosen.sort()
        for name in (f"x_{split}", f"y_{split}"):
            expected = getattr(full, name)[chosen]
            np.testing.assert_array_equal(getattr(subset, name), expected)


def test_auto_falls_back_to_the_subset(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "FULL_SET", tmp_path / "absent")
    assert load("auto").name == "Fashion-MNIST subset"


def test_idx_folders_are_read_plain_and_compressed(idx_folder, arrays):
    found = load(str(idx_folder))
    assert (found.name, found.classes) == ("small-set", 3)
    np.testing.assert_array_equal(found.x_train[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(found.y_test, arrays["y_test"])


def test_npz_is_read(tmp_path, arrays):
    np.savez(tmp_path / "mine.npz", **arrays)
    found = load(str(tmp_path / "mine.npz"))
    assert found.name == "mine" and found.x_test.shape == (3, 4, 4, 1)


def test_pickles_are_not_loaded(tmp_path, arrays):
    arrays["x_train"] = np.array([print], dtype=object)
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match="cannot be read as .npz.*allow_pickle"):
        load(str(tmp_path / "mine.npz"))


BAD_ARRAYS = {
    "float images": ({"x_test": np.ones((3, 4, 4))}, r"float64\[3, 4, 4, 1\].*uint8"),
    "flat images": ({"x_test": np.ones((3, 16), np.uint8)}, r"uint8\[3, 16\]"),
    "no image": ({"x_test": np.ones((0, 4, 4), np.uint8)}, "at least one"),
    "labels of another number": ({"y_test": np.arange(2)}, r"each of the 3 images"),
    "float labels": ({"y_test": np.zeros(3)}, "y_test.*float64"),
    "another shape": ({"x_test": np.ones((3, 5, 4), np.uint8)}, "differ in shape"),
    "a gap": ({"y_train": np.array([0, 2, 0, 2, 0, 2])}, r"classes \[0, 2\]"),
    "unknown class": ({"y_test": np.array([0, 1, 3])}, "classes that y_train lacks"),
}


@pytest.mark.parametrize("case", list(BAD_ARRAYS))
def test_malformed_arrays(tmp_path, arrays, case):
    change, message = BAD_ARRAYS[case]
    np.savez(tmp_path / "mine.npz", **{**arrays, **change})
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "mine.npz"))


def test_missing_and_damaged_files(tmp_path, idx_folder):
    with pytest.raises(DataError, match="does not exist: pass 'subset'"):
        load(str(tmp_path / "absent"))
    other = tmp_path / "images.tar"
    other.write_bytes(b"")
    with pytest.raises(DataError, match="another kind of file"):
        load(str(other))
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read as .npz"):
        load(str(tmp_path / "bad.npz"))
    np.savez(tmp_path / "few.npz", x_train=np.ones(1))
    with pytest.raises(DataError, match="lacks y_train, x_test, y_test"):
        load(str(tmp_path / "few.npz"))
    (idx_folder / "train-labels-idx1-ubyte").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="no IDX file.*GIF8"):
        load(str(idx_folder))
    write_idx(idx_folder / "train-labels-idx1-ubyte", np.arange(6))
    cut = (idx_folder / "train-labels-idx1-ubyte").read_bytes()[:-1]
    (idx_folder / "train-labels-idx1-ubyte").write_bytes(cut)
    with pytest.raises(DataError, match=r"header says \(6,\), 5 bytes follow"):
        load(str(idx_folder))
    (idx_folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="lacks train-labels-idx1-ubyte"):
        load(str(idx_folder))
