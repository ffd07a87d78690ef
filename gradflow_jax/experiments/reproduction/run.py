"""The paper's experiment: a network is pruned in rounds while it is trained."""

from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from scipy.stats import rankdata

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.input_pipeline import (
    check_batch_size,
    training_batches,
)
from gradflow_jax.experiments.data.pixels import normalize_pixels
from gradflow_jax.experiments.data.scoring_data import (
    ScoringData,
    scoring_data_of_round,
)
from gradflow_jax.experiments.environment import versions
from gradflow_jax.experiments.names import PAPER_MEASURES
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
from gradflow_jax.experiments.reproduction.watching import RunWatcher, SilentRunWatcher
from gradflow_jax.observations.fitting import Step
from gradflow_jax.structured import Units
from gradflow_jax.structured.scoring import UnitScores
from gradflow_jax.trees import ArrayTree

TRACKED_WEIGHT = 0.8
"""The weight of a new mini-batch in the exponential average of importance."""

TRACKED_BATCHES = 20
"""How many mini-batches, the last ones of an epoch, importance is averaged over."""

# The watcher is told the loss of so many steps ago: to read that of the last one would
# be to wait for the device, which could not compute while the next batch is sent.
_LAG = 4


class RunProgress(NamedTuple):
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
        self, settings: RunSettings, dataset: Dataset, watcher: RunWatcher | None = None
    ):
        """Finds the network's units; fresh weights are made when they are looked at.

        Raises:
            SettingsError: if the rounds do not fit or cannot remove so much, or a
                batch is larger than the data.
        """
        rounds.check_rounds(settings)
        check_batch_size(dataset, settings.batch_size)
        self.settings, self._dataset = settings, dataset
        self._watcher = watcher or SilentRunWatcher()
        self.network = ShrinkingNetwork(settings, dataset)
        units = self.network.units
        rounds.check_reachable(units, settings)
        self._widths = {family.name: family.size for family in units}
        self._filters = published_rules.base_filters(units)
        self._shares = rounds.shares(settings)
        self._gone = rounds.removed_by(self._shares, sum(self._widths.values()))
        size = self.network.size({} if settings.published_rules else None)
        record = RunRecord(
            settings=settings,
            data=str(dataset),
            image_shape=dataset.x_train.shape[1:],
            classes=dataset.classes,
            versions=versions(),
            dense=size,
        )
        self.progress = RunProgress(
            epoch=0, keep=self.network.keep, record=record, times=[]
        )

    @property
    def done(self) -> bool:
        """Whether the last epoch is over."""
        return self.progress.record.complete

    def resume(self, progress: RunProgress, arrays: ArrayTree) -> None:
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
        size = record.rounds[-1].size if record.rounds else record.dense
        epoch_row = EpochRow(
            epoch=epoch,
            learning_rate=settings.learning_rate(epoch),
            train_loss=loss,
            train_accuracy=accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            filters=size.filters,
        )
        record = replace(record, epochs=(*record.epochs, epoch_row))
        every = settings.correlate_every
        if every and epoch % every == 0:
            correlations = (*record.correlations, self._correlations(epoch))
            record = replace(record, correlations=correlations)
        if due:
            zeroed, by_position = self._prune(round, epoch, tracked)
            self._watcher.begin(f"epoch {epoch}/{settings.epochs}: measuring", 0)
            times = [*times, self.network.time()]
            cut_accuracy, cut_loss = self._evaluate()
            round_row = RoundRow(
                round=round,
                epoch=epoch,
                share=self._shares[round - 1],
                accuracy_before=test_accuracy,
                accuracy=cut_accuracy,
                loss=cut_loss,
                size=self.network.size(zeroed),
                by_position=by_position,
            )
            record = replace(record, rounds=(*record.rounds, round_row))
        elif round > settings.rounds:
            best = max(record.best_accuracy or 0.0, test_accuracy)
            record = replace(record, best_accuracy=best)
        record = replace(record, complete=epoch == settings.epochs)
        self.progress = RunProgress(
            epoch=epoch, keep=self.network.keep, record=record, times=times
        )

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
        units = self._ranked_units() if tracking else None
        tracked = None

        def note(step: Step) -> None:
            nonlocal tracked
            arrived = step.outputs[max(0, step.number - 1 - _LAG)]
            self._watcher.step(*map(float, arrived))
            if units is not None and step.number > steps - TRACKED_BATCHES:
                images, labels, *_ = step.batch
                batch = [(normalize_pixels(images), labels)]
                importance = self._scores(units, ScoringData(batch, batch), epoch)
                tracked = average(tracked, importance)

        numbered = (
            (*batch, np.array([settings.seed, epoch, number], np.uint32), rate)
            for number, batch in enumerate(batches)
        )
        losses_and_accuracies = network.fit(numbered, after=note)
        rows = np.asarray(jax.device_get(losses_and_accuracies), np.float64)
        loss, accuracy = np.mean(rows, 0)
        return float(loss), float(accuracy), tracked

    def _ranked_units(self) -> Units:
        """Returns the units that are ranked, which the published rules divide."""
        units = self.network.find()
        published = self.settings.published_rules
        return published_rules.by_layer(units) if published else units

    def _scores(self, units: Units, data: ScoringData, epoch: int) -> UnitScores:
        network, _, origin = self.network.state
        measure, seed = self.settings.measure, self.settings.seed + epoch
        score = self.network.scorer.of_units
        by_measure = score([measure], network, origin, units, data, seed=seed)
        return by_measure[measure]

    def _prune(
        self, round: int, epoch: int, scores: UnitScores | None
    ) -> tuple[Flags | None, int | None]:
        """Scores, chooses and cuts.

        Returns:
            bool [filter] of each kernel whose filters the release maps to zero and
            does not cut, by its path: True keeps. None by our own rules, which map
            none. And how many filters stay by their position alone; None by the
            release's.
        """
        settings = self.settings
        about = f"epoch {epoch}/{settings.epochs}: round {round}"
        if scores is None:
            self._watcher.begin(f"{about}, scoring", 0)
            data = scoring_data_of_round(self._dataset, seed=settings.seed, epoch=epoch)
            scores = self._scores(self._ranked_units(), data, epoch)
        self._watcher.begin(f"{about}, cutting", 0)
        units, zeroed, by_position = self.network.find(), None, None
        if settings.published_rules:
            keep, zeroed = published_rules.choose(
                scores, units, self._shares, round, self._filters
            )
        else:
            # `_gone` counts from the start, so a round removes what is missing to it.
            now = int(sum(flags.sum() for flags in self.network.keep.values()))
            after = sum(self._widths.values()) - self._gone[round - 1]
            stem = settings.cut_stem
            keep = rounds.choose(
                scores, units, now - after, self._widths, cut_stem=stem
            )
            by_position = rounds.kept_by_position(scores, units, keep, cut_stem=stem)
        self.network.cut(units, keep)
        if zeroed:
            self.network.map_to_zero(zeroed)
        return zeroed, by_position

    def _correlations(self, epoch: int) -> Correlations:
        """Returns how alike the paper's measures rank the filters."""
        about = f"epoch {epoch}/{self.settings.epochs}: comparing measures"
        self._watcher.begin(about, 0)
        units = self.network.find()
        data = scoring_data_of_round(
            self._dataset, seed=self.settings.seed, epoch=epoch
        )
        network, _, origin = self.network.state
        by_measure = self.network.scorer.of_units(
            PAPER_MEASURES, network, origin, units, data, seed=0
        )
        # Spearman's correlation is Pearson's of the ranks, here of all units together.
        ranks = [
            rankdata(np.concatenate(list(scores.values())))
            for scores in by_measure.values()
        ]
        return Correlations(
            epoch=epoch,
            measures=tuple(by_measure),
            spearman=tuple(tuple(map(float, row)) for row in np.corrcoef(ranks)),
        )


def average(before: UnitScores | None, new: UnitScores) -> UnitScores:
    """Returns the exponential average of importance, which starts from zero.

    It is not divided by 1 − 0.2ᵏ, as an average of few batches would be to be unbiased:
    that factor is one for all units and changes no rank.
    """
    return {
        name: TRACKED_WEIGHT * scores
        + (1 - TRACKED_WEIGHT) * (0.0 if before is None else before[name])
        for name, scores in new.items()
    }
