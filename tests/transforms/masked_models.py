"""Models, optimizers and training loops whose weights are masked."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype(np.float32)
# The data are noise, so that no weight of the optimum is zero, nor a gradient there.
Y = RNG.normal(size=(8, 2)).astype(np.float32)


class Linen(nn.Module):
    # There is a layer in each dtype, so that one compilation serves both.
    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Dense(4, use_bias=False, name="first")(x))
        dtype = jnp.bfloat16
        return nn.Dense(2, use_bias=False, param_dtype=dtype, name="second")(x)


class NNX(nnx.Module):
    def __init__(self):
        rngs, dtype = nnx.Rngs(0), jnp.bfloat16
        self.first = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.second = nnx.Linear(4, 2, use_bias=False, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


MODEL = Linen()
PARAMS = {
    "first": {"kernel": jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32)},
    "second": {"kernel": jnp.asarray(RNG.normal(size=(4, 2)), jnp.bfloat16)},
}


def every_third(tree, remainder):
    """Masks that remove each third weight."""
    return jax.tree.map(
        lambda x: jnp.arange(x.size).reshape(x.shape) % 3 != remainder, tree
    )


MASKS, OTHER_MASKS = every_third(PARAMS, 1), every_third(PARAMS, 2)


def loss_fn(params):
    return jnp.mean((MODEL.apply({"params": params}, X) - Y) ** 2)


def nnx_loss_fn(model):
    return jnp.mean((model(X) - Y) ** 2)


grad = jax.jit(jax.grad(loss_fn))
nnx_grad = nnx.jit(nnx.grad(nnx_loss_fn))


def sam(optimizer):
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    return optax.contrib.sam(optimizer, adversary)


def multi_steps(optimizer):
    return optax.MultiSteps(optimizer, 2).gradient_transformation()


def chained(*transforms):
    return lambda last: optax.chain(*transforms, last)


# Each takes the last transform, `apply_mask` or, to see what happens without, none.
OPTIMIZERS = {
    "sgd": chained(optax.sgd(0.05)),
    "momentum": chained(optax.sgd(0.05, momentum=0.9)),
    "nesterov": chained(optax.sgd(0.05, momentum=0.9, nesterov=True)),
    "adam": chained(optax.adam(0.01)),
    "adamw": chained(optax.adamw(0.01, weight_decay=0.1)),
    "lion": chained(optax.lion(0.01)),
    "lamb": chained(optax.lamb(0.01)),
    "lars": chained(optax.lars(1.0)),
    "adafactor": chained(optax.adafactor(0.01, min_dim_size_to_factor=2)),
    "rmsprop": chained(optax.rmsprop(0.01)),
    "adagrad": chained(optax.adagrad(0.05)),
    "muon": chained(optax.contrib.muon(0.01)),
    "schedule_free_sgd": chained(optax.contrib.schedule_free_sgd(0.05)),
    "schedule_free_adamw": chained(optax.contrib.schedule_free_adamw(0.01)),
    "sam": chained(sam(optax.sgd(0.05, momentum=0.9))),
    "multi_steps_around": lambda last: multi_steps(optax.chain(optax.adam(0.01), last)),
    "multi_steps_inside": chained(multi_steps(optax.adam(0.01))),
    "clip_decay_trace": chained(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.01),
        optax.trace(0.9),
        optax.scale(-0.05),
    ),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@functools.cache
def masked_optimizer(name):
    # The object is shared, since a new one would be compiled again.
    return OPTIMIZERS[name](gf.apply_mask(MASKS))


def first_masked_step(name):
    return 2 if name == "multi_steps_around" else 1


def train_state(tx, params):
    state = TrainState.create(apply_fn=MODEL.apply, params=params, tx=tx)
    return state.replace(step=jnp.int32(0))


def nnx_model(params):
    model = NNX()
    nnx.update(model, params)
    return model


def are_zero(params, masks):
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True)
    return jnp.stack([jnp.all(mask | (leaf == 0.0)) for leaf, mask in pairs]).all()


@jax.jit
def train(state, steps):
    """Returns the trained state and whether pruned weights were zero all the time."""

    def step(_, carry):
        state, zero = carry
        state = state.apply_gradients(grads=jax.grad(loss_fn)(state.params))
        return state, zero & are_zero(state.params, MASKS)

    return jax.lax.fori_loop(0, steps, step, (state, True))


@nnx.jit
def nnx_train(model, optimizer, steps):
    graphdef, state = nnx.split((model, optimizer))

    def step(_, carry):
        state, zero = carry
        model, optimizer = nnx.merge(graphdef, state)
        optimizer.update(model, nnx.grad(nnx_loss_fn)(model))
        params = nnx.state(model, nnx.Param)
        return nnx.state((model, optimizer)), zero & are_zero(params, MASKS)

    state, zero = jax.lax.fori_loop(0, steps, step, (state, True))
    nnx.update((model, optimizer), state)
    return zero


def arrays(tree):
    """Returns the leaves by path, as copies: NNX changes its own in place."""
    return {path: np.array(leaf) for path, leaf in named_leaves(tree)}


def assert_same_leaves(a, b):
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], path)
        assert a[path].dtype == b[path].dtype, path


def assert_masked_and_trained(params, start, masks=MASKS):
    """Pruned weights are 0.0, and the others have moved to finite places."""
    params, start, masks = arrays(params), arrays(start), arrays(masks)
    for path, mask in masks.items():
        assert (params[path][~mask] == 0.0).all(), path
        kept = params[path][mask].astype(np.float32)
        assert np.isfinite(kept).all(), path
        assert (kept != start[path][mask].astype(np.float32)).any(), path
