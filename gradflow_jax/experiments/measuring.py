"""Scores a trained network by every measure, each on the data the paper gives it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.experiments.data import Dataset
from gradflow_jax.experiments.training import Network, Trainer, scaled
from gradflow_jax.models import SmallCNN
from gradflow_jax.scores import (
    Derivatives,
    batch_norm_scale,
    batch_norm_taylor,
    differentiate,
    fisher,
    over_batches,
    random,
    score,
)
from gradflow_jax.structured import Units, score_units
from gradflow_jax.trees import PyTree, default_prunable, map_named, named_leaves, widen

# For each family of units, by its name, a number for each; higher is kept.
UnitScores = Mapping[str, np.ndarray]

SCORING_EXAMPLES = 2560
SCORING_BATCH = 128

# The temperatures of the paper: training's for first-order measures, a flat softmax
# for GraSP, none for gradient-norm preservation.
GRASP_TEMPERATURE = 200.0
PRESERVATION_TEMPERATURE = 1.0


def prunable(path: str, leaf: Any) -> bool:
    """All kernels but the classifier's, which no unit of a batch norm stands for."""
    return default_prunable(path, leaf) and not path.startswith("classifier/")


class Scorer:
    """Scores networks of one trainer; the steps are compiled once for all of them."""

    def __init__(self, trainer: Trainer, progress: Callable[[], None] = lambda: None):
        """Binds the measures to the trainer's loss.

        Args:
            trainer: whose loss and data they are.
            progress: called after each batch.
        """
        loss = over_batches(trainer.loss, progress=lambda done, total: progress())
        self._dataset = trainer.dataset
        self._first_order = differentiate(loss, order=1, squares="batch")
        self._second_order = differentiate(loss)
        self._per_example = fisher(loss, per_example=True)
        self._batch_norm_taylor = batch_norm_taylor(loss)

    def __call__(
        self, measures: Iterable[str], network: Network, origin: PyTree, *, seed: int
    ) -> dict[str, PyTree]:
        """Returns the scores of each measure named, trees like the parameters.

        Args:
            measures: names among `MEASURES`.
            network: the trained network.
            origin: the parameters it was trained from.
            seed: of the choice of scoring data, and of random scores.
        """
        sample = _Sample(self, network, origin, seed)
        return {name: MEASURES[name].weights(sample) for name in measures}

    def of_units(
        self,
        measures: Iterable[str],
        network: Network,
        origin: PyTree,
        units: Units,
        *,
        seed: int,
    ) -> dict[str, UnitScores]:
        """Returns the scores of units by each measure named.

        Args:
            measures: names among `UNIT_MEASURES`.
            network: the trained network.
            origin: the parameters it was trained from.
            units: of the network.
            seed: of the choice of scoring data, and of random scores.
        """
        sample = _Sample(self, network, origin, seed)
        result = {}
        for name in measures:
            of_units = MEASURES[name].units
            assert of_units is not None, name
            result[name] = of_units(sample, units)
        return result


class _Sample:
    """One network and its scoring data; derivatives are evaluated when first needed."""

    def __init__(self, scorer: Scorer, network: Network, origin: PyTree, seed: int):
        self._scorer = scorer
        self.params, self._stats = network
        self.origin = origin
        self.seed = seed
        self._batches = balanced_batches(scorer._dataset, seed)
        self._first: Derivatives | None = None

    def evaluate(self, measure: Callable[..., Any], **options: Any) -> Any:
        """Evaluates a measure of the scorer over the data."""
        return measure(self.params, self._batches, stats=self._stats, **options)

    def weights(self) -> Derivatives:
        """Returns the parameters alone."""
        return Derivatives(self.params, loss=None, gradient=None)

    def first_order(self) -> Derivatives:
        """Returns what the first-order measures share."""
        found = self._first or self.evaluate(self._scorer._first_order)
        self._first = found
        return found

    def from_init(self) -> Derivatives:
        """Returns the same with the initial parameters as origin."""
        return self.first_order()._replace(origin=self.origin)

    def second_order(self, temperature: float) -> Derivatives:
        """Returns the derivatives at a measure's own temperature."""
        return self.evaluate(self._scorer._second_order, temperature=temperature)

    def per_example(self) -> PyTree:
        """Returns Fisher scores of single examples."""
        return self.evaluate(self._scorer._per_example)

    def batch_norm_taylor(self) -> PyTree:
        """Returns the Taylor score of each channel's batch norm, spread over it."""
        return _spread(self.evaluate(self._scorer._batch_norm_taylor), self.params)


class Measure(NamedTuple):
    """How the experiments score by a measure.

    Attributes:
        weights: each weight, a tree like the parameters.
        units: each unit, where the measure has a rule for sets of weights.
    """

    weights: Callable[[_Sample], PyTree]
    units: Callable[[_Sample, Units], UnitScores] | None = None


def _ruled(rule: str, derivatives: Callable[[_Sample], Derivatives]) -> Measure:
    """Returns a measure that is a rule for sets of weights, single ones among them."""
    return Measure(
        lambda sample: score(derivatives(sample), rule),
        lambda sample, units: score_units(derivatives(sample), units, rule),
    )


def _random_units(sample: _Sample, units: Units) -> UnitScores:
    rng = np.random.default_rng(sample.seed)
    return {family.name: rng.random(family.size) for family in units}


MEASURES: dict[str, Measure] = {
    "magnitude": _ruled("magnitude", _Sample.weights),
    "loss_preservation": _ruled("loss_preservation", _Sample.first_order),
    "biased_loss_preservation": _ruled("biased_loss_preservation", _Sample.first_order),
    "biased_from_init": _ruled("biased_loss_preservation", _Sample.from_init),
    "taylor": _ruled("taylor", _Sample.first_order),
    "fisher": _ruled("fisher", _Sample.first_order),
    "fisher_per_example": Measure(_Sample.per_example),
    "grasp": _ruled("grasp", lambda s: s.second_order(GRASP_TEMPERATURE)),
    "gradient_norm_preservation": _ruled(
        "gradient_norm_preservation",
        lambda s: s.second_order(PRESERVATION_TEMPERATURE),
    ),
    "batch_norm_scale": Measure(
        lambda s: _spread(batch_norm_scale(s.params), s.params)
    ),
    "batch_norm_taylor": Measure(_Sample.batch_norm_taylor),
    "random": Measure(
        lambda s: random(jax.random.key(s.seed))(s.params), _random_units
    ),
}
"""Each measure of the experiments by name; `biased_from_init` has the initial
parameters as origin. The batch-norm measures score channels: each weight of the filter
that a channel normalises gets its score, so that whole filters go."""

UNIT_MEASURES = tuple(name for name, own in MEASURES.items() if own.units)
"""The measures that score units too."""


def balanced_batches(dataset: Dataset, seed: int) -> Sequence[tuple[Any, Any]]:
    """Returns batches of (images, labels) with equally many examples of each class."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset.y_train))
    of_class = [order[dataset.y_train[order] == c] for c in range(dataset.classes)]
    each = min(SCORING_EXAMPLES // dataset.classes, min(map(len, of_class)))
    # One of each class after the other, so that the batches are balanced too.
    chosen = np.stack([indices[:each] for indices in of_class], axis=1).ravel()
    pieces = np.split(chosen, range(SCORING_BATCH, len(chosen), SCORING_BATCH))
    return [(scaled(dataset.x_train[i]), dataset.y_train[i]) for i in pieces]


def _spread(channels: dict[str, jax.Array], params: PyTree) -> PyTree:
    """Gives each weight of a filter the score of the channel it makes; 0 elsewhere."""
    by_kernel = {SmallCNN.NORMALISED[path]: scores for path, scores in channels.items()}
    assert set(by_kernel) <= {path for path, _ in named_leaves(params)}

    def of_weights(path: str, leaf: Any) -> jax.Array:
        zeros = jnp.zeros_like(widen(leaf))
        return zeros + by_kernel[path] if path in by_kernel else zeros

    return map_named(of_weights, params)
