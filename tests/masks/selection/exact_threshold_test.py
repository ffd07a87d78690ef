"""Selection by counting, against numpy's sort on scores made to mislead it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow_jax as gf
from gradflow_jax.masks.selection import counting, exact_threshold, gaps
from gradflow_jax.masks.selection.counting import Totals
from gradflow_jax.masks.selection.pieces import Scores
from gradflow_jax.masks.selection.placement import whole
from tests.masks.score_trees import ties_are_meant

pytestmark = ties_are_meant

RNG = np.random.default_rng(7)
SHAPES = {"large": (40, 32), "one": (1,), "small": (3, 2, 5), "number": ()}
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())
checked = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def tree(values, dtype=np.float32):
    """Deals flat values out to the leaves."""
    values = np.asarray(values).astype(dtype)
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])[:-1]
    pieces = np.split(values, ends)
    return {k: x.reshape(SHAPES[k]) for k, x in zip(SHAPES, pieces, strict=True)}


def dominated():
    values = RNG.normal(size=SIZE) * 1e-12
    large = math.prod(SHAPES["large"])
    values[:large] = 1e12 + RNG.normal(size=large) * 1e9
    return values


NORMAL = RNG.normal(size=SIZE)
ADVERSARIAL = {
    "smooth": np.abs(NORMAL),
    "signed": NORMAL,
    "all equal": np.ones(SIZE),
    "all zero": np.zeros(SIZE),
    "zeros of both signs": np.where(NORMAL > 0, 0.0, -0.0),
    "mostly zero": np.where(RNG.random(SIZE) < 0.9, 0, np.abs(NORMAL)),
    "few values": RNG.choice([-1.0, 0.0, 0.5, 0.5, 2.0], SIZE),
    "denormal": np.float32(1e-45) * RNG.integers(-40, 40, SIZE),
    "denormal and not": np.where(RNG.random(SIZE) < 0.5, 1e-42, 1.0) * NORMAL,
    "huge range": np.sign(NORMAL) * 10 ** RNG.uniform(-37, 38, SIZE),
    "tiny range": np.nextafter(np.float32(1), 2) ** RNG.integers(0, 5, SIZE),
    "two clusters": np.where(RNG.random(SIZE) < 0.5, 1e-30, 1e30) * np.abs(NORMAL),
    "one leaf dominating": dominated(),
    "largest floats": np.sign(NORMAL) * np.finfo(np.float32).max,
    "a cluster around one": 1 + NORMAL**9 * 1e-6,
}


def by_sorting(scores, keep):
    """Which stay: flat numpy, stable, so that the earlier of equals comes first."""
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(scores)])
    flat = flat.astype(np.float64)  # exact, and numpy does not flush denormals
    kept = np.zeros(flat.shape, bool)
    kept[np.argsort(-flat, kind="stable")[:keep]] = True
    return kept


def flat(masks):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(masks)])


def everything(path, leaf):
    return True


@pytest.fixture(params=["host", "leaf by leaf", "one program", "joined"])
def way(request, monkeypatch):
    """Small leaves go to the host, large ones leaf by leaf, traced ones all at once.

    Of those that are traced the small ones are joined. What is left of a large leaf is
    looked at by the host once it is half of it.
    """
    monkeypatch.setattr(gaps.Chunks, "_WORTH", 2)
    if request.param in ("leaf by leaf", "one program"):
        monkeypatch.setattr(counting, "SMALL_LEAF", 0)
    if request.param in ("one program", "joined"):
        monkeypatch.setattr(exact_threshold, "is_traced", lambda leaf: True)
    return request.param


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_global_masks_equal_a_sort(name, dtype, way):
    limit = float(jnp.finfo(dtype).max)
    scores = tree(np.clip(ADVERSARIAL[name], -limit, limit), dtype)
    for sparsity in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999, 1.0):
        masks = gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        expected = by_sorting(scores, SIZE - round(sparsity * SIZE))
        np.testing.assert_array_equal(flat(masks), expected)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_layerwise_and_family_masks_equal_sorts(name, way):
    scores = tree(ADVERSARIAL[name])
    layerwise = gf.layerwise_masks(scores, sparsity=0.7, prunable=everything)
    for path, leaf in scores.items():
        expected = by_sorting(leaf, leaf.size - round(0.7 * leaf.size))
        np.testing.assert_array_equal(np.ravel(layerwise[path]), expected)
    # The leaves of the two families stand between each other.
    by_path = {"large": 0.3, "s*": 0.8, "one": 0.5, "n*": 0.0}
    masks = gf.group_masks(scores, by_path, prunable=everything)
    families = (("large",), 0.3), (("small",), 0.8), (("one",), 0.5)
    for paths, sparsity in families:
        family = {path: scores[path] for path in paths}
        size = sum(leaf.size for leaf in family.values())
        expected = by_sorting(family, size - round(sparsity * size))
        np.testing.assert_array_equal(flat({p: masks[p] for p in paths}), expected)


def test_interleaved_families_are_ranked_together():
    scores = {f"{'ab'[i % 2]}{i}": RNG.integers(0, 4, (2, 3)) * 1.0 for i in range(6)}
    masks = gf.group_masks(scores, {"a*": 0.5, "b*": 0.75})
    for letter, keep in (("a", 9), ("b", 18 - round(0.75 * 18))):
        family = {path: x for path, x in scores.items() if path.startswith(letter)}
        kept = flat({path: masks[path] for path in family})
        np.testing.assert_array_equal(kept, by_sorting(family, keep))


def test_family_masks_keep_whole_what_no_pattern_names():
    masks = gf.group_masks({"a": jnp.ones((2, 2)), "b": jnp.ones(3)}, {"a": 1.0})
    assert not masks["a"].any() and masks["b"].all()


@pytest.mark.parametrize(
    "by_path, error", [({}, "no family"), ({"c": 0.5}, "'c' matches no leaf")]
)
def test_families_that_are_none(by_path, error):
    with pytest.raises(ValueError, match=error):
        gf.group_masks({"a": jnp.ones((2, 2))}, by_path)


def test_a_family_with_nan_is_an_error():
    with pytest.raises(ValueError, match="leaf 'a' has 1 of 2 values that are not"):
        gf.group_masks({"a": jnp.array([jnp.nan, 1.0])}, {"a": 0.5})


@pytest.mark.parametrize("name", ["few values", "all equal", "smooth", "mostly zero"])
def test_a_leaf_larger_than_int32_counts_is_many_blocks(name, monkeypatch, way):
    # Blocks of 8 weights stand in for those of 2³¹ − 1, as layers stacked in one leaf
    # would have.
    monkeypatch.setattr(counting, "LARGEST_BLOCK", 8)
    jax.clear_caches()
    scores = {"stacked": ADVERSARIAL[name][:48].reshape(2, 3, 8).astype(np.float32)}
    scores["matrix"] = ADVERSARIAL[name][48:88].reshape(10, 4).astype(np.float32)
    for sparsity in (0.1, 0.5, 0.95):
        masks = gf.global_masks(scores, sparsity=sparsity)
        expected = by_sorting(scores, 88 - round(sparsity * 88))
        np.testing.assert_array_equal(flat(masks), expected)
    jax.clear_caches()


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 10 weights, and few of them, stand in for those of 2³¹ − 1."""
    monkeypatch.setattr(counting, "SMALL_LEAF", 0)
    monkeypatch.setattr(counting, "LARGEST_BLOCK", 10)
    monkeypatch.setattr(counting, "_MOST_BLOCKS", 24)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("name", ["few values", "all equal", "smooth"])
def test_a_leaf_of_more_rows_than_blocks_is_ranked(name, small_blocks, way):
    # 34 rows of 3 make blocks of 3 rows, the last of them of 1; 2 · 7 rows of 4 blocks
    # of 2, twice 4.
    scores = {
        "matrix": ADVERSARIAL[name][:102].reshape(34, 3).astype(np.float32),
        "stacked": ADVERSARIAL[name][102:158].reshape(2, 7, 4).astype(np.float32),
    }
    for sparsity in (0.1, 0.5, 0.95):
        masks = gf.global_masks(scores, sparsity=sparsity)
        expected = by_sorting(scores, 158 - round(sparsity * 158))
        np.testing.assert_array_equal(flat(masks), expected)
        assert gf.report(masks).kept == expected.sum()


def test_more_weights_than_blocks_can_hold_are_an_error(small_blocks, monkeypatch):
    with pytest.raises(
        ValueError, match=r"scores of shape \(25, 10\) .* 25 blocks of 25"
    ):
        gf.global_masks(jnp.ones((25, 10)), sparsity=0.5)
    monkeypatch.setattr(counting, "_MOST_ROWS", 20)
    with pytest.raises(ValueError, match="reshape it so that no axis is longer"):
        gf.global_masks(jnp.ones((21, 1)), sparsity=0.5)


@pytest.mark.parametrize("shape", [(65536, 65536), (3, 40000, 30000)])
def test_the_program_of_a_leaf_beyond_int32_is_made(shape):
    """It is too large to run, but what it would run is that of the small blocks."""
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    lowered = exact_threshold._highest.lower(
        Scores([leaf], None, None), Totals.of([10**9]), groups=(0,), placement=None
    )
    mask, _ = lowered.out_info
    assert mask[0].shape == shape and mask[0].dtype == bool
    blocks = counting.Blocks(whole(shape), shape)
    assert sum(blocks.sizes) == np.prod(shape, dtype=np.int64)
    assert max(blocks.sizes) < 2**31 and blocks.number < 8


def test_no_copy_of_the_scores_is_made(monkeypatch):
    # But for small ones that are joined.
    monkeypatch.setattr(counting, "SMALL_LEAF", 300)
    leaves = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((300, 200), (3, 3, 64))]
    compiled = exact_threshold._highest.lower(
        Scores(leaves, None, None),
        Totals.of([1000]),
        groups=(0, 0),
        placement=None,
    ).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 300 * 200 / 4


numbers = st.lists(st.integers(0, 2**46), min_size=1, max_size=5)


class TestTotals:
    @checked
    @given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20))
    def test_sums_are_those_of_python(self, counts):
        group = np.sort(np.arange(len(counts)) % 3)
        groups = int(group.max()) + 1
        totals = Totals.over(jnp.asarray(counts, jnp.int32), group, groups)
        before = Totals.before(jnp.asarray(counts, jnp.int32), group)
        counts = np.asarray(counts, np.int64)
        whole = [int(counts[group == g].sum()) for g in range(groups)]
        assert value(totals) == whole
        earlier = [
            int(counts[:i][group[:i] == g].sum()) for i, g in enumerate(group.tolist())
        ]
        assert value(before) == earlier

    @checked
    @given(numbers, st.integers(-3, 3) | st.integers(-(2**46), 2**46))
    def test_comparing_and_subtracting(self, some, shift):
        shifted = [min(max(n + shift, 0), 2**46) for n in some]
        a, b = Totals.of(some), Totals.of(shifted)
        pairs = list(zip(some, shifted, strict=True))
        assert a.reach(b).tolist() == [x >= y for x, y in pairs]
        assert a.equal(b).tolist() == [x == y for x, y in pairs]
        assert value(a.minus(b)) == [x - y for x, y in pairs]
        most = jnp.full(len(some), 1000, jnp.int32)
        assert a.minus(b).within(most).tolist() == [
            min(max(x - y, 0), 1000) for x, y in pairs
        ]


def value(totals):
    high, low = np.asarray(totals.high, np.int64), np.asarray(totals.low, np.int64)
    return (high * 2**16 + low).tolist()
