import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from gradflow_jax.experiments.data import dataset
from gradflow_jax.experiments.data.dataset import DataError, Dataset, load, some_of


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
    if not dataset.FULL_SET.is_dir():
        pytest.skip(f"no {dataset.FULL_SET}: install Debian's dataset-fashion-mnist")
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
    monkeypatch.setattr(dataset, "FULL_SET", tmp_path / "absent")
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
    with pytest.raises(DataError, match="array of object: pickled objects are not"):
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
    other = tmp_path / "images.zip"
    other.write_bytes(b"")
    with pytest.raises(DataError, match="another kind of file.*'cifar10'.*CLASS"):
        load(str(other))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="another kind of folder: pass"):
        load(str(tmp_path / "empty"))
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


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADFLOW_JAX_DATA", str(tmp_path))
    return tmp_path


def test_named_sets_are_found_in_each_form(data_folder, arrays):
    """From the least to the most preferred: each hides those before it."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = data_folder / "cifar10" / split / label
            folder.mkdir(parents=True)
            Image.fromarray(arrays["x_train"][0]).save(folder / "1.png")
    found = load("cifar10")
    assert (found.name, found.x_train.shape) == ("cifar10", (2, 4, 4, 1))
    np.savez(data_folder / "cifar10.npz", **arrays)
    assert str(load("cifar10")) == "cifar10 (6 + 3 images)"
    records = [bytes([i]) + bytes(3072) for i in range(2)]
    folder = data_folder / "cifar-10-batches-bin"
    folder.mkdir()
    for file in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (folder / file).write_bytes(b"".join(records))
    assert str(load("cifar10")) == "CIFAR-10 (10 + 2 images)"
    with tarfile.open(data_folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    # It is in the tar of the other form; what a file holds decides.
    assert str(load("cifar10")) == "CIFAR-10 (10 + 2 images)"


def test_a_named_set_as_a_tar_of_images(data_folder, arrays):
    content = io.BytesIO()
    Image.fromarray(arrays["x_train"][0]).save(content, "PNG")
    with tarfile.open(data_folder / "cifar100.tar.xz", "w:xz") as tar:
        for name in ("train/a/1", "train/b/1", "test/a/1"):
            member = tarfile.TarInfo(f"{name}.png")
            member.size = len(content.getvalue())
            tar.addfile(member, io.BytesIO(content.getvalue()))
    assert str(load("cifar100")) == "cifar100 (2 + 1 images)"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_named_set_that_is_absent(data_folder, name):
    number = name.removeprefix("cifar")
    with pytest.raises(DataError) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"{name} is not in {data_folder}",
        f"cifar-{number}-python.tar.gz",
        f"torchvision.datasets.CIFAR{number}({str(data_folder)!r}, download=True)",
        f"uoft-cs/{name}",
        "GRADFLOW_JAX_DATA",
    ):
        assert part in message


def test_named_sets_are_looked_up_in_data_by_default(tmp_path, arrays, monkeypatch):
    monkeypatch.delenv("GRADFLOW_JAX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "cifar10.npz", **arrays)
    assert load("cifar10").name == "cifar10"


def numbered(y_train, y_test):
    """A data set of images whose pixel is their number."""
    splits = []
    for labels in (y_train, y_test):
        images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
        splits += [images, np.array(labels)]
    return Dataset("numbers", *splits, classes=3)


def test_some_of_takes_the_first_of_each_class_in_their_order():
    whole = numbered([2, 2, 0, 1, 2, 0, 1, 0, 1], [0, 0, 1, 2, 1, 2])
    part = some_of(whole, 6)
    assert part.x_train.ravel().tolist() == [0, 1, 2, 3, 5, 6]
    assert part.y_train.tolist() == [2, 2, 0, 1, 0, 1]
    np.testing.assert_array_equal(part.x_test, whole.x_test)
    assert str(part) == part.name == "numbers, 6 + 6 of 9 + 6 images"
    part = some_of(whole, 5, tests=3)
    assert part.y_train.tolist() == [2, 0, 1], "one of each: 5 is no multiple of 3"
    assert part.x_test.ravel().tolist() == [0, 2, 3]
    assert (part.classes, str(part)) == (3, "numbers, 3 + 3 of 9 + 6 images")
    assert some_of(whole, 1).y_train.tolist() == [2, 0, 1], "at least one of each"
    assert some_of(whole, 9) is whole


def test_some_of_the_embedded_subset():
    part = some_of(load(), 1000, 200)
    assert str(part) == "Fashion-MNIST subset, 1,000 + 200 of 5,000 + 1,000 images"
    assert set(np.bincount(part.y_train)) == {100}
    assert set(np.bincount(part.y_test)) == {20}


def test_some_of_more_than_there_are():
    whole = numbered([0, 0, 0, 0, 1, 1, 2], [0, 1])
    assert some_of(whole, 7, 2) is whole
    with pytest.raises(DataError, match=r"8 train images of numbers \(7 \+ 2.*are 7"):
        some_of(whole, 8)
    with pytest.raises(DataError, match="0 train images of numbers"):
        some_of(whole, 0)
    with pytest.raises(DataError, match="2 train images of each.*class 2 has 1"):
        some_of(whole, 6)
    with pytest.raises(DataError, match="1 test images of each.*class 2 has 0"):
        some_of(whole, 3, tests=1)
