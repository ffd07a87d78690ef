"""The record of a run of pruning while training: settings, epochs, rounds, the end."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

RECORD_NAME = "run.json"
"""The name of the file that holds a record in the folder of a run."""

VERSION = 1
"""The format of records; files of another one are refused."""


@dataclass(frozen=True)
class RunSettings:
    """What decides a run's numbers, beside the data and the versions of packages.

    Attributes:
        model: a name among `MODELS`.
        measure: a name among `MEASURES`.
        prune: the fraction of filters to remove by the last round.
        rounds: of pruning, one after each of as many epochs.
        seed: of the weights, the order of the images, augmentation and chance.
        width: the multiple of the published widths.
        schedule: (epochs, learning rate) of each stage; rounds are in the first.
        warmup: epochs before that of the first round.
        batch_size: images a step.
        examples: training images used, equally many of each class; None for all.
        tests: likewise, test images.
        thresholds: the fraction removed after each round, instead of `prune`'s.
        tracked: whether importance is an exponential average over the last
            mini-batches of a round's epoch.
        momentum: whether the optimizer's is kept where filters are cut, or reset.
        cut_stem: whether a ResNet's first convolution loses filters, with its stage.
        published_rules: whether filters are chosen as the authors' release does.
        correlate_every: epochs between correlations of the measures; 0 for never.
        fast: whether the network is the tiny one that tests train.
    """

    model: str
    measure: str
    prune: float
    rounds: int
    seed: int = 0
    width: float = 1.0
    schedule: tuple[tuple[int, float], ...] = ((80, 0.1), (40, 0.01), (40, 0.001))
    warmup: int = 0
    batch_size: int = 128
    examples: int | None = None
    tests: int | None = None
    thresholds: tuple[float, ...] | None = None
    tracked: bool = False
    momentum: Literal["reset", "keep"] = "reset"
    cut_stem: bool = False
    published_rules: bool = False
    correlate_every: int = 0
    fast: bool = False

    @property
    def epochs(self) -> int:
        """The number of epochs of all stages."""
        return sum(epochs for epochs, _ in self.schedule)

    def learning_rate(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, counted from 1."""
        for epochs, rate in self.schedule:
            if epoch <= epochs:
                return rate
            epoch -= epochs
        raise ValueError(f"there are {self.epochs} epochs, none after.")


@dataclass(frozen=True)
class Size:
    """How large a network is.

    Attributes:
        filters: in all families.
        parameters: trained numbers.
        flops: multiply-accumulates of one image.
        widths: filters of each family, by the layer that makes them.
    """

    filters: int
    parameters: int
    flops: int
    widths: dict[str, int]


@dataclass(frozen=True)
class EpochRow:
    """One epoch of training.

    Attributes:
        epoch: from 1.
        learning_rate: of its steps.
        train_loss: mean over its steps, at the training temperature.
        train_accuracy: likewise, on augmented images.
        test_loss: after it (of a round's epoch: before the cut).
        test_accuracy: likewise.
        filters: that were trained.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    filters: int


@dataclass(frozen=True)
class RoundRow:
    """One round of pruning.

    Attributes:
        round: from 1.
        epoch: after which it was.
        share: the fraction of the remaining filters that it asked to remove.
        accuracy_before: on the test set, before the cut.
        accuracy: right after it, before fine-tuning.
        loss: likewise.
        size: of what is left. Where the published rules map filters to zero and do
            not cut them, `filters` counts them as gone, the rest does not.
    """

    round: int
    epoch: int
    share: float
    accuracy_before: float
    accuracy: float
    loss: float
    size: Size


@dataclass(frozen=True)
class Correlations:
    """How alike measures rank the filters of one network.

    Attributes:
        epoch: after which they were scored.
        measures: their names.
        spearman: [measure, measure] of rank correlations over all filters.
    """

    epoch: int
    measures: tuple[str, ...]
    spearman: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class RunRecord:
    """A run so far. Equal runs have equal records: no time and no path is in them.

    Attributes:
        settings: what was asked for.
        data: the data set's name and size.
        image_shape: [height, width, channel] of its images.
        classes: how many it has.
        versions: of packages, and the device.
        dense: the size before pruning.
        epochs: one row each.
        rounds: one row each.
        correlations: where they were asked for.
        best_accuracy: of the epochs after the last round, on the test set.
        complete: whether the last epoch is done.
    """

    settings: RunSettings
    data: str
    image_shape: tuple[int, ...]
    classes: int
    versions: Mapping[str, str]
    dense: Size
    epochs: Sequence[EpochRow] = ()
    rounds: Sequence[RoundRow] = ()
    correlations: Sequence[Correlations] = ()
    best_accuracy: float | None = None
    complete: bool = field(default=False)


def to_json(record: RunRecord) -> str:
    """Returns a record as text; floats are written so that they read back equal."""
    content = {"version": VERSION, **dataclasses.asdict(record)}
    return json.dumps(content, indent=1) + "\n"


def from_json(text: str) -> RunRecord:
    """Returns the record that `to_json` wrote.

    Raises:
        ValueError: if the text is none, saying what is wrong with it.
    """
    try:
        content = json.loads(text)
        version = content.pop("version")
        if version != VERSION:
            raise ValueError(f"its format is {version}, this version reads {VERSION}")
        record = _parse(RunRecord, content)
        parts = [(record.settings, RunSettings), (record.dense, Size)]
        if not all(isinstance(part, kind) for part, kind in parts):
            raise TypeError("settings and dense are objects")
        return record
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is no record of a run: {error!r}") from None


_PARTS: dict[str, Any] = {
    "settings": RunSettings,
    "dense": Size,
    "size": Size,
    "epochs": EpochRow,
    "rounds": RoundRow,
    "correlations": Correlations,
}


def _parse(kind: Any, content: Any) -> Any:
    """Returns the dataclass, or the tuple of them, that JSON tells of.

    Raises:
        KeyError: naming the fields that are missing or unknown.
    """
    if isinstance(content, list):
        return tuple(_parse(kind, row) for row in content)
    names = {field.name for field in dataclasses.fields(kind)}
    if set(content) != names:
        odd = sorted(set(content) ^ names)
        raise KeyError(f"{kind.__name__}: {', '.join(odd)}")
    fields = {}
    for name, value in content.items():
        # `rounds` is an int in RunSettings and a list of rows in RunRecord: only what
        # is a dict or a list is parsed as parts.
        part = _PARTS.get(name) if isinstance(value, (dict, list)) else None
        fields[name] = _parse(part, value) if part else _lists_to_tuples(value)
    return kind(**fields)


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_lists_to_tuples, value))
    return value
