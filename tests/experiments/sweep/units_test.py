import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.experiments.data.dataset import load
from gradflow_jax.experiments.data.pixels import normalize_pixels
from gradflow_jax.experiments.data.scoring_data import (
    balanced_batches,
    balanced_scoring_data,
)
from gradflow_jax.experiments.networks.architecture import Network
from gradflow_jax.experiments.networks.measuring import MEASURES, Scorer
from gradflow_jax.experiments.networks.training import Trainer
from gradflow_jax.experiments.sweep import cut_and_time as cutting
from gradflow_jax.experiments.sweep.cut_and_time import Cuttable
from gradflow_jax.experiments.sweep.loop import rows_in_all
from gradflow_jax.experiments.sweep.settings import StructuredSettings
from gradflow_jax.experiments.sweep.units import (
    check_reachable,
    choose,
    run_structured_sweep,
)
from gradflow_jax.models import SmallCNN

LAYERS = {"conv1": 16, "conv2": 32, "dense": 64}


@pytest.fixture(scope="module")
def tiny(tiny_npz):
    return load(str(tiny_npz))


@pytest.fixture(scope="module")
def trainer(tiny):
    return Trainer(tiny)


@pytest.fixture(scope="module")
def cuttable(trainer):
    return Cuttable(trainer)


@pytest.fixture(scope="module")
def magnitudes(trainer, cuttable):
    return gf.score_units(trainer.init(0).params, cuttable.units)


def test_cut_networks_are_as_wide_as_asked_for(tiny):
    settings = StructuredSettings(("magnitude",), (0.9,), epochs=1)
    rows = list(run_structured_sweep(settings, tiny))
    assert len(rows) == rows_in_all(settings) == 2
    dense, row = rows
    assert dense.measure == "dense" and dense.widths == LAYERS
    assert dense.times_faster > 0 and dense.pruned_loss == dense.loss
    left = sum(row.widths.values())
    assert left == 11  # of 112
    assert {layer: len(kept) for layer, kept in row.kept.items()} == row.widths
    conv1, conv2, last = row.widths.values()
    # Two 3×3 convolutions over 7×7×1, their 2×2 positions read by the dense layer.
    kernels = 9 * conv1 + 9 * conv1 * conv2 + 4 * conv2 * last + 3 * last
    assert row.parameters == kernels + 2 * left + 3
    products = 16 * 9 * conv1 + 4 * 9 * conv1 * conv2 + 4 * conv2 * last + 3 * last
    assert 0.5 * products < row.flops <= products
    assert 0 <= row.accuracy <= 1 and np.isfinite(row.loss)
    assert row.forward_ms > 0 and row.dense_forward_ms > 0


def test_a_cut_network_is_the_masked_one_with_fewer_numbers(
    trainer, cuttable, magnitudes, tiny, monkeypatch
):
    network = trainer.init(0)
    for own, other in zip(
        *map(jax.tree.leaves, (network, cuttable.network(cuttable.variables(network)))),
        strict=True,
    ):
        np.testing.assert_array_equal(own, other)
    settings = StructuredSettings()
    keep = choose(cuttable, magnitudes, 0.5, settings)
    small = cuttable.cut(network, keep)
    sizes = [leaf.size for leaf in jax.tree.leaves(small.params)]
    assert sum(sizes) == cuttable.units.parameters(keep)
    images = normalize_pixels(tiny.x_test)
    masks = cuttable.units.masks(keep, network.params)
    masked = Network(gf.prune(network.params, masks), network.stats)
    expected, _ = trainer.forward.logits(masked, images)
    found, _ = trainer.forward.logits(small, images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * jnp.abs(expected).max())
    shrink = cutting.cut
    monkeypatch.setattr(
        cutting,
        "cut",
        lambda *args: jax.tree.map(lambda leaf: 1.01 * leaf, shrink(*args)),
    )
    with pytest.raises(ValueError, match="{'conv1': .*differs from the masked one"):
        cuttable.cut(network, keep)


def test_scopes_and_budgets_choose_as_they_say(cuttable, magnitudes):
    layerwise = StructuredSettings(scope="layerwise")
    keep = choose(cuttable, magnitudes, 0.75, layerwise)
    assert cuttable.widths(keep) == {"conv1": 4, "conv2": 8, "dense": 16}
    for budget in ("parameters", "flops"):
        count = getattr(cuttable.units, budget)
        settings = StructuredSettings(budget=budget)
        keep = choose(cuttable, magnitudes, 0.75, settings)
        assert 0.2 * count() < count(keep) <= 0.25 * count()
    # The paper's floor: a twentieth of each layer, rounded up, and one at least.
    keep = choose(cuttable, magnitudes, 0.9375, StructuredSettings())
    assert cuttable.widths(keep) == {"conv1": 1, "conv2": 2, "dense": 4}


def test_what_cannot_be_reached_is_said_before_training(tiny):
    check_reachable(StructuredSettings(sparsities=(0.9375,)), tiny)
    with pytest.raises(ValueError, match=r"ask for at most 0\.9375"):
        check_reachable(StructuredSettings(sparsities=(0.5, 0.94)), tiny)


@pytest.mark.runs
def test_units_are_scored_by_each_measure_s_rule_at_its_temperature(
    trainer, cuttable, tiny
):
    network, origin = trainer.init(0), trainer.init(1).params
    scorer = Scorer(trainer.forward.loss, SmallCNN.NORMALIZED)
    scoring = network, origin, cuttable.units, balanced_scoring_data(tiny, 5)
    scores = scorer.of_units(MEASURES, *scoring, seed=5)
    assert list(scores) == list(MEASURES)
    for found in scores.values():
        assert {name: len(values) for name, values in found.items()} == {
            name: LAYERS[layer] for name, layer in cuttable.layers.items()
        }
    batches = balanced_batches(tiny, 5)
    data = tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    differentiate = gf.differentiate(trainer.forward.loss)
    of = {
        t: differentiate(network.params, data, network.stats, temperature=t)
        for t in (1.0, 5.0, 200.0)
    }
    rules = {
        "magnitude": (of[5.0], "magnitude"),
        "loss_preservation": (of[5.0], "loss_preservation"),
        "biased_loss_preservation": (of[5.0], "biased_loss_preservation"),
        "biased_from_init": (
            of[5.0]._replace(origin=origin),
            "biased_loss_preservation",
        ),
        "taylor": (of[5.0], "taylor"),
        "grasp": (of[200.0], "grasp"),
        "gradient_norm_preservation": (of[1.0], "gradient_norm_preservation"),
    }
    tested = set()
    scales = gf.batch_norm_scale(network.params)
    taylor = gf.batch_norm_taylor(gf.over_batches(trainer.forward.loss))(
        network.params, batches, stats=network.stats
    )
    fisher = gf.fisher(trainer.forward.loss, per_example=True)(
        network.params, data, stats=network.stats
    )
    for name, layer in cuttable.layers.items():
        norm = {"conv1": "bn1", "conv2": "bn2", "dense": "bn3"}[layer]
        kernel = np.asarray(network.params[layer]["kernel"][...])
        of_examples = np.asarray(fisher[layer]["kernel"][...])
        for measure, wanted in {
            "magnitude_1_norm": np.abs(kernel).reshape(-1, kernel.shape[-1]).sum(0),
            "batch_norm_scale": scales[norm],
            "batch_norm_taylor": taylor[norm],
            "fisher_per_example": of_examples.reshape(-1, kernel.shape[-1]).sum(0),
        }.items():
            np.testing.assert_allclose(scores[measure][name], wanted, rtol=1e-4)
            tested.add(measure)
    assert set(MEASURES) - set(rules) - tested == {"fisher", "random"}
    for measure, (derivatives, rule) in rules.items():
        # A kernel's last axis holds its filters.
        expected = gf.score(derivatives, rule, axis=-1)
        for name, layer in cuttable.layers.items():
            wanted = np.asarray(expected[layer]["kernel"][...])
            np.testing.assert_allclose(
                scores[measure][name],
                wanted,
                atol=1e-4 * np.abs(wanted).max(),
                err_msg=measure,
            )
    again = scorer.of_units(["random"], *scoring, seed=5)
    for name, values in again["random"].items():
        np.testing.assert_array_equal(values, scores["random"][name])
