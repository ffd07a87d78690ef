"""The release's rules against those of its protocol, told again in numpy.

The networks of true size are shapes. What they are made of is written down by hand
here, and the rules work on rows (layer, channel, score), as the release's do.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow_jax as gf
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.reproduction import published_rules, rounds
from gradflow_jax.experiments.reproduction.record import RunSettings
from gradflow_jax.experiments.reproduction.shrinking_network import ShrinkingNetwork
from gradflow_jax.models import MODELS
from gradflow_jax.trees import named_leaves

CIFAR = (32, 32, 3)
IMAGE = jax.ShapeDtypeStruct((1, *CIFAR), jnp.float32)


@functools.cache
def network(name, **options):
    """Returns a network of shapes and its units."""
    model = nnx.eval_shape(
        lambda: MODELS[name](CIFAR, 100, rngs=nnx.Rngs(0), **options)
    )
    model.eval()
    return model, gf.find_units(model, IMAGE)


def narrowed(name, keep, **options):
    """Returns the units of a network that is cut."""
    model, units = network(name, **options)
    return gf.find_units(gf.shrink(model, units, keep), IMAGE)


# Of each convolution in the network's order: name, filters, and what it is. A depthwise
# one is ranked by the scores of the one before it; of a residual network "inner" ones
# are cut, those that write to a stream are mapped.
VGG = [
    (f"layers/{i}", n, "own")
    for i, n in enumerate((64, 64, 128, 128, 256, 256, 512, 512, 512, 512))
]
MOBILENET = [("stem", 32, "own")]
for i, n in enumerate((64, 128, 128, 256, 256, *6 * (512,), 1024, 1024)):
    MOBILENET.append((f"blocks/{i}/depthwise", MOBILENET[-1][1], "depthwise"))
    MOBILENET.append((f"blocks/{i}/pointwise", n, "own"))


def residual(stages):
    layers, block = [("stem", stages[0][1], "stem")], 0
    for stage, (count, width) in enumerate(stages):
        for number in range(count):
            layers.append((f"blocks/{block}/first", width, "inner"))
            layers.append((f"blocks/{block}/second", width, "stream"))
            if stage and not number:
                layers.append((f"blocks/{block}/shortcut", width, "stream"))
            block += 1
    return layers


NETWORKS = {
    "vgg13": VGG,
    "mobilenet": MOBILENET,
    "resnet56": residual([(9, 16), (9, 32), (9, 64)]),
}
FAST_RESNET = residual([(1, 6), (2, 8), (1, 12)])


def rows_of(layers, scores):
    """Returns rows (layer, channel, score); a depthwise layer's as of the one before.

    Args:
        layers: of the network, in order.
        scores: [filters now] of each convolution by name, a depthwise one's unused.
    """
    rows, last = [], None
    for number, (name, _, kind) in enumerate(layers):
        last = last if kind == "depthwise" else name
        rows += [(number, channel, value) for channel, value in enumerate(scores[last])]
    return np.array(rows)


def kept(rows, count):
    """Returns for each layer, by number, which channels are not the lowest rows'."""
    order = np.argsort(rows[:, 2], kind="stable")
    gone = np.zeros(len(rows), bool)
    gone[order[:count]] = True
    return {number: ~gone[rows[:, 0] == number] for number in np.unique(rows[:, 0])}


def release_chain(layers, scores, fraction):
    """Returns what stays, by layer: the rules for VGG and MobileNet."""
    rows = rows_of(layers, scores)
    for number, (_, base, _) in enumerate(layers):
        mine = np.flatnonzero(rows[:, 0] == number)
        rows[mine[-(int(0.05 * base) + 1) :], 2] = 1e7
    found = kept(rows, int(fraction * len(rows)))
    return {
        name: found[number]
        for number, (name, _, kind) in enumerate(layers)
        if kind == "own"
    }


def release_residual(layers, scores, percent):
    """Returns what stays, by layer, of which so many percent shall."""
    rows = rows_of(layers, scores)
    rows[rows[:, 0] == 0, 2] = 1e7
    whole = sum(base for _, base, _ in layers)
    fraction = 1 - (percent / 100) * (whole / len(rows))
    found = kept(rows, int(fraction * len(rows)))
    # The first convolution loses nothing, whatever the ranking says.
    result = {"stem": np.ones_like(found[0])}
    for number, (name, _, _) in list(enumerate(layers))[1:]:
        flags = found[number]
        if not flags.any():
            flags[np.argmax(scores[name])] = True
        result[name] = flags
    return result


def percents(fractions):
    left = [100]
    for fraction in fractions:
        left.append(int(left[-1] * (1 - fraction)))
    return left[1:]


def by_kernel(scores):
    return {f"{name}/conv/kernel": values for name, values in scores.items()}


def filters_of(layers):
    return {f"{own}/conv/kernel": width for own, width, _ in layers}


def fractions(prune, count):
    return [prune / (k * prune + count * (1 - prune)) for k in range(1, count + 1)]


def assert_same(found, expected, suffix):
    expected = {f"{name}/conv/kernel{suffix}": own for name, own in expected.items()}
    assert found.keys() == expected.keys()
    for name, flags in expected.items():
        assert found[name].tolist() == flags.tolist(), name


@pytest.mark.models
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_ranked(name):
    _, units = network(name)
    ranked = published_rules.layers(units)
    layers = NETWORKS[name]
    expected, last = [], None
    for own, _, kind in layers:
        last = last if kind == "depthwise" else own
        expected.append((f"{own}/conv/kernel", f"{last}/conv/kernel"))
    assert [(layer.kernel, layer.producer) for layer in ranked] == expected
    filters = published_rules.base_filters(units)
    assert filters == filters_of(layers)
    assert len(layers) == {"vgg13": 10, "mobilenet": 27, "resnet56": 57}[name]
    total = {"vgg13": 2944, "mobilenet": 5984 + 4960, "resnet56": 2128}[name]
    assert sum(filters.values()) == total
    assert published_rules.is_residual(units) == (name == "resnet56")
    # For scoring, each convolution that has scores of its own is a family.
    scored = {family.name: family for family in published_rules.by_layer(units)}
    own = {kernel: producer for kernel, producer in expected if kernel == producer}
    assert scored.keys() == own.keys()
    for kernel, family in scored.items():
        assert [s.path for s in family.producers] == [kernel]
        assert family.size == filters[kernel]


@pytest.mark.models
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["vgg13", "mobilenet"])
def test_rounds_of_a_chain(name, signed):
    base, first = network(name)
    layers = NETWORKS[name]
    rng = np.random.default_rng(3)
    scale = {own: rng.uniform(0.1, 1) for own, _, _ in layers}
    alive = {own: np.arange(n) for own, n, kind in layers if kind == "own"}
    scale[list(alive)[-2]] = 0.01
    shares = fractions(0.8, 4)
    filters = filters_of(layers)
    units, total, floor_met = first, first.check_keep({}), False
    for number, fraction in enumerate(shares, 1):
        scores = {
            own: scale[own] * rng.random(len(kept)) for own, kept in alive.items()
        }
        if signed:
            scores = {own: values - 0.05 for own, values in scores.items()}
        before = jax.tree.map(np.copy, scores)
        choice = published_rules.choose(
            by_kernel(scores), units, shares, number, filters
        )
        expected = release_chain(layers, scores, fraction)
        assert_same(choice.keep, expected, "[3]")
        assert choice.zeroed == {}
        for own, flags in expected.items():
            assert (before[own] == scores[own]).all()
            protected = int(0.05 * filters[f"{own}/conv/kernel"]) + 1
            # The last by number, though others have higher scores.
            assert flags[-protected:].all()
            floor_met |= flags.sum() == protected < len(flags)
            alive[own] = alive[own][flags]
        total = gf.structured.compose_keep(first, total, units, choice.keep)
        units = gf.find_units(gf.shrink(base, first, total), IMAGE)
    assert floor_met
    assert_same(
        {layer: np.flatnonzero(flags) for layer, flags in total.items()}, alive, "[3]"
    )
    left = {layer: int(flags.sum()) for layer, flags in total.items()}
    widths, last = {}, None
    for own, _, kind in layers:
        last = last if kind == "depthwise" else own
        widths[own] = len(alive[last])
    assert published_rules.widths(first, left, {}) == widths


def test_depthwise_filters_count_twice():
    """Of the last layer alone, whose filters feed no depthwise one, twice as many go.

    Where the lowest scores are those of one layer, half as many of its filters go if
    its rows stand there twice.
    """
    _, units = network("mobilenet")
    filters = filters_of(MOBILENET)
    share = [200 / (5984 + 4960)]
    for layer, gone in (("blocks/12/pointwise", 200), ("blocks/11/pointwise", 100)):
        scores = {own: 1 + np.arange(n) / n for own, n, kind in MOBILENET}
        scores[layer] = np.arange(1024) / 1024
        choice = published_rules.choose(by_kernel(scores), units, share, 1, filters)
        removed = {own: int((~flags).sum()) for own, flags in choice.keep.items()}
        assert removed.pop(f"{layer}/conv/kernel[3]") == gone
        assert not any(removed.values())


@pytest.mark.models
@pytest.mark.parametrize("signed", [False, True])
def test_rounds_of_a_residual_network(signed):
    base, first = network("resnet56")
    layers = NETWORKS["resnet56"]
    rng = np.random.default_rng(1)
    alive = {own: np.arange(n) for own, n, _ in layers}
    mapped = [own for own, _, kind in layers if kind in ("stem", "stream")]
    shares = fractions(0.5, 3)
    units, total, returned = first, first.check_keep({}), 0
    dead = {own: np.zeros(len(alive[own]), bool) for own in mapped}
    for number, percent in enumerate(percents(shares), 1):
        scores = {
            own: rng.random(len(kept)) - signed / 2 for own, kept in alive.items()
        }
        if number == 3:
            # These are emptied but for their best filters.
            for own in ("blocks/20/first", "blocks/20/second"):
                scores[own] = scores[own] - 10 if signed else scores[own] * 1e-3
        for own in mapped:
            scores[own][dead[own]] = 0.0
        choice = published_rules.choose(
            by_kernel(scores), units, shares, number, filters_of(layers)
        )
        expected = release_residual(layers, scores, percent)
        zeroed = {own: expected[own] for own in mapped}
        inner = {own: flags for own, flags in expected.items() if own not in zeroed}
        assert_same(choice.keep, inner, "[3]")
        assert_same(choice.zeroed, zeroed, "")
        assert zeroed["stem"].all()
        left = [int(flags.sum()) for flags in expected.values()]
        # Not one too many goes, and two come on top where layers keep their last one.
        assert sum(left) == -(-percent * 2128 // 100) + left.count(1)
        assert left.count(1) == (2 if number == 3 else 0)
        for own, flags in inner.items():
            alive[own] = alive[own][flags]
        returned += sum(int((flags & dead[own]).sum()) for own, flags in zeroed.items())
        dead = {own: ~flags for own, flags in zeroed.items()}
        total = gf.structured.compose_keep(first, total, units, choice.keep)
        units = gf.find_units(gf.shrink(base, first, total), IMAGE)
    # A score of zero is more than a negative one and less than all positive ones.
    assert (returned > 0) == signed
    count = {layer: int(flags.sum()) for layer, flags in total.items()}
    found = published_rules.widths(first, count, choice.zeroed)
    assert found == {own: int(flags.sum()) for own, flags in expected.items()}
    # What is mapped keeps its width.
    shapes = first.shapes(total)
    widths = {own: shapes[f"{own}/conv/kernel"][3] for own in alive}
    assert widths == {own: len(kept) for own, kept in alive.items()}


@pytest.mark.parametrize("percent", [1, 0])
def test_a_residual_network_of_which_nothing_shall_be_left(percent):
    """Each layer keeps one filter, the first convolution all."""
    _, units = network("resnet56")
    layers = NETWORKS["resnet56"]
    rng = np.random.default_rng(0)
    scores = {own: rng.random(width) for own, width, _ in layers}
    share = 0.985 if percent else 0.995
    assert percents([share]) == [percent]
    choice = published_rules.choose(
        by_kernel(scores), units, [share], 1, filters_of(layers)
    )
    found = {**choice.keep, **choice.zeroed}
    expected = release_residual(layers, scores, percent)
    count = {own: int(flags.sum()) for own, flags in expected.items()}
    assert count.pop("stem") == 16 and min(count.values()) == 1
    if not percent:
        assert set(count.values()) == {1}
    for own, flags in expected.items():
        name = f"{own}/conv/kernel"
        assert found[name if name in found else f"{name}[3]"].tolist() == flags.tolist()


@pytest.mark.models
def test_25_rounds_to_nothing():
    """Of 5 % the truncation leaves 0 %; the rounds go on without crashing."""
    base, first = network("resnet56", fast=True)
    rng = np.random.default_rng(0)
    shares = fractions(0.95, 25)
    units, total = first, first.check_keep({})
    for number in range(1, 26):
        scores = {
            f"{own}/conv/kernel": rng.random(
                units.leaves[f"{own}/conv/kernel"].shape[3]
            )
            for own, _, _ in FAST_RESNET
        }
        choice = published_rules.choose(
            scores, units, shares, number, filters_of(FAST_RESNET)
        )
        assert all(flags.any() for flags in choice.keep.values())
        assert all(flags.any() for flags in choice.zeroed.values())
        total = gf.structured.compose_keep(first, total, units, choice.keep)
        if choice.keep:
            units = gf.find_units(gf.shrink(base, first, total), IMAGE)
    inner = [f"{own}/conv/kernel[3]" for own, _, kind in FAST_RESNET if kind == "inner"]
    assert [int(total[name].sum()) for name in inner] == [1, 1, 1, 1]
    stream = [flags.sum() for own, flags in choice.zeroed.items() if "blocks" in own]
    assert stream == 6 * [1]


@pytest.mark.parametrize(
    ("prune", "count", "left"),
    [
        (0.75, 1, 25),
        (0.75, 5, 23),
        (0.75, 25, 18),
        (0.6, 1, 40),
        (0.6, 5, 38),
        (0.6, 25, 32),
        (0.9, 25, 2),
        (0.95, 25, 0),
    ],
)
def test_percentages_as_the_protocol_says(prune, count, left):
    shares = [rounds.share(k, count, prune) for k in range(1, count + 1)]
    found = [published_rules.percent_left(shares, k) for k in range(count + 1)]
    assert found == [100, *percents(fractions(prune, count))]
    assert found[-1] == left


def random_zeroed(seed):
    """Returns which filters stay, of each convolution that writes to a stream."""
    rng = np.random.default_rng(seed)
    zeroed = {"stem/conv/kernel": np.ones(6, bool)}
    for own, width, kind in FAST_RESNET:
        if kind == "stream":
            zeroed[f"{own}/conv/kernel"] = rng.permutation(width) < width / 2
    return zeroed


def expected_masks(params, zeroed):
    """Returns for each leaf, by path, which of its numbers are not to be zero."""
    expected = {}
    for path, leaf in named_leaves(params):
        own, _, part = path.rpartition("/")
        mask = np.ones(leaf.shape, bool)
        kernel = f"{own.rpartition('/')[0]}/conv/kernel"
        if kernel in zeroed and part in ("kernel", "scale", "bias"):
            for channel in np.flatnonzero(~zeroed[kernel]):
                mask[..., channel] = False
        expected[path] = mask
    return expected


def test_masks_are_of_the_filters_and_of_scale_and_bias():
    model, _ = network("resnet56", fast=True)
    params, zeroed = nnx.state(model, nnx.Param), random_zeroed(0)
    found = dict(named_leaves(published_rules.masks(params, zeroed)))
    expected = expected_masks(params, zeroed)
    assert found.keys() == expected.keys()
    for path, mask in expected.items():
        assert found[path].dtype == bool and np.array_equal(found[path], mask), path
    masked = {path for path, mask in expected.items() if not mask.all()}
    parts = ("conv/kernel", "norm/scale", "norm/bias")
    streams = [own for own, _, kind in FAST_RESNET if kind == "stream"]
    assert masked == {f"{own}/{part}" for own in streams for part in parts}


def stream_outputs(graphdef):
    """Returns what tells what each norm that writes to a stream puts out, by kernel.

    Its results are those in eval mode and in training mode.
    """

    def outputs(network, x, train):
        own = nnx.merge(graphdef, *network, copy=True)
        own.train() if train else own.eval()
        found, x = {}, own.stem(x)
        for number, block in enumerate(own.blocks):
            y = block.second(block.first(x))
            found[f"blocks/{number}/second/conv/kernel"] = y
            if block.shortcut is not None:
                x = block.shortcut(x)
                found[f"blocks/{number}/shortcut/conv/kernel"] = x
            x = nnx.relu(x + y)
        return found

    run = jax.jit(lambda network, x: [outputs(network, x, t) for t in (False, True)])
    # In numpy, since each set of filters that is picked of them has a shape of its own.
    return lambda network, x: jax.device_get(run(network, x))


@pytest.mark.runs
def test_mapped_filters_put_out_zero_and_can_come_back():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(12) % 3
    dataset = Dataset("made", images, labels, images, labels, 3)
    settings = RunSettings("resnet56", "magnitude", 0.5, 1, momentum="keep", fast=True)
    network = ShrinkingNetwork(settings, dataset)
    outputs = stream_outputs(network.forward.graph)
    x = rng.normal(size=(4, 8, 8, 1)).astype(np.float32)

    def train(epoch):
        counters = [np.array([0, epoch, step], np.uint32) for step in range(3)]
        network.fit((images, labels, numbers, 0.1) for numbers in counters)

    def numbers():
        return {
            path: np.asarray(leaf)
            for path, leaf in named_leaves(network.state.network.params)
        }

    def check(zeroed):
        masks = expected_masks(network.state.network.params, zeroed)
        for path, leaf in numbers().items():
            assert (leaf[~masks[path]] == 0.0).all(), path
        for found in outputs(network.state.network, x):
            assert found.keys() == zeroed.keys() - {"stem/conv/kernel"}
            for kernel, y in found.items():
                assert (y[..., ~zeroed[kernel]] == 0.0).all(), kernel

    # Momentum is there, and would move what is zero.
    train(1)
    zeroed = random_zeroed(1)
    network.map_to_zero(zeroed)
    check(zeroed)
    before = numbers()
    train(2)
    check(zeroed)
    masks = expected_masks(network.state.network.params, zeroed)
    for path, leaf in numbers().items():
        # What stays is trained, and the first convolution is not mapped.
        assert (leaf != before[path])[masks[path]].mean() > 0.9, path
    # In the next round one is called back, as signed scores do, and one more goes. It
    # is one to whose stream another convolution writes: ReLU's slope at 0 is 0.
    norm = "blocks/1/shortcut/norm"
    kernel, other = (f"blocks/1/{part}/conv/kernel" for part in ("shortcut", "second"))
    old = np.flatnonzero(~zeroed[kernel] & zeroed[other])[0]
    new = np.flatnonzero(zeroed[kernel])[0]
    again = {**zeroed, kernel: zeroed[kernel].copy()}
    again[kernel][[old, new]] = True, False
    network.map_to_zero(again)
    check(again)
    # It is there with weights of zero ...
    assert all((numbers()[p][..., old] == 0).all() for p in (kernel, f"{norm}/scale"))
    train(3)
    check(again)
    # ... of which the norm's shift alone has a gradient.
    assert numbers()[f"{norm}/bias"][old] != 0
    assert (numbers()[kernel][..., old] == 0).all()
    assert numbers()[f"{norm}/scale"][old] == 0
    assert (outputs(network.state.network, x)[0][kernel][..., old] != 0).all()
