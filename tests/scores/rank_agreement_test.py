"""Agreement of scores: against counting pairs, and what is promised of ties."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow_jax as gf

checked = settings(max_examples=100, deadline=None, derandomize=True, database=None)
# Values are few, so that ties are the rule.
vectors = st.sampled_from((2, 3, 7, 12)).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.integers(-2, 3), min_size=size, max_size=size)] * 2
    )
)


def scores(values):
    return jnp.asarray(values, jnp.float32)


def mean_ranks(values):
    """The rank of each value, tied ones sharing the mean of theirs."""
    return [sum((y < x) + (y <= x) for y in values) / 2 for x in values]


def pearson(a, b):
    a, b = np.asarray(a) - np.mean(a), np.asarray(b) - np.mean(b)
    return (a @ b) / math.sqrt((a @ a) * (b @ b))


def tau_b(a, b):
    pairs = list(itertools.combinations(range(len(a)), 2))
    products = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs]
    untied = [sum(x[i] != x[j] for i, j in pairs) for x in (a, b)]
    return sum(products) / math.sqrt(untied[0] * untied[1])


@checked
@given(vectors)
def test_correlations_are_what_counting_says(pair):
    a, b = pair
    first, second = map(scores, pair)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(gf.scores.spearman(first, second))
        assert math.isnan(gf.scores.kendall(first, second))
        return
    expected = pearson(mean_ranks(a), mean_ranks(b))
    assert gf.scores.spearman(first, second) == pytest.approx(expected)
    assert gf.scores.kendall(first, second) == pytest.approx(tau_b(a, b))
    # Ranks alone matter.
    assert gf.scores.spearman(jnp.exp(first), second) == pytest.approx(expected)


@checked
@given(vectors, st.floats(0.05, 1))
def test_the_overlap_is_that_of_the_masks(pair, sparsity):
    first, second = map(scores, pair)
    masks = [
        gf.global_masks(vector, sparsity=sparsity, prunable=lambda path, leaf: True)
        for vector in (first, second)
    ]
    keep = int(masks[0].sum())
    if not keep:
        with pytest.raises(ValueError, match="keeps none"):
            gf.scores.top_overlap(first, second, sparsity=sparsity)
        return
    expected = int((masks[0] & masks[1]).sum()) / keep
    assert gf.scores.top_overlap(first, second, sparsity=sparsity) == expected


def test_a_score_agrees_with_itself():
    tied = scores([3, 1, 2, 2])
    assert gf.scores.spearman(tied, tied) == gf.scores.kendall(tied, tied) == 1.0
    assert gf.scores.top_overlap(tied, tied, sparsity=0.5) == 1.0
    assert gf.scores.spearman(tied, -tied) == gf.scores.kendall(tied, -tied) == -1.0


def test_constant_scores_have_no_order():
    flat, rising = jnp.ones(4), scores([1, 2, 3, 4])
    assert math.isnan(gf.scores.spearman(flat, rising)) and math.isnan(
        gf.scores.kendall(rising, flat)
    )
    assert gf.scores.top_overlap(flat, flat, sparsity=0.5) == 1.0
    assert math.isnan(gf.scores.spearman(jnp.ones(1), jnp.ones(1)))


def test_only_prunable_leaves_count():
    a = {"kernel": scores([[1, 2, 3]]), "bias": scores([9, 1, 5])}
    b = {"kernel": scores([[2, 4, 9]]), "bias": scores([1, 9, 5])}
    assert gf.scores.spearman(a, b) == 1.0
    everything = gf.scores.spearman(a, b, prunable=lambda path, leaf: True)
    assert everything == pytest.approx(
        pearson(mean_ranks([9, 1, 5, 1, 2, 3]), mean_ranks([1, 9, 5, 2, 4, 9]))
    )


def test_scores_of_units_count_whole():
    a = {"conv[3]": np.array([1.0, 2.0]), "dense[1]": np.array([3.0, 4.0])}
    b = {"conv[3]": np.array([1.0, 2.0]), "dense[1]": np.array([4.0, 3.0])}
    assert gf.scores.kendall(a, b) == pytest.approx(2 / 3)


def test_half_precision_is_ranked_in_single():
    a = jnp.asarray([1.0, 2.0, 300.0], jnp.bfloat16)
    assert gf.scores.spearman(a, scores([1, 2, 3])) == 1.0


def test_a_matrix_names_its_rows_and_is_symmetric():
    rng = np.random.default_rng(0)
    by_epoch = {
        f"epoch {i}": {"kernel": scores(rng.normal(size=(4, 5)))} for i in range(3)
    }
    names, values = gf.scores.agreement(by_epoch)
    assert names == ("epoch 0", "epoch 1", "epoch 2")
    np.testing.assert_array_equal(values, values.T)
    np.testing.assert_array_equal(np.diag(values), 1.0)
    assert values[0, 2] == gf.scores.spearman(by_epoch["epoch 0"], by_epoch["epoch 2"])
    overlaps = gf.scores.agreement(by_epoch, gf.scores.top_overlap, sparsity=0.75)
    assert overlaps.values[0, 1] == gf.scores.top_overlap(
        by_epoch["epoch 0"], by_epoch["epoch 1"], sparsity=0.75
    )


def test_no_scores_are_an_error():
    with pytest.raises(ValueError, match="names no tree"):
        gf.scores.agreement({})


def test_nan_and_infinities_are_errors():
    good = {"kernel": jnp.ones((2, 2))}
    for bad in (jnp.nan, jnp.inf):
        scored = {"kernel": jnp.full((2, 2), bad)}
        for pair in ((good, scored), (scored, good)):
            with pytest.raises(ValueError, match="'kernel' has 4 of 4 values"):
                gf.scores.spearman(*pair)


def test_other_trees_are_errors():
    tree = {"kernel": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="scores b has the leaf 'extra'"):
        gf.scores.kendall(tree, {**tree, "extra": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"has shape \(2, 3\)"):
        gf.scores.spearman(tree, {"kernel": jnp.ones((2, 3))})
    with pytest.raises(TypeError, match=r"scores a leaf 'kernel' is int32"):
        gf.scores.spearman({"kernel": jnp.ones((2, 2), int)}, tree)
    with pytest.raises(ValueError, match="no leaf is prunable"):
        gf.scores.spearman(tree, tree, prunable=lambda path, leaf: False)


def test_empty_leaves_are_an_error():
    with pytest.raises(ValueError, match="no weight that counts"):
        gf.scores.spearman(jnp.ones((0, 3)), jnp.ones((0, 3)))


def test_the_sparsity_is_a_fraction():
    rising = jnp.arange(4.0)
    with pytest.raises(ValueError, match=r"sparsity is 1.5, outside \[0, 1\]"):
        gf.scores.top_overlap(rising, rising, sparsity=1.5)
    with pytest.raises(ValueError, match="sparsity=1.0 keeps none of 4 weights"):
        gf.scores.top_overlap(rising, rising, sparsity=1.0)


@pytest.mark.parametrize("scores", [[jnp.ones(2)], jnp.ones(2), None])
def test_scores_that_have_no_names_are_refused(scores):
    with pytest.raises(TypeError, match="scores is a .*: pass the trees by name"):
        gf.scores.agreement(scores)


@pytest.mark.parametrize("returned", ["0.5", None, np.ones(2), True])
def test_a_comparison_returns_a_number(returned):
    scores = {"a": np.ones(2, np.float32)}
    if returned is not True:
        with pytest.raises(TypeError, match=r"how\(a, b\) returned a .*: return one"):
            gf.scores.agreement(scores, lambda a, b: returned)
    with pytest.raises(TypeError, match="how is a .*: pass a function of two scores"):
        gf.scores.agreement(scores, "spearman")
