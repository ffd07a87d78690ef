"""Files are whole or absent: writers at once, modes, links, and what fails."""

import errno
import os
import stat
import threading

import pytest

from gradflow_jax.atomic_files import delete_whole, tidy, write_whole


def text_writer(text):
    return lambda path: path.write_text(text)


def test_writers_at_once_leave_one_whole_file(tmp_path):
    file, failures = tmp_path / "file.json", []
    texts = [letter * 5000 for letter in "abcd"]

    def write(text):
        try:
            for _ in range(30):
                write_whole(file, text_writer(text))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and file.read_text() in texts
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_has_the_mode_that_the_umask_gives(tmp_path):
    for mask in (0o022, 0o077, 0):
        before = os.umask(mask)
        try:
            write_whole(tmp_path / "file", text_writer("x"))
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_the_partial_file_has_the_suffix_that_tells_a_format(tmp_path):
    seen = []

    def write(path):
        seen.append(path.suffix)
        path.touch()

    for name in ("plot.png", "model", "x." + 40 * "y"):
        write_whole(tmp_path / name, write)
    assert seen == [".png", "", ""]


def test_a_link_stays_and_its_file_is_written(tmp_path):
    write_whole(tmp_path / "folder" / "first", text_writer("1"))
    (tmp_path / "latest").symlink_to("folder/first")
    write_whole(tmp_path / "latest", text_writer("2"))
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "folder" / "first").read_text() == "2"


def test_a_folder_is_written_and_deleted_as_a_whole(tmp_path):
    def write(folder):
        (folder / "inside").mkdir(parents=True)
        (folder / "inside" / "file").write_text("x")

    write_whole(tmp_path / "1", write)
    assert (tmp_path / "1" / "inside" / "file").read_text() == "x"
    delete_whole(tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def full_disk(path):
    path.write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def broken_writer(path):
    path.write_text("half")
    raise OSError("encoder error -2 when writing")


def folder(path):
    path.mkdir()
    (path / "file").touch()


FAILURES = {
    "a full disk": (lambda path: None, full_disk, "No space left on device"),
    "a writer's own": (lambda path: None, broken_writer, "cannot be written: encoder"),
    "a folder": (folder, text_writer("x"), "Is a directory"),
    "a pipe": (os.mkfifo, text_writer("x"), "a device, a pipe or a socket is there"),
    "a file for a folder": (
        lambda path: path.parent.write_text("x"),
        text_writer("x"),
        "Not a directory|File exists",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_cannot_be_written_names_the_path_and_leaves_nothing(tmp_path, name):
    prepare, write, message = FAILURES[name]
    path = tmp_path / "file" if name != "a file for a folder" else tmp_path / "x" / "y"
    prepare(path)
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    with pytest.raises(OSError, match=message) as error:
        write_whole(path, write)
    assert str(path) in str(error.value)
    assert before == {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}


def test_a_name_too_long_and_one_with_a_null_are_refused(tmp_path):
    path = tmp_path / (300 * "x" + ".json")
    with pytest.raises(OSError, match="File name too long") as error:
        write_whole(path, text_writer("x"))
    assert error.value.filename == str(path)
    with pytest.raises(ValueError, match="holds a null character"):
        write_whole(tmp_path / "a\0b", text_writer("x"))
    assert list(tmp_path.iterdir()) == []
    # The longest name that a file may have is no name too long.
    longest = tmp_path / (251 * "x" + ".txt")
    write_whole(longest, text_writer("x"))
    assert longest.read_text() == "x"


def test_only_what_is_surely_ours_is_tidied(tmp_path):
    others = [".data.partial.csv", ".1.partial", "gradflow-jax-partial-1", ".lock"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".gradflow-jax-partial-0f.json").touch()
    (tmp_path / ".gradflow-jax-partial-0e" / "arrays").mkdir(parents=True)
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(others)
