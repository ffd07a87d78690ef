"""What others keep in a folder stays, and a full disk costs no more than a line."""

import os
from contextlib import contextmanager

import numpy as np
import pytest

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.experiments.errors import CheckpointError, FolderError
from gradflow_jax.experiments.reproduction.checkpoints import Checkpoints
from gradflow_jax.experiments.reproduction.folder import (
    CHECKPOINTS_NAME,
    MODEL_NAME,
    delete_run,
    run_in_folder,
)
from gradflow_jax.experiments.reproduction.ownership import LOCK_NAME, say_where_written
from gradflow_jax.experiments.reproduction.record import RECORD_NAME
from gradflow_jax.experiments.reproduction.saved_network import evaluate_saved
from gradflow_jax.experiments.reproduction.times import TIMES_NAME
from tests.experiments.data.hostile_files import damage
from tests.experiments.reproduction.checkpoints_test import ABOUT, bits
from tests.experiments.reproduction.checkpoints_test import content as arrays_of
from tests.experiments.reproduction.folder_test import (
    DATA,
    SETTINGS,
    Stopping,
    bytes_of,
    stop,
)


def refused(out, error=FolderError):
    """Returns the line by which a run in a folder is refused before it trains."""
    with pytest.raises(error) as caught:
        run_in_folder(out, SETTINGS, DATA, Stopping(calls=0))
    assert str(caught.value).isprintable()
    return str(caught.value)


OTHERS = (
    ".data.partial.csv", ".lock", ".run.json.1.partial.json", ".1.partial", "run.csv",
    ".gradflow-jax", "model.npz", "checkpoints.txt", ".partial",
)  # fmt: skip


def test_files_of_other_programs_are_left_as_they_are(tmp_path):
    (tmp_path / CHECKPOINTS_NAME).mkdir()
    files = [tmp_path / name for name in OTHERS]
    files += [tmp_path / CHECKPOINTS_NAME / name for name in (".lock", ".3.partial")]
    for file in files:
        file.write_text(file.name)
    stop(tmp_path, Stopping(epoch=0))
    assert [file.read_text() for file in files] == [file.name for file in files]


def test_what_was_written_half_is_deleted(tmp_path):
    names = []

    def note(partial):
        names.append(partial.name)
        partial.write_text("{")

    write_whole(tmp_path / RECORD_NAME, note)
    (tmp_path / RECORD_NAME).unlink()
    (tmp_path / names[0]).write_text("{")
    stop(tmp_path, Stopping(epoch=0))
    assert not (tmp_path / names[0]).exists()


def make_file(path):
    path.write_text("of another program")


KINDS = {
    "file": make_file,
    "folder": os.mkdir,
    "named pipe": os.mkfifo,
    "link": lambda path: path.symlink_to(path.with_name("elsewhere")),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_lock_that_is_none_is_refused(tmp_path, kind):
    KINDS[kind](tmp_path / LOCK_NAME)
    line = refused(tmp_path)
    assert "is no lock of a run: move it" in line or "cannot be used: " in line
    if kind == "file":
        assert (tmp_path / LOCK_NAME).read_text() == "of another program"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", [RECORD_NAME, TIMES_NAME, MODEL_NAME])
@pytest.mark.parametrize("kind", list(KINDS))
def test_results_of_another_program_are_not_replaced(tmp_path, name, kind):
    KINDS[kind](tmp_path / name)
    assert (
        f"{tmp_path / name} is of a run whose checkpoints are gone, or of"
        in refused(tmp_path)
    )
    assert os.path.lexists(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_a_line(tmp_path):
    (tmp_path / CHECKPOINTS_NAME).write_text("a file")
    assert f"{CHECKPOINTS_NAME} cannot be made: File exists" in refused(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "007", "١", "best", "1.0", "-1"])
def test_checkpoints_of_another_program_are_neither_read_nor_deleted(tmp_path, name):
    other = tmp_path / CHECKPOINTS_NAME / name
    other.mkdir(parents=True)
    with Checkpoints(tmp_path / CHECKPOINTS_NAME) as checkpoints:
        assert checkpoints.latest() is None
    with pytest.raises(FolderError, match="is no checkpoint, and is not deleted"):
        delete_run(tmp_path)
    assert other.is_dir()


def test_a_folder_with_a_number_for_a_name_is_kept_when_checkpoints_are_saved(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "photo.png").write_text("of another program")
    with Checkpoints(tmp_path) as checkpoints:
        for epoch in (1, 2, 3):
            checkpoints.save(epoch, {"a": np.zeros(2)}, {})
    assert {path.name for path in tmp_path.iterdir()} == {"0", "2", "3"}
    assert (tmp_path / "0" / "photo.png").read_text() == "of another program"


@contextmanager
def full_disk(size):
    """Lets no file of this process grow beyond a size, as where the disk is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# TensorStore's threads report to loops that Orbax closed when the first one failed.
of_late_threads = pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


@of_late_threads
@pytest.mark.parametrize("size", [0, 200, 1000])
def test_a_checkpoint_on_a_full_disk_is_a_line_and_the_one_before_is_whole(
    tmp_path, size
):
    before = arrays_of()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, before, ABOUT)
        with pytest.raises(CheckpointError) as caught, full_disk(size):
            checkpoints.save(2, arrays_of(1), ABOUT)
        line = str(caught.value)
        assert f"the checkpoint {tmp_path / '2'} cannot be written: " in line
        assert "make room, and start the same run again" in line and line.isprintable()
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        assert bits(checkpoints.restore(1).arrays) == bits(before)
        # There is room again.
        checkpoints.save(2, before, ABOUT)
        assert checkpoints.latest() == 2


def test_a_record_on_a_full_disk_is_a_line(tmp_path):
    file = tmp_path / RECORD_NAME
    file.write_text("before")
    with (
        pytest.raises(
            FolderError, match=f"{tmp_path} cannot be written to: .*make room"
        ),
        say_where_written(tmp_path),
        full_disk(10),
    ):
        write_whole(file, lambda path: path.write_text("x" * 1000))
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_NAME]


def test_what_a_checkpoint_says_beside_its_arrays_is_an_object(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for epoch, about in enumerate(([1], "text", 3, None)):
            checkpoints.save(epoch, {"a": np.zeros(2)}, {"kept": about})
            assert checkpoints.restore(epoch).about == {"kept": about}
        (tmp_path / "3" / "of_another").write_text("file")
        with pytest.raises(
            CheckpointError, match="of_another is not what it has beside"
        ):
            checkpoints.restore(3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing stopped, not to be changed."""
    out = tmp_path_factory.mktemp("run") / "whole"
    run_in_folder(out, SETTINGS, DATA)
    return out


@of_late_threads
@pytest.mark.runs
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(whole, tmp_path):
    stop(tmp_path, Stopping(epoch=2))
    with pytest.raises((CheckpointError, FolderError)) as caught, full_disk(2000):
        run_in_folder(tmp_path, SETTINGS, DATA)
    assert "make room, and start the same run again" in str(caught.value)
    run_in_folder(tmp_path, SETTINGS, DATA)
    assert bytes_of(tmp_path) == bytes_of(whole)


@pytest.mark.runs
def test_a_network_with_damaged_bytes_is_refused_in_a_line_or_tested(whole, tmp_path):
    raw, rng = (whole / MODEL_NAME).read_bytes(), np.random.default_rng(0)
    path = tmp_path / MODEL_NAME
    length = int.from_bytes(raw[:8], "little")
    refusals = 0
    for _ in range(25):
        path.write_bytes(damage(raw[: length + 8], rng) + raw[length + 8 :])
        try:
            assert 0 <= evaluate_saved(path, SETTINGS, DATA).accuracy <= 1
        except ValueError as error:
            refusals += 1
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
    assert refusals > 10


@pytest.mark.runs
def test_a_network_that_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / MODEL_NAME)
    with pytest.raises(ValueError, match="is a named pipe"):
        evaluate_saved(tmp_path / MODEL_NAME, SETTINGS, DATA)
