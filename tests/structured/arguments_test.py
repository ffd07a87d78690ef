"""What is handed over in the place of something else is taken, or named."""

import copy
import pickle

import equinox as eqx
import flax.linen as nn
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.transforms import MaskState

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def half(units):
    return {family.name: np.arange(family.size) % 2 == 0 for family in units}


@pytest.fixture(scope="module")
def module():
    model = Net()
    model.eval()
    return model, gf.find_units(model, X)


@pytest.fixture(scope="module")
def linen():
    net = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
    variables = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, leaf.dtype),
        jax.eval_shape(net.init, jax.random.key(0), X),
    )
    return net, variables, gf.find_units(net, variables, X)


@pytest.mark.models
def test_a_module_stands_for_its_variables(module):
    model, units = module
    scores = gf.score_units(model, units)
    of_state = gf.score_units(nnx.state(model, nnx.Param), units)
    np.testing.assert_array_equal(
        scores["first/kernel[1]"], of_state["first/kernel[1]"]
    )
    assert gf.cut_error(model, units, half(units), X) < 1e-5
    masks = gf.global_masks(gf.magnitude(model), sparsity=0.5)
    report = gf.connectivity.effective_report(model, model, masks, X, units=units)
    of_state = gf.connectivity.effective_report(
        model, nnx.state(model, nnx.Param), masks, X
    )
    assert report.effective.kept == of_state.effective.kept


@pytest.mark.models
def test_an_equinox_module_stands_for_its_arrays():
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
    units = gf.find_units(model, X[0])
    (family,) = units
    scores = gf.score_units(model, units)[family.name]
    weight = np.asarray(model.layers[0].weight)
    np.testing.assert_allclose(scores, np.linalg.norm(weight, axis=1), rtol=1e-6)
    assert gf.cut_error(model, units, half(units), X[0]) < 1e-5
    arrays = eqx.filter(model, eqx.is_array)
    masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), arrays)
    report = gf.connectivity.effective_report(model, model, masks, X[0])
    assert report.effective.sparsity == 0


def test_a_cut_module_says_its_new_widths(module):
    model, units = module
    small = gf.cut(model, units, half(units))
    assert isinstance(small, Net)
    assert (small.first.out_features, small.norm.num_features) == (4, 4)
    assert (small.last.in_features, small.last.out_features) == (4, 3)
    assert model.norm.num_features == 8
    shrunk = gf.shrink(model, units, half(units))
    np.testing.assert_array_equal(small(X), shrunk(X))


def test_units_of_training_mode_are_refused_with_the_remedy():
    model = Net()
    units = gf.find_units(model, X)
    for cut in (gf.shrink, gf.cut):
        with pytest.raises(ValueError, match=r"training mode.*'norm/mean'.*\.eval\(\)"):
            cut(model, units, half(units))
    gf.cut(model, units, {})
    model.eval()
    units = gf.find_units(model, X)
    assert gf.shrink(model, units, half(units))(X).shape == (5, 3)


def test_a_model_that_holds_no_arrays_is_refused(linen):
    net, variables, units = linen
    masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables)
    for call in (
        lambda model: gf.score_units(model, units),
        lambda model: gf.cut_error(model, units, half(units), X),
        lambda model: gf.cut(model, units, half(units)),
        lambda model: gf.connectivity.effective_report(net, model, masks, X),
        lambda model: gf.connectivity.effective_masks(net, model, masks, X),
    ):
        for model in (net, net.apply, lambda x: x):
            with pytest.raises(TypeError, match="a model that holds no arrays"):
                call(model)


def test_units_in_another_place_are_refused(linen):
    net, variables, units = linen
    scores, keep = gf.score_units(variables["params"], units), half(units)
    for call in (
        lambda: gf.score_units(units, variables),
        lambda: gf.choose_units(units, scores, sparsity=0.5),
        lambda: gf.cut(variables, keep, units),
        lambda: gf.shrink(net, keep, units),
        lambda: gf.cut_error(variables, keep, units, X),
        lambda: gf.structured.kept_indices(keep, units),
        lambda: gf.structured.compose_keep(keep, units, units, keep),
        lambda: gf.structured.compose_keep(units, keep, keep, keep),
        lambda: gf.structured.sum_over_units(variables["params"], variables),
        lambda: gf.structured.forward_time(variables, keep, X),
    ):
        with pytest.raises(TypeError, match="not what gf.find_units returned"):
            call()
    with pytest.raises(TypeError, match="lacks the inputs: a batch as the model"):
        gf.cut_error(variables, units, keep)


ODD = [
    np.array(["a"]),
    np.array([None]),
    np.array(["2020-01-01"], "datetime64[D]"),
    np.zeros(2, [("a", "f4")]),
]


@pytest.mark.parametrize("keep", [3, "all", None, [True], np.ones(8, bool), {1.0}])
def test_a_keep_set_is_a_mapping(linen, keep):
    net, variables, units = linen
    for call in (
        lambda: gf.cut(variables, units, keep),
        lambda: gf.shrink(net, units, keep),
        lambda: gf.structured.kept_indices(units, keep),
        lambda: gf.structured.compose_keep(units, {}, units, keep),
        lambda: units.widths(keep),
        lambda: units.masks(keep, variables),
        *([lambda: units.flops(keep)] if keep is not None else []),
    ):
        with pytest.raises(TypeError, match="keep is .*: pass bools .units. by the n"):
            call()


def test_flags_that_are_no_bools_are_named(linen):
    _, _, units = linen
    (family,) = units
    for flags, said in (
        ([[True], [True, False]], "is list; it is one bool for each of its 8"),
        (jax.random.key(0), r"is key<fry>\[\]; it is one bool"),
        (None, r"is object\[\]; it is one bool"),
        (np.zeros(8, [("a", "?")]), "it is one bool"),
    ):
        with pytest.raises(ValueError, match=said):
            units.widths({family.name: flags})
    with pytest.raises(ValueError, match="keep names the family a number of more"):
        units.widths({10**5000: np.ones(8, bool)})
    with pytest.raises(TypeError, match="keep of .* is traced by jax.jit"):
        jax.eval_shape(
            lambda flags: units.widths({family.name: flags}), np.ones(8, bool)
        )


def test_variables_and_inputs_have_values(linen):
    _, variables, units = linen
    shapes = jax.eval_shape(lambda: variables)
    time = gf.structured.forward_time
    for call in (
        lambda: gf.cut_error(shapes, units, {}, X),
        lambda: gf.cut_error(variables, units, {}, jax.eval_shape(lambda: X)),
        lambda: gf.structured.sum_over_units(shapes["params"], units),
        lambda: time(shapes, units, X),
        lambda: time(variables, units, jax.eval_shape(lambda: X)),
    ):
        with pytest.raises(TypeError, match="leaf '.*' is .*, a shape without values"):
            call()
    terms = jax.tree.map(lambda leaf: leaf * np.complex64(1j), variables["params"])
    with pytest.raises(TypeError, match="terms leaf .* is complex64.*: pass the real"):
        gf.structured.sum_over_units(terms, units)
    with pytest.raises(TypeError, match="calls is 1j: pass real numbers"):
        time(variables, units, X, calls=1j)
    with pytest.raises(ValueError, match="calls is 0; it is a whole number from 1 on"):
        time(variables, units, X, calls=0)


def test_scores_and_costs_that_are_none_are_named(linen):
    _, _, units = linen
    (family,) = units
    scores = {family.name: np.arange(8.0)}
    for odd in (None, 3, "scores", [scores], scores[family.name]):
        with pytest.raises(TypeError, match="scores is .*: pass the scores of units"):
            gf.choose_units(odd, units, sparsity=0.5)
    with pytest.raises(TypeError, match="scores of .* are traced by jax.jit"):
        jax.eval_shape(lambda s: gf.choose_units(s, units, sparsity=0.5), scores)
    for cost in (None, "1", 1j, np.ones(2)):
        with pytest.raises(TypeError, match=r"budget\(keep\) is .*: pass .*real num"):
            gf.choose_units(scores, units, sparsity=0.5, budget=lambda keep: cost)  # noqa: B023
    for option in ({"scope": np.ones(2)}, {"budget": 3}, {"budget": np.array("a")}):
        with pytest.raises(ValueError, match="is .*; it is one of"):
            gf.choose_units(scores, units, sparsity=0.5, **option)
    with pytest.raises(TypeError, match=r"ignore of the family .* returned a ndarray"):
        gf.choose_units(
            scores, units, sparsity=0.5, ignore=lambda family: np.ones(2, bool)
        )


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.dtype.kind)
def test_a_leaf_that_is_no_array_of_numbers_is_named(linen, odd):
    net, variables, units = linen
    tree = {**variables, "odd": {"leaf": odd}}
    for what, call in (
        ("variables", lambda: gf.find_units(lambda p, x: x, tree, X)),
        ("params", lambda: gf.score_units(tree, units)),
        ("tree", lambda: gf.cut(tree, units, half(units))),
        ("variables", lambda: gf.cut_error(tree, units, half(units), X)),
    ):
        with pytest.raises(TypeError, match=f"{what} leaf 'odd/leaf' is .*, no array"):
            call()
    with pytest.raises(TypeError, match="inputs leaf '0' is .*, no array of num"):
        gf.find_units(net, variables, odd)
    scores = {units.families[0].name: np.resize(odd, 8)}
    with pytest.raises(TypeError, match=r"scores of '.*' is .*: pass real numbers"):
        gf.choose_units(scores, units, sparsity=0.5)


@pytest.mark.parametrize("name", ["sparsity", "floor", "min_units", "round_to"])
@pytest.mark.parametrize("value", [True, np.bool_(True), "1", None])
def test_a_bool_is_no_number(linen, name, value):
    _, variables, units = linen
    scores = gf.score_units(variables["params"], units)
    with pytest.raises(TypeError, match=f"{name} is .*(not a number in|: pass real)"):
        gf.choose_units(scores, units, **{"sparsity": 0.5, name: value})


def test_numbers_of_numpy_are_numbers(linen):
    _, variables, units = linen
    scores = {family.name: np.arange(float(family.size)) for family in units}
    numbers = {"sparsity": np.float32(0.5), "round_to": np.int8(2)}
    keep = gf.choose_units(scores, units, min_units=np.int64(2), **numbers)
    assert [flags.sum() for flags in keep.values()] == [4]


def test_units_are_copied_as_they_are_and_say_what_to_keep_instead(linen):
    net, variables, units = linen
    copies = copy.deepcopy({"units": units, "keep": half(units)})
    assert gf.cut_error(variables, copies["units"], copies["keep"], X) < 1e-5
    assert copy.copy(units) is units
    for thing in (units, gf.shrink(net, units, half(units))):
        with pytest.raises(TypeError, match="cannot be pickled. Keep the keep sets"):
            pickle.dumps(thing)
    shrunk = copy.deepcopy(gf.shrink(net, units, half(units)))
    small = gf.cut(variables, units, half(units))
    assert shrunk(small, X).shape == (5, 3)


def test_scores_of_a_tree_with_numbers_of_python(linen):
    units = gf.find_units(
        lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"] * p["scale"],
        {"in": np.ones((4, 8)), "out": np.ones((8, 3)), "scale": 2.0},
        X,
    )
    assert [family.size for family in units] == [8]


@pytest.mark.parametrize("odd", [jax.nn.relu, int, range(3), "relu", object()])
def test_what_is_no_array_is_carried_over(linen, odd):
    _, variables, units = linen
    small = gf.cut({**variables, "odd": odd}, units, half(units))
    assert small["odd"] is odd
    with pytest.raises(ValueError, match=r"updates .* has shape .*, but params has"):
        gf.apply_mask().update({"a": odd}, MaskState({"a": X > 0}), {"a": X})
