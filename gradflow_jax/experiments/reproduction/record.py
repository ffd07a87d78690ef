"""The record of a run of pruning while training: settings, epochs, rounds, the end."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gradflow_jax.experiments.errors import SettingsError
from gradflow_jax.experiments.typed_values import check_fields, check_range

RECORD_NAME = "run.json"
"""The name of the file that holds a record in the folder of a run."""

VERSION = 2
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

    def __post_init__(self) -> None:
        """Checks each setting by itself; `check_rounds` checks what they ask together.

        Raises:
            SettingsError: naming the first that is not as it must be.
        """
        try:
            check_fields(self)
            for name in ("seed", "warmup", "correlate_every"):
                check_range(getattr(self, name), name, 0)
            for name in ("batch_size", "examples", "tests"):
                if (count := getattr(self, name)) is not None:
                    check_range(count, name, 1)
            check_range(self.width, "width", 0, 1000, above=True)
            check_range(len(self.schedule), "the number of stages in schedule", 1)
            for i, (epochs, rate) in enumerate(self.schedule):
                check_range(epochs, f"schedule[{i}][0]", 1)
                check_range(rate, f"schedule[{i}][1]", 0, above=True)
        except ValueError as error:
            raise SettingsError(f"{error}.") from None

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
        by_position: filters left that have the score of removed ones, so that their
            positions decided; None by the published rules, which do not say.
    """

    round: int
    epoch: int
    share: float
    accuracy_before: float
    accuracy: float
    loss: float
    size: Size
    by_position: int | None


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
