"""Choices of units against a slow ranking, and what they cost against hand counts."""

import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves
from tests.masks.score_trees import ties_are_meant
from tests.structured.zoo import linen as zoo_linen
from tests.structured.zoo import plain as zoo_plain

checked = settings(max_examples=200, deadline=None, derandomize=True, database=None)
# Layers 0 and 1 have the same structure; the others' neighbors have other names.
WIDTHS = [5, 6, 4, 9, 5, 3]
NAMES = ["stem/w[1]", "0/w[1]", "1/w[1]", "2/w[1]"]
GROUPS = {"stem/w[1]": "first", "0/w[1]": "inner", "1/w[1]": "inner", "2/w[1]": "last"}


def deep(v, x):
    for name in ("stem", "0", "1", "2"):
        x = jnp.tanh(x @ v[name]["w"] + v[name]["b"])
    return x @ v["head"]["w"] + v["head"]["b"]


PARAMS = {
    name: {"w": jnp.ones((WIDTHS[i], WIDTHS[i + 1])), "b": jnp.zeros(WIDTHS[i + 1])}
    for i, name in enumerate(("stem", "0", "1", "2", "head"))
}
UNITS = gf.find_units(deep, PARAMS, jnp.ones((2, 5)))
SIZES = dict(zip(NAMES, WIDTHS[1:-1], strict=True))
# Ties go by it.
ORDER = [family.name for family in UNITS]


def widths_of(keep):
    return [5, *(int(np.sum(keep[name])) for name in NAMES), 3]


def kernels(keep):
    return itertools.pairwise(widths_of(keep))


COSTS = {
    "units": lambda keep: sum(widths_of(keep)[1:-1]),
    "parameters": lambda keep: sum((a + 1) * b for a, b in kernels(keep)),
    "flops": lambda keep: sum(2 * a * b for a, b in kernels(keep)),
}


def slow(scores, cost, *, sparsity, scope, floor=0, min_units=1, round_to=1, ignore=()):
    """Removes units one at a time until little enough is left; None if it never is."""
    group = {
        "global": lambda name: "",
        "family": lambda name: name,
        "isomorphic": GROUPS.__getitem__,
    }[scope]
    gone = dict.fromkeys(NAMES, 0)
    order = {n: sorted(range(SIZES[n]), key=scores[n].__getitem__) for n in NAMES}

    def keep():
        result = {}
        for name, size in SIZES.items():
            left = size - gone[name]
            while left % round_to:
                left += 1
            removed = order[name][: max(size - left, 0)]
            result[name] = ~np.isin(np.arange(size), removed)
        return result

    def may_go(name):
        least = max(min_units, math.ceil(Fraction(floor) * SIZES[name]))
        return name not in ignore and SIZES[name] - gone[name] > least

    def turn(name):
        own = group(name)
        members = [other for other in NAMES if group(other) == own]
        # A group goes on by its next fraction; the lowest score in it goes.
        share = Fraction(
            1 + sum(gone[m] for m in members), sum(SIZES[m] for m in members)
        )
        score = scores[name][order[name][gone[name]]]
        first = 0 if scope == "global" else share
        return first, score, ORDER.index(name)

    target = (1 - sparsity) * cost(keep())
    while cost(keep()) > target + 1e-9:
        candidates = [name for name in NAMES if may_go(name)]
        if not candidates:
            return None
        gone[min(candidates, key=turn)] += 1
    return keep()


@st.composite
def ties(draw):
    """Draws scores of few values, so that many are the same."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    return {n: rng.integers(-levels, levels, size) / 2 for n, size in SIZES.items()}


@given(
    ties(),
    st.sampled_from(["units", "parameters", "flops", "function"]),
    st.sampled_from(["global", "family", "isomorphic"]),
    st.integers(0, 95),
    st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1, 4)]),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sets(st.sampled_from(NAMES), max_size=1),
)
@ties_are_meant
@checked
def test_choice_is_that_of_a_slow_ranking(
    scores, budget, scope, percent, floor, min_units, round_to, ignore
):
    cost = COSTS.get(budget, COSTS["parameters"])
    rules = {
        "sparsity": percent / 100,
        "scope": scope,
        "floor": floor,
        "min_units": min_units,
        "round_to": round_to,
        "ignore": ignore,
    }
    expected = slow(scores, cost, **rules)
    rules |= {"budget": budget if budget != "function" else cost, "floor": float(floor)}
    if expected is None:
        with pytest.raises(ValueError, match="ask for at most"):
            gf.choose_units(scores, UNITS, **rules)
        return
    keep = gf.choose_units(scores, UNITS, **rules)
    again = gf.choose_units(dict(reversed(scores.items())), UNITS, **rules)
    for name, size in SIZES.items():
        flags, left = keep[name], int(keep[name].sum())
        assert flags.dtype == bool and flags.tolist() == expected[name].tolist()
        assert flags.tolist() == again[name].tolist()
        # The floors, by themselves.
        assert left >= min(min_units, size) and left >= floor * size
        assert left == size or left % round_to == 0
        assert name not in ignore or left == size
        if not flags.all():
            assert scores[name][~flags].max() <= scores[name][flags].min()


@given(
    ties(),
    st.sampled_from(["units", "parameters", "flops"]),
    st.floats(0.01, 0.8, exclude_max=True),
)
@ties_are_meant
@checked
def test_target_is_met_within_one_unit(scores, budget, sparsity):
    keep = gf.choose_units(scores, UNITS, sparsity=sparsity, budget=budget)
    target = (1 - sparsity) * COSTS[budget](gf.choose_units(scores, UNITS, sparsity=0))
    assert COSTS[budget](keep) <= target + 1e-6
    last = max(
        (scores[name][unit], ORDER.index(name), unit, name)
        for name in NAMES
        for unit in np.flatnonzero(~keep[name])
    )
    keep[last[3]][last[2]] = True
    assert COSTS[budget](keep) > target


def test_families_are_ignored_by_leaf_by_name_and_by_function():
    scores = {name: np.arange(size) for name, size in SIZES.items()}

    def whole(ignore):
        keep = gf.choose_units(scores, UNITS, sparsity=0.5, ignore=ignore)
        return {name for name, flags in keep.items() if flags.all()}

    assert whole(()) == set()
    assert whole("0/w[1]") == whole(["0/w[1]"]) == whole("0/w") == {"0/w[1]"}
    assert whole(["0/w", "stem/*"]) == {"0/w[1]", "stem/w[1]"}
    assert whole("[02]/w") == {"0/w[1]", "2/w[1]"}
    assert whole(lambda family: family.reads_input) == {"stem/w[1]"}
    assert whole(lambda family: family.size == 5) == {"2/w[1]"}
    # What a score of infinity says too.
    scores["1/w[1]"] = np.full(9, np.inf)
    assert whole(()) == {"1/w[1]"}


def test_ignore_takes_an_iterator():
    scores = {name: np.arange(size) for name, size in SIZES.items()}
    keep = gf.choose_units(scores, UNITS, sparsity=0.5, ignore=iter(["0/w[1]"]))
    assert keep["0/w[1]"].all()


SCORES = {name: np.arange(size) for name, size in SIZES.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 50}, r"sparsity is 50.0, outside \[0, 1\] \(a fraction"),
        ({"sparsity": -0.1}, r"sparsity is -0.1, outside \[0, 1\]\."),
        ({"sparsity": 1}, r"sparsity is 1, outside \[0, 1\): some units have to stay"),
        ({"sparsity": math.nan}, r"sparsity is nan, outside \[0, 1\]\."),
        ({"floor": 5}, r"floor is 5.0, outside \[0, 1\] \(a fraction"),
        ({"min_units": 0}, "min_units is 0; it is a whole number from 1 on"),
        ({"round_to": 1.5}, "round_to is 1.5; it is a whole number from 1 on"),
        ({"scope": "layer"}, "scope is 'layer'; it is one of 'global', 'family', 'iso"),
        ({"budget": "weights"}, "budget, no function .*, is 'weights'; it is"),
        (
            {"ignore": "stam/w"},
            "ignore 'stam/w' matches neither a leaf nor a family; near it are stem/w",
        ),
        ({"scores": {"0/w[1]": np.ones(4)}}, "scores lack the family 'stem/w.1.'"),
        ({"scores": SCORES | {"0/w[1]": np.ones(5)}}, r"shape \(5,\), .* 4 units"),
        (
            {"scores": SCORES | {"0/w[1]": [0, 1, np.nan, 3]}},
            "unit 2 of '0/w.1.' is NaN",
        ),
    ],
)
def test_errors(options, message):
    options = {"scores": SCORES, "sparsity": 0.5} | options
    with pytest.raises(ValueError, match=message):
        gf.choose_units(options.pop("scores"), UNITS, **options)


def test_nothing_to_choose_from():
    apply, variables, inputs = zoo_plain.ZOO["softmax_hidden"]()
    units = gf.find_units(apply, variables, *inputs)
    with pytest.raises(ValueError, match="nothing to choose from: no units can be r"):
        gf.choose_units({}, units, sparsity=0.5)


def test_an_unreachable_budget_says_how_much_can_be_asked():
    rules = {"floor": 0.5, "ignore": ["0/w[1]"]}
    # Of 24 units 3, 4 and 2 may go.
    with pytest.raises(ValueError, match=r"asks for 12 of 24 .*, but 15 are left"):
        gf.choose_units(SCORES, UNITS, sparsity=0.5, **rules)
    with pytest.raises(ValueError, match="floor=0.5, .* ask for at most 0.375"):
        gf.choose_units(SCORES, UNITS, sparsity=0.5, **rules)
    keep = gf.choose_units(SCORES, UNITS, sparsity=0.375, **rules)
    assert UNITS.widths(keep) == dict(zip(NAMES, [3, 4, 5, 3], strict=True))


def test_the_most_that_can_be_asked_can_be_asked():
    with pytest.raises(ValueError, match="ask for at most") as error:
        gf.choose_units(SCORES, UNITS, sparsity=0.9, min_units=2)
    most = float(str(error.value).split()[-1].rstrip("."))
    gf.choose_units(SCORES, UNITS, sparsity=most, min_units=2)


def test_a_cost_that_is_nan_is_an_error():
    with pytest.raises(ValueError, match="nan"):
        gf.choose_units(SCORES, UNITS, sparsity=0.5, budget=lambda keep: math.nan)


# Multiply-accumulates of the zoo's functions, at widths by family.
# fmt: off
FLOPS = {
    # Rows times (5 x 6 + 6 x 3).
    "mlp_relu": lambda stem: 3 * (5 * stem + stem * 3),
    # 8 x 8 images, then 4 x 4 of stride 2, two of them.
    "conv_flatten_dense": lambda a, b: 2 * (
        64 * 27 * a + 16 * 9 * a * b + 16 * b * 3),
    # Three layers in a scan.
    "scan_layers": lambda down, up: 3 * (5 * down + 3 * 2 * down * up + down * 3),
    # Six steps in a scan; two series.
    "lstm": lambda h, stem: 2 * 6 * (5 * stem + stem * 4 * h + h * 4 * h) + 2 * h * 3,
    # Two series of six tokens; heads, keys' and values' dimensions, the stream.
    "attention": lambda o, heads, k, v: 12 * (
        5 * o + 2 * o * heads * k + o * heads * v + 6 * heads * (k + v)
        + heads * v * o + o * 3),
}
# fmt: on


@pytest.mark.parametrize("name", FLOPS)
def test_flops_by_hand(name):
    apply, variables, inputs = zoo_plain.ZOO[name]()
    units = gf.find_units(apply, variables, *inputs)
    assert units.flops() == FLOPS[name](*(family.size for family in units))
    keep = {family.name: np.arange(family.size) % 2 == 0 for family in units}
    assert units.flops(keep) == FLOPS[name](*units.widths(keep).values())


@pytest.mark.parametrize("name", ["vgg_bn_flatten", "resnet", "mobilenet", "vit"])
def test_parameters_are_the_sizes_of_the_cut_tree(name):
    module, variables, inputs = zoo_linen.MODULES[name]()
    units = gf.find_units(module, variables, *inputs)
    keep = {family.name: np.arange(family.size) % 3 > 0 for family in units}
    for own in ({}, keep):
        small = gf.cut(variables, units, own)
        params = jax.tree.leaves(small["params"])
        assert units.parameters(own) == sum(leaf.size for leaf in params)
        # Statistics are cut and not counted.
        shapes = {path: leaf.shape for path, leaf in named_leaves(small)}
        assert units.shapes(own) == shapes


def test_a_unit_of_score_minus_infinity_is_never_kept():
    scores = {name: np.arange(1.0, size + 1) for name, size in SIZES.items()}
    scores["2/w[1]"][3] = -np.inf
    keep = gf.choose_units(scores, UNITS, sparsity=0.05)
    assert [np.flatnonzero(~flags).tolist() for flags in keep.values()].count([3]) == 1
    assert not keep["2/w[1]"][3]
    scores["2/w[1]"] = np.full(SIZES["2/w[1]"], -np.inf)
    with pytest.raises(ValueError, match=r"units of .* stay whose score is −inf"):
        gf.choose_units(scores, UNITS, sparsity=0.3)
    assert gf.choose_units(scores, UNITS, sparsity=0.3, ignore="2/w[1]")["2/w[1]"].all()
