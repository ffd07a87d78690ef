"""What equal scores leave to positions is said: in a warning, in the report."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.masks import EqualScoresWarning
from gradflow_jax.masks.ties import Tie, tie_at_the_cut
from tests.masks.score_trees import everything

RNG = np.random.default_rng(3)


def distinct(*shape):
    size = int(np.prod(shape))
    return RNG.permutation(size).astype(np.float32).reshape(shape) + 1


EQUAL = {"a": np.zeros((6, 6), np.float32), "b": np.zeros((6, 2), np.float32)}
ONE_DEAD = {"a": distinct(6, 6), "b": np.zeros((6, 4), np.float32)}


def network():
    def apply(params, x):
        return jnp.tanh(x @ params["in"]) @ params["out"]

    params = {"in": np.ones((3, 16), np.float32), "out": np.ones((16, 2), np.float32)}
    return params, gf.find_units(apply, params, np.ones((1, 3), np.float32))


def equal_units():
    params, units = network()
    scores = {family.name: np.ones(family.size) for family in units}
    return gf.choose_units(scores, units, sparsity=0.5)


# What positions decide, and how many of the kept weights they chose.
DECIDED = {
    "all of two layers": (lambda: gf.global_masks(EQUAL, sparsity=0.5), 24),
    "a dead layer by itself": (lambda: gf.layerwise_masks(ONE_DEAD, sparsity=0.5), 12),
    "a dead layer among others": (lambda: gf.global_masks(ONE_DEAD, sparsity=0.2), 12),
    "a dead family": (lambda: gf.group_masks(ONE_DEAD, {"b": 0.5}), 12),
    "a floor under a dead layer": (
        lambda: gf.global_masks(ONE_DEAD, sparsity=0.5, floor=0.25),
        6,
    ),
    "an allocation": (
        lambda: gf.layerwise_masks(
            ONE_DEAD, allocation=gf.erdos_renyi(ONE_DEAD, sparsity=0.5)
        ),
        14,
    ),
    "1 of every 3": (
        lambda: gf.n_of_m_masks({"a": EQUAL["a"]}, n=1, m=3, axis=0),
        12,
    ),
    "half of the units": (equal_units, 8),
}


@pytest.mark.parametrize("select, number", DECIDED.values(), ids=DECIDED)
def test_a_warning_says_how_many_positions_chose(select, number):
    with pytest.warns(EqualScoresWarning, match=f"^{number} kept [a-z]+ were chosen"):
        select()


def test_the_loss_of_a_network_that_ends_in_zeros_is_warned_of():
    params = {"a": jnp.ones((6, 6)), "b": jnp.zeros((6, 2))}

    def loss_fn(params, x):
        return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"]) ** 2)

    scores = gf.loss_preservation(loss_fn)(params, np.ones((3, 6), np.float32))
    with pytest.warns(EqualScoresWarning, match="48 weights have one score"):
        gf.global_masks(scores, sparsity=0.5)


def test_the_warning_stands_at_the_line_that_asked():
    with pytest.warns(EqualScoresWarning) as caught:
        gf.global_masks(EQUAL, sparsity=0.5)
    (warning,) = caught
    assert warning.filename == __file__


def test_the_rankings_that_tie_are_counted_and_the_first_is_named():
    with pytest.warns(EqualScoresWarning, match="of leaf 'a' .* in 1 more rankings"):
        gf.layerwise_masks(EQUAL, sparsity=0.5)


SILENT = {
    "a handful among thousands": np.round(RNG.random((50, 50)), 3),
    "bfloat16": RNG.normal(size=(50, 50)).astype(jnp.bfloat16),
    "ties that are kept whole": np.repeat([[1.0], [0.0]], 18, 1),
}


@pytest.mark.parametrize("scores", SILENT.values(), ids=SILENT)
def test_what_decides_next_to_nothing_is_not_warned_of(scores):
    masks = gf.global_masks({"w": scores}, sparsity=0.5)
    assert masks["w"].sum() == scores.size // 2


def test_inside_jit_there_is_neither_a_warning_nor_a_transfer():
    scores = {name: jnp.asarray(leaf) for name, leaf in EQUAL.items()}
    jitted = jax.jit(
        lambda scores: (
            gf.global_masks(scores, sparsity=0.5),
            gf.n_of_m_masks({"a": scores["a"]}, n=1, m=3, axis=0),
        )
    )
    with jax.transfer_guard("disallow"):
        masks, _ = jitted(scores)
    assert masks["a"].sum() == 24


# Which masks of which scores, and how many the report says.
REPORTED = {
    "global": (lambda s: gf.global_masks(s, sparsity=0.5), EQUAL, 24),
    "one dead": (lambda s: gf.layerwise_masks(s, sparsity=0.5), ONE_DEAD, 12),
    "across leaves": (lambda s: gf.global_masks(s, sparsity=0.2), ONE_DEAD, 12),
    "none": (
        lambda s: gf.global_masks(s, sparsity=0.5),
        {"a": np.arange(36.0, dtype="f").reshape(6, 6)},
        0,
    ),
}


@pytest.mark.filterwarnings("ignore::gradflow_jax.masks.ties.EqualScoresWarning")
@pytest.mark.parametrize("select, scores, number", REPORTED.values(), ids=REPORTED)
def test_the_report_always_says_how_many(select, scores, number):
    report = gf.report(select(scores), scores=scores)
    assert report.by_position == number
    assert f"{number} kept by position among equal scores" in str(report)
    assert "by position" in str(report).splitlines()[0]
    assert f"{number} kept by position" in report._repr_html_()
    assert gf.report(select(scores)).by_position is None


def test_a_tie_is_worth_a_warning_from_a_part_of_what_is_kept_or_removed():
    def tie(chosen, tied, kept, size):
        return Tie("", chosen, tied, kept, size).is_worth_a_warning

    assert tie(8, 16, 8, 16)
    assert not tie(3, 6, 8, 16)  # A handful.
    assert not tie(5, 10, 100, 200)  # A twentieth of the kept.
    assert tie(6, 12, 100, 200)
    assert tie(6, 12, 900, 1000)  # Of the removed, which are fewer.
    # One of many is kept, or one removed: any other would do as well.
    assert not tie(1, 500, 100, 1000) and not tie(499, 500, 900, 1000)


def test_a_tie_is_counted_at_the_highest_score_that_is_removed():
    scores = np.array([3.0, 1.0, 2.0, 2.0, 2.0])
    kept = np.array([True, False, True, True, False])
    assert tie_at_the_cut("", scores, kept) == Tie("", 2, 3, 3, 5)
    assert tie_at_the_cut("", scores, scores > 0).tied == 0


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_measure_of_filters_ties_and_the_others_do_not():
    """Weights of one filter have one score, so that positions choose among them."""
    scale = np.repeat(distinct(1, 4), 9, 0)
    with pytest.warns(EqualScoresWarning, match="4 kept weights"):
        gf.global_masks({"kernel": scale}, sparsity=5 / 36)
    with no_warnings():
        gf.global_masks({"kernel": distinct(9, 4)}, sparsity=5 / 36)
        gf.global_masks({"kernel": scale}, sparsity=0.5, prunable=everything)
