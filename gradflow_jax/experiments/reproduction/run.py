"""The paper's experiment: a network is pruned in rounds while it is trained."""

from dataclasses import replace
from typing import NamedTuple, Protocol

import jax
import numpy as np
from scipy.stats import rankdata

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.input_pipeline import (
    check_batch_size,
    training_batches,
)
from gradflow_jax.experiments.data.pixels import normalized
from gradflow_jax.experiments.data.scoring_data import ScoringData, for_round
from gradflow_jax.experiments.environment import versions
from gradflow_jax.experiments.names import PAPER_MEASURES
from gradflow_jax.experiments.networks.measuring import UnitScores
from gradflow_jax.experiments.networks.timing import Times
from gradflow_jax.experiments.reproduction import published_rules, rounds
from gradflow_jax.experiments.reproduction.record import (
    Correlations,
    EpochRow,
    RoundRow,
    RunRecord,
    RunSettings,
)
from gradflow_jax.experiments.reproduction.shrinking_network import (
    Flags,
    ShrinkingNetwork,
)
from gradflow_jax.structured import Units
from gradflow_jax.trees import PyTree

# Of an exponential average of importance: the weight of a new mini-batch, and how many.
TRACKED_WEIGHT = 0.8
TRACKED_BATCHES = 20
# Steps whose loss is on the device still when the next are sent there.
_LAG = 4


class Watcher(Protocol):
    """Is told what a run is doing."""

    def epoch(self, done: int) -> None:
        """So many epochs are done."""

    def begin(self, what: str, steps: int) -> None:
        """Begins a stage of so many steps; of 0 where nobody knows."""

    def step(self, loss: float, accuracy: float) -> None:
        """One step is done, with this loss and accuracy."""


class Silent:
    """A watcher that does nothing."""

    def epoch(self, done: int) -> None:
        """Does nothing."""

    def begin(self, what: str, steps: int) -> None:
        """Does nothing."""

    def step(self, loss: float, accuracy: float) -> None:
        """Does nothing."""


class Progress(NamedTuple):
    """Where a run is, beside its arrays.

    Attributes:
        epoch: how many are done.
        keep: which units are left, by family.
        record: the numbers so far.
        times: of the forward pass after each round.
    """

    epoch: int
    keep: Flags
    record: RunRecord
    times: list[Times]


class Run:
    """One run: its numbers depend on settings, data and the machine alone.

    Attributes:
        settings: what was asked for.
        network: as it is after the last epoch.
        progress: where the run is.
    """

    def __init__(
        self, settings: RunSettings, dataset: Dataset, watcher: Watcher | None = None
    ):
        """Finds the network's units; fresh weights are made when they are looked at.

        Raises:
            SettingsError: if the rounds do not fit or cannot remove so much, or a
                batch is larger than the data.
        """
        rounds.check_rounds(settings)
        check_batch_size(dataset, settings.batch_size)
        self.settings, self._dataset = settings, dataset
        self._watcher = watcher or Silent()
        self.network = ShrinkingNetwork(settings, dataset)
        units = self.network.units
        rounds.check_reachable(units, settings)
        self._widths = {family.name: family.size for family in units}
        self._filters = published_rules.base_filters(units)
        self._shares = rounds.shares(settings)
        self._gone = rounds.removed_by(self._shares, sum(self._widths.values()))
        size = self.network.size({} if settings.published_rules else None)
        record = RunRecord(
            settings,
            str(dataset),
            dataset.x_train.shape[1:],
            dataset.classes,
            versions(),
            size,
        )
        self.progress = Progress(0, self.network.keep, record, [])

    @property
    def done(self) -> bool:
        """Whether the last epoch is over."""
        return self.progress.record.complete

    def resume(self, progress: Progress, arrays: PyTree) -> None:
        """Goes on from where another run of these settings was.

        Raises:
            ValueError: if the arrays are not those of its network.
        """
        self.network.resume(progress.keep, arrays)
        self.progress = progress

    def next_epoch(self) -> None:
        """Trains for an epoch; then, where a round is due, scores and cuts."""
        _, _, record, times = self.progress
        settings = self.settings
        epoch = self.progress.epoch + 1
        round = epoch - settings.warmup
        due = 0 < round <= settings.rounds
        loss, accuracy, tracked = self._train(epoch, due and settings.tracked)
        self._watcher.begin(f"epoch {epoch}/{settings.epochs}: evaluating", 0)
        test_accuracy, test_loss = self._evaluate()
        row = EpochRow(
            epoch,
            settings.learning_rate(epoch),
            loss,
            accuracy,
            test_loss,
            test_accuracy,
            record.rounds[-1].size.filters if record.rounds else record.dense.filters,
        )
        record = replace(record, epochs=(*record.epochs, row))
        every = settings.correlate_every
        if every and epoch % every == 0:
            found = self._correlations(epoch)
            record = replace(record, correlations=(*record.correlations, found))
        if due:
            zeroed = self._prune(round, epoch, tracked)
            self._watcher.begin(f"epoch {epoch}/{settings.epochs}: measuring", 0)
            times = [*times, self.network.time()]
            made = RoundRow(
                round,
                epoch,
                self._shares[round - 1],
                test_accuracy,
                *self._evaluate(),
                self.network.size(zeroed),
            )
            record = replace(record, rounds=(*record.rounds, made))
        elif round > settings.rounds:
            best = max(record.best_accuracy or 0.0, test_accuracy)
            record = replace(record, best_accuracy=best)
        record = replace(record, complete=epoch == settings.epochs)
        self.progress = Progress(epoch, self.network.keep, record, times)

    def _evaluate(self) -> tuple[float, float]:
        network = self.network
        return network.forward.evaluate(network.state.network, self._dataset)

    def _train(
        self, epoch: int, tracking: bool
    ) -> tuple[float, float, UnitScores | None]:
        """Trains for an epoch; returns loss, accuracy and importance if tracked."""
        settings, network = self.settings, self.network
        batches = training_batches(
            self._dataset,
            epoch=epoch,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
        steps = len(self._dataset.y_train) // settings.batch_size
        self._watcher.begin(f"epoch {epoch}/{settings.epochs}: training", steps)
        rate = settings.learning_rate(epoch)
        units = self._ranked() if tracking else None
        results, tracked = [], None
        for number, (images, labels) in enumerate(batches):
            counters = np.array([settings.seed, epoch, number], np.uint32)
            results.append(network.step(images, labels, counters, rate))
            self._watcher.step(*map(float, results[max(0, number - _LAG)]))
            if units is not None and number >= steps - TRACKED_BATCHES:
                batch = [(normalized(images), labels)]
                new = self._scores(units, ScoringData(batch, batch), epoch)
                tracked = average(tracked, new)
        loss, accuracy = np.mean(np.asarray(jax.device_get(results), np.float64), 0)
        return float(loss), float(accuracy), tracked

    def _ranked(self) -> Units:
        """Returns the units as they are ranked."""
        units = self.network.find()
        published = self.settings.published_rules
        return published_rules.by_layer(units) if published else units

    def _scores(self, units: Units, data: ScoringData, epoch: int) -> UnitScores:
        network, _, origin = self.network.state
        measure, seed = self.settings.measure, self.settings.seed + epoch
        score = self.network.scorer.of_units
        found = score([measure], network, origin, units, data, seed=seed)
        return found[measure]

    def _prune(self, round: int, epoch: int, scores: UnitScores | None) -> Flags | None:
        """Scores, chooses and cuts; returns what stays of filters mapped to zero.

        None where no filter is mapped, by our own rules.
        """
        settings = self.settings
        about = f"epoch {epoch}/{settings.epochs}: round {round}"
        if scores is None:
            self._watcher.begin(f"{about}, scoring", 0)
            data = for_round(self._dataset, seed=settings.seed, epoch=epoch)
            scores = self._scores(self._ranked(), data, epoch)
        self._watcher.begin(f"{about}, cutting", 0)
        units, zeroed = self.network.find(), None
        if settings.published_rules:
            keep, zeroed = published_rules.choose(
                scores, units, self._shares, round, self._filters
            )
        else:
            now = sum(flags.sum() for flags in self.network.keep.values())
            left = sum(self._widths.values()) - self._gone[round - 1]
            stem = settings.cut_stem
            keep = rounds.choose(
                scores, units, int(now) - left, self._widths, cut_stem=stem
            )
        self.network.cut(units, keep)
        if zeroed:
            self.network.map_to_zero(zeroed)
        return zeroed

    def _correlations(self, epoch: int) -> Correlations:
        """Returns how alike the paper's measures rank the filters."""
        about = f"epoch {epoch}/{self.settings.epochs}: comparing measures"
        self._watcher.begin(about, 0)
        units = self.network.find()
        data = for_round(self._dataset, seed=self.settings.seed, epoch=epoch)
        network, _, origin = self.network.state
        found = self.network.scorer.of_units(
            PAPER_MEASURES, network, origin, units, data, seed=0
        )
        table = [np.concatenate(list(scores.values())) for scores in found.values()]
        ranks = np.corrcoef([rankdata(row) for row in table])
        return Correlations(
            epoch, tuple(found), tuple(tuple(map(float, row)) for row in ranks)
        )


def average(before: UnitScores | None, new: UnitScores) -> UnitScores:
    """Returns the exponential average of importance, from zero at first."""
    return {
        name: TRACKED_WEIGHT * scores
        + (1 - TRACKED_WEIGHT) * (0.0 if before is None else before[name])
        for name, scores in new.items()
    }
