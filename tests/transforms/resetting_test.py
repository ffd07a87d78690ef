"""What `replace_masks` resets in the state of the inner optimizer."""

import functools

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
    arrays,
    assert_same_leaves,
    every_optimizer,
    grad,
    masked_optimizer,
    nnx_grad,
    nnx_model,
    train_state,
)

# What replace_masks resets

# This maps each leaf of the state that mirrors the params to what it starts from.
INNER = {
    "trace": (optax.trace(0.9), {"trace": 0.0}),
    "adam": (optax.scale_by_adam(), {"mu": 0.0, "nu": 0.0}),
    "adagrad": (optax.scale_by_rss(0.25), {"sum_of_squares": 0.25}),
}


class InOptax:
    def __init__(self, tx):
        self.tx, self.params, self.opt_state = tx, PARAMS, tx.init(PARAMS)

    def step(self):
        args = grad(self.params), self.opt_state, self.params
        updates, self.opt_state = self.tx.update(*args)
        self.params = optax.apply_updates(self.params, updates)

    def replace(self, masks, **options):
        args = self.tx, self.opt_state, self.params, masks
        self.opt_state = gf.replace_masks(*args, **options)


class InTrainState:
    def __init__(self, tx):
        self.state = train_state(tx, PARAMS)

    @property
    def opt_state(self):
        return self.state.opt_state

    def step(self):
        self.state = self.state.apply_gradients(grads=grad(self.state.params))

    def replace(self, masks, **options):
        args = self.state.tx, self.state.opt_state, self.state.params, masks
        opt_state = gf.replace_masks(*args, **options)
        self.state = self.state.replace(opt_state=opt_state)


class InNNX:
    def __init__(self, tx):
        self.model = nnx_model(PARAMS)
        self.optimizer = nnx.Optimizer(self.model, tx, wrt=nnx.Param)

    @property
    def opt_state(self):
        return self.optimizer.opt_state

    def step(self):
        self.optimizer.update(self.model, nnx_grad(self.model))

    def replace(self, masks, **options):
        args = self.optimizer.tx, self.opt_state, nnx.state(self.model, nnx.Param)
        new = gf.replace_masks(*args, masks, **options)
        nnx.update(self.opt_state, nnx.state(new))


def parameter_of(path):
    return "/".join(path.split("/")[-2:])


@pytest.mark.parametrize("reset", (True, False))
@pytest.mark.parametrize("framework", (InOptax, InTrainState, InNNX))
@pytest.mark.parametrize("name", INNER)
def test_exactly_what_changed_sides_is_reset(name, framework, reset):
    inner, initial = INNER[name]
    run = framework(optax.chain(inner, optax.scale(-0.1), gf.apply_mask(MASKS)))
    for _ in range(3):
        run.step()
    before = arrays(run.opt_state)
    # One of the leaves has the same masks as before.
    new = {"first": OTHER_MASKS["first"], "second": MASKS["second"]}
    run.replace(new, **({} if reset else {"reset": False}))
    after = arrays(run.opt_state)
    assert after.keys() == before.keys()
    old_masks, new_masks = arrays(MASKS), arrays(new)
    seen = set()
    for path, leaf in after.items():
        kind = path.split("/")[-3] if path.count("/") >= 3 else None
        expected = before[path]
        assert leaf.dtype == expected.dtype, path
        if kind == "masks":
            expected = new_masks[parameter_of(path)]
        elif kind in initial:
            seen.add(kind)
            owner = parameter_of(path)
            assert (expected != initial[kind]).all(), f"{path} tells nothing"
            if reset:
                changed = old_masks[owner] != new_masks[owner]
                expected = np.where(changed, initial[kind], expected)
        np.testing.assert_array_equal(leaf, expected, path)
    assert seen == set(initial)
    run.step()


@every_optimizer
def test_the_state_of_every_optimizer_is_reset_where_it_has_the_shape_of_params(name):
    tx = masked_optimizer(name)
    fresh = tx.init(gf.prune(PARAMS, OTHER_MASKS))

    def disturbed(leaf):
        return leaf if leaf.dtype == bool else leaf + jnp.ones_like(leaf)

    state = jax.tree.map(disturbed, tx.init(PARAMS))
    new = gf.replace_masks(tx, state, PARAMS, OTHER_MASKS)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    params, before, fresh = arrays(PARAMS), arrays(state), arrays(fresh)
    old_masks, new_masks = arrays(MASKS), arrays(OTHER_MASKS)
    for path, leaf in arrays(new).items():
        owner, expected = parameter_of(path), before[path]
        if "masks" in path.split("/"):
            expected = new_masks[owner]
        elif owner in params and leaf.shape == params[owner].shape:
            changed = old_masks[owner] != new_masks[owner]
            expected = np.where(changed, fresh[path], expected)
        np.testing.assert_array_equal(leaf, expected, path)


SCALARS = {
    "one_scalar_weight": (jnp.array(1.0), jnp.array(True), jnp.array(False)),
    "a_weight_named_count": (
        {"count": jnp.array(1.0)},
        {"count": jnp.array(True)},
        {"count": jnp.array(False)},
    ),
}


@pytest.mark.parametrize("name", SCALARS)
def test_the_count_of_steps_is_no_moment_of_a_scalar_weight(name):
    params, masks, new = SCALARS[name]
    tx = optax.chain(optax.scale_by_adam(), gf.apply_mask(masks))
    _, state = tx.update(params, tx.init(params), params)
    state = gf.replace_masks(tx, state, params, new)
    assert state[0].count == 1
    assert jax.tree.leaves(state[0].mu) == [0.0]


@pytest.mark.parametrize("field", ("mu", "trace", "0", "masks"))
def test_parameters_may_be_called_as_the_fields_of_a_state(field):
    params = {field: {"w": np.ones((2, 3), "f")}, "w": np.ones((2, 3), "f")}
    some = np.array([[True, False, True]] * 2)
    masks = {field: {"w": some}, "w": some}
    inner = optax.sgd(0.1, 0.9) if field == "trace" else optax.adam(0.1)
    tx = optax.chain(inner, gf.apply_mask(masks))
    _, state = tx.update(params, tx.init(params), params)
    state = gf.replace_masks(tx, state, params, {field: {"w": some}, "w": ~some})
    moments = state[0][0].trace if field == "trace" else state[0][0].nu
    assert (moments["w"] == 0).all()
    np.testing.assert_array_equal(np.asarray(moments[field]["w"]) != 0, True)
    assert_same_leaves(gf.masks_of(state), {field: {"w": some}, "w": ~some})


def test_masks_can_be_replaced_inside_jit():
    tx = masked_optimizer("adam")
    state = tx.init(PARAMS)
    replace = jax.jit(functools.partial(gf.replace_masks, tx))
    assert_same_leaves(
        replace(state, PARAMS, OTHER_MASKS),
        gf.replace_masks(tx, state, PARAMS, OTHER_MASKS),
    )
