"""Trees that mirror parameters: every optimizer's state, masks, averages, layouts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves
from tests.structured.zoo.cases import case, keep_of, units_of

LINEN = "linen/vgg_bn_flatten"

OPTIMIZERS = {
    "sgd": lambda p: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optax.adam(1e-2),
    "adamw": lambda p: optax.adamw(optax.cosine_decay_schedule(0.1, 10)),
    "amsgrad": lambda p: optax.amsgrad(1e-2),
    "lamb": lambda p: optax.lamb(1e-2),
    "lion": lambda p: optax.lion(1e-2),
    "rmsprop": lambda p: optax.rmsprop(1e-2, momentum=0.9, centered=True),
    "adagrad": lambda p: optax.adagrad(1e-2),
    "yogi": lambda p: optax.yogi(1e-2),
    "clipped": lambda p: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "multi-step": lambda p: optax.MultiSteps(optax.adam(1e-2), 4),
    "hyperparameters": lambda p: optax.inject_hyperparams(optax.adam)(
        learning_rate=1e-2
    ),
    "average": lambda p: optax.chain(optax.adam(1e-2), optax.ema(0.9)),
    "masked": lambda p: optax.masked(
        optax.adam(1e-2), jax.tree.map(lambda leaf: leaf.ndim > 1, p)
    ),
    "partition": lambda p: optax.partition(
        {"matrix": optax.adam(1e-2), "vector": optax.sgd(0.1, momentum=0.9)},
        jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", p),
    ),
    "lookahead": lambda p: optax.chain(optax.sgd(0.1), optax.trace(0.5)),
    "l-bfgs": lambda p: optax.scale_by_lbfgs(memory_size=3),
    "pruned": lambda p: optax.chain(optax.adam(1e-2), gf.apply_mask()),
    "pruned, packed": lambda p: optax.chain(
        optax.adam(1e-2), gf.apply_mask(packed=True)
    ),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizer_states_are_what_the_small_parameters_make(name):
    """The oracle: the structure and shapes of tx.init of the cut parameters."""
    units, params = units_of(LINEN), case(LINEN)[2]["params"]
    keep = keep_of(units)
    tx = OPTIMIZERS[name](params)
    state = tx.init(params)
    # Numbers that tell which weight each belongs to.
    state = jax.tree.map(
        lambda leaf: (
            jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        state,
    )
    small = gf.cut(params, units, keep)
    fresh = jax.eval_shape(OPTIMIZERS[name](small).init, small)
    cut = gf.cut(state, units, keep, like=fresh)
    assert jax.tree.structure(cut) == jax.tree.structure(fresh)
    indices = gf.structured.kept_indices(units, keep)
    whole = dict(named_leaves(state))
    for path, leaf in named_leaves(cut):
        assert leaf.dtype == dict(named_leaves(fresh))[path].dtype
        owner = next((p for p in indices if path.endswith(p.partition("/")[2])), None)
        if (
            owner is None
            or leaf.shape == whole[path].shape
            or not jnp.issubdtype(whole[path].dtype, jnp.floating)
        ):
            continue
        expected = np.asarray(whole[path])
        extra = expected.ndim - len(units.leaves[owner].shape)
        for axis, kept in indices[owner].items():
            expected = np.take(expected, kept, axis + extra)
        np.testing.assert_array_equal(leaf, expected)


def test_adafactors_factored_state_is_refused_with_the_remedy():
    units, params = units_of(LINEN), case(LINEN)[2]["params"]
    state = optax.adafactor(1e-2, min_dim_size_to_factor=2).init(params)
    with pytest.raises(ValueError, match="v_row.*initialize it anew"):
        gf.cut(state, units, keep_of(units))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "name",
    [pytest.param("linen/resnet", marks=pytest.mark.models), "plain/tied_embedding"],
)
def test_training_goes_on_as_that_of_the_masked_model(name, optimizer):
    """Ten steps with the optimizer's state kept, after five of the full model."""
    model, _, variables, inputs = case(name)
    units = units_of(name)
    keep = keep_of(units)
    inner = {"sgd": optax.sgd(0.002, momentum=0.9), "adam": optax.adam(1e-2)}[optimizer]
    linen = "params" in variables
    params = variables["params"] if linen else variables
    statistics = {"batch_stats": variables["batch_stats"]} if linen else {}

    def train(run, tx, params, state, statistics, steps):
        def loss(params):
            tree = {"params": params, **statistics} if linen else params
            return jnp.mean(jnp.sin(run(tree, *inputs)))

        @jax.jit
        def step(params, state):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(steps):
            params, state = step(params, state)
        return params, state

    apply = units.model.apply
    params, state = train(apply, inner, params, inner.init(params), statistics, 5)
    masks = units.masks(keep, params)
    masked = optax.chain(inner, gf.apply_mask(masks))
    pruned = gf.prune(params, masks)
    full_state = (state, masked.init(pruned)[1])
    full, _ = train(apply, masked, pruned, full_state, statistics, 10)
    small_statistics = gf.cut(statistics, units, keep) if linen else {}
    small, _ = train(
        gf.shrink(model, units, keep),
        inner,
        gf.cut(params, units, keep),
        gf.cut(state, units, keep),
        small_statistics,
        10,
    )
    start, expected = gf.cut(params, units, keep), gf.cut(full, units, keep)
    for (path, a), (_, b) in zip(*map(named_leaves, (expected, small)), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=path)
    moved = [
        float(jnp.max(jnp.abs(a - b)))
        for a, b in zip(*map(jax.tree.leaves, (small, start)), strict=True)
    ]
    assert max(moved) > 1e-3


def test_masks_averages_and_initial_weights_are_cut_alike():
    units, params = units_of(LINEN), case(LINEN)[2]["params"]
    keep = keep_of(units)
    small = gf.cut(params, units, keep)
    scores = gf.magnitude(params)
    masks = gf.global_masks(scores, sparsity=0.5)
    cut = gf.cut({"masks": masks, "ema": params, "start": params}, units, keep)
    chex.assert_trees_all_equal(cut["ema"], small)
    chex.assert_trees_all_equal(cut["start"], small)
    assert gf.report(cut["masks"]).total_size == sum(
        leaf.size for leaf in jax.tree.leaves(small)
    )
    packed = gf.cut({"masks": gf.pack_masks(masks)}, units, keep)["masks"]
    unpacked = gf.unpack_masks(packed, cut["masks"])
    chex.assert_trees_all_equal(unpacked, cut["masks"])


def test_cutting_works_under_jit_and_of_numpy_arrays():
    units, params = units_of(LINEN), case(LINEN)[2]["params"]
    keep = keep_of(units)
    expected = gf.cut(params, units, keep)
    jitted = jax.jit(lambda tree: gf.cut(tree, units, keep))(params)
    chex.assert_trees_all_equal(jitted, expected)
    arrays = gf.cut(jax.tree.map(np.asarray, params), units, keep)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(arrays))
    chex.assert_trees_all_equal(arrays, expected)


def test_a_sharding_is_kept():
    units, params = units_of(LINEN), case(LINEN)[2]["params"]
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(params, sharding)
    for leaf in jax.tree.leaves(gf.cut(params, units, keep_of(units))):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def test_two_cuts_are_the_one_they_compose():
    model, _, variables, inputs = case("plain/conv_flatten_dense")
    units = units_of("plain/conv_flatten_dense")
    first = keep_of(units, seed=1)
    small = gf.cut(variables, units, first)
    again = gf.find_units(gf.shrink(model, units, first), small, *inputs)
    assert [f.name for f in again] == [f.name for f in units]
    second = keep_of(again, seed=2)
    both = gf.structured.compose_keep(units, first, again, second)
    one = gf.cut(variables, units, both)
    chex.assert_trees_all_equal(gf.cut(small, again, second), one)
    assert gf.structured.cut_error(variables, units, both, *inputs) <= 1e-5


BAD_KEEP = {
    "unknown": ({"conv": np.ones(3, bool)}, "keep names the family 'conv'; there are"),
    "indices": ({"a/w[3]": np.array([0, 2])}, "one bool for each of its"),
    "length": ({"a/w[3]": np.ones(99, bool)}, "has shape (99,), but the family has"),
    "empty": ({"a/w[3]": np.zeros(6, bool)}, "keeps none of its 6 units"),
}


@pytest.mark.parametrize("case_name", list(BAD_KEEP))
def test_a_bad_keep_set(case_name):
    keep, text = BAD_KEEP[case_name]
    units = units_of("plain/conv_flatten_dense")
    variables = case("plain/conv_flatten_dense")[2]
    for call in (units.widths, lambda k: gf.cut(variables, units, k), units.flops):
        with pytest.raises(ValueError) as error:
            call(keep)
        assert text in str(error.value)


def test_a_bad_tree():
    units = units_of("plain/conv_flatten_dense")
    variables = case("plain/conv_flatten_dense")[2]
    keep = keep_of(units)
    with pytest.raises(ValueError, match="holds no leaf of the model: it has x"):
        gf.cut({"x": jnp.zeros(())}, units, keep)
    stranger = {**variables, "y": jnp.ones(3)}
    with pytest.raises(ValueError, match="'y'.*stands where no copy of the"):
        gf.cut(stranger, units, keep)
    like = jax.eval_shape(lambda tree: tree, gf.cut(variables, units, keep))
    like["y"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert gf.cut(stranger, units, keep, like=like)["y"].shape == (3,)
    small = gf.cut(variables, units, keep)
    with pytest.raises(ValueError, match="find its units again"):
        gf.cut(small, units, keep)
    with pytest.raises(ValueError, match="the cut tree.*like has"):
        gf.cut(variables, units, keep, like=variables)
