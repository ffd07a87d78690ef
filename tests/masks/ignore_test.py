"""`ignore=`: leaves left out by patterns of their paths, wherever masks are made."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax import masks as gf_masks
from gradflow_jax.trees import default_prunable

RNG = np.random.default_rng(5)
SCORES = {
    "embed": {"embedding": RNG.normal(size=(8, 4)).astype(np.float32)},
    "blocks": [
        {"kernel": RNG.normal(size=(4, 4)).astype(np.float32), "bias": np.ones(4, "f")}
        for _ in range(2)
    ],
    "head": {"kernel": RNG.normal(size=(4, 4)).astype(np.float32)},
}
SOME = gf.global_masks(SCORES, sparsity=0.25)
OTHERS = gf.global_masks(jax.tree.map(jnp.negative, SCORES), sparsity=0.25)

MAKERS = {
    "global_masks": lambda **leaves: gf.global_masks(SCORES, sparsity=0.5, **leaves),
    "with a floor": lambda **leaves: gf.global_masks(
        SCORES, sparsity=0.7, floor=0.25, previous=SOME, **leaves
    ),
    "layerwise_masks": lambda **leaves: gf.layerwise_masks(
        SCORES, sparsity=0.5, **leaves
    ),
    "n_of_m_masks": lambda **leaves: gf.n_of_m_masks(SCORES, **leaves),
    "erdos_renyi": lambda **leaves: gf.erdos_renyi(SCORES, sparsity=0.5, **leaves),
    "erdos_renyi_kernel": lambda **leaves: gf.erdos_renyi_kernel(
        SCORES, sparsity=0.5, **leaves
    ),
    "quotas": lambda **leaves: gf.quotas(
        SCORES, {"blocks/*/kernel": 0.25}, sparsity=0.5, **leaves
    ),
    "shuffle_masks": lambda **leaves: gf_masks.shuffle_masks(
        jax.random.key(0), SOME, scope="network", **leaves
    ),
    "invert_scores": lambda **leaves: gf_masks.invert_scores(SCORES, **leaves),
    "overlap": lambda **leaves: gf.overlap(SOME, OTHERS, **leaves),
}


def left_out(*prefixes):
    return lambda path, leaf: (
        default_prunable(path, leaf) and not path.startswith(prefixes)
    )


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_is_what_prunable_says_by_hand(make):
    kept = make(ignore=["embed/*", "head/kernel"])
    by_hand = make(prunable=left_out("embed", "head"))
    jax.tree.map(np.testing.assert_array_equal, kept, by_hand)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_goes_with_prunable(make):
    both = make(ignore="head/*", prunable=left_out("embed"))
    by_hand = make(prunable=left_out("embed", "head"))
    jax.tree.map(np.testing.assert_array_equal, both, by_hand)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_pattern_without_a_leaf_names_those_near_it(make):
    message = "ignore 'head/kernal' matches no leaf; near it are head/kernel"
    with pytest.raises(ValueError, match=message):
        make(ignore=["embed/*", "head/kernal"])


def test_it_wins_over_a_family_and_a_quota():
    masks = gf.group_masks(SCORES, {"blocks/*/kernel": 0.5}, ignore="blocks/0/kernel")
    by_hand = gf.group_masks(SCORES, {"blocks/1/kernel": 0.5})
    jax.tree.map(np.testing.assert_array_equal, masks, by_hand)
    kept = gf.quotas(SCORES, {"head/*": 0.5}, ignore="head/kernel")
    assert kept["head"]["kernel"] == 16


def test_a_family_of_which_nothing_is_left_is_refused():
    with pytest.raises(ValueError, match=r"leaves no leaf of the family 'head/\*'"):
        gf.group_masks(SCORES, {"head/*": 0.5, "embed/*": 0.5}, ignore="head/kernel")


def test_an_allocation_has_ignored_by_itself():
    allocation = gf.erdos_renyi(SCORES, sparsity=0.5, ignore="head/*")
    with pytest.raises(TypeError, match=r"ignore='head/\*' with allocation="):
        gf.layerwise_masks(SCORES, allocation=allocation, ignore="head/*")


def test_an_exact_path_is_no_pattern():
    """As a shell pattern "[0]" is the letter 0."""
    scores = {"w[0]": np.arange(4.0).reshape(2, 2), "w0": np.arange(4.0).reshape(2, 2)}
    masks = gf.global_masks(scores, sparsity=0.5, ignore="w[0]")
    assert masks["w[0]"].all()
    assert masks["w0"].sum() == 2


def test_a_report_counts_what_was_ignored_apart():
    masks = gf.global_masks(SCORES, sparsity=0.5, ignore="embed/*")
    report = gf.report(masks, ignore="embed/*")
    assert report.sparsity == 0.5
    assert report.size == 48 and gf.report(masks).size == 80
    # What is pruned in fact counts, whatever is said of it.
    assert gf.report(masks, ignore="head/*").size == 80


def test_a_report_reads_patterns_once():
    masks = gf.global_masks(SCORES, sparsity=0.5, ignore="embed/*")
    report = gf.report(masks, ignore=iter(["embed/*"]))
    assert report.sparsity == 0.5 and "but for embed/*" in str(report)


def test_a_rule_that_is_none_is_refused_where_it_is_asked():
    masks = gf.global_masks(SCORES, sparsity=0.5)
    calls = (
        lambda rule: gf.report(masks, prunable=rule),
        lambda rule: gf.quotas(SCORES, {"embed/*": 0.5}, prunable=rule),
    )
    rules = {
        "prunable is a dict: pass a function": {},
        "prunable is a Fraction: pass a function": Fraction(1, 2),
        "returned a ndarray: return True": lambda path, leaf: np.ones(2, bool),
        "returned a ShapeDtypeStruct: return": lambda path, leaf: jax.eval_shape(
            lambda: 1.0
        ),
    }
    for call in calls:
        for message, rule in rules.items():
            with pytest.raises(TypeError, match=message):
                call(rule)


def test_errors():
    for ignore in (3, np.nan, np.int64(1)):
        with pytest.raises(TypeError, match="ignore is a .*: pass a path or a pattern"):
            gf.report(gf.global_masks(SCORES, sparsity=0.5), ignore=ignore)
    with pytest.raises(TypeError, match=r"ignore is 3, not a path or a pattern"):
        gf.global_masks(SCORES, sparsity=0.5, ignore=[3])
    with pytest.raises(ValueError, match=r"there are embed/embedding.*no leaf|no leaf"):
        gf.global_masks(SCORES, sparsity=0.5, ignore="*")
