"""Runs of the paper's experiment, tiny, and what must hold in each."""

import inspect
import json
from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

import gradflow_jax as gf
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.pixels import normalize_pixels
from gradflow_jax.experiments.data.scoring_data import scoring_data_of_round
from gradflow_jax.experiments.names import PAPER_MEASURES
from gradflow_jax.experiments.networks.architecture import Network
from gradflow_jax.experiments.networks.measuring import MEASURES
from gradflow_jax.experiments.reproduction import rounds, run, shrinking_network
from gradflow_jax.experiments.reproduction.record import RunSettings, to_json
from gradflow_jax.experiments.reproduction.record_reading import to_record
from gradflow_jax.experiments.reproduction.run import Run
from gradflow_jax.experiments.reproduction.shrinking_network import ShrinkingNetwork
from gradflow_jax.models import MODELS
from gradflow_jax.trees import named_leaves


def images(count, seed):
    """Returns images of four classes, which differ in brightness and in noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 4
    pixels = rng.integers(0, 128, (count, 8, 8, 3)) + 32 * labels[:, None, None, None]
    return pixels.astype(np.uint8), labels


TINY = Dataset("tiny", *images(96, 0), *images(32, 1), classes=4)


def settings(model="vgg13", measure="magnitude", **options):
    defaults = {"prune": 0.5, "rounds": 2, "batch_size": 32, "fast": True}
    options = {"schedule": ((2, 0.1),), **defaults, **options}
    return RunSettings(model, measure, **options)


def finished(own):
    run = Run(own, TINY)
    while not run.done:
        run.next_epoch()
    return run


@pytest.fixture(autouse=True)
def hardly_timed(monkeypatch):
    """No test here is about times."""
    monkeypatch.setattr(shrinking_network, "_TIMED_PAIRS", 1)


@pytest.fixture
def cuts(monkeypatch):
    """Notes each cut: the network before and after it, units, flags and logits."""
    noted = []
    cut = ShrinkingNetwork.cut

    def spy(self, units, keep):
        before, forward = self.state, self.forward
        # The step gives these arrays away.
        before = jax.tree.map(np.array, before)
        cut(self, units, keep)
        after = jax.tree.map(np.array, self.state)
        noted.append((units, keep, (forward, before), (self.forward, after)))

    monkeypatch.setattr(ShrinkingNetwork, "cut", spy)
    return noted


def without(network, units, keep):
    """Returns a network whose removed filters emit nothing, by names and axes alone.

    The kernel's filter and its norm's scale and shift are zero; likewise those of a
    depthwise convolution that the filter feeds.
    """
    leaves = {path: np.array(leaf) for path, leaf in named_leaves(network.params)}
    for family in units:
        gone = ~keep[family.name]
        for own in family.slices:
            if own.path.endswith("conv/kernel") and own.axis == 3:
                norm = own.path.removesuffix("conv/kernel") + "norm"
                leaves[own.path][..., gone] = 0
                leaves[f"{norm}/scale"][gone] = leaves[f"{norm}/bias"][gone] = 0
    structure = jax.tree.structure(network.params)
    return Network(structure.unflatten(leaves.values()), network.stats)


def check_cuts(run, cuts):
    """Checks what rounds to one half leave, and each cut against zeros in its place."""
    record = run.progress.record
    left = [row.size.filters for row in record.rounds]
    dense = record.dense
    # Two rounds of equal shares of 1 / left leave two thirds, then a half.
    expected = [2 * dense.filters // 3, dense.filters // 2]
    assert left == expected[-run.settings.rounds :] and len(cuts) == len(left)
    sizes = [dense, *(row.size for row in record.rounds)]
    for before, after in pairwise(sizes):
        assert after.parameters < before.parameters and after.flops < before.flops
    leaves = jax.tree.leaves(run.network.state.network.params)
    assert sum(leaf.size for leaf in leaves) == sizes[-1].parameters
    for units, keep, (whole, before), (small, after) in cuts:
        x = normalize_pixels(TINY.x_test)
        masked = np.asarray(whole.predict(without(before.network, units, keep), x))
        found = np.asarray(small.predict(after.network, x))
        error = np.abs(found - masked).max() / np.abs(masked).max()
        assert error <= 1e-5 and np.abs(masked).max() > 0


# A second round scores what is cut and trained: by weights, by derivatives of each
# order, by initial weights and by the scales of norms. The other measures are made of
# the same numbers.
TWICE = (
    "magnitude",
    "biased_from_init",
    "fisher_per_example",
    "grasp",
    "batch_norm_taylor",
)


@pytest.mark.parametrize(
    "measure",
    [
        # One of weights alone, which compiles fastest, is in the fast tests.
        name if name == "magnitude" else pytest.param(name, marks=pytest.mark.runs)
        for name in MEASURES
    ],
)
def test_every_measure_cuts_a_network(measure, cuts):
    count = 2 if measure in TWICE else 1
    schedule = ((count, 0.1),)
    check_cuts(
        finished(settings("vgg13", measure, rounds=count, schedule=schedule)), cuts
    )


# The first is what compiles longest, and the next test needs it at these widths too.
PAIRS = {
    "mobilenet": ("grasp", "magnitude"),
    "resnet56": ("batch_norm_taylor", "biased_from_init"),
    "resnet18": ("gradient_norm_preservation", "magnitude_1_norm"),
    "resnet34": ("fisher_per_example", "batch_norm_scale"),
}


@pytest.mark.runs
@pytest.mark.parametrize("model", PAIRS)
def test_every_network_is_cut_by_one_measure_and_again_by_another(model, cuts):
    first, second = PAIRS[model]
    run = Run(settings(model, first), TINY)
    run.next_epoch()
    run.settings = replace(run.settings, measure=second)
    run.next_epoch()
    assert run.done
    check_cuts(run, cuts)


def test_no_network_is_left_out():
    assert {"vgg13", *PAIRS} == set(MODELS)


@pytest.mark.runs
@pytest.mark.parametrize("model", MODELS)
def test_every_measure_ranks_the_filters_of_every_network(model):
    network = Run(settings(model), TINY).network
    batch = TINY.x_train[:32], TINY.y_train[:32]
    counters = [np.array([0, 1, number], np.uint32) for number in range(2)]
    # Away from the initial weights, which one measure starts from.
    network.fit((*batch, numbers, 0.1) for numbers in counters)
    units, (weights, _, origin) = network.units, network.state
    widths = {family.name: family.size for family in units}
    filters = sum(widths.values())
    data = scoring_data_of_round(TINY, seed=0, epoch=1)
    scores = network.scorer.of_units(MEASURES, weights, origin, units, data, seed=0)
    assert scores.keys() == MEASURES.keys()
    for measure, found in scores.items():
        assert {name: len(values) for name, values in found.items()} == widths
        values = np.concatenate(list(found.values()))
        assert np.isfinite(values).all() and np.ptp(values) > 0, measure
        keep = rounds.choose(found, units, filters // 2, widths)
        left = sum(int(flags.sum()) for flags in keep.values())
        assert left == filters - filters // 2, measure
        assert units.parameters(keep) < units.parameters(), measure
        assert units.flops(keep) < units.flops(), measure


def test_no_line_of_the_rules_knows_an_architecture():
    for module in (rounds, run, shrinking_network):
        code = inspect.getsource(module).lower()
        words = {"vgg", "mobilenet", "depthwise", "pointwise", "shortcut", "blocks/"}
        assert not [word for word in words if word in code]


@pytest.mark.runs
def test_initial_weights_and_momentum_are_cut_with_the_weights(cuts):
    run = finished(settings(momentum="keep", schedule=((3, 0.1),)))
    start = Run(run.settings, TINY).network
    kept = gf.structured.kept_indices(start.units, run.network.keep)
    origin = dict(named_leaves(run.network.state.origin))
    assert kept
    for path, leaf in named_leaves(start.state.network.params):
        for axis, indices in kept.get(path, {}).items():
            leaf = np.take(np.asarray(leaf), indices, axis)
        np.testing.assert_array_equal(origin[path], leaf)
    for units, keep, (_, before), (_, after) in cuts:
        own = gf.structured.kept_indices(units, keep)
        (trace,) = [s.trace for s in before.optimizer if hasattr(s, "trace")]
        (small,) = [s.trace for s in after.optimizer if hasattr(s, "trace")]
        small = dict(named_leaves(small))
        assert any(np.any(leaf) for leaf in small.values())
        for path, leaf in named_leaves(trace):
            for axis, indices in own.get(path, {}).items():
                leaf = np.take(np.asarray(leaf), indices, axis)
            np.testing.assert_array_equal(small[path], leaf)


@pytest.mark.runs
def test_momentum_starts_from_zero_after_a_cut(cuts):
    finished(settings())
    for _, _, (_, before), (_, after) in cuts:
        for state, zero in ((before, False), (after, True)):
            (trace,) = [s.trace for s in state.optimizer if hasattr(s, "trace")]
            assert zero == all(not np.any(leaf) for leaf in jax.tree.leaves(trace))


@pytest.mark.runs
def test_importance_is_tracked_over_the_last_mini_batches(monkeypatch):
    monkeypatch.setattr(run, "TRACKED_BATCHES", 2)
    scored, chosen = [], []
    scores, choose = Run._scores, rounds.choose

    def noted(self, units, data, epoch):
        found = scores(self, units, data, epoch)
        (batch,) = data.batches
        scored.append((batch[0].shape, found))
        return found

    def choosing(found, *args, **options):
        chosen.append(found)
        return choose(found, *args, **options)

    monkeypatch.setattr(Run, "_scores", noted)
    monkeypatch.setattr(rounds, "choose", choosing)
    once = {"rounds": 1, "schedule": ((1, 0.1),)}
    finished(settings(measure="loss_preservation", tracked=True, **once))
    # Of three mini-batches of the epoch the last two: 0.8 · new + 0.2 · (0.8 · old).
    (shape, old), (_, new) = scored
    assert shape == (32, 8, 8, 3)
    for name, values in chosen[-1].items():
        np.testing.assert_allclose(values, 0.8 * new[name] + 0.16 * old[name])


@pytest.mark.runs
def test_measures_are_compared_by_rank(monkeypatch):
    found = []
    of_units = shrinking_network.Scorer.of_units

    def noted(self, measures, *args, **options):
        scores = of_units(self, measures, *args, **options)
        if len(scores) == len(PAPER_MEASURES):
            found.append(scores)
        return scores

    monkeypatch.setattr(shrinking_network.Scorer, "of_units", noted)
    run = finished(settings(rounds=1, correlate_every=2))
    (row,) = run.progress.record.correlations
    assert row.epoch == 2 and row.measures == PAPER_MEASURES
    table = [np.concatenate(list(scores.values())) for scores in found[0].values()]
    np.testing.assert_allclose(row.spearman, spearmanr(table, axis=1)[0], atol=1e-9)


def test_no_round_trains_the_whole_network():
    run = finished(settings(prune=0.0, rounds=0, schedule=((1, 0.1), (1, 0.01))))
    record = run.progress.record
    assert [row.learning_rate for row in record.epochs] == [0.1, 0.01]
    assert not record.rounds and record.complete
    assert {row.filters for row in record.epochs} == {record.dense.filters}
    assert record.best_accuracy == max(row.test_accuracy for row in record.epochs)
    leaves = jax.tree.leaves(run.network.state.network.params)
    assert sum(leaf.size for leaf in leaves) == record.dense.parameters


@pytest.mark.runs
def test_warm_up_comes_before_the_first_round():
    run = finished(settings(rounds=1, warmup=1, schedule=((3, 0.1),)))
    record = run.progress.record
    assert [row.epoch for row in record.rounds] == [2]
    filters = [row.filters for row in record.epochs]
    assert filters == [record.dense.filters] * 2 + [record.dense.filters // 2]


@pytest.mark.runs
def test_seeds_differ_and_equal_ones_do_not():
    def numbers(seed):
        own = settings(rounds=1, seed=seed, schedule=((1, 0.1),))
        return finished(own).progress.record

    one, again, other = numbers(3), numbers(3), numbers(4)
    assert one == again and to_record(json.loads(to_json(one))) == one
    assert one.epochs != other.epochs


def test_what_cannot_be_removed_is_said_before_training():
    with pytest.raises(ValueError, match=r"ask for at most 0\.\d+"):
        Run(settings("resnet56", prune=0.95, rounds=1), TINY)


def test_a_cut_that_computes_something_else_is_refused(monkeypatch):
    shrink = shrinking_network.cut

    def wrong(state, units, keep):
        small = shrink(state, units, keep)
        params = jax.tree.map(lambda leaf: 1.01 * leaf, small.network.params)
        return small._replace(network=small.network._replace(params=params))

    monkeypatch.setattr(shrinking_network, "cut", wrong)
    with pytest.raises(ValueError, match="{'.*No result of this cut can be trusted"):
        finished(settings(rounds=1))
