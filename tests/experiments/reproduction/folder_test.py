"""A run in a folder: stopped anywhere, it ends with the bytes of one that was not."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from gradflow_jax.atomic_files import PARTIAL
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.errors import CheckpointError, FolderError
from gradflow_jax.experiments.reproduction.checkpoints import Checkpoints
from gradflow_jax.experiments.reproduction.folder import (
    CHECKPOINTS_NAME,
    MODEL_NAME,
    delete_run,
    existing_files,
    fingerprint,
    run_in_folder,
)
from gradflow_jax.experiments.reproduction.ownership import LOCK_NAME
from gradflow_jax.experiments.reproduction.record import RECORD_NAME, RunSettings
from gradflow_jax.experiments.reproduction.record_reading import read_record
from gradflow_jax.experiments.reproduction.times import TIMES_NAME, read_times
from gradflow_jax.experiments.reproduction.watching import SilentRunWatcher
from gradflow_jax.structured import load_cut

# The measure is of initial weights too, which must be kept and come back.
SETTINGS = RunSettings(
    "vgg13",
    "biased_loss_preservation",
    prune=0.5,
    rounds=2,
    schedule=((3, 0.1), (1, 0.01)),
    batch_size=40,
    fast=True,
)


def made_data(seed=0):
    """Returns 80 + 40 noisy images of 4 classes, which differ in brightness."""
    random = np.random.default_rng(seed)
    labels = np.arange(120, dtype=np.int32) % 4
    noise = random.integers(0, 160, (120, 8, 8, 3))
    images = (noise + 30 * labels[:, None, None, None]).astype(np.uint8)
    return Dataset("made", images[:80], labels[:80], images[80:], labels[80:], 4)


DATA = made_data()


class Stopped(Exception):
    """Stands for whatever ends a process."""


class Stopping(SilentRunWatcher):
    """A watcher that stops a run when it has been told so often, or of this epoch."""

    def __init__(self, *, calls=None, epoch=None):
        self.left, self.last = calls, epoch
        self.begun = []

    def _told(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Stopped

    def epoch(self, done):
        self._told()
        if done == self.last:
            raise Stopped

    def begin(self, what, steps):
        self._told()
        self.begun.append(what)

    def step(self, loss, accuracy):
        self._told()


def stop(out, watcher, settings=SETTINGS):
    with pytest.raises(Stopped):
        run_in_folder(out, settings, DATA, watcher)


def bytes_of(out):
    return {name: (out / name).read_bytes() for name in (RECORD_NAME, MODEL_NAME)}


def tree(out):
    """Returns all files of a folder but the lock."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != LOCK_NAME
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing stopped, not to be changed."""
    out = tmp_path_factory.mktemp("run") / "whole"
    run_in_folder(out, SETTINGS, DATA)
    return out


@pytest.fixture(scope="module")
def half(tmp_path_factory, whole):
    """The folder of a run that was stopped in its third epoch, not to be changed."""
    out = tmp_path_factory.mktemp("run") / "half"
    stop(out, Stopping(epoch=2))
    stop(out, Stopping(calls=3))
    return out


@pytest.fixture
def copied(tmp_path, half):
    """A copy of `half`."""
    out = tmp_path / "copy"
    shutil.copytree(half, out)
    return out


@pytest.mark.runs
def test_a_run_writes_record_times_network_and_two_checkpoints(whole):
    record = read_record(whole / RECORD_NAME)
    assert record.complete and record.settings == SETTINGS
    assert [row.epoch for row in record.epochs] == [1, 2, 3, 4]
    assert [row.epoch for row in record.rounds] == [1, 2]
    left = [record.dense.filters, *(row.size.filters for row in record.rounds)]
    assert left[0] > left[1] > left[2] == record.dense.filters // 2
    assert record.best_accuracy == max(row.test_accuracy for row in record.epochs[2:])
    assert len(read_times(whole)) == 2
    assert all(time.milliseconds > 0 for time in read_times(whole))
    keep = load_cut(whole / MODEL_NAME).keep
    assert sum(int(flags.sum()) for flags in keep.values()) == left[2]
    names = {path.name for path in (whole / CHECKPOINTS_NAME).iterdir()}
    assert names == {"3", "4"}
    assert {path.name for path in existing_files(whole)} == {
        RECORD_NAME,
        TIMES_NAME,
        MODEL_NAME,
        CHECKPOINTS_NAME,
    }
    found = {path.name for path in whole.iterdir()} - {LOCK_NAME}
    assert found == {path.name for path in existing_files(whole)}


@pytest.mark.runs
def test_stopped_after_every_epoch_it_ends_the_same(whole, tmp_path):
    """Before the record of the epoch is written, but after its checkpoint is."""
    for epoch in range(5):
        stop(tmp_path, Stopping(epoch=epoch))
        assert not (tmp_path / MODEL_NAME).exists()
        if (tmp_path / RECORD_NAME).exists():
            # The record is that of an epoch that was saved.
            record = read_record(tmp_path / RECORD_NAME)
            assert len(record.epochs) == epoch - 1 and not record.complete
    run_in_folder(tmp_path, SETTINGS, DATA)
    assert bytes_of(tmp_path) == bytes_of(whole)
    assert len(read_times(tmp_path)) == 2


@pytest.mark.runs
@pytest.mark.parametrize("seed", range(2))
def test_stopped_at_any_step_it_ends_the_same(whole, tmp_path, seed):
    random = np.random.default_rng(seed)
    stops = 0
    while True:
        try:
            watcher = Stopping(calls=int(random.integers(0, 12)))
            record = run_in_folder(tmp_path, SETTINGS, DATA, watcher)
            break
        except Stopped:
            stops += 1
            assert stops < 100
    assert stops >= 2
    assert bytes_of(tmp_path) == bytes_of(whole)
    assert record == read_record(whole / RECORD_NAME)


@pytest.mark.runs
def test_a_complete_run_ends_at_once_and_the_same(whole, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(whole, out)
    watcher = Stopping()
    record = run_in_folder(out, SETTINGS, DATA, watcher)
    assert record == read_record(whole / RECORD_NAME)
    assert watcher.begun == []
    assert tree(out) == tree(whole)


@pytest.mark.runs
def test_a_complete_run_gets_back_what_was_deleted(whole, tmp_path):
    """Also where it was killed between the last checkpoint and the network."""
    out = tmp_path / "copy"
    shutil.copytree(whole, out)
    for name in (RECORD_NAME, TIMES_NAME, MODEL_NAME):
        (out / name).unlink()
    run_in_folder(out, SETTINGS, DATA, Stopping())
    assert tree(out) == tree(whole)


@pytest.mark.runs
@pytest.mark.parametrize("name", [f"{PARTIAL}-1.json", f"{PARTIAL}-1", "1"])
def test_what_a_killed_process_left_is_cleaned_away(half, tmp_path, name):
    out = tmp_path / "copy"
    shutil.copytree(half, out)
    if name == "1":
        left = out / CHECKPOINTS_NAME / f"{PARTIAL}-1" / "arrays"
        left.mkdir(parents=True)
    else:
        left = out / name
        left.write_text("{")
    run_in_folder(out, SETTINGS, DATA)
    assert not left.exists()


OTHERS = {
    "model": "mobilenet",
    "measure": "magnitude",
    "prune": 0.25,
    "rounds": 1,
    "seed": 1,
    "width": 2.0,
    "schedule": ((3, 0.1), (2, 0.01)),
    "warmup": 1,
    "batch_size": 20,
    "examples": 80,
    "tests": 40,
    "thresholds": (0.3, 0.5),
    "tracked": True,
    "momentum": "keep",
    "cut_stem": True,
    "published_rules": True,
    "correlate_every": 1,
    "fast": False,
}


def test_each_setting_is_among_those_that_are_compared():
    assert set(OTHERS) == set(asdict(SETTINGS))


@pytest.mark.runs
@pytest.mark.parametrize("name", [name for name in OTHERS if name != "fast"])
def test_another_setting_is_refused_by_name(copied, name):
    before = tree(copied)
    with pytest.raises(FolderError) as raised:
        run_in_folder(copied, replace(SETTINGS, **{name: OTHERS[name]}), DATA)
    text = str(raised.value)
    assert f"a run with {name} " in text and "--force" in text
    assert len(text.splitlines()) == 1
    assert tree(copied) == before


@pytest.mark.runs
def test_a_refusal_names_the_folder(copied):
    """The folder may be the default one, which no option named."""
    with pytest.raises(FolderError) as raised:
        run_in_folder(copied, replace(SETTINGS, seed=1), DATA)
    assert str(copied) in str(raised.value)


@pytest.mark.runs
def test_other_images_are_refused(copied):
    before = tree(copied)
    images = DATA.x_train.copy()
    images[-1, -1, -1, -1] ^= 1
    with pytest.raises(FolderError, match="a run on other images: pass the same"):
        run_in_folder(copied, SETTINGS, DATA._replace(x_train=images))
    assert tree(copied) == before


def test_a_fingerprint_is_of_pixels_labels_shapes_and_not_of_the_name():
    same = fingerprint(DATA)
    assert fingerprint(made_data()) == same
    assert fingerprint(DATA._replace(name="other")) == same
    assert fingerprint(made_data(1)) != same
    assert fingerprint(DATA._replace(y_test=DATA.y_test[::-1])) != same
    flat = DATA.x_train.reshape(80, 16, 4, 3)
    assert fingerprint(DATA._replace(x_train=flat)) != same


def rewrite(out, change):
    """Changes what the last checkpoint holds and saves it as a whole one."""
    folder = out / CHECKPOINTS_NAME
    with Checkpoints(folder) as checkpoints:
        epoch = checkpoints.latest()
        arrays, about = checkpoints.restore(epoch)
    change(arrays, about)
    shutil.rmtree(folder)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(epoch, arrays, about)


def other_jax(arrays, about):
    about["record"]["versions"]["jax"] = "0.0.1"


def other_width(arrays, about):
    family, kept = next(iter(about["keep"].items()))
    about["keep"][family] = kept[:-1]


def without_leaf(arrays, about):
    arrays["network"]["params"].popitem()


@pytest.mark.runs
def test_other_versions_are_refused_by_name(copied):
    rewrite(copied, other_jax)
    before = tree(copied)
    with pytest.raises(FolderError) as raised:
        run_in_folder(copied, SETTINGS, DATA)
    assert "a run with jax 0.0.1, and here is " in str(raised.value)
    assert tree(copied) == before


@pytest.mark.runs
@pytest.mark.parametrize("change", [other_width, without_leaf])
def test_arrays_of_another_network_are_refused(copied, change):
    rewrite(copied, change)
    before = tree(copied)
    with pytest.raises(CheckpointError) as raised:
        run_in_folder(copied, SETTINGS, DATA)
    assert "is not of this run: '" in str(raised.value)
    assert tree(copied) == before


def without_record(arrays, about):
    del about["record"]


def no_record(arrays, about):
    about["record"] = {"version": 99}


def nothing(arrays, about):
    about.clear()


def without_keep(arrays, about):
    del about["keep"]


def other_family(arrays, about):
    about["keep"].popitem()


@pytest.mark.runs
@pytest.mark.parametrize(
    "change", [without_record, no_record, nothing, without_keep, other_family]
)
def test_a_whole_checkpoint_of_something_else_is_refused(copied, change):
    rewrite(copied, change)
    before = tree(copied)
    with pytest.raises((FolderError, CheckpointError)) as raised:
        run_in_folder(copied, SETTINGS, DATA)
    assert "--force" in str(raised.value)
    assert tree(copied) == before


def test_a_folder_in_use_is_refused(tmp_path):
    class Second(SilentRunWatcher):
        said = ""

        def epoch(self, done):
            with pytest.raises(FolderError) as raised:
                run_in_folder(tmp_path, SETTINGS, DATA)
            self.said = str(raised.value)
            raise Stopped

    pytest.importorskip("fcntl")
    watcher = Second()
    stop(tmp_path, watcher)
    assert watcher.said == (
        f"{tmp_path} is in use by another run: wait for it, or choose another --out."
    )
    # The lock went with the run.
    stop(tmp_path, Stopping(epoch=0))


@pytest.mark.runs
def test_a_record_without_checkpoints_is_refused(whole, tmp_path):
    (tmp_path / RECORD_NAME).write_bytes((whole / RECORD_NAME).read_bytes())
    with pytest.raises(FolderError) as raised:
        run_in_folder(tmp_path, SETTINGS, DATA)
    assert "run.json is of a run whose checkpoints are gone" in str(raised.value)
    assert (tmp_path / RECORD_NAME).read_bytes() == (whole / RECORD_NAME).read_bytes()


def damage(folder):
    """Flips a bit in the middle of each file of weights."""
    files = [path for path in (folder / "arrays").rglob("d/*") if path.is_file()]
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))


@pytest.mark.runs
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_serves(copied, whole):
    last = copied / CHECKPOINTS_NAME / "2"
    damage(last)
    before = tree(copied)
    with pytest.raises(CheckpointError) as raised:
        run_in_folder(copied, SETTINGS, DATA)
    assert f"{last} is damaged" in str(raised.value)
    assert tree(copied) == before
    shutil.rmtree(last)
    run_in_folder(copied, SETTINGS, DATA)
    assert bytes_of(copied) == bytes_of(whole)


def test_settings_that_cannot_be_met_leave_no_folder(tmp_path):
    """So that a run with other options may begin there."""
    out = tmp_path / "out"
    with pytest.raises(ValueError):
        run_in_folder(out, replace(SETTINGS, prune=0.99), DATA)
    assert not out.exists() or existing_files(out) == []


@pytest.mark.runs
def test_by_published_rules_tracked_with_momentum_it_ends_the_same(tmp_path):
    """Kernels mapped to zero, their masks and momentum come back between rounds."""
    settings = replace(
        SETTINGS,
        model="resnet56",
        measure="loss_preservation",
        schedule=((2, 0.1),),
        momentum="keep",
        tracked=True,
        published_rules=True,
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_in_folder(whole, settings, DATA)
    for epoch in (1, 2):
        stop(stopped, Stopping(epoch=epoch), settings)
    with Checkpoints(stopped / CHECKPOINTS_NAME) as checkpoints:
        arrays, _ = checkpoints.restore(1)
    # What is restored is not what a fresh network has anyway.
    leaves = list(leaves_of(arrays["optimizer"]))
    assert any(leaf.dtype == bool and not leaf.all() for leaf in leaves)
    assert any(leaf.dtype == np.float32 and leaf.any() for leaf in leaves)
    run_in_folder(stopped, settings, DATA)
    assert bytes_of(stopped) == bytes_of(whole)


def leaves_of(arrays):
    for leaf in arrays.values():
        yield from leaves_of(leaf) if isinstance(leaf, dict) else [leaf]


@pytest.mark.runs
def test_a_run_in_use_is_not_deleted(copied):
    before = tree(copied)

    class Deleting(SilentRunWatcher):
        def epoch(self, done):
            with pytest.raises(FolderError, match="is in use by another run"):
                delete_run(copied)
            raise Stopped

    stop(copied, Deleting())
    assert tree(copied) == before


@pytest.mark.runs
def test_a_deletion_that_was_cut_short_is_ended(copied):
    for name in (f"{PARTIAL}-1", f"{PARTIAL}-2.safetensors"):
        (copied / name / "left").mkdir(parents=True)
    delete_run(copied)
    assert existing_files(copied) == [] and tree(copied) == {}
    delete_run(copied)
