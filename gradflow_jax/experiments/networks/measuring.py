"""Scores a trained network by every measure, each on the data the paper gives it."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.experiments.data.scoring_data import ScoringData
from gradflow_jax.experiments.names import MEASURE_NAMES
from gradflow_jax.experiments.networks.architecture import TEMPERATURE, Network
from gradflow_jax.scores import (
    RULES,
    Derivatives,
    batch_norm_scale,
    batch_norm_taylor,
    differentiate,
    over_batches,
    random,
    score,
)
from gradflow_jax.structured import Units, score_units, sum_over_units
from gradflow_jax.structured.scoring import UnitScores
from gradflow_jax.trees import (
    Params,
    Scores,
    default_prunable,
    map_named,
    named_leaves,
    widen,
)

TEMPERATURES = {"grasp": 200.0, "gradient_norm_preservation": 1.0}
"""What the paper divides logits by for its second-order measures: by 200, which
flattens the softmax, for GraSP, and by nothing for gradient-norm preservation. For all
others by 5, as in training."""


def prunable(path: str, leaf: chex.Array) -> bool:
    """Says whether a leaf is pruned: every kernel but the classifier's is.

    The batch-norm measures have no score for the classifier, which no batch norm
    follows, and all measures are compared on the same weights.
    """
    return default_prunable(path, leaf) and not path.startswith("classifier/")


class Scorer:
    """Scores networks of one loss; the steps are compiled once for all of them."""

    def __init__(
        self,
        loss: Callable[..., Any],
        normalized: Mapping[str, str],
        progress: Callable[[], None] = lambda: None,
    ):
        """Binds the measures to a loss.

        Args:
            loss: `loss(params, batch, stats, temperature=)`.
            normalized: of each batch norm, by its path, the kernel that makes its
                channels.
            progress: called after each batch.
        """
        mean_loss = over_batches(loss, progress=lambda done, total: progress())
        self.first_order = differentiate(mean_loss, order=1, squares="batch")
        self.second_order = differentiate(mean_loss)
        self.per_example = differentiate(mean_loss, order=1, squares="example")
        self.batch_norm_taylor = batch_norm_taylor(mean_loss)
        self.spread = jax.jit(functools.partial(_spread, normalized))

    def __call__(
        self,
        measures: Iterable[str],
        network: Network,
        origin: Params,
        data: ScoringData,
        *,
        seed: int,
    ) -> dict[str, Scores]:
        """Returns the scores of each measure named, trees like the parameters.

        Args:
            measures: names among `WEIGHT_MEASURES`.
            network: the trained network.
            origin: the parameters it was trained from.
            data: what it is scored on.
            seed: of random scores.
        """
        sample = _Sample(self, network, origin, data, seed)
        return {name: MEASURES[name].of_weights(sample) for name in measures}

    def of_units(
        self,
        measures: Iterable[str],
        network: Network,
        origin: Params,
        units: Units,
        data: ScoringData,
        *,
        seed: int,
    ) -> dict[str, UnitScores]:
        """Returns the scores of units by each measure named.

        Args:
            measures: names among `MEASURES`.
            network: the trained network.
            origin: the parameters it was trained from.
            units: of the network.
            data: what it is scored on.
            seed: of random scores.
        """
        sample = _Sample(self, network, origin, data, seed)
        return {name: MEASURES[name].units(sample, units) for name in measures}


class _Sample:
    """One network and its scoring data; derivatives are evaluated when first needed."""

    def __init__(
        self,
        scorer: Scorer,
        network: Network,
        origin: Params,
        data: ScoringData,
        seed: int,
    ):
        self._scorer = scorer
        self.params, self._stats = network
        self.origin = origin
        self.seed = seed
        self._data = data
        self._first: Derivatives | None = None

    def evaluate(self, measure: Callable[..., Any]) -> Any:
        """Evaluates a first-order measure of the scorer over the data."""
        return measure(self.params, self._data.batches, stats=self._stats)

    def needed_by(self, measure: str) -> Derivatives:
        """Returns what a measure of `RULES` is made of, at its own temperature."""
        needs = RULES[measure].needs
        if "hessian_gradient" in needs:
            return self.second_order(TEMPERATURES.get(measure, TEMPERATURE))
        return self.first_order() if needs else Derivatives.without_loss(self.params)

    def first_order(self) -> Derivatives:
        """Returns what the first-order measures share."""
        first = self._first
        if first is None:
            first = self._first = self.evaluate(self._scorer.first_order)
        return first

    def from_init(self) -> Derivatives:
        """Returns the same with the initial parameters as origin."""
        return self.first_order()._replace(origin=self.origin)

    def second_order(self, temperature: float) -> Derivatives:
        """Returns the derivatives at a measure's own temperature."""
        return self._scorer.second_order(
            self.params,
            self._data.balanced,
            stats=self._stats,
            temperature=temperature,
        )

    def per_example(self) -> Derivatives:
        """Returns the derivatives with the squared gradients of single examples."""
        return self.evaluate(self._scorer.per_example)

    def batch_norm_scale(self) -> Scores:
        """Returns |γ| of each channel's batch norm, spread over the filter."""
        return self._scorer.spread(self.params, batch_norm_scale(self.params))

    def batch_norm_taylor(self) -> Scores:
        """Returns the Taylor score of each channel's batch norm, likewise."""
        channels = self.evaluate(self._scorer.batch_norm_taylor)
        return self._scorer.spread(self.params, channels)


def _spread(
    kernels: Mapping[str, str], params: Params, channels: Mapping[str, jax.Array]
) -> Scores:
    """Gives each weight of a filter the score of the channel it makes, others 0.

    Args:
        kernels: of each batch norm, by its path, the kernel that makes its channels.
        params: the parameters.
        channels: [channel] of scores for each batch norm, by its path.
    """
    by_kernel = {kernels[path]: scores for path, scores in channels.items()}
    assert set(by_kernel) <= {path for path, _ in named_leaves(params)}

    def score_weights(path: str, leaf: Any) -> jax.Array:
        # Filters are a kernel's last axis, along which their scores are broadcast.
        zeros = jnp.zeros_like(widen(leaf))
        return zeros + by_kernel[path] if path in by_kernel else zeros

    return map_named(score_weights, params)


class Measure(NamedTuple):
    """How the experiments score by a measure.

    Attributes:
        weights: each weight, a tree like the parameters; None for what differs from
            another measure in its sum over a unit alone.
        units: each unit.
    """

    weights: Callable[[_Sample], Scores] | None
    units: Callable[[_Sample, Units], UnitScores]

    def of_weights(self, sample: _Sample) -> Scores:
        """Returns the score of each weight, by a measure that has one."""
        assert self.weights is not None
        return self.weights(sample)


def _by_rule(rule: str, derivatives: Callable[[_Sample], Derivatives]) -> Measure:
    """Returns a measure that is a rule for sets of weights, single ones among them."""
    return Measure(
        lambda sample: score(derivatives(sample), rule),
        lambda sample, units: score_units(derivatives(sample), units, rule),
    )


def _of_channels(spread: Callable[[_Sample], Scores]) -> Measure:
    """Returns a measure of channels, spread over the weights of their filters.

    Each weight has its filter's score, so that a filter goes as a whole. A unit is to
    have that score too and not as many times it as it has weights, so they are divided
    by their number before they are summed.
    """

    def score_of_units(sample: _Sample, units: Units) -> UnitScores:
        return sum_over_units(_shares(spread(sample)), units)

    return Measure(spread, score_of_units)


@jax.jit
def _shares(scores: Scores) -> Scores:
    """Divides the score of a filter by its number of weights, size / filters."""
    return jax.tree.map(lambda leaf: leaf * (leaf.shape[-1] / leaf.size), scores)


def _random_units(sample: _Sample, units: Units) -> UnitScores:
    rng = np.random.default_rng(sample.seed)
    return {family.name: rng.random(family.size) for family in units}


_BEYOND_RULES = {
    "magnitude_1_norm": Measure(
        None, lambda s, units: sum_over_units(jax.tree.map(abs, s.params), units)
    ),
    "biased_from_init": _by_rule("biased_loss_preservation", _Sample.from_init),
    "fisher_per_example": _by_rule("fisher", _Sample.per_example),
    "batch_norm_scale": _of_channels(_Sample.batch_norm_scale),
    "batch_norm_taylor": _of_channels(_Sample.batch_norm_taylor),
    "random": Measure(
        lambda s: random(jax.random.key(s.seed))(s.params), _random_units
    ),
}

MEASURES: dict[str, Measure] = {
    name: _BEYOND_RULES[name]
    if name in _BEYOND_RULES
    else _by_rule(name, functools.partial(_Sample.needed_by, measure=name))
    for name in MEASURE_NAMES
}
"""Each measure of the experiments by name: those of `gf.scores.RULES`, and their own.

`biased_from_init` has the initial parameters as origin. The batch-norm measures score
channels: each weight of a filter gets the score of the channel that it makes."""
