"""The masked optimizer: exact zeros, masks replaced mid-run, inner state, errors."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze
from flax.training.train_state import TrainState

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype(np.float32)
# Noise: no weight of the optimum is zero, and no gradient is zero there.
Y = RNG.normal(size=(8, 2)).astype(np.float32)


class Linen(nn.Module):
    # One layer in each dtype, so that one compilation serves both.
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
    # One object, since a new one would be compiled anew.
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


# Exact zeros


@every_optimizer
def test_pruned_weights_are_zero_for_1000_steps_of_a_train_state(name):
    start = gf.apply(PARAMS, MASKS)
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
    gradient = grad(gf.apply(PARAMS, MASKS))["first"]
    params = gf.apply(PARAMS["first"], MASKS["first"])

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
    out = np.asarray(gf.apply(params, jnp.array([False, True])), np.float32)
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
    assert are_zero(gf.apply(averaged, MASKS), MASKS)


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

    # What optax makes at `init` may be weakly typed and is not after a step.
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
    traces = 0
    tx = optax.chain(optax.adam(0.01), gf.apply_mask(MASKS))

    @jax.jit
    def step(params, state, masks):
        nonlocal traces
        traces += 1
        updates, state = tx.update(grad(params), state, params, masks=masks)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    params, state = step(params, state, MASKS)
    before = traces
    for masks in (OTHER_MASKS, MASKS, OTHER_MASKS):
        after, state = step(params, state, masks)
        assert_masked_and_trained(after, params, masks)
        assert_same_leaves(state[1].masks, masks)
        params = after
    assert traces == before == 1
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

    given = jax.tree.leaves(state)
    params, state = step(params, state)
    assert all(leaf.is_deleted() for leaf in given), "nothing was donated"
    assert masks["w"].tolist() == [True, False, True, True]
    assert gf.apply(params, masks)["w"][1] == 0.0


# What replace_masks resets

# To each leaf of the state that mirrors the params, what it starts from.
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
    fresh = tx.init(gf.apply(PARAMS, OTHER_MASKS))

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


def test_masks_can_be_replaced_inside_jit():
    tx = masked_optimizer("adam")
    state = tx.init(PARAMS)
    replace = jax.jit(functools.partial(gf.replace_masks, tx))
    assert_same_leaves(
        replace(state, PARAMS, OTHER_MASKS),
        gf.replace_masks(tx, state, PARAMS, OTHER_MASKS),
    )


# Errors

W = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
ALL = jax.tree.map(lambda x: jnp.ones(x.shape, bool), W)
LACKING = {"a": ALL["a"]}
SURPLUS = ALL | {"c": jnp.ones(2, bool)}
TRANSPOSED = ALL | {"a": ALL["a"].T}
NUMBERS = ALL | {"b": jnp.ones(2)}
NOT_ARRAYS = ALL | {"b": "keep"}

REMEDY = "Make masks from this very tree of params."
BAD_MASKS = {
    "lacking": (
        LACKING,
        ValueError,
        f"masks and params are different trees: masks lacks the leaf 'b'. {REMEDY}",
    ),
    "surplus": (
        SURPLUS,
        ValueError,
        "masks and params are different trees: masks has the leaf 'c', which params "
        f"lacks. {REMEDY}",
    ),
    "transposed": (
        TRANSPOSED,
        ValueError,
        f"masks leaf 'a' has shape (3, 2), but params has (2, 3) there. {REMEDY}",
    ),
    "numbers": (
        NUMBERS,
        TypeError,
        "masks leaf 'b' is float32[2], not bool (True keeps a weight). Masks come "
        "from gf.global_masks and its like, or from a comparison such as scores > "
        "threshold.",
    ),
    "not_arrays": (NOT_ARRAYS, TypeError, "masks leaf 'b' is str, not bool"),
    "empty": ({}, ValueError, "masks has no leaves: {}."),
}
bad_masks = pytest.mark.parametrize("case", BAD_MASKS)


def raises(error, message):
    return pytest.raises(error, match=re.escape(message))


@bad_masks
def test_init_names_what_is_wrong_with_the_masks(case):
    masks, error, message = BAD_MASKS[case]
    with raises(error, message):
        optax.chain(optax.sgd(0.1), gf.apply_mask(masks)).init(W)


@bad_masks
def test_update_names_what_is_wrong_with_the_masks_given_to_it(case):
    masks, error, message = BAD_MASKS[case]
    tx = optax.chain(optax.sgd(0.1), gf.apply_mask())
    with raises(error, message):
        tx.update(W, tx.init(W), W, masks=masks)


@bad_masks
def test_update_names_what_is_wrong_with_the_masks_in_the_state(case):
    masks, error, message = BAD_MASKS[case]
    tx = gf.apply_mask()
    message = re.sub(r"\bmasks\b", "the state's masks", message)
    with raises(error, message):
        tx.update(W, gf.MaskState(masks), W)


@bad_masks
def test_replace_masks_names_what_is_wrong_with_the_masks(case):
    masks, error, message = BAD_MASKS[case]
    tx = optax.chain(optax.sgd(0.1), gf.apply_mask())
    with raises(error, message):
        gf.replace_masks(tx, tx.init(W), W, masks)


def test_update_without_params_says_how_to_call_it():
    tx = optax.chain(optax.sgd(0.1), gf.apply_mask(ALL))
    with raises(ValueError, "needs the parameters") as found:
        tx.update(W, tx.init(W))
    assert "call tx.update(updates, state, params)" in str(found.value)


def test_updates_of_another_tree_are_refused():
    tx = gf.apply_mask(ALL)
    with raises(ValueError, "updates and params are different trees: updates lacks"):
        tx.update({"a": W["a"]}, tx.init(W), W)


@pytest.mark.parametrize(
    "kinds", [("float32",) * 2, ("bfloat16", "float32"), ("float16",) * 2], ids=str
)
def test_updates_are_selected_to_the_bit(kinds):
    special = [0.0, -0.0, 1.5, -1e-7, np.inf, -np.inf, np.nan, 6e4]
    pairs = np.array(np.meshgrid(special, special)).reshape(2, -1)
    step, weight = map(jnp.asarray, pairs, map(jnp.dtype, kinds))
    masks = jnp.asarray(RNG.random(step.size) < 0.5)
    tx = gf.apply_mask(masks)
    found, _ = tx.update(step, tx.init(weight), weight)
    expected = jnp.where(masks, step, -weight)
    assert found.dtype == expected.dtype
    bits = np.dtype(f"u{found.dtype.itemsize}")
    np.testing.assert_array_equal(
        np.asarray(found).view(bits), np.asarray(expected).view(bits)
    )


def test_updates_of_another_shape_are_refused():
    tx = gf.apply_mask(ALL)
    with raises(ValueError, "updates leaf 'b' has shape (1,), but params has (2,)"):
        tx.update(W | {"b": jnp.ones(1)}, tx.init(W), W)


def test_init_refuses_params_that_are_no_weights():
    with raises(TypeError, "params leaf 'b' is int32[2]; only floating-point leaves"):
        gf.apply_mask().init(W | {"b": jnp.arange(2)})


def test_init_refuses_a_whole_nnx_module():
    with raises(TypeError, "params is a whole nnx.Module (NNX)"):
        gf.apply_mask().init(NNX())


def test_replace_masks_says_how_to_make_an_optimizer_with_masks():
    tx = optax.adam(0.1)
    with raises(ValueError, "opt_state holds no masks for these params") as found:
        gf.replace_masks(tx, tx.init(W), W, ALL)
    assert "optax.chain(..., gf.apply_mask(masks))" in str(found.value)


def test_replace_masks_refuses_the_state_of_another_optimizer():
    tx = optax.chain(optax.adam(0.1), gf.apply_mask(ALL))
    other = optax.chain(optax.sgd(0.1), gf.apply_mask(ALL)).init(W)
    with raises(ValueError, "tx.init(params) and opt_state are different trees"):
        gf.replace_masks(tx, other, W, ALL)
