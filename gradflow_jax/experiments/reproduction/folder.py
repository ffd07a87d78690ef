"""A run in a folder, which goes on from where it was stopped, whenever that was.

An epoch ends in this order: the run's state becomes a checkpoint, which appears whole
or not at all; then the record and the times are written from it. So a run that is
killed between the two writes its record anew when it goes on, and one that is killed
before trains the epoch again, from the checkpoint of the one before.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradflow_jax.atomic_files import delete_whole, tidy, write_whole
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.environment import versions
from gradflow_jax.experiments.errors import (
    CheckpointError,
    FolderError,
    abridge,
)
from gradflow_jax.experiments.networks.timing import Times
from gradflow_jax.experiments.reproduction.checkpoints import (
    Checkpoints,
    nest_by_path,
)
from gradflow_jax.experiments.reproduction.ownership import (
    check_absent,
    check_own_checkpoints,
    hold_alone,
    say_where_written,
)
from gradflow_jax.experiments.reproduction.record import (
    RECORD_NAME,
    RunRecord,
    RunSettings,
    to_json,
)
from gradflow_jax.experiments.reproduction.record_reading import to_record
from gradflow_jax.experiments.reproduction.run import Run, RunProgress
from gradflow_jax.experiments.reproduction.times import TIMES_NAME, write_times
from gradflow_jax.experiments.reproduction.watching import RunWatcher, SilentRunWatcher
from gradflow_jax.experiments.typed_values import convert
from gradflow_jax.structured import save_cut

MODEL_NAME = "model.safetensors"
CHECKPOINTS_NAME = "checkpoints"
NAMES = (RECORD_NAME, TIMES_NAME, MODEL_NAME, CHECKPOINTS_NAME)


def run_in_folder(
    out: Path,
    settings: RunSettings,
    dataset: Dataset,
    watcher: RunWatcher | None = None,
) -> RunRecord:
    """Runs, or goes on with, what `settings` say.

    After each epoch all that decides the rest is saved: weights, statistics, momentum,
    masks, widths, initial weights. The order of images and every random number follow
    from the seed and the epoch. So a run that is killed at any moment and started again
    ends with the numbers of one that was not. Every file appears whole or not at all.

    Args:
        out: the folder: the record of the run, times, the network, checkpoints.
        settings: what to do.
        dataset: labeled images.
        watcher: told of progress.

    Returns:
        The record of the whole run.

    Raises:
        FolderError: if the folder cannot be used, holds another run or is in use.
        CheckpointError: if its checkpoint is damaged or not of this run.
        SettingsError: if the settings cannot be met.
    """
    watcher = watcher or SilentRunWatcher()
    run = Run(settings, dataset, watcher)
    if set("*?[") & set(str(out.absolute())):
        # Orbax would take the path for a pattern of file names, and save no arrays.
        raise FolderError(
            f"{out.absolute()} has one of * ? [ in it, where no checkpoint can be "
            "saved: choose another --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{out} cannot be made: {error.strerror}.") from error
    with hold_alone(out), Checkpoints(out / CHECKPOINTS_NAME) as checkpoints:
        tidy(out)
        about = {
            "data": fingerprint(dataset),
            "settings": _through_json(asdict(settings)),
        }
        latest = checkpoints.latest()
        if latest is not None:
            _resume(run, out, checkpoints, latest, about)
        else:
            # A run's checkpoints are written before its other files, and outlive them.
            written = (RECORD_NAME, TIMES_NAME, MODEL_NAME)
            check_absent(out / name for name in written)
        while True:
            watcher.epoch(run.progress.epoch)
            if run.progress.epoch:
                # It is written after the checkpoint, also one that a killed run left.
                with say_where_written(out):
                    _write_progress(out, run.progress)
            if run.done:
                break
            run.next_epoch()
            progress = run.progress
            after_epoch = {
                "keep": {
                    name: np.flatnonzero(flags).tolist()
                    for name, flags in progress.keep.items()
                },
                "record": json.loads(to_json(progress.record)),
                "times": [time._asdict() for time in progress.times],
            }
            arrays = nest_by_path(jax.device_get(run.network.state))
            checkpoints.save(progress.epoch, arrays, {**about, **after_epoch})
        network = run.network
        with say_where_written(out):
            save_cut(out / MODEL_NAME, network.variables(), network.units, network.keep)
        return run.progress.record


def delete_run(out: Path) -> None:
    """Deletes what a folder holds of a run.

    Raises:
        FolderError: if the run is in use, or what is deleted holds other things;
            nothing is deleted then.
    """
    if not existing_files(out):
        return
    with hold_alone(out):
        tidy(out)
        check_own_checkpoints(out / CHECKPOINTS_NAME)
        for path in existing_files(out):
            delete_whole(path)


def existing_files(out: Path) -> list[Path]:
    """Returns what a folder holds of a run."""
    return [out / name for name in NAMES if (out / name).exists()]


def fingerprint(dataset: Dataset) -> str:
    """Returns a SHA-256 of all images and labels."""
    sha256 = hashlib.sha256()
    for array in dataset:
        if isinstance(array, np.ndarray):
            sha256.update(f"{array.dtype} {array.shape} ".encode())
            sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def _resume(
    run: Run, out: Path, checkpoints: Checkpoints, epoch: int, about: dict[str, Any]
) -> None:
    """Brings a run to where a checkpoint is, if that is one of the same run.

    Raises:
        FolderError: if settings, images or versions were others.
        CheckpointError: if the checkpoint is damaged or of another network.
    """
    arrays, saved = checkpoints.restore(epoch)
    asked, before = about["settings"], saved.get("settings")
    before = before if isinstance(before, dict) else {}
    for name in asked:
        if asked[name] != before.get(name):
            raise FolderError(
                f"{out} holds a run with {name} {_or_unsaid(before.get(name))}, but "
                f"now it is {_or_unsaid(asked[name])}: choose another --out, or "
                "--force to start anew."
            )
    if saved.get("data") != about["data"]:
        raise FolderError(
            f"{out} holds a run on other images: pass the same --data, choose another "
            "--out, or --force to start anew."
        )

    def foreign(error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint of epoch {epoch} in {out} is not of this run: {error}. "
            "Choose another --out, or --force to start anew."
        )

    try:
        record = to_record(saved.get("record"))
        kept = convert(dict[str, tuple[int, ...]], saved.get("keep"), "keep")
        keep = {
            family.name: np.isin(np.arange(family.size), kept.get(family.name, ()))
            for family in run.network.units
        }
        times = list(convert(Sequence[Times], saved.get("times"), "times"))
        if odd := kept.keys() ^ keep.keys():
            raise ValueError(f"{min(odd)!r} is not what it keeps units of")
        if len(record.epochs) != epoch:
            raise ValueError(f"its record has {len(record.epochs)} epochs")
    except ValueError as error:
        raise foreign(error) from error
    if dict(record.versions) != versions():
        package = next(
            name
            for name, value in versions().items()
            if record.versions.get(name) != value
        )
        raise FolderError(
            f"{out} holds a run with {package} {record.versions.get(package)}, and "
            f"here is {versions()[package]}: numbers would be of both. Go on with what "
            "it was started with, choose another --out, or --force to start anew."
        )
    try:
        run.resume(RunProgress(epoch, keep, record, times), arrays)
    except ValueError as error:
        raise foreign(error) from error


def _or_unsaid(value: Any) -> Any:
    """Returns a setting as messages name it."""
    return "unsaid" if value is None else abridge(value)


def _through_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings as JSON gives them back, to be compared with saved ones."""
    return json.loads(json.dumps(settings))


def _write_progress(out: Path, progress: RunProgress) -> None:
    record = to_json(progress.record)
    write_whole(out / RECORD_NAME, lambda path: path.write_text(record))
    write_times(out, progress.times)
