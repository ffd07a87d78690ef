"""Batches cut small, sums of a chosen dtype, and loading ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow_jax as gf

RNG = np.random.default_rng(3)
X = RNG.normal(size=(23, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 23)
PARAMS = {"kernel": RNG.normal(size=(6, 3)).astype(np.float32)}
BATCHES = [(X[:12], Y[:12]), (X[12:], Y[12:])]


def loss_fn(params, batch):
    x, y = batch
    logits = jnp.tanh(x @ params["kernel"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def assert_close(actual, expected, rtol=1e-5):
    np.testing.assert_allclose(
        actual["kernel"],
        expected["kernel"],
        rtol,
        rtol * np.abs(expected["kernel"]).max(),
    )


@pytest.mark.parametrize("micro_batch", [1, 5, 12, 100])
def test_micro_batches_give_the_result_of_whole_ones(micro_batch):
    seen = []

    def watched(params, batch):
        seen.append(len(batch[1]))
        return loss_fn(params, batch)

    mean_loss = gf.over_batches(watched, micro_batch=micro_batch)
    expected = gf.grasp(loss_fn)(PARAMS, (X, Y))
    assert_close(gf.grasp(mean_loss)(PARAMS, BATCHES), expected)
    np.testing.assert_allclose(
        mean_loss(PARAMS, BATCHES), loss_fn(PARAMS, (X, Y)), 1e-6
    )
    assert max(seen) == min(micro_batch, 12)


def test_micro_batches_keep_the_weight_of_their_batch():
    def by(micro_batch):
        weight = {12: 1.0, 11: 3.0}
        mean_loss = gf.over_batches(
            loss_fn, weight=lambda batch: weight[len(batch[1])], micro_batch=micro_batch
        )
        return gf.taylor(mean_loss)(PARAMS, BATCHES)

    assert_close(by(4), by(None))


def test_progress_counts_whole_batches():
    seen = []
    mean_loss = gf.over_batches(
        loss_fn, micro_batch=5, progress=lambda *step: seen.append(step)
    )
    gf.grasp(mean_loss)(PARAMS, BATCHES)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_mean_loss_by_itself_is_one_pass():
    seen = []
    mean_loss = gf.over_batches(loss_fn, progress=lambda *step: seen.append(step))
    expected = mean_loss(PARAMS, BATCHES)
    assert seen == [(1, 2), (2, 2)]
    # A generator, which cannot be iterated again, will therefore do.
    assert mean_loss(PARAMS, iter(BATCHES)) == expected


def test_squares_of_batches_are_not_squares_of_micro_batches():
    cut = gf.over_batches(loss_fn, micro_batch=4)
    with pytest.raises(TypeError, match="micro_batch=4 would cut"):
        gf.fisher(cut)(PARAMS, BATCHES)
    per_example = gf.fisher(cut, per_example=True)(PARAMS, BATCHES)
    assert_close(per_example, gf.fisher(loss_fn, per_example=True)(PARAMS, (X, Y)))


def test_a_number_in_the_batch_cannot_be_cut():
    mean_loss = gf.over_batches(lambda params, b: loss_fn(params, b[:2]), micro_batch=4)
    with pytest.raises(ValueError, match="batch's leaf '2' is a single number"):
        gf.taylor(mean_loss)(PARAMS, [(X, Y, 0.5)])


def test_sums_are_held_in_the_dtype_asked_for(float64):
    exact = {"kernel": PARAMS["kernel"].astype(np.float64)}
    wide = gf.over_batches(loss_fn, dtype=jnp.float64)
    derivatives = gf.differentiate(wide)(PARAMS, BATCHES)
    for leaf in jax.tree.leaves((derivatives.gradient, derivatives.hessian_gradient)):
        assert leaf.dtype == jnp.float64
    expected = gf.differentiate(gf.over_batches(loss_fn))(exact, BATCHES)
    assert_close(derivatives.gradient, expected.gradient, 1e-5)
    rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    for dtype, result in ((None, jnp.float32), (jnp.bfloat16, jnp.bfloat16)):
        differentiate = gf.differentiate(gf.over_batches(loss_fn, dtype=dtype), order=1)
        assert differentiate(rounded, BATCHES).gradient["kernel"].dtype == result


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"micro_batch": 0}, ValueError, "micro_batch is 0: compute one"),
        ({"micro_batch": 2.0}, TypeError, "micro_batch is 2.0, not a whole number"),
        ({"dtype": jnp.int32}, TypeError, "dtype is int32: sums of gradients need"),
        ({"dtype": jnp.float64}, ValueError, "float64, which JAX has only after"),
        ({"dtype": "weights"}, TypeError, "dtype is 'weights', which is none: pass"),
        ({"dtype": np.ones(2)}, TypeError, "dtype is float64, which is none: pass"),
        ({"dtype": jnp.asarray(X)}, TypeError, "dtype is float32, which is none: pass"),
        ({"dtype": {"a": 1}}, TypeError, "dtype is dict, which is none: pass"),
        ({"weight": 2.0}, TypeError, r"weight is 2.0: pass a function, .*weight\(b"),
        ({"progress": True}, TypeError, r"progress is True: pass a function, as "),
    ],
    ids=str,
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        gf.over_batches(loss_fn, **options)


def test_the_next_batch_is_fetched_before_the_last_is_awaited():
    """Loading overlaps with computing: batch i + 1 is asked for before i is done."""
    events = []

    def stream():
        for i, batch in enumerate(BATCHES):
            events.append(f"fetch {i}")
            yield batch
        events.append("end")

    mean_loss = gf.over_batches(
        loss_fn, progress=lambda done, total: events.append(f"done {done - 1}")
    )
    gf.taylor(mean_loss)(PARAMS, stream())
    assert events == ["fetch 0", "fetch 1", "done 0", "end", "done 1"]
