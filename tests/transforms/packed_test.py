"""The masked optimizer with its masks as bits does what it does with bools."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradflow_jax as gf

RNG = np.random.default_rng(4)
SHAPES = {"kernel": (3, 20), "narrow": (4, 2), "bias": (9,), "scalar": ()}
PARAMS = {
    name: jnp.asarray(RNG.normal(size=shape), jnp.float32)
    for name, shape in SHAPES.items()
}


def random_masks(seed):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.random(shape) < 0.5) for name, shape in SHAPES.items()
    }


def optimizer(packed, masks=None):
    return optax.chain(optax.adam(0.1), gf.apply_mask(masks, packed=packed))


def masks_in(state, params):
    return gf.unpack_masks(optax.tree.get(state, "masks"), params)


def test_steps_are_those_with_bools():
    """Through new masks by `replace_masks` and by `update`, and nothing retraces."""
    results = []
    for packed in (False, True):
        tx, traced = optimizer(packed, random_masks(0)), []

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, masks=None, tx=tx, traced=traced):
            traced.append(masks)
            updates, state = tx.update(params, state, params, masks=masks)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.copy, PARAMS)
        state, seen = tx.init(params), []
        for seed in (1, 2):
            params, state = step(params, state)
            seen.append(jax.tree.map(np.array, params))
            state = gf.replace_masks(tx, state, params, random_masks(seed))
            seen.append(jax.tree.map(np.array, state[0]))
            params, state = step(params, state)
            seen.append(jax.tree.map(np.array, params))
            params, state = step(params, state, random_masks(seed + 2))
            seen.append(jax.tree.map(np.array, params))
            chex.assert_trees_all_equal(masks_in(state, params), random_masks(seed + 2))
        assert len(traced) == 2, "once without masks, once with"
        results.append(seen)
    chex.assert_trees_all_equal(*results)


def test_the_state_holds_an_eighth():
    kinds = jax.tree.map(jnp.result_type, optimizer(True).init(PARAMS)[1].masks)
    bits, flags = jnp.dtype("uint8"), jnp.dtype(bool)
    assert kinds == {"kernel": bits, "narrow": flags, "bias": bits, "scalar": flags}
    wide = {"w": jnp.zeros((64, 64))}
    nbytes = [optimizer(p).init(wide)[1].masks["w"].nbytes for p in (False, True)]
    assert nbytes == [4096, 512]


def test_without_masks_nothing_is_pruned():
    state = optimizer(True).init(PARAMS)
    assert all(jnp.all(leaf) for leaf in jax.tree.leaves(masks_in(state, PARAMS)))


def test_in_an_nnx_optimizer():
    model = nnx.Linear(3, 20, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    masks = jax.tree.map(lambda leaf: jnp.arange(leaf.size) % 3 == 0, params)
    masks = jax.tree.map(lambda mask, leaf: mask.reshape(leaf.shape), masks, params)
    tx = optimizer(True, masks)
    run = nnx.Optimizer(model, tx, wrt=nnx.Param)
    run.update(model, jax.tree.map(jnp.ones_like, params))
    np.testing.assert_array_equal(model.kernel[...] != 0, masks["kernel"][...])
    opposite = jax.tree.map(jnp.logical_not, masks)
    run.opt_state = gf.replace_masks(
        tx, run.opt_state, nnx.state(model, nnx.Param), opposite
    )
    run.update(model, jax.tree.map(jnp.ones_like, params))
    np.testing.assert_array_equal(model.kernel[...] != 0, opposite["kernel"][...])


def test_bools_put_into_a_packed_state_are_masks_too():
    tx = optimizer(True)
    state = optax.tree.set(tx.init(PARAMS), masks=random_masks(5))
    updates, _ = tx.update(PARAMS, state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf: leaf != 0, params), random_masks(5)
    )


def test_bits_of_other_params_are_refused():
    tx = gf.apply_mask(packed=True)
    state = tx.init({"w": jnp.zeros(40)})
    with pytest.raises(ValueError, match=r"masks leaf 'w' has shape \(40,\), but"):
        tx.update({"w": jnp.zeros(16)}, state, {"w": jnp.zeros(16)})
