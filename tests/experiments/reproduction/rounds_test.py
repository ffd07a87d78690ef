"""How much each round removes, against exact fractions, and which filters.

The networks have their true size and are shapes: nothing is computed. Scores are
random; what `rounds.choose` keeps equals what a rule in numpy does, written here.
"""

import functools
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import gradflow_jax as gf
from gradflow_jax.experiments.reproduction import rounds
from gradflow_jax.experiments.reproduction.record import RunSettings
from gradflow_jax.models import MODELS

CIFAR = (32, 32, 3)
IMAGE = jax.ShapeDtypeStruct((1, *CIFAR), jnp.float32)

checked = examples(max_examples=60, deadline=None, derandomize=True, database=None)
hundredths = st.integers(1, 99)
numbers_of_rounds = st.integers(1, 60)


@functools.cache
def network(name):
    """Returns a network of shapes and its units."""
    model = nnx.eval_shape(lambda: MODELS[name](CIFAR, 100, rngs=nnx.Rngs(0)))
    model.eval()
    return model, gf.find_units(model, IMAGE)


def settings(prune=0.5, rounds=2, **options):
    return RunSettings("vgg13", "magnitude", prune, rounds, **options)


def left_after(round, count, prune):
    """Returns what is left after a round: its inverse grows by equal steps."""
    return 1 / (1 + round * (1 / (1 - prune) - 1) / count)


@checked
@given(hundredths, numbers_of_rounds)
def test_shares_telescope_to_what_was_asked_for(percent, count):
    prune, left = Fraction(percent, 100), Fraction(1)
    for k in range(1, count + 1):
        left *= 1 - rounds.share(k, count, prune)
        assert left == left_after(k, count, prune)
    assert left == 1 - prune
    # The same in floating point.
    found = rounds.shares(settings(percent / 100, count))
    expected = [left_after(k, count, percent / 100) for k in range(1, count + 1)]
    np.testing.assert_allclose(np.cumprod(1 - np.array(found)), expected, 1e-12)


def test_the_shares_of_the_paper():
    found = rounds.shares(settings(0.75, 25))
    assert [round(100 * found[i], 1) for i in (0, -1)] == [10.7, 3.0]
    assert rounds.shares(settings(0.3, 1)) == pytest.approx([0.3])
    assert rounds.shares(settings(0.0, 0)) == []


rising = st.lists(hundredths, min_size=1, max_size=12, unique=True).map(sorted)


@checked
@given(rising, st.integers(1, 6000))
def test_thresholds_are_what_is_gone(percents, filters):
    thresholds = tuple(t / 100 for t in percents)
    found = rounds.shares(
        settings(thresholds[-1], len(thresholds), thresholds=thresholds)
    )
    np.testing.assert_allclose(
        np.cumprod(1 - np.array(found)), 1 - np.array(thresholds), 1e-12
    )
    exact = [-(-t * filters // 100) for t in percents]
    assert rounds.removed_by(found, filters) == exact


@checked
@given(hundredths, numbers_of_rounds, st.integers(1, 6000))
def test_whole_filters_never_drift(percent, count, filters):
    found = rounds.removed_by(rounds.shares(settings(percent / 100, count)), filters)
    prune = Fraction(percent, 100)
    assert found == [
        math.ceil(filters * (1 - left_after(k, count, prune)))
        for k in range(1, count + 1)
    ]
    assert found == sorted(found)
    assert found[-1] == -(-percent * filters // 100)


def test_rounds_that_fit():
    for own in (
        settings(0.0, 0),
        settings(0.99, 1),
        settings(rounds=80),
        settings(rounds=30, warmup=50),
        settings(0.5, 2, thresholds=(0.1, 0.5)),
    ):
        rounds.check_rounds(own)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (settings(-0.1), r"prune is -0\.1, outside \[0, 1\)\."),
        (settings(1.0), r"prune is 1, outside \[0, 1\)\."),
        (settings(math.nan), r"prune is nan, outside"),
        (settings(0.5, -1), "-1 rounds are asked to remove 0.5: both are 0, for"),
        (settings(0.5, 0), "0 rounds are asked to remove 0.5: both are 0, for"),
        (settings(0.0, 3), "3 rounds are asked to remove 0: both are 0, for training"),
        (settings(rounds=81), "0 epochs of warm-up and 81 rounds of one epoch do not"),
        (
            settings(rounds=2, warmup=4, schedule=((5, 0.1), (9, 0.01))),
            "4 epochs of warm-up and 2 rounds .* into the first stage of 5 epochs",
        ),
        (settings(thresholds=(0.5,)), "thresholds are 0.5: they rise from above 0"),
        (settings(thresholds=()), "thresholds are : they rise .* of the 2 rounds"),
        (settings(thresholds=(0.6, 0.5)), "thresholds are 0.6, 0.5: they rise"),
        (settings(thresholds=(0.5, 0.5)), "to 0.5, one for each of the 2 rounds"),
        (settings(thresholds=(0.0, 0.5)), "thresholds are 0, 0.5: they rise from"),
        (settings(thresholds=(0.1, 0.6)), "they rise from above 0 to 0.5, one for"),
    ],
)
def test_rounds_that_do_not_fit(own, message):
    with pytest.raises(ValueError, match=message):
        rounds.check_rounds(own)


def test_no_thresholds_for_no_rounds():
    rounds.check_rounds(settings(0.0, 0, thresholds=()))


def floor(width):
    """Returns a twentieth, rounded up."""
    return -(-width // 20)


def test_floors_of_published_widths():
    widths = {"a": 64, "b": 128, "c": 256, "d": 512}
    assert rounds.floors(widths) == {"a": 4, "b": 7, "c": 13, "d": 26}
    every = {str(n): n for n in range(1, 2049)}
    assert rounds.floors(every) == {name: floor(n) for name, n in every.items()}


def rule(scores, count, widths, whole=()):
    """Removes the lowest-scored filters of all but each layer's protected ones.

    Args:
        scores: [filters] of each layer.
        count: how many go.
        widths: of each layer at first: a twentieth stays, its best-scored.
        whole: layers that stay as they are.
    """
    rows = []
    for layer, values in scores.items():
        stays = len(values) if layer in whole else floor(widths[layer])
        free = np.argsort(values)[: max(len(values) - stays, 0)]
        rows += [(values[channel], layer, channel) for channel in free]
    keep = {layer: np.ones(len(values), bool) for layer, values in scores.items()}
    for _, layer, channel in sorted(rows)[:count]:
        keep[layer][channel] = False
    assert len(rows) >= count
    return keep


def assert_same(keep, expected):
    assert keep.keys() == expected.keys()
    for name, flags in expected.items():
        assert keep[name].tolist() == flags.tolist(), name


def sizes(units):
    return {family.name: family.size for family in units}


@pytest.mark.models
def test_25_rounds_of_vgg_keep_the_best_twentieth_of_each_layer():
    base, first = network("vgg13")
    rng = np.random.default_rng(0)
    widths, units = sizes(first), first
    assert sum(widths.values()) == 2944
    scale = dict(zip(widths, [0.2, 1, 1, 0.1, 1, 1, 2, 0.3, 0.7, 3], strict=True))
    total = first.check_keep({})
    alive = {name: np.arange(width) for name, width in widths.items()}
    gone = rounds.removed_by(rounds.shares(settings(0.75, 25)), 2944)
    bound = 0
    for number, (before, after) in enumerate(itertools.pairwise([0, *gone])):
        # Each round ranks what is left anew, by other scores.
        scores = {name: scale[name] * rng.random(len(alive[name])) for name in alive}
        keep = rounds.choose(scores, units, after - before, widths)
        assert_same(keep, rule(scores, after - before, widths))
        for name, flags in keep.items():
            best = np.argsort(scores[name])[-floor(widths[name]) :]
            assert flags[best].all()
            bound += number < 24 and flags.sum() == floor(widths[name])
            alive[name] = alive[name][flags]
        assert sum(map(len, alive.values())) == 2944 - after
        total = gf.structured.compose_keep(first, total, units, keep)
        units = gf.find_units(gf.shrink(base, first, total), IMAGE)
    # The floor was met long before the last round, and is needed.
    assert bound > 25
    for name, flags in total.items():
        assert np.flatnonzero(flags).tolist() == alive[name].tolist()
    assert sum(sizes(units).values()) == 736
    shapes = first.shapes(total)
    assert shapes["classifier/kernel"] == (len(alive["layers/9/conv/kernel[3]"]), 100)
    assert shapes["classifier/bias"] == (100,)
    assert shapes == {path: leaf.shape for path, leaf in units.leaves.items()}


STREAMS = {
    "resnet56": [9, 9, 9],
    "resnet18": [2, 2, 2, 2],
    "resnet34": [3, 4, 6, 3],
}


@pytest.mark.models
@pytest.mark.parametrize("name", MODELS)
def test_which_family_is_the_stem(name):
    _, units = network(name)
    stems = [family for family in units if rounds.is_stem(family)]
    expected = []
    if name in STREAMS:
        seconds = [f"blocks/{i}/second/conv/kernel" for i in range(STREAMS[name][0])]
        expected = [{"stem/conv/kernel", *seconds}]
    assert [{own.path for own in family.producers} for family in stems] == expected


def random_scores(units, seed=0):
    rng = np.random.default_rng(seed)
    return {f.name: rng.random(f.size) * rng.uniform(0.1, 1) for f in units}


@pytest.mark.parametrize("cut_stem", [False, True])
def test_a_resnet_s_first_stream_is_cut_where_asked_for(cut_stem):
    _, units = network("resnet56")
    widths, scores = sizes(units), random_scores(units)
    streams = [family.name for family in units if len(family.producers) == 10]
    stem = [family.name for family in units if rounds.is_stem(family)]
    assert len(streams) == 3 and [widths[name] for name in stem] == [16]
    for name in streams:
        scores[name] -= 10
    keep = rounds.choose(scores, units, 560, widths, cut_stem=cut_stem)
    assert_same(keep, rule(scores, 560, widths, () if cut_stem else stem))
    for name in streams:
        cut = cut_stem or name not in stem
        assert keep[name].sum() == (floor(widths[name]) if cut else widths[name])


def test_equal_scores_are_counted_and_the_record_alone_says_so():
    _, units = network("resnet56")
    widths, scores = sizes(units), random_scores(units)
    stem = next(family.name for family in units if rounds.is_stem(family))
    name = next(family.name for family in units if not rounds.is_stem(family))
    # All of this family tie below the others; its floor of them stays. What the stem
    # keeps, which nothing ranks, is no tie.
    scores[name][:] = scores[stem][:] = -1.0
    keep = rounds.choose(scores, units, widths[name] // 2, widths)
    stays = widths[name] - widths[name] // 2
    assert rounds.kept_by_position(scores, units, keep) == stays
    keep = rounds.choose(scores, units, widths[name] - floor(widths[name]), widths)
    assert rounds.kept_by_position(scores, units, keep) == floor(widths[name])
    scores[name][:] = np.arange(widths[name]) - 100.0
    keep = rounds.choose(scores, units, widths[name] // 2, widths)
    assert rounds.kept_by_position(scores, units, keep) == 0


@pytest.mark.parametrize("name", ["mobilenet", "resnet56"])
def test_no_layer_is_emptied(name):
    _, units = network(name)
    widths, scores = sizes(units), random_scores(units)
    stem = [family.name for family in units if rounds.is_stem(family)]
    most = sum(n - floor(n) for layer, n in widths.items() if layer not in stem)
    keep = rounds.choose(scores, units, most, widths)
    for layer, flags in keep.items():
        width = widths[layer]
        if layer not in stem:
            best = np.argsort(scores[layer])[-max(floor(width), 1) :]
            assert np.flatnonzero(flags).tolist() == sorted(best)
        else:
            assert flags.all()
    with pytest.raises(ValueError, match="ask for at most"):
        rounds.choose(scores, units, most + 1, widths)


def test_a_layer_narrower_than_its_floor_stays():
    _, units = network("vgg13")
    widths, scores = sizes(units), random_scores(units)
    wider = {**widths, "layers/0/conv/kernel[3]": 20 * 64 + 1}
    scores["layers/0/conv/kernel[3]"] -= 10
    keep = rounds.choose(scores, units, 1000, wider)
    assert_same(keep, rule(scores, 1000, wider))
    assert keep["layers/0/conv/kernel[3]"].all()


@pytest.mark.parametrize("published", [False, True])
def test_what_is_out_of_reach_is_told_before_training(published):
    _, units = network("vgg13")
    # 10 floors of 2 × (4, 7, 13) + 4 × 26 leave 2792 of 2944 filters to remove.
    most = 2792 / 2944
    rounds.check_reachable(units, settings(most, published_rules=published))
    beyond = settings(most + 1 / 2944, published_rules=published)
    if published:
        rounds.check_reachable(units, beyond)
    else:
        with pytest.raises(ValueError, match=r"ask for at most 0\.9483\."):
            rounds.check_reachable(units, beyond)
    rounds.check_reachable(units, settings(0.0, 0))


def expected_layers(name):
    if name == "vgg13":
        return [f"layers/{i}" for i in range(10)]
    if name == "mobilenet":
        return ["stem", *(f"blocks/{i}/pointwise" for i in range(13))]
    layers, block = ["stem"], 0
    for stage, count in enumerate(STREAMS[name]):
        for number in range(count):
            layers.append(f"blocks/{block}/first")
            # Writes first to the stage's stream, before the shortcut does.
            layers += [f"blocks/{block}/second"] * (stage > 0 and number == 0)
            block += 1
    return layers


@pytest.mark.models
@pytest.mark.parametrize("name", MODELS)
def test_layers_stand_in_the_network_s_order(name):
    _, units = network(name)
    names = rounds.layer_names(units)
    assert list(names.values()) == expected_layers(name)
    assert [family.name for family in rounds.in_order(units)] == list(names)
    for family, layer in names.items():
        assert f"{layer}/conv/kernel" in {own.path for own in units[family].producers}
