"""One round's ranking of filters against that of the authors' release.

The network has the release's layout and weights, the scores are those of the
experiments at the paper's temperatures; `tests/reference` has what the release
computes, in float64.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow_jax as gf
from gradflow_jax.experiments.data.scoring_data import ScoringData
from gradflow_jax.experiments.networks.architecture import Forward, Network, split
from gradflow_jax.experiments.networks.measuring import MEASURES, Scorer
from gradflow_jax.experiments.reproduction import published_rules, rounds
from gradflow_jax.models import VGG, normalized_kernels
from gradflow_jax.trees import named_leaves

FILE = Path(__file__).parents[2] / "reference" / "vgg_small.npz"
WIDTHS = (8, 12, 10)
KERNELS = [f"layers/{i}/conv/kernel" for i in range(3)]

# By our name for a measure: the release's word, and the temperature.
WORDS = {
    "magnitude": ("mag_based", 5),
    "magnitude_1_norm": ("l1", 5),
    "loss_preservation": ("loss_based", 5),
    "biased_loss_preservation": ("biased_loss", 5),
    "biased_from_init": ("biased_loss_init", 5),
    "taylor": ("tfo", 5),
    "fisher": ("fisher", 5),
    "batch_norm_scale": ("bn", 5),
    "batch_norm_taylor": ("nvidia", 5),
    "grasp": ("grasp", 200),
    "gradient_norm_preservation": ("grad_preserve", 1),
}


@pytest.fixture(scope="module")
def reference():
    with np.load(FILE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def model():
    """The network as shapes."""

    def make():
        layers = (WIDTHS[0], "M", *WIDTHS[1:])
        return VGG(layers, 5, image_shape=(8, 8, 3), rngs=nnx.Rngs(0))

    made = nnx.eval_shape(make)
    made.eval()
    return made


@pytest.fixture(scope="module")
def network(reference, model):
    """The release's weights in our layout."""
    arrays = {
        "classifier/kernel": reference["param|9"].T,
        "classifier/bias": reference["param|10"],
    }
    for i in range(3):
        kernel, scale, bias = (reference[f"param|{3 * i + j}"] for j in range(3))
        arrays[f"layers/{i}/conv/kernel"] = kernel.transpose(2, 3, 1, 0)
        arrays[f"layers/{i}/norm/scale"] = scale
        arrays[f"layers/{i}/norm/bias"] = bias
        arrays[f"layers/{i}/norm/mean"] = reference[f"bnstat|{2 * i}"]
        arrays[f"layers/{i}/norm/var"] = reference[f"bnstat|{2 * i + 1}"]

    def filled(tree):
        named = named_leaves(tree)
        assert all(arrays[path].shape == leaf.shape for path, leaf in named)
        leaves = [jnp.asarray(arrays.pop(path)) for path, _ in named]
        return jax.tree.structure(tree).unflatten(leaves)

    found = Network(*map(filled, split(model)))
    assert not arrays
    return found


@pytest.fixture(scope="module")
def units(model):
    return gf.find_units(model, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))


@pytest.fixture(scope="module")
def scores(reference, model, network, units):
    """The scores of each filter by each measure: [filters] by the kernel's path."""
    size = int(reference["batch_size"])
    batches = [
        (reference["images"][i : i + size], reference["labels"][i : i + size])
        for i in range(0, 60, size)
    ]
    origin = jax.tree.map(lambda leaf: np.float32(0.8) * leaf, network.params)
    scorer = Scorer(Forward.of(model).loss, normalized_kernels(network.params))
    return scorer.of_units(
        WORDS,
        network,
        origin,
        published_rules.by_layer(units),
        ScoringData(batches, batches),
        seed=0,
    )


def release_scores(reference, measure):
    word, temperature = WORDS[measure]
    return [reference[f"{word}|T{temperature}|{i}"] for i in range(3)]


def test_every_measure_of_data_and_weights_is_compared():
    assert WORDS.keys() == MEASURES.keys() - {"random", "fisher_per_example"}


def test_logits_are_the_release_s(reference, model, network):
    found = Forward.of(model).predict(network, reference["images"])
    np.testing.assert_allclose(found, reference["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("measure", WORDS)
def test_the_global_ranking_is_the_release_s(reference, scores, measure):
    expected = np.concatenate(release_scores(reference, measure))
    found = np.concatenate([scores[measure][kernel] for kernel in KERNELS])
    # No two filters are so near, by any measure, that float32 could swap them.
    ascending = np.sort(expected)
    larger = np.maximum(np.abs(ascending[1:]), np.abs(ascending[:-1]))
    assert (np.diff(ascending) > 1e-5 * larger).all()
    assert found.shape == (30,)
    assert np.argsort(found).tolist() == np.argsort(expected).tolist()
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * largest)


def rows_of(per_layer):
    """Returns rows (layer, channel, score)."""
    return np.array(
        [
            (layer, channel, value)
            for layer, values in enumerate(per_layer)
            for channel, value in enumerate(values)
        ]
    )


def kept_without(rows):
    """Returns for each layer, without these rows, which channels stay."""
    keep = [np.ones(width, bool) for width in WIDTHS]
    for layer, channel, _ in rows:
        keep[int(layer)][int(channel)] = False
    return [flags.tolist() for flags in keep]


@pytest.mark.parametrize("measure", WORDS)
def test_widths_by_the_published_rules(reference, scores, units, measure):
    rows = rows_of(release_scores(reference, measure))
    for layer, width in enumerate(WIDTHS):
        mine = np.flatnonzero(rows[:, 0] == layer)
        rows[mine[-(int(0.05 * width) + 1) :], 2] = 1e7
    expected = kept_without(rows[np.argsort(rows[:, 2])[: int(0.75 * 30)]])
    choice = published_rules.choose(
        scores[measure], units, [0.75], 1, dict(zip(KERNELS, WIDTHS, strict=True))
    )
    assert choice.zeroed == {}
    assert [choice.keep[f"{kernel}[3]"].tolist() for kernel in KERNELS] == expected
    assert sum(map(sum, expected)) == 8


@pytest.mark.parametrize("measure", WORDS)
def test_widths_with_the_best_protected(reference, scores, units, measure):
    rows = rows_of(release_scores(reference, measure))
    for layer in range(3):
        mine = np.flatnonzero(rows[:, 0] == layer)
        # A twentieth of so few is one filter.
        rows[mine[np.argmax(rows[mine, 2])], 2] = 1e7
    count = rounds.removed_by([0.75], 30)[-1]
    assert count == 23
    expected = kept_without(rows[np.argsort(rows[:, 2])[:count]])
    families = {f"{kernel}[3]": scores[measure][kernel] for kernel in KERNELS}
    widths = {family.name: family.size for family in units}
    keep = rounds.choose(families, units, count, widths)
    assert [keep[f"{kernel}[3]"].tolist() for kernel in KERNELS] == expected
