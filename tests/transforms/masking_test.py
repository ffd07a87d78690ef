"""The masked optimizer: exact zeros in every optimizer, framework and dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze

import gradflow_jax as gf
from tests.transforms.masked_models import (
    MASKS,
    NNX,
    OPTIMIZERS,
    PARAMS,
    are_zero,
    arrays,
    assert_masked_and_trained,
    assert_same_leaves,
    every_optimizer,
    every_third,
    first_masked_step,
    grad,
    masked_optimizer,
    nnx_model,
    nnx_train,
    train,
    train_state,
)

# Exact zeros


@every_optimizer
def test_pruned_weights_are_zero_for_1000_steps_of_a_train_state(name):
    start = gf.prune(PARAMS, MASKS)
    state, always_zero = train(train_state(masked_optimizer(name), start), 1000)
    assert always_zero
    assert_masked_and_trained(state.params, start)
    for path, gradient in arrays(grad(state.params)).items():
        assert (gradient[~arrays(MASKS)[path]] != 0.0).all(), "nothing pulls at zero"


@every_optimizer
def test_the_first_step_zeroes_pruned_weights_of_unmasked_params(name):
    tx, steps = masked_optimizer(name), first_masked_step(name)
    state, _ = train(train_state(tx, PARAMS), steps)
    assert are_zero(state.params, MASKS)
    assert not are_zero(PARAMS, MASKS)


@every_optimizer
def test_pruned_weights_leave_zero_without_apply_mask(name):
    # One layer and a constant gradient, since this is about the optimizer alone.
    tx = OPTIMIZERS[name](optax.identity())
    gradient = grad(gf.prune(PARAMS, MASKS))["first"]
    params = gf.prune(PARAMS["first"], MASKS["first"])

    @jax.jit
    def step(params, state):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(2):
        params, state = step(params, state)
    assert (params["kernel"][~MASKS["first"]["kernel"]] != 0.0).all()


@every_optimizer
def test_pruned_weights_are_zero_for_1000_steps_of_nnx(name):
    if name == "muon":
        try:
            nnx.Optimizer(NNX(), optax.contrib.muon(0.01), wrt=nnx.Param)
        except TypeError:
            pytest.skip("nnx.Optimizer of this flax cannot hold muon's state")
    model = nnx_model(PARAMS)
    optimizer = nnx.Optimizer(model, masked_optimizer(name), wrt=nnx.Param)
    nnx_train(model, optimizer, first_masked_step(name))
    start = arrays(nnx.state(model, nnx.Param))
    assert are_zero(nnx.state(model, nnx.Param), MASKS)
    assert nnx_train(model, optimizer, 1000)
    assert_masked_and_trained(nnx.state(model, nnx.Param), start)


DTYPES = ("float32", "bfloat16", "float16")


@pytest.mark.parametrize("params_dtype", DTYPES)
@pytest.mark.parametrize("updates_dtype", DTYPES)
def test_updates_of_another_dtype_end_at_exactly_zero(params_dtype, updates_dtype):
    params = jnp.array([0.1, -1e-6, 300.7, 0.3], params_dtype)
    masks = jnp.array([False, False, False, True])
    step = jnp.full(4, 1e-3, updates_dtype)
    tx = gf.apply_mask(masks)
    updates, _ = tx.update(step, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert after.dtype == params.dtype
    assert after[:3].tolist() == [0.0, 0.0, 0.0]
    assert after[3] == optax.apply_updates(params, step)[3]


UNUSUAL = (-0.0, np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("value", UNUSUAL)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_apply_gives_positive_zero_for_any_pruned_value(value, dtype):
    params = jnp.array([value, value], dtype)
    out = np.asarray(gf.prune(params, jnp.array([False, True])), np.float32)
    assert out[0] == 0.0 and not np.signbit(out[0])
    np.testing.assert_array_equal(out[1], np.float32(value))


@pytest.mark.parametrize("value", UNUSUAL)
def test_an_unusual_update_of_a_pruned_weight_is_dropped(value):
    params, masks = jnp.array([0.0, 1.0]), jnp.array([False, True])
    tx = gf.apply_mask(masks)
    updates, _ = tx.update(jnp.array([value, 0.5]), tx.init(params), params)
    assert optax.apply_updates(params, updates).tolist() == [0.0, 1.5]


def test_a_negative_zero_becomes_positive():
    params, masks = jnp.array([-0.0, 1.0]), jnp.array([False, True])
    tx = gf.apply_mask(masks)
    updates, _ = tx.update(jnp.ones(2), tx.init(params), params)
    assert not np.signbit(optax.apply_updates(params, updates)[0])


@pytest.mark.parametrize(
    "params",
    (
        {"w": jnp.ones(3), "absent": None, "deep": [None, jnp.ones((2, 2))]},
        freeze({"w": jnp.ones(3), "deep": {"w": jnp.ones((2, 2))}}),
    ),
    ids=("with_none", "frozen_dict"),
)
def test_trees_keep_their_structure(params):
    masks = every_third(params, 1)
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), gf.apply_mask(masks))
    state = tx.init(params)
    updates, state = tx.update(params, state, params)
    after = optax.apply_updates(params, updates)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert_masked_and_trained(after, params, masks)
    state = gf.replace_masks(tx, state, after, every_third(params, 2))
    assert_same_leaves(state[1].masks, every_third(params, 2))


def test_without_masks_nothing_is_pruned():
    tx = optax.chain(optax.adam(0.1), gf.apply_mask())
    gradients = grad(PARAMS)
    updates, state = tx.update(gradients, tx.init(PARAMS), PARAMS)
    bare = optax.adam(0.1)
    assert_same_leaves(updates, bare.update(gradients, bare.init(PARAMS))[0])
    assert all(mask.all() for mask in arrays(state[1].masks).values())


def test_each_model_of_a_vmapped_axis_has_its_own_masks():
    params = jnp.ones((2, 3))
    masks = jnp.array([[True, False, True], [False, True, True]])
    tx = optax.chain(optax.sgd(0.25, momentum=0.9), gf.apply_mask())

    def step(params, state, masks):
        updates, state = tx.update(params, state, params, masks=masks)
        return optax.apply_updates(params, updates), state

    after, state = jax.vmap(step)(params, jax.vmap(tx.init)(params), masks)
    assert after.tolist() == [[0.75, 0.0, 0.75], [0.0, 0.75, 0.75]]
    assert state[1].masks.tolist() == masks.tolist()


def test_weights_derived_by_another_rule_are_masked_by_apply():
    state, _ = train(train_state(masked_optimizer("schedule_free_sgd"), PARAMS), 10)
    averaged = optax.contrib.schedule_free_eval_params(state.opt_state[0], state.params)
    assert not are_zero(averaged, MASKS)
    assert are_zero(gf.prune(averaged, MASKS), MASKS)
