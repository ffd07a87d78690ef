"""The paper's rules of choosing filters, on its networks at their true size.

The networks are shapes: nothing is computed. Scores are random; the widths that
`gf.choose_units` chooses equal those of the rules written down here in numpy. No call
names a layer.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from tests.structured.zoo import large as zoo_large

pytestmark = pytest.mark.models

NETWORKS = {
    "vgg13": zoo_large.VGG13,
    "mobilenet_v1": zoo_large.MobileNetV1,
    "resnet56": zoo_large.ResNet56,
}
IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


@functools.cache
def network(name):
    """Returns the module, the shapes of its variables, and its units."""
    module = NETWORKS[name]()
    variables = jax.eval_shape(module.init, jax.random.key(0), IMAGE)
    return module, variables, gf.find_units(module, variables, IMAGE)


def random_scores(units, seed=0):
    """Returns scores whose layers differ in scale, so that some are nearly emptied."""
    rng = np.random.default_rng(seed)
    return {f.name: rng.random(f.size) * rng.uniform(0.02, 1) for f in units}


def rule(scores, count, *, floor=None, whole=()):
    """Ranks all filters of all layers, and removes the lowest.

    As the authors' release does it: a row for each filter; of each layer some filters
    have their scores set to 1e7; the lowest of the rows go. The protected are the
    best-scored here, the release's are the last.

    Args:
        scores: [filters] of each layer.
        count: how many go.
        floor: of a width, how many filters are protected.
        whole: layers that stay as they are.
    """
    rows = []
    for layer, (name, values) in enumerate(scores.items()):
        values = np.array(values)
        kept = len(values) if name in whole else floor(len(values))
        values[np.argsort(values)[len(values) - kept :]] = 1e7
        rows += [(layer, channel, value) for channel, value in enumerate(values)]
    rows = np.array(rows)
    gone = rows[np.argsort(rows[:, 2])[:count]]
    assert (gone[:, 2] < 1e7).all()
    return {
        name: ~np.isin(np.arange(len(values)), gone[gone[:, 0] == layer, 1])
        for layer, (name, values) in enumerate(scores.items())
    }


def paper_floor(width):
    return int(0.05 * width) + 1


def assert_same(keep, expected):
    assert keep.keys() == expected.keys()
    for name, flags in expected.items():
        assert keep[name].tolist() == flags.tolist(), name


@pytest.mark.parametrize("name", ["vgg13", "mobilenet_v1"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.9])
def test_global_ranking_under_the_95_percent_constraint(name, ratio):
    _, _, units = network(name)
    total = {"vgg13": 2944, "mobilenet_v1": 5984}[name]
    assert sum(family.size for family in units) == total
    for seed in range(3):
        scores = random_scores(units, seed)
        keep = gf.choose_units(scores, units, sparsity=ratio, floor=0.05)
        # The release rounds the fraction down, the library is not short of it.
        count = -int(-ratio * total // 1)
        assert count in (int(ratio * total), int(ratio * total) + 1)
        assert_same(keep, rule(scores, count, floor=paper_floor))
        left = [flags.mean() for flags in keep.values()]
        assert min(left) >= 0.05
        if ratio == 0.9:
            # The constraint is met by some layer, and needed.
            free = gf.choose_units(scores, units, sparsity=ratio)
            assert min(left) < 0.07 and min(f.mean() for f in free.values()) < 0.05


def test_the_constraint_protects_the_best_scored():
    _, _, units = network("vgg13")
    scores = random_scores(units)
    worst = units.families[3]
    scores[worst.name] = scores[worst.name] - 10
    keep = gf.choose_units(scores, units, sparsity=0.5, floor=0.05)
    best = np.argsort(scores[worst.name])[-paper_floor(worst.size) :]
    assert np.flatnonzero(keep[worst.name]).tolist() == sorted(best)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_classifier_s_outputs_stay(name):
    _, variables, units = network(name)
    keep = gf.choose_units(random_scores(units), units, sparsity=0.8)
    shapes = units.shapes(keep)
    assert shapes["params/Dense_0/kernel"][1] == 100
    assert shapes["params/Dense_0/bias"] == (100,)
    assert shapes["params/Conv_0/kernel"][:3] == (3, 3, 3)
    full = variables["params"]["Dense_0"]["kernel"].shape[0]
    assert shapes["params/Dense_0/kernel"][0] < full


def widths_by_depth(units, keep, layers):
    """Returns the widths of convolutions that are families of their own."""
    widths = units.widths(keep)
    return [widths[f"params/Conv_{i}/kernel[3]"] for i in layers]


def test_vgg_loses_filters_with_their_norms_and_the_next_layer_s_inputs():
    _, _, units = network("vgg13")
    keep = gf.choose_units(random_scores(units), units, sparsity=0.6)
    widths, shapes = widths_by_depth(units, keep, range(10)), units.shapes(keep)
    for i, (before, after) in enumerate(zip([3, *widths], widths, strict=False)):
        assert shapes[f"params/Conv_{i}/kernel"] == (3, 3, before, after)
        for leaf in ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean",
                     "batch_stats/{}/var"):  # fmt: skip
            assert shapes[leaf.format(f"BatchNorm_{i}")] == (after,)
    assert shapes["params/Dense_0/kernel"] == (widths[-1], 100)


def test_mobilenet_s_depthwise_filters_go_with_the_pointwise_ones_before_them():
    _, _, units = network("mobilenet_v1")
    keep = gf.choose_units(random_scores(units), units, sparsity=0.6)
    shapes = units.shapes(keep)
    indices = gf.structured.kept_indices(units, keep)
    makers = [0, *range(2, 27, 2)]
    assert [f"params/Conv_{i}/kernel[3]" in keep for i in range(27)] == [
        i in makers for i in range(27)
    ]
    widths = dict(zip(makers, widths_by_depth(units, keep, makers), strict=True))
    for depthwise in range(1, 27, 2):
        before, after = widths[max(depthwise - 1, 0)], widths[depthwise + 1]
        assert shapes[f"params/Conv_{depthwise}/kernel"] == (3, 3, 1, before)
        assert shapes[f"params/BatchNorm_{depthwise}/scale"] == (before,)
        pointwise = f"params/Conv_{depthwise + 1}/kernel"
        assert shapes[pointwise] == (1, 1, before, after)
        own = np.flatnonzero(keep[f"params/Conv_{depthwise - 1}/kernel[3]"]).tolist()
        assert indices[f"params/Conv_{depthwise}/kernel"][3].tolist() == own
        assert indices[pointwise][2].tolist() == own


def test_resnet_s_first_convolution_stays_whole():
    _, _, units = network("resnet56")
    scores = random_scores(units)
    first = {family.name for family in units if family.reads_input}
    keep = gf.choose_units(
        scores, units, sparsity=0.5, ignore=lambda family: family.reads_input
    )
    # It is a part of the first stage's stream.
    assert len(first) == 1 and units.shapes(keep)["params/Conv_0/kernel"] == (
        (3, 3, 3, 16)
    )
    assert_same(keep, rule(scores, 560, floor=lambda width: 1, whole=first))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8])
def test_resnet_as_published_is_cut_inside_its_blocks(ratio):
    _, _, units = network("resnet56")
    scores = random_scores(units)
    # A layer that would be emptied keeps one filter.
    inner = [family for family in units if len(family.producers) == 1]
    scores[inner[5].name] = scores[inner[5].name] - 10
    keep = gf.choose_units(
        scores,
        units,
        sparsity=ratio,
        ignore=lambda family: len(family.producers) > 1,
    )
    streams = {family.name for family in units} - {family.name for family in inner}
    assert len(inner) == 27 and sum(family.size for family in inner) == 1008
    count = -int(-ratio * 1120 // 1)
    expected = rule(scores, count, floor=lambda width: 1, whole=streams)
    assert_same(keep, expected)
    assert keep[inner[5].name].sum() == 1
    # The first of a block's two convolutions loses filters, the second inputs; norms
    # and shortcuts of the stream are as wide as they were.
    shapes = units.shapes(keep)
    full = units.shapes({})
    widths = {family.name: int(keep[family.name].sum()) for family in inner}
    for family in inner:
        own, index = family.producers[0].path, int(family.name.split("_")[1][:-10])
        following = f"params/Conv_{index + 1}/kernel"
        width = widths[family.name]
        assert shapes[own] == (*full[own][:3], width)
        assert shapes[following] == (3, 3, width, full[following][3])
        assert set(family.leaves) >= {own, following}
    untouched = set(full) - {path for family in inner for path in family.leaves}
    assert all(shapes[path] == full[path] for path in untouched)
    assert {"params/Conv_21/kernel", "params/Conv_40/kernel"} <= untouched


# Of each convolution, the width and the side of its images.
VGG = [(64, 32), (64, 32), (128, 16), (128, 16), (256, 8), (256, 8)]
VGG += [(512, 4), (512, 4), (512, 2), (512, 2)]


def test_parameters_and_flops_of_vgg_by_hand():
    _, _, units = network("vgg13")

    def by_hand(widths):
        kernels = [9 * a * b for a, b in zip((3, *widths), widths, strict=False)]
        flops = sum(k * side**2 for k, (_, side) in zip(kernels, VGG, strict=True))
        norms, classifier = 2 * sum(widths), 100 * widths[-1]
        return sum(kernels) + norms + classifier + 100, flops + classifier

    full = by_hand([width for width, _ in VGG])
    assert (units.parameters(), units.flops()) == full and full[0] == 9_459_236
    for seed in range(3):
        keep = gf.choose_units(random_scores(units, seed), units, sparsity=0.7)
        small = by_hand(widths_by_depth(units, keep, range(10)))
        assert (units.parameters(keep), units.flops(keep)) == small


def ratio_of(k, p, n):
    """Returns what round k of n removes of what is left, for a target p."""
    return p / (k * p + n * (1 - p))


@pytest.mark.parametrize(("p", "n"), [(0.75, 25), (0.9, 5), (0.3, 1), (0.5, 10)])
def test_rounds_telescope(p, n):
    left = np.cumprod([1 - ratio_of(k, p, n) for k in range(1, n + 1)])
    np.testing.assert_allclose(left[-1], 1 - p, 1e-12)
    # 1 / left grows linearly.
    np.testing.assert_allclose(np.diff(1 / np.array([1, *left]), 2), 0, atol=1e-9)
    # In whole filters, rounded once a round.
    count = 2944
    for k in range(1, n + 1):
        count -= -int(-ratio_of(k, p, n) * count // 1)
    assert (1 - p) * 2944 - n <= count <= (1 - p) * 2944 + 1e-6


def test_rounds_of_cuts_amount_to_one():
    module, variables, units = network("vgg13")
    scores = random_scores(units)
    apply, tree, own = module, variables, units
    total = {family.name: np.ones(family.size, bool) for family in units}
    for k in (1, 2, 3):
        # What is left is ranked anew, by the same scores.
        mine = {name: values[total[name]] for name, values in scores.items()}
        # A layer of one filter is no family any more.
        ratio = ratio_of(k, 0.75, 3)
        keep = gf.choose_units(mine, own, sparsity=ratio, min_units=2)
        small = gf.shrink(apply, own, keep)
        assert small.native, small.why
        tree = gf.cut(tree, own, keep)
        total = gf.structured.compose_keep(units, total, own, keep)
        own, apply = gf.find_units(small, tree, IMAGE), small
    kept = sum(family.size for family in own)
    assert 736 - 3 <= kept <= 736 and kept == sum(f.sum() for f in total.values())
    # One cut by the composed keep set, of the original, is the same model.
    at_once = gf.cut(variables, units, total)
    assert jax.tree.map(jnp.shape, at_once) == jax.tree.map(jnp.shape, tree)
    # It is what one ranking would have chosen, but for rounding.
    assert_same(total, rule(scores, 2944 - kept, floor=lambda width: 2))
    assert own.parameters() == units.parameters(total)
    assert own.flops() == units.flops(total)
