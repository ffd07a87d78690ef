import builtins
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from gradflow_jax.experiments.data.dataset import DataError, load

RNG = np.random.default_rng(0)


def png(pixels, mode=None, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def images():
    """Images by their place; the order of the dict is not that of the names."""
    files = [
        "test/cat/9.png",
        "train/dog/b.png",
        "train/cat/2.png",
        "train/dog/a.png",
        "train/cat/10.png",
        "test/ant/1.png",
        "train/ant/x.png",
    ]
    return {file: pixels(5, 4, 3) for file in files}


ORDER = ["ant/x", "cat/10", "cat/2", "dog/a", "dog/b"]


def encoded(images):
    return {name: png(each) for name, each in images.items()}


def write_folder(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def assert_holds(dataset, images, test="test"):
    assert dataset.classes == 3
    train = np.stack([images[f"train/{name}.png"] for name in ORDER])
    np.testing.assert_array_equal(dataset.x_train, train)
    np.testing.assert_array_equal(dataset.y_train, [0, 1, 1, 2, 2])
    held_out = np.stack([images[f"{test}/ant/1.png"], images[f"{test}/cat/9.png"]])
    np.testing.assert_array_equal(dataset.x_test, held_out)
    np.testing.assert_array_equal(dataset.y_test, [0, 1])


@pytest.mark.parametrize("root", ["", "animals/", "./", "./animals/"])
def test_folders_are_read(tmp_path, images, root):
    files = {root + name: content for name, content in encoded(images).items()}
    files |= {root + "README.md": b"of no use", root + "train/cat/Thumbs.db": b"nor"}
    found = load(write_folder(tmp_path / "zoo.v2", files))
    assert str(found) == "zoo (5 + 2 images)"
    assert_holds(found, images)


@pytest.mark.parametrize("root", ["", "animals/", "./", "./animals/"])
@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".bz2"])
def test_tars_are_read(tmp_path, images, ending, root):
    files = {root + name: content for name, content in encoded(images).items()}
    # As macOS writes it.
    files |= {root + "train/cat/._2.png": b"no image", "README.md": b"of no use"}
    path = tmp_path / f"my.zoo.tar{ending}"
    found = load(write_tar(path, files, f"w:{ending[1:]}"))
    assert found.name == "my.zoo"
    assert_holds(found, images)


@pytest.mark.parametrize("test", ["val", "valid"])
def test_validation_stands_in_for_a_test(tmp_path, images, test):
    both = encoded(images) | {f"{test}/cat/1.png": png(pixels(5, 4, 3))}
    assert_holds(load(write_folder(tmp_path / "both", both)), images)
    other = {name.replace("test/", f"{test}/"): each for name, each in images.items()}
    found = load(write_folder(tmp_path / "other", encoded(other)))
    assert_holds(found, other, test)


def test_jpegs_of_any_case_are_read(tmp_path):
    flat = {f"{split}/{c}": np.full((8, 8, 3), 40 + 90 * i, np.uint8)
            for split in ("train", "test") for i, c in enumerate("ab")}  # fmt: skip
    endings = [".jpg", ".JPG", ".jpeg", ".Jpeg"]
    files = {
        f"{name}/1{ending}": png(each, form="JPEG")
        for (name, each), ending in zip(flat.items(), endings, strict=True)
    }
    found = load(write_folder(tmp_path, files))
    for x in (found.x_train, found.x_test):
        expected = np.stack([flat["train/a"], flat["train/b"]])
        np.testing.assert_allclose(x, expected, atol=2)


def test_gray_images_have_one_channel(tmp_path, images):
    gray = {name: each[..., 0] for name, each in images.items()}
    found = load(write_folder(tmp_path / "gray", encoded(gray)))
    assert found.x_train.shape == (5, 5, 4, 1)
    assert_holds(found, {name: each[..., None] for name, each in gray.items()})
    # One of color is enough for three channels.
    mixed = gray | {"test/cat/9.png": images["test/cat/9.png"]}
    found = load(write_folder(tmp_path / "mixed", encoded(mixed)))
    three = {
        name: np.repeat(each[..., None], 3, -1) if each.ndim == 2 else each
        for name, each in mixed.items()
    }
    assert_holds(found, three)


@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "LA"])
def test_other_modes_become_rgb(tmp_path, images, mode):
    files = encoded(images)
    files["train/cat/2.png"] = png(images["train/cat/2.png"], mode)
    expected = Image.open(io.BytesIO(files["train/cat/2.png"])).convert("RGB")
    found = load(write_folder(tmp_path, files))
    assert_holds(found, images | {"train/cat/2.png": np.asarray(expected)})


BAD_FILES = {
    "another size": (
        {"train/dog/a.png": png(pixels(5, 6, 3))},
        r"train/dog/a.png of .* is of 6×5 pixels and train/ant/x.png of 4×5",
    ),
    "another size to test": (
        {"test/cat/9.png": png(pixels(2, 4, 3))},
        r"test/cat/9.png of .* is of 4×2 pixels and train/ant/x.png of 4×5",
    ),
    "no image": ({"train/cat/2.png": b"no"}, "train/cat/2.png of .* cannot be read"),
    "cut off": (
        {"train/cat/2.png": png(pixels(5, 4, 3))[:-40]},
        "train/cat/2.png of .* cannot be read",
    ),
    "16 bits": (
        {"test/cat/9.png": png(np.zeros((5, 4), np.uint16))},
        "test/cat/9.png of .* has pixels of mode I",
    ),
    "a class of its own": (
        {"test/bee/1.png": png(pixels(5, 4, 3))},
        "has test/bee/1.png of a class that train lacks",
    ),
    "too deep": ({"train/cat/old/1.png": b""}, "train/cat/old/1.png lies too deep"),
}


@pytest.mark.parametrize("case", list(BAD_FILES))
def test_malformed_files(tmp_path, images, case):
    change, message = BAD_FILES[case]
    files = encoded(images) | change
    for path in (
        write_folder(tmp_path / "zoo", files),
        write_tar(tmp_path / "zoo.tar", files),
    ):
        with pytest.raises(DataError, match=message) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_splits_that_are_absent(tmp_path, images):
    files = encoded(images)
    train = {name: each for name, each in files.items() if name.startswith("train")}
    test = {name: each for name, each in files.items() if name.startswith("test")}
    with pytest.raises(DataError, match="5 images to train and 0 to test.*CLASS"):
        load(write_folder(tmp_path / "train", train))
    with pytest.raises(DataError, match="0 images to train and 2 to test.*CLASS"):
        load(write_tar(tmp_path / "test.tar", test))
    with pytest.raises(DataError, match="0 images to train and 0 to test.*CLASS"):
        load(write_tar(tmp_path / "neither.tar", {"a.txt": b""}))


def test_two_roots(tmp_path, images):
    files = {
        f"{root}/{name}": e for root in "ab" for name, e in encoded(images).items()
    }
    for path in (
        write_folder(tmp_path / "zoo", files),
        write_tar(tmp_path / "zoo.tar", files),
    ):
        with pytest.raises(DataError, match="images in several folders, 'a', 'b'"):
            load(path)


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".bz2"])
def test_a_tar_that_is_cut_off(tmp_path, images, ending):
    path = tmp_path / f"zoo.tar{ending}"
    write_tar(path, encoded(images), f"w:{ending[1:]}")
    content = path.read_bytes()
    # In the compressed ones the last bytes are the checksum; a tar ends in zeros.
    end = len(content) if ending else content.rindex(b"IEND")
    for length in (100, 512, end // 2, end // 512 * 512, end - 9):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="cannot be read as tar|is damaged"):
            load(str(path))


def test_a_tar_with_a_damaged_header(tmp_path, images):
    path = tmp_path / "zoo.tar"
    write_tar(path, encoded(images))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"train/cat/2.png", b"train/cat/3.png"))
    with pytest.raises(DataError, match="cannot be read as tar: damaged: bad checksum"):
        load(str(path))


def test_without_pillow_the_error_says_what_to_install(tmp_path, images, monkeypatch):
    path = write_folder(tmp_path, encoded(images))
    original = builtins.__import__

    def without_pillow(name, *args, **kwargs):
        if name == "PIL":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(DataError, match="pip install pillow"):
        load(path)
