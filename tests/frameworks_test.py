"""The same calls in Flax linen, Flax NNX, Equinox and plain pytrees."""

import dataclasses
import re
from typing import Any, NamedTuple

import equinox as eqx
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

RNG = np.random.default_rng(1)
X = RNG.normal(size=(6, 4)).astype(np.float32)
Y = RNG.normal(size=(6, 2)).astype(np.float32)
BATCH = X, Y
BATCHES = [(X[:3], Y[:3]), (X[3:], Y[3:])]
KEY = jax.random.key(0)
SPARSITY = 0.4


def weights(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


HIDDEN, OUT = (weights(4, 5), weights(5)), (weights(5, 2), weights(2))
PARAMS = {
    "hidden": {"kernel": HIDDEN[0], "bias": HIDDEN[1]},
    "out": {"kernel": OUT[0], "bias": OUT[1]},
}


def arrays(tree):
    return {path: np.asarray(leaf) for path, leaf in named_leaves(tree)}


def assert_close(a, b):
    """The leaves of both have the same paths and values."""
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    for path in a:
        scale = np.abs(b[path]).max()
        np.testing.assert_allclose(a[path], b[path], 1e-5, 1e-6 * scale, err_msg=path)


def pruned(params, masks):
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True)
    return jnp.concatenate([leaf[~mask] for leaf, mask in pairs])


class Results(NamedTuple):
    first_order: Any
    second_order: Any
    batched: Any
    masks: Any
    params: Any


def use(loss_fn, params, *args, **kwargs):
    """Scores, prunes, reports and takes a step, and checks what is true of any tree.

    `loss_fn` takes `(params, batch, *args, **kwargs)`.
    """
    first = gf.loss_preservation(loss_fn)(params, BATCH, *args, **kwargs)
    second = gf.grasp(loss_fn)(params, BATCH, *args, **kwargs)
    batched = gf.loss_preservation(gf.over_batches(loss_fn))(
        params, BATCHES, *args, **kwargs
    )
    masks = gf.global_masks(first, sparsity=SPARSITY)
    structure = jax.tree.structure(params)
    for tree in (first, second, batched, masks):
        assert jax.tree.structure(tree) == structure
        assert [jnp.shape(x) for x in jax.tree.leaves(tree)] == [
            jnp.shape(x) for x in jax.tree.leaves(params)
        ]
    for tree in (first, second, batched):
        kernels = [leaf for leaf in arrays(tree).values() if leaf.ndim == 2]
        assert len(kernels) == 2 and all((leaf != 0.0).any() for leaf in kernels)

    report = gf.report(masks)
    removed = round(SPARSITY * report.size)
    assert report.size - report.kept == removed > 0
    assert [layer.path for layer in report.layers] == list(arrays(params))

    start = gf.prune(params, masks)
    assert jax.tree.structure(start) == structure
    assert pruned(start, masks).tolist() == [0.0] * removed

    tx = optax.chain(optax.sgd(0.1, momentum=0.9), gf.apply_mask(masks))
    gradients = jax.tree.map(jnp.ones_like, start)
    updates, _ = tx.update(gradients, tx.init(start), start)
    after = optax.apply_updates(start, updates)
    assert jax.tree.structure(after) == structure
    assert pruned(after, masks).tolist() == [0.0] * removed
    return Results(first, second, batched, masks, after)


# Plain pytrees


def mlp_loss(hidden, out, batch):
    x, y = batch
    hidden = jnp.tanh(x @ hidden[0] + hidden[1])
    return jnp.mean((hidden @ out[0] + out[1] - y) ** 2)


def dict_loss(params, batch):
    hidden, out = params["hidden"], params["out"]
    hidden, out = (hidden["kernel"], hidden["bias"]), (out["kernel"], out["bias"])
    return mlp_loss(hidden, out, batch)


@pytest.fixture(scope="module")
def plain():
    return use(dict_loss, PARAMS)


class Layer(NamedTuple):
    bias: Any
    kernel: Any


@dataclasses.dataclass
class Network:
    hidden: Any
    out: Any


jax.tree_util.register_dataclass(Network, ["hidden", "out"], [])


def of_layer(layer):
    return layer.kernel, layer.bias


# The tree, and how its loss gets (kernel, bias) of both layers out of it. Leaves stand
# in the order of the dict's, so that ties and reports agree.
CONTAINERS = {
    "list": (
        [HIDDEN[1], HIDDEN[0], OUT[1], OUT[0]],
        lambda p: ((p[1], p[0]), (p[3], p[2])),
        ["0", "1", "2", "3"],
    ),
    "tuple": (
        (HIDDEN[1], HIDDEN[0], OUT[1], OUT[0]),
        lambda p: ((p[1], p[0]), (p[3], p[2])),
        ["0", "1", "2", "3"],
    ),
    "named_tuple": (
        (Layer(*HIDDEN[::-1]), Layer(*OUT[::-1])),
        lambda p: (of_layer(p[0]), of_layer(p[1])),
        ["0/bias", "0/kernel", "1/bias", "1/kernel"],
    ),
    "dataclass": (
        Network(list(HIDDEN[::-1]), list(OUT[::-1])),
        lambda p: (p.hidden[::-1], p.out[::-1]),
        ["hidden/0", "hidden/1", "out/0", "out/1"],
    ),
    "mix": (
        {"layers": [Network((None, Layer(*HIDDEN[::-1])), {"b": OUT[1], "w": OUT[0]})]},
        lambda p: (
            of_layer(p["layers"][0].hidden[1]),
            (p["layers"][0].out["w"], p["layers"][0].out["b"]),
        ),
        [
            "layers/0/hidden/1/bias",
            "layers/0/hidden/1/kernel",
            "layers/0/out/b",
            "layers/0/out/w",
        ],
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_any_pytree_gives_the_numbers_of_a_dict(name, plain):
    params, layers, paths = CONTAINERS[name]

    def loss_fn(params, batch):
        return mlp_loss(*layers(params), batch)

    results = use(loss_fn, params)
    assert list(arrays(results.masks)) == paths
    for result, expected in zip(results, plain, strict=True):
        assert_close(jax.tree.leaves(result), jax.tree.leaves(expected))


# Flax linen


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Dense(5, name="hidden")(x))
        return nn.Dense(2, name="out")(x)


class LinenNormed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(5, name="hidden")(x)
        x = jnp.tanh(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = nn.Dropout(0.3, deterministic=not train)(x)
        return nn.Dense(2, name="out")(x)


NORMED = LinenNormed()
VARIABLES = jax.jit(lambda key: NORMED.init(key, X, train=False))(KEY)
# Other than those at the start, so that it shows whether they are used.
STATS = jax.tree.map(lambda leaf: leaf + 0.5, VARIABLES["batch_stats"])
NORMED_PATHS = [
    "hidden/bias",
    "hidden/kernel",
    "norm/bias",
    "norm/scale",
    "out/bias",
    "out/kernel",
]


def test_linen_gives_the_numbers_of_a_dict(plain):
    model = LinenMLP()

    def loss_fn(params, batch):
        return jnp.mean((model.apply({"params": params}, batch[0]) - batch[1]) ** 2)

    for result, expected in zip(use(loss_fn, PARAMS), plain, strict=True):
        assert_close(result, expected)


def eval_loss(params, batch, stats):
    variables = {"params": params, "batch_stats": stats}
    return jnp.mean((NORMED.apply(variables, batch[0], train=False) - batch[1]) ** 2)


@jax.jit
def train_loss(params, batch, stats, key):
    logits, updated = NORMED.apply(
        {"params": params, "batch_stats": stats},
        batch[0],
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    return jnp.mean((logits - batch[1]) ** 2), updated["batch_stats"]


def test_linen_batch_norm_takes_its_statistics_as_an_argument():
    results = use(eval_loss, VARIABLES["params"], STATS)
    assert list(arrays(results.masks)) == NORMED_PATHS
    measure = gf.loss_preservation(eval_loss)
    others = measure(VARIABLES["params"], BATCH, VARIABLES["batch_stats"])
    assert (arrays(others)["out/kernel"] != results.first_order["out"]["kernel"]).any()


def test_linen_dropout_takes_its_key_as_an_argument():
    def loss_fn(params, batch, stats, *, key):
        return train_loss(params, batch, stats, key)[0]

    params = VARIABLES["params"]
    results = use(loss_fn, params, STATS, key=KEY)
    measure = gf.loss_preservation(loss_fn)
    assert_close(measure(params, BATCH, STATS, key=KEY), results.first_order)
    others = measure(params, BATCH, STATS, key=jax.random.key(1))
    assert (arrays(others)["out/kernel"] != results.first_order["out"]["kernel"]).any()


@pytest.mark.parametrize("name", ("loss_preservation", "grasp"))
def test_linen_statistics_of_training_mode_come_back_by_has_aux(name):
    measure = getattr(gf, name)
    args = VARIABLES["params"], BATCH, STATS, KEY
    scores, stats = measure(train_loss, has_aux=True)(*args)
    assert_close(scores, measure(lambda *args: train_loss(*args)[0])(*args))
    _, expected = train_loss(*args)
    assert_close(stats, expected)
    assert (arrays(stats)["norm/mean"] != arrays(STATS)["norm/mean"]).any()


def test_linen_statistics_over_batches_are_a_list():
    measure = gf.loss_preservation(gf.over_batches(train_loss), has_aux=True)
    _, stats = measure(VARIABLES["params"], BATCHES, STATS, KEY)
    assert len(stats) == len(BATCHES)
    for found, batch in zip(stats, BATCHES, strict=True):
        assert_close(found, train_loss(VARIABLES["params"], batch, STATS, KEY)[1])


class State(TrainState):
    batch_stats: Any
    key: Any


def test_a_train_state_trains_masked_with_batch_norm_and_dropout():
    params = VARIABLES["params"]
    scores = gf.loss_preservation(eval_loss)(params, BATCH, STATS)
    masks = gf.global_masks(scores, sparsity=SPARSITY)
    state = State.create(
        apply_fn=NORMED.apply,
        params=gf.prune(params, masks),
        tx=optax.chain(optax.adam(0.1), gf.apply_mask(masks)),
        batch_stats=STATS,
        key=KEY,
    )

    @jax.jit
    def step(state):
        key = jax.random.fold_in(state.key, state.step)
        gradients, stats = jax.grad(train_loss, has_aux=True)(
            state.params, BATCH, state.batch_stats, key
        )
        return state.apply_gradients(grads=gradients, batch_stats=stats)

    start = state.params
    for _ in range(5):
        state = step(state)
    removed = gf.report(masks).size - gf.report(masks).kept
    assert pruned(state.params, masks).tolist() == [0.0] * removed > []
    assert (state.params["out"]["bias"] != start["out"]["bias"]).all()
    scores = gf.loss_preservation(eval_loss)(state.params, BATCH, state.batch_stats)
    assert pruned(scores, masks).tolist() == [0.0] * removed


# Flax NNX


class NNXMLP(nnx.Module):
    def __init__(self):
        self.hidden = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(5, 2, rngs=nnx.Rngs(1))
        nnx.update(self, PARAMS)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


class NNXNormed(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(jnp.tanh(self.norm(self.hidden(x)))))


def nnx_loss(model, batch):
    return jnp.mean((model(batch[0]) - batch[1]) ** 2)


def test_nnx_gives_the_numbers_of_a_dict(plain):
    graphdef, params, rest = nnx.split(NNXMLP(), nnx.Param, ...)

    def loss_fn(params, batch):
        return nnx_loss(nnx.merge(graphdef, params, rest), batch)

    for result, expected in zip(use(loss_fn, params), plain, strict=True):
        assert_close(result, expected)


def test_a_report_of_nnx_masks_names_leaves_as_a_dict_does(plain):
    params = nnx.state(NNXMLP(), nnx.Param)
    masks = gf.global_masks(gf.magnitude(params), sparsity=SPARSITY)
    printed = str(gf.report(masks))
    assert "hidden/kernel" in printed
    assert "value" not in printed
    same = gf.global_masks(gf.magnitude(PARAMS), sparsity=SPARSITY)
    assert printed == str(gf.report(same))


def test_nnx_batch_norm_in_eval_mode():
    model = NNXNormed(nnx.Rngs(0))
    model.eval()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss_fn(params, batch):
        return nnx_loss(nnx.merge(graphdef, params, rest), batch)

    results = use(loss_fn, params)
    assert list(arrays(results.masks)) == NORMED_PATHS


def nnx_train_loss(graphdef):
    def loss_fn(params, batch, rest):
        # A copy, since batch norm and dropout change their variables.
        model = nnx.merge(graphdef, params, rest, copy=True)
        return nnx_loss(model, batch), nnx.state(model, nnx.BatchStat)

    return loss_fn


def test_nnx_batch_norm_and_dropout_in_training_mode():
    graphdef, params, rest = nnx.split(NNXNormed(nnx.Rngs(0)), nnx.Param, ...)
    loss_fn = nnx_train_loss(graphdef)
    before = arrays(nnx.state(nnx.merge(graphdef, params, rest), nnx.BatchStat))
    results = use(lambda *args: loss_fn(*args)[0], params, rest)
    scores, stats = gf.loss_preservation(loss_fn, has_aux=True)(params, BATCH, rest)
    # The same noise each time: the caller's state has not moved.
    assert_close(scores, results.first_order)
    assert_close(stats, jax.jit(loss_fn)(params, BATCH, rest)[1])
    assert (arrays(stats)["norm/mean"] != before["norm/mean"]).any()
    after = arrays(nnx.state(nnx.merge(graphdef, params, rest), nnx.BatchStat))
    np.testing.assert_array_equal(after["norm/mean"], before["norm/mean"])


def test_nnx_jit_around_scoring_and_pruning(plain):
    @nnx.jit
    def prune(model, batch):
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def loss_fn(params):
            return nnx_loss(nnx.merge(graphdef, params, rest), batch)

        scores = gf.loss_preservation(loss_fn)(params)
        masks = gf.global_masks(scores, sparsity=SPARSITY)
        nnx.update(model, gf.prune(params, masks))
        return scores, masks

    model = NNXMLP()
    scores, masks = prune(model, BATCH)
    assert_close(scores, plain.first_order)
    assert_close(masks, plain.masks)
    assert_close(nnx.state(model, nnx.Param), gf.prune(PARAMS, plain.masks))


def test_an_nnx_optimizer_trains_masked_with_batch_norm_and_dropout():
    model = NNXNormed(nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    masks = gf.global_masks(gf.magnitude(params), sparsity=SPARSITY)
    nnx.update(model, gf.prune(params, masks))
    tx = optax.chain(optax.adam(0.1), gf.apply_mask(masks))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        optimizer.update(model, nnx.grad(nnx_loss)(model, batch))

    before = arrays(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    for _ in range(5):
        step(model, optimizer, BATCH)
    params, stats = nnx.state(model, nnx.Param, nnx.BatchStat)
    removed = gf.report(masks).size - gf.report(masks).kept
    assert pruned(params, masks).tolist() == [0.0] * removed > []
    assert (arrays(params)["out/bias"] != before["out/bias"]).all()
    assert (arrays(stats)["norm/mean"] != before["norm/mean"]).any()


# Equinox


class EquinoxMLP(eqx.Module):
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear
    activation: Any

    def __init__(self):
        hidden, out = eqx.nn.Linear(4, 5, key=KEY), eqx.nn.Linear(5, 2, key=KEY)
        self.hidden = with_weights(hidden, *HIDDEN)
        self.out = with_weights(out, *OUT)
        self.activation = jnp.tanh

    def __call__(self, x):
        return self.out(self.activation(self.hidden(x)))


def with_weights(linear, kernel, bias):
    return eqx.tree_at(lambda x: (x.weight, x.bias), linear, (kernel.T, bias))


def test_equinox_gives_the_numbers_of_a_dict(plain):
    params, static = eqx.partition(EquinoxMLP(), eqx.is_inexact_array)

    def loss_fn(params, batch):
        x, y = batch
        return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - y) ** 2)

    def as_dict(tree):
        layers = {"hidden": tree.hidden, "out": tree.out}
        return {k: {"kernel": x.weight.T, "bias": x.bias} for k, x in layers.items()}

    results = use(loss_fn, params)
    paths = ["hidden/weight", "hidden/bias", "out/weight", "out/bias"]
    assert list(arrays(results.masks)) == paths
    for result, expected in zip(results, plain, strict=True):
        assert_close(as_dict(result), expected)


# Whole modules where parameters belong

LOSS = gf.loss_preservation(lambda params: jnp.zeros(()))
TAKERS = {
    "a measure": LOSS,
    "magnitude": gf.magnitude,
    "prune": lambda params: gf.prune(params, {"w": jnp.ones(1, bool)}),
    "apply_mask": gf.apply_mask().init,
}
every_taker = pytest.mark.parametrize("taker", TAKERS)


class Plus(nnx.Module):
    def __init__(self, first):
        self.first = first
        self.out = nnx.Linear(2, 2, rngs=nnx.Rngs(0))


WHOLE_NNX = {
    "batch_norm": (
        lambda: Plus(nnx.BatchNorm(2, rngs=nnx.Rngs(0))),
        "its leaf 'first/mean' is a BatchStat, not a Param",
    ),
    "dropout": (
        lambda: Plus(nnx.Dropout(0.5, rngs=nnx.Rngs(0))),
        "its leaf 'first/rngs/",
    ),
    "only_params": (
        lambda: Plus(nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
        "its parameters are nnx.Param variables, not a pytree of arrays",
    ),
}


@pytest.mark.parametrize("kind", WHOLE_NNX)
@pytest.mark.parametrize("taker", ("prune", "apply_mask"))
def test_a_whole_nnx_module_is_refused_with_the_remedy(taker, kind):
    make, finding = WHOLE_NNX[kind]
    message = f"params is a whole nnx.Module (Plus); {finding}"
    with pytest.raises(TypeError, match=re.escape(message)) as found:
        TAKERS[taker](make())
    assert (
        "Pass its parameters, nnx.state(model, nnx.Param), and write what comes back "
        "into it by nnx.update(model, ...)"
    ) in str(found.value)
    if kind == "dropout":
        assert re.search(r"is a Rng(Count|Key), not a Param", str(found.value))


@every_taker
def test_a_whole_equinox_module_is_refused_with_the_remedy(taker):
    message = "params leaf 'activation' is "
    with pytest.raises(TypeError, match=message) as found:
        TAKERS[taker](EquinoxMLP())
    assert "eqx.partition(model, eqx.is_inexact_array)" in str(found.value)
