"""Measures called with an `nnx.Module` in place of params."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves

RNG = np.random.default_rng(3)
BATCH = tuple(RNG.normal(size=(6, n)).astype(np.float32) for n in (3, 2))
BATCHES = [tuple(array[rows] for array in BATCH) for rows in (slice(4), slice(4, 6))]


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(jnp.tanh(self.norm(self.hidden(x)))))


def loss_fn(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2)


def loss_and_predictions(model, batch):
    predictions = model(batch[0])
    return jnp.mean((predictions - batch[1]) ** 2), predictions


def functional(loss_fn, model):
    """The loss as a function of params, written by hand, and the params."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, *args, **kwargs):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return loss_fn(merged, *args, **kwargs)

    return loss, params


def arrays(tree):
    return {path: np.asarray(leaf) for path, leaf in named_leaves(tree)}


def assert_close(a, b):
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(a[path], b[path], 1e-5, 1e-7, err_msg=path)


def variables(model):
    """All that a module holds, keys of random streams as their bits."""
    return [
        np.asarray(
            jax.random.key_data(leaf)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )
        for leaf in jax.tree.leaves(nnx.state(model))
    ]


MEASURES = {
    "loss_preservation": gf.loss_preservation,
    "biased_loss_preservation": gf.biased_loss_preservation,
    "taylor": gf.taylor,
    "fisher": gf.fisher,
    "first_order_terms": gf.first_order_terms,
    "gradient_norm_increase": gf.gradient_norm_increase,
    "gradient_norm_preservation": gf.gradient_norm_preservation,
    "differentiate": lambda loss: gf.differentiate(loss, squares="batch"),
    "batch_norm_taylor": gf.batch_norm_taylor,
}


@pytest.mark.parametrize("batched", [False, True], ids=["batch", "batches"])
@pytest.mark.parametrize("name", MEASURES)
def test_a_module_gives_the_scores_of_its_params(name, batched):
    """With the batch's statistics and dropout, and leaves the module as it was."""
    model = Net(nnx.Rngs(0))
    before = variables(model)
    pure_loss, params = functional(loss_fn, model)
    lift = gf.over_batches if batched else lambda loss: loss
    data = BATCHES if batched else BATCH
    scores = MEASURES[name](lift(loss_fn))(model, data)
    expected = MEASURES[name](lift(pure_loss))(params, data)
    assert jax.tree.structure(scores) == jax.tree.structure(expected)
    assert_close(scores, expected)
    for now, then in zip(variables(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("measure", [gf.fisher, gf.batch_norm_taylor])
def test_squares_of_examples(measure):
    model = Net(nnx.Rngs(0))
    model.eval()
    pure_loss, params = functional(loss_fn, model)
    scores = measure(loss_fn, per_example=True)(model, BATCH)
    assert_close(scores, measure(pure_loss, per_example=True)(params, BATCH))


def test_measures_without_a_loss():
    model, key = Net(nnx.Rngs(0)), jax.random.key(1)
    params = nnx.state(model, nnx.Param)
    for measure in (gf.magnitude, gf.random(key), gf.batch_norm_scale):
        scores, expected = measure(model), measure(params)
        assert jax.tree.structure(scores) == jax.tree.structure(expected)
        assert_close(scores, expected)


def test_the_mean_loss_over_batches_takes_a_module():
    model = Net(nnx.Rngs(0))
    model.eval()
    mean_loss = gf.over_batches(loss_fn)(model, BATCHES)
    expected = (4 * loss_fn(model, BATCHES[0]) + 2 * loss_fn(model, BATCHES[1])) / 6
    np.testing.assert_allclose(mean_loss, expected, rtol=1e-6)


def test_an_origin_may_be_a_module_and_stays_when_it_trains():
    model = Net(nnx.Rngs(0))
    model.eval()
    measure = gf.biased_loss_preservation(loss_fn, origin=model)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda leaf: leaf + 1, params))
    scores = measure(model, BATCH)
    # The distance from the origin is 1 everywhere.
    assert_close(scores, gf.loss_preservation(loss_fn)(model, BATCH))


def test_aux_comes_back_beside_the_scores():
    model = Net(nnx.Rngs(0))
    model.eval()
    measure = gf.loss_preservation(loss_and_predictions, has_aux=True)
    scores, predictions = measure(model, BATCH)
    assert_close(scores, gf.loss_preservation(loss_fn)(model, BATCH))
    np.testing.assert_allclose(predictions, model(BATCH[0]), rtol=1e-5, atol=1e-6)


def test_keyword_arguments_reach_the_loss():
    def scaled(model, batch, *, scale):
        return scale * loss_fn(model, batch)

    model = Net(nnx.Rngs(0))
    scores = gf.taylor(scaled)(model, BATCH, scale=2.0)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, gf.taylor(loss_fn)(model, BATCH))
    assert_close(scores, doubled)


@pytest.mark.parametrize("batched", [False, True], ids=["batch", "batches"])
def test_changed_weights_and_statistics_compile_nothing(batched):
    traces = []

    def counted(model, batch):
        traces.append(batch)
        return loss_fn(model, batch)

    model = Net(nnx.Rngs(0))
    measure = gf.grasp(gf.over_batches(counted) if batched else counted)
    data = [BATCH] if batched else BATCH
    first = measure(model, data)
    count = len(traces)
    changed = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda leaf: 1.5 * leaf + 0.1, changed))
    second = measure(model, data)
    assert len(traces) == count
    assert (arrays(first)["out/kernel"] != arrays(second)["out/kernel"]).all()
    model.eval()
    measure(model, data)
    assert len(traces) > count, "another mode is another program"


def test_it_is_lowered_as_a_tree_is():
    model = Net(nnx.Rngs(0))
    lowered = gf.loss_preservation(loss_fn).lower(model, BATCH)
    assert "stablehlo" in lowered.as_text()


def test_a_measure_called_inside_of_nnx_jit():
    model = Net(nnx.Rngs(0))
    measure = gf.loss_preservation(loss_fn)
    inside = nnx.jit(lambda model: measure(model, BATCH))(model)
    assert_close(inside, measure(Net(nnx.Rngs(0)), BATCH))


def test_scores_of_a_module_go_on_into_masks_optimizer_and_prune():
    model = Net(nnx.Rngs(0))
    masks = gf.global_masks(gf.loss_preservation(loss_fn)(model, BATCH), sparsity=0.5)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, gf.prune(params, masks))
    tx = optax.chain(optax.adam(0.1), gf.apply_mask(masks))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss_fn)(model, BATCH))

    before = arrays(nnx.state(model, nnx.Param))
    for _ in range(3):
        step(model, optimizer)
    after = arrays(nnx.state(model, nnx.Param))
    for path, mask in arrays(masks).items():
        assert (after[path][~mask] == 0.0).all()
        assert (after[path][mask] != before[path][mask]).any()
    report = gf.report(masks)
    assert report.kept == report.size - round(0.5 * report.size)
