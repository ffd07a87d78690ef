"""Masks replaced mid-run: nothing is traced again, and what they are made of."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradflow_jax as gf
from tests.transforms.masked_models import (
    MASKS,
    OTHER_MASKS,
    PARAMS,
    are_zero,
    arrays,
    assert_masked_and_trained,
    assert_same_leaves,
    every_third,
    grad,
    loss_fn,
    masked_optimizer,
    multi_steps,
    nnx_loss_fn,
    nnx_model,
    train_state,
)

# Masks replaced mid-run


def by_tree_set(tx, opt_state, params, masks):
    return optax.tree.set(opt_state, masks=masks)


def by_replace_masks(tx, opt_state, params, masks):
    return gf.replace_masks(tx, opt_state, params, masks)


# Adagrad's accumulators and schedule-free's scalars start as arrays of other kinds.
REPLACEABLE = ("adam", "adagrad", "schedule_free_sgd", "multi_steps_around")


@pytest.mark.parametrize("name", REPLACEABLE)
def test_new_masks_in_a_train_state_retrace_nothing(name):
    traces = 0
    tx = masked_optimizer(name)

    @jax.jit
    def step(state):
        nonlocal traces
        traces += 1
        return state.apply_gradients(grads=jax.grad(loss_fn)(state.params))

    # Arrays that optax makes at `init` may be weakly typed; after a step they are not.
    state = step(train_state(tx, PARAMS))
    state = step(state)
    before = traces
    for replace, masks in (
        (by_tree_set, OTHER_MASKS),
        (by_replace_masks, MASKS),
        (by_tree_set, OTHER_MASKS),
        (by_replace_masks, MASKS),
        (by_replace_masks, OTHER_MASKS),
    ):
        opt_state = replace(tx, state.opt_state, state.params, masks)
        start = state.params
        state = state.replace(opt_state=opt_state)
        for _ in range(2):
            state = step(state)
        assert_masked_and_trained(state.params, start, masks)
        # Weights that are kept now and were not before have grown again.
        for path, leaf in arrays(state.params).items():
            assert (leaf[arrays(masks)[path]] != 0.0).all(), path
    assert traces == before


def test_masks_given_to_a_step_retrace_nothing_and_stay():
    tx = optax.chain(optax.adam(0.01), gf.apply_mask(MASKS))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, masks):
        updates, state = tx.update(grad(params), state, params, masks=masks)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    params, state = step(params, state, MASKS)
    for masks in (OTHER_MASKS, MASKS, OTHER_MASKS):
        after, state = step(params, state, masks)
        assert_masked_and_trained(after, params, masks)
        assert_same_leaves(state[1].masks, masks)
        params = after
    for _ in range(2):
        updates, state = tx.update(grad(params), state, params)
        params = optax.apply_updates(params, updates)
        assert are_zero(params, OTHER_MASKS)
    assert not are_zero(params, MASKS)


def nnx_training():
    model = nnx_model(PARAMS)
    return model, nnx.Optimizer(model, masked_optimizer("adam"), wrt=nnx.Param)


def nnx_masks(model, remainder):
    return every_third(nnx.state(model, nnx.Param), remainder)


def test_masks_given_to_an_nnx_step_retrace_nothing_and_stay():
    traces = 0

    @nnx.jit
    def step(model, optimizer, masks):
        nonlocal traces
        traces += 1
        optimizer.update(model, nnx.grad(nnx_loss_fn)(model), masks=masks)

    model, optimizer = nnx_training()
    step(model, optimizer, nnx_masks(model, 1))
    before = traces
    for remainder in (2, 1, 2):
        start = arrays(nnx.state(model, nnx.Param))
        masks = nnx_masks(model, remainder)
        step(model, optimizer, masks)
        assert_masked_and_trained(nnx.state(model, nnx.Param), start, masks)
        assert_same_leaves(optimizer.opt_state[1].masks, masks)
    assert traces == before == 1
    optimizer.update(model, nnx.grad(nnx_loss_fn)(model))
    assert_masked_and_trained(nnx.state(model, nnx.Param), PARAMS, OTHER_MASKS)
    assert not are_zero(nnx.state(model, nnx.Param), MASKS)


def by_nnx_update(optimizer, opt_state):
    # A chain's state is a tuple, which `nnx.update` takes as an `nnx.State` only.
    nnx.update(optimizer.opt_state, nnx.state(opt_state))


def by_assignment(optimizer, opt_state):
    optimizer.opt_state = opt_state


@pytest.mark.parametrize("kind", ("state", "dict"))
@pytest.mark.parametrize("put", (by_nnx_update, by_assignment))
def test_masks_replaced_in_an_nnx_optimizer_retrace_nothing(put, kind):
    traces = 0

    @nnx.jit
    def step(model, optimizer):
        nonlocal traces
        traces += 1
        optimizer.update(model, nnx.grad(nnx_loss_fn)(model))

    model, optimizer = nnx_training()
    for _ in range(2):
        step(model, optimizer)
    before = traces
    for remainder in (2, 1, 2):
        start = arrays(nnx.state(model, nnx.Param))
        masks = (
            nnx_masks(model, remainder)
            if kind == "state"
            else every_third(PARAMS, remainder)
        )
        params = nnx.state(model, nnx.Param)
        new = gf.replace_masks(optimizer.tx, optimizer.opt_state, params, masks)
        put(optimizer, new)
        for _ in range(2):
            step(model, optimizer)
        assert_masked_and_trained(nnx.state(model, nnx.Param), start, masks)
        assert_same_leaves(optimizer.opt_state[1].masks, masks)
    assert traces == before


def test_extra_arguments_pass_through_a_chain():
    params, masks = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([True, False])}
    # Its step is value / ‖g‖² · g.
    tx = optax.chain(optax.polyak_sgd(10.0), gf.apply_mask())
    gradients = {"w": jnp.array([1.0, 1.0])}
    updates, state = tx.update(
        gradients, tx.init(params), params, value=jnp.array(2.0), masks=masks
    )
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["w"], [2.0, 0.0], rtol=1e-6)
    assert_same_leaves(optax.tree.get(state, "masks"), masks)


def test_extra_arguments_pass_through_multi_steps():
    params, masks = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([True, False])}
    tx = multi_steps(optax.chain(optax.sgd(1.0), gf.apply_mask()))
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params, masks=masks)
    assert_same_leaves(optax.tree.get(state, "masks"), masks)
    assert optax.apply_updates(params, updates)["w"].tolist() == [0.0, 0.0]


# Whose buffers the masks are


def by_init(tx, params, masks):
    return optax.chain(optax.sgd(0.1), gf.apply_mask(masks)).init(params)


def by_replacement(tx, params, masks):
    return gf.replace_masks(tx, tx.init(params), params, masks)


def by_extra_argument(tx, params, masks):
    return tx.update(params, tx.init(params), params, masks=masks)[1]


def by_extra_argument_jitted(tx, params, masks):
    step = jax.jit(lambda p, s, m: tx.update(p, s, p, masks=m)[1])
    return step(params, tx.init(params), masks)


@pytest.mark.parametrize(
    "hand_over",
    (by_init, by_replacement, by_extra_argument, by_extra_argument_jitted),
)
def test_donating_the_state_leaves_the_masks_of_the_user_alone(hand_over):
    params, masks = {"w": jnp.ones(4)}, {"w": jnp.array([True, False, True, True])}
    tx = optax.chain(optax.sgd(0.1), gf.apply_mask())
    state = hand_over(tx, params, masks)

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    donated = jax.tree.leaves(state)
    params, state = step(params, state)
    assert all(leaf.is_deleted() for leaf in donated), "nothing was donated"
    assert masks["w"].tolist() == [True, False, True, True]
    assert gf.prune(params, masks)["w"][1] == 0.0
