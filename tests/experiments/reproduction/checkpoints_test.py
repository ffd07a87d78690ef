"""Checkpoints: what was saved comes back, all of it, or an error does."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from gradflow_jax import atomic_files
from gradflow_jax.experiments.errors import CheckpointError
from gradflow_jax.experiments.reproduction import checkpoints as module
from gradflow_jax.experiments.reproduction.checkpoints import (
    Checkpoints,
    arrange_like,
    nest_by_path,
)
from gradflow_jax.trees import named_leaves

ABOUT = {"record": {"loss": 0.1, "names": ["a", "é"]}, "none": None, "keep": [0, 2]}


def content(seed=0):
    """Returns arrays of the dtypes that a run has."""
    random = np.random.default_rng(seed)
    return {
        "network": {
            "0": {"kernel": random.standard_normal((3, 4)).astype(np.float32)},
            "mask": random.random(7) < 0.5,
            "half": np.asarray(jnp.asarray(random.standard_normal(5), jnp.bfloat16)),
        },
        "count": np.asarray(7 + seed, np.int32),
        "odd": np.asarray([np.nan, -0.0, np.inf], np.float32),
    }


def bits(tree):
    """Returns names, dtypes, shapes and bytes: NaN equals itself, 0.0 not −0.0."""
    return {
        path: (leaf.dtype, leaf.shape, leaf.tobytes())
        for path, leaf in named_leaves(tree)
    }


def numbers(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def assert_same(found, arrays, about=ABOUT):
    assert bits(found.arrays) == bits(arrays)
    assert found.about == about


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    """A folder with the checkpoints 1 and 2, not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for epoch in (1, 2):
            checkpoints.save(epoch, content(epoch), ABOUT)
    return folder


def test_every_dtype_comes_back_to_the_last_bit(tmp_path):
    arrays = content()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(3, arrays, ABOUT)
        assert checkpoints.latest() == 3
        assert_same(checkpoints.restore(3), arrays)
    # And in another process's view of the folder.
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(checkpoints.latest())
    assert_same(found, arrays)
    network = found.arrays["network"]
    assert network["mask"].dtype == bool and network["half"].dtype == jnp.bfloat16
    assert found.arrays["count"].dtype == np.int32 and found.arrays["count"].shape == ()
    assert all(isinstance(leaf, np.ndarray) for leaf in network["0"].values())


def test_the_last_two_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for epoch in range(1, 6):
            checkpoints.save(epoch, content(epoch), ABOUT)
            assert numbers(tmp_path) == [max(1, epoch - 1), epoch][-epoch:]
            assert sorted(path.name for path in tmp_path.iterdir()) == [
                str(number) for number in numbers(tmp_path)
            ]
        for epoch in (4, 5):
            assert_same(checkpoints.restore(epoch), content(epoch))


def damages(size):
    """Yields names and functions of a file's bytes."""

    def flipped(at):
        return lambda data: data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]

    if size:
        for at in sorted({0, size // 2, size - 1}):
            yield f"byte {at}", flipped(at)
        yield "half", lambda data: data[: len(data) // 2]
        yield "empty", lambda data: b""
    yield "longer", lambda data: data + b"\0"
    yield "absent", None


def test_a_damaged_checkpoint_is_refused(two_saved, tmp_path):
    files = sorted(
        path.relative_to(two_saved)
        for path in (two_saved / "2").rglob("*")
        if path.is_file()
    )
    assert len(files) >= 5
    for file in files:
        data = (two_saved / file).read_bytes()
        for name, damage in damages(len(data)):
            case = f"{file}, {name}"
            folder = tmp_path / "copy"
            shutil.copytree(two_saved, folder)
            (folder / file).unlink()
            if damage:
                (folder / file).write_bytes(damage(data))
            with Checkpoints(folder) as checkpoints:
                assert checkpoints.latest() == 2, case
                with pytest.raises(CheckpointError) as raised:
                    checkpoints.restore(2)
                text = str(raised.value)
                assert f"{folder / '2'} is damaged" in text, case
                assert "Delete that folder" in text and "--force" in text, case
                assert len(text.splitlines()) == 1, case
                # And the one before it serves, as the error says.
                shutil.rmtree(folder / "2")
                assert_same(checkpoints.restore(checkpoints.latest()), content(1))
            shutil.rmtree(folder)


def test_what_is_said_beside_the_arrays_is_checked_too(two_saved, tmp_path):
    """Still JSON, but another learning history."""
    folder = tmp_path / "copy"
    shutil.copytree(two_saved, folder)
    file = folder / "2" / "about.json"
    text = file.read_text()
    assert "0.1" in text
    file.write_text(text.replace("0.1", "0.2"))
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointError, match="json is not as it was written"):
            checkpoints.restore(2)


def test_one_of_something_else_is_refused(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.StandardSave(content()))
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError) as raised:
            checkpoints.restore(checkpoints.latest())
    assert str(tmp_path / "1") in str(raised.value) and "--force" in str(raised.value)
    assert (tmp_path / "1").exists()


def test_an_absent_one_is_refused(two_saved, tmp_path):
    shutil.copytree(two_saved, tmp_path / "copy")
    with Checkpoints(tmp_path / "copy") as checkpoints:
        with pytest.raises(CheckpointError, match="copy/7 "):
            checkpoints.restore(7)


def test_another_version_is_refused(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_VERSION", 99)
            checkpoints.save(1, content(), ABOUT)
        with pytest.raises(CheckpointError) as raised:
            checkpoints.restore(1)
    assert f"{tmp_path / '1'} is of format 99, and this version reads 1" in str(
        raised.value
    )
    assert "go on with the version that wrote it" in str(raised.value)
    assert "damaged" not in str(raised.value)


SAVING = """
import sys
from pathlib import Path
from gradflow_jax.experiments.reproduction.checkpoints import Checkpoints
from tests.experiments.reproduction.checkpoints_test import ABOUT, content
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    for epoch in range(1, 100_000):
        checkpoints.save(epoch, content(epoch), ABOUT)
"""
MOMENTS = 30


def check_all(folder):
    """Checks that a copy of a folder holds whole checkpoints; returns what is left."""
    before = {path.name for path in folder.iterdir()}
    found = numbers(folder)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() == max(found, default=None)
        for number in found:
            assert_same(checkpoints.restore(number), content(number))
        # Two, or three where the oldest still has its name.
        assert len(found) <= 3
        # The next process saves as if nothing had been.
        new = max(found, default=0) + 1
        checkpoints.save(new, content(new), ABOUT)
        assert checkpoints.latest() == new
        assert_same(checkpoints.restore(new), content(new))
    assert {path.name for path in folder.iterdir()} == {
        str(number) for number in [*found, new][-2:]
    }
    return before - {str(number) for number in found}


@pytest.mark.runs
@pytest.mark.skipif(os.name != "posix", reason="processes are stopped by a signal")
def test_at_no_moment_has_anything_incomplete_its_final_name(tmp_path):
    """A process that stands still has on disk what it had if it were killed then."""
    folder, copy = tmp_path / "checkpoints", tmp_path / "copy"
    run = subprocess.Popen([sys.executable, "-c", SAVING, folder], cwd=os.getcwd())
    random = np.random.default_rng(0)
    unfinished = []
    try:
        deadline = time.monotonic() + 120
        while not folder.exists():
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(MOMENTS):
            time.sleep(random.uniform(0, 0.1))
            run.send_signal(signal.SIGSTOP)
            _, status = os.waitpid(run.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            shutil.copytree(folder, copy)
            run.send_signal(signal.SIGCONT)
            unfinished.append(check_all(copy))
            shutil.rmtree(copy)
    finally:
        run.kill()
        run.wait()
    # A true kill last, in place.
    unfinished.append(check_all(folder))
    # Moments of writing were among them, and `check_all` saw them cleaned away.
    assert any(unfinished), unfinished


def test_what_is_deleted_has_lost_its_name_before(tmp_path, monkeypatch):
    """The process dies while the oldest checkpoint is being deleted."""

    class Killed(BaseException):
        pass

    def die(path, *_, **__):
        (path / "about.json").unlink()
        raise Killed

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, content(1), ABOUT)
        checkpoints.save(2, content(2), ABOUT)
        with monkeypatch.context() as patch:
            patch.setattr(atomic_files.shutil, "rmtree", die)
            with pytest.raises(Killed):
                checkpoints.save(3, content(3), ABOUT)
    assert numbers(tmp_path) == [2, 3]
    assert len(list(tmp_path.iterdir())) == 3
    with Checkpoints(tmp_path) as checkpoints:
        # What is unfinished is deleted when a folder is opened.
        assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}
        for epoch in (2, 3):
            assert_same(checkpoints.restore(epoch), content(epoch))


LIKE = {
    "b": {"kernel": np.zeros((2, 3), np.float32)},
    "a": (np.zeros(4, bool), np.zeros((), np.int32)),
}


def test_arrays_are_arranged_as_they_were():
    arrays = nest_by_path(LIKE)
    assert arrays["a"]["0"] is LIKE["a"][0] or arrays["a"]["0"].dtype == bool
    found = arrange_like(arrays, LIKE)
    assert isinstance(found["a"], tuple)
    assert bits(found) == bits(LIKE)


def without(arrays):
    del arrays["b"]["kernel"]


def left_over(arrays):
    arrays["c"] = np.zeros(1)


def reshaped(arrays):
    arrays["b"]["kernel"] = np.zeros((3, 2), np.float32)


def retyped(arrays):
    arrays["a"]["1"] = np.zeros((), np.int64)


@pytest.mark.parametrize(
    ("change", "named"),
    [(without, "b/kernel"), (left_over, "c"), (reshaped, "b/kernel"), (retyped, "a/1")],
)
def test_arrays_of_another_network_are_refused_by_name(change, named):
    arrays = nest_by_path(LIKE)
    change(arrays)
    with pytest.raises(ValueError, match=f"^'{named}' is not what the network"):
        arrange_like(arrays, LIKE)
