"""A path is its leaf, whatever it holds; a pattern takes prunable leaves."""

import jax
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves

ODD_NAMES = (
    "blocks[0]",
    "blocks[1]",
    "head?",
    "heads",
    "*",
    "a*b",
    "a.b",
    "[!x]",
    "[0",
)
PARAMS = {
    name: {"w": np.random.default_rng(i).random((2, 5)).astype(np.float32)}
    for i, name in enumerate(ODD_NAMES)
}
LAYERS = {
    "attention": {"q": np.arange(8.0).reshape(4, 2), "bias": np.arange(4.0)},
    "mlp": {"w": np.arange(10.0).reshape(2, 5), "bias": np.zeros((2, 2))},
}


def kept(tree):
    return {path: int(np.sum(leaf)) for path, leaf in named_leaves(tree)}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_is_that_leaf_and_no_other(name):
    path = f"{name}/w"
    numbers = kept(gf.quotas(PARAMS, {path: 0.5}, sparsity=0.9))
    assert numbers.pop(path) == 5 and set(numbers.values()) == {1}
    numbers = kept(gf.group_masks(PARAMS, {path: 0.5}))
    assert numbers.pop(path) == 5 and set(numbers.values()) == {10}
    numbers = kept(gf.layerwise_masks(PARAMS, sparsity=0.9, ignore=path))
    assert numbers.pop(path) == 10 and set(numbers.values()) == {1}


def test_what_a_report_prints_of_a_leaf_names_it():
    masks = gf.global_masks(PARAMS, sparsity=0.5)
    for layer in gf.report(masks).layers:
        ignored = gf.layerwise_masks(PARAMS, sparsity=0.5, ignore=layer.path)
        assert kept(ignored)[layer.path] == 10


def test_a_lone_name_of_wildcards_is_a_path_where_a_leaf_has_it():
    scores = {"*": PARAMS["heads"]["w"], "b": PARAMS["a.b"]["w"]}
    assert kept(gf.quotas(scores, {"*": 0.5}, sparsity=0.9)) == {"*": 5, "b": 1}
    assert kept(gf.quotas({"b": scores["b"]}, {"*": 0.5}, sparsity=0.9)) == {"b": 5}


def test_a_pattern_prunes_no_bias_and_a_path_does():
    by_pattern = {"attention/*": 0.5, "mlp/*": 0.8}
    whole = {"attention/bias": 4, "mlp/bias": 4}
    expected = {"attention/q": 4, "mlp/w": 2} | whole
    assert kept(gf.quotas(LAYERS, by_pattern)) == expected
    assert kept(gf.group_masks(LAYERS, by_pattern)) == expected
    # A path decides by itself, also behind a pattern that would match it.
    by_path = by_pattern | {"attention/bias": 0.25}
    assert kept(gf.quotas(LAYERS, by_path)) == expected | {"attention/bias": 3}
    assert kept(gf.group_masks(LAYERS, by_path)) == expected | {"attention/bias": 3}


def test_prunable_says_what_a_pattern_takes():
    def biases(path, leaf):
        return path.endswith("bias")

    masks = gf.group_masks(LAYERS, {"attention/*": 0.5}, prunable=biases)
    assert kept(masks)["attention/bias"] == 2 and kept(masks)["attention/q"] == 8


@pytest.mark.parametrize("select", [gf.group_masks, gf.quotas])
def test_a_pattern_of_biases_alone_is_an_error_that_names_both_remedies(select):
    message = r"the quota '\*/bias' matches no prunable leaf, only attention/bias, .*"
    with pytest.raises(ValueError, match=message + "full path, or .*prunable="):
        select(LAYERS, {"*/bias": 0.5})


@pytest.mark.parametrize("name", ["mlp", "mlp/"])
def test_the_name_of_a_layer_is_answered_with_its_pattern(name):
    for select in (gf.group_masks, gf.quotas):
        with pytest.raises(ValueError, match=r"matches no leaf; 'mlp/\*' matches all"):
            select(LAYERS, {name: 0.5})
    with pytest.raises(ValueError, match=r"ignore 'mlp/?' matches no leaf; 'mlp/\*'"):
        gf.global_masks(LAYERS, sparsity=0.5, ignore=[name])


def test_the_default_rule_is_narrowed_and_not_replaced():
    """Embedding and head are left out by either way, and biases are never pruned."""
    scores = {
        "embed": {"embedding": np.random.default_rng(0).random((20, 8), np.float32)},
        "block": {
            "kernel": np.random.default_rng(1).random((8, 16), np.float32),
            "bias": np.zeros(16, np.float32),
        },
    }
    narrowed = gf.global_masks(
        scores,
        sparsity=0.75,
        prunable=lambda path, leaf: (
            gf.default_prunable(path, leaf) and not path.startswith("embed")
        ),
    )
    ignored = gf.global_masks(scores, sparsity=0.75, ignore="embed/*")
    jax.tree.map(np.testing.assert_array_equal, narrowed, ignored)
    assert kept(ignored) == {
        "block/bias": 16,
        "block/kernel": 32,
        "embed/embedding": 160,
    }
