"""Losses with flags, and batches as loaders of other libraries make them."""

import enum
import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradflow_jax as gf

RNG = np.random.default_rng(4)
PARAMS = {"w": RNG.normal(size=(4, 3)).astype(np.float32)}
X = RNG.normal(size=(6, 4)).astype(np.float32)
Y = RNG.normal(size=(6, 3)).astype(np.float32)


class Reduction(enum.Enum):
    MEAN = "mean"
    SUM = "sum"


def loss_fn(params, batch, train=False, reduction="mean"):
    x, y = batch
    error = (jnp.tanh(x @ params["w"]) * (0.5 if train else 1.0) - y) ** 2
    sums = reduction in ("sum", Reduction.SUM)
    return error.sum() if sums else error.mean()


def numbers(result):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result)])


FLAGS = {
    "a keyword": ((), {"train": True}),
    "a text": ((), {"reduction": "sum"}),
    "places": ((True, "sum"), {}),
    "NumPy's bool": ((np.bool_(True),), {}),
    "an enumeration": ((), {"reduction": Reduction.SUM}),
}


@pytest.mark.parametrize("case", FLAGS)
def test_bools_and_texts_are_static_to_every_measure(case):
    args, kwargs = FLAGS[case]
    options = {**dict(zip(("train", "reduction"), args, strict=False)), **kwargs}
    bound = functools.partial(loss_fn, **options)
    batch = X, Y
    for lift, data in ((lambda loss: loss, batch), (gf.over_batches, [batch])):
        scores = gf.taylor(lift(loss_fn))(PARAMS, data, *args, **kwargs)
        expected = gf.taylor(bound)(PARAMS, batch)
        np.testing.assert_allclose(numbers(scores), numbers(expected), rtol=1e-5)
    mean = gf.over_batches(loss_fn)(PARAMS, [batch], *args, **kwargs)
    np.testing.assert_allclose(mean, bound(PARAMS, batch), rtol=1e-6)


def test_flags_reach_second_passes_and_single_examples():
    args, bound = (True, "sum"), functools.partial(loss_fn, train=True, reduction="sum")
    grasp = gf.grasp(gf.over_batches(loss_fn))(PARAMS, [(X, Y)], *args)
    np.testing.assert_allclose(
        grasp["w"], gf.grasp(bound)(PARAMS, (X, Y))["w"], rtol=1e-4, atol=1e-4
    )
    fisher = gf.fisher(loss_fn, per_example=True)(PARAMS, (X, Y), *args)
    expected = gf.fisher(bound, per_example=True)(PARAMS, (X, Y))
    np.testing.assert_allclose(fisher["w"], expected["w"], rtol=1e-5)


def test_flags_reach_the_loss_through_loops_and_branches():
    batch, flags = (X, Y), {"train": True, "reduction": "sum"}
    bound = functools.partial(loss_fn, **flags)
    dynamics = gf.dynamics
    masks = jax.tree.map(lambda leaf: leaf > 0, PARAMS)
    effects = dynamics.removal_effects(loss_fn)(PARAMS, masks, batch, **flags)
    expected = dynamics.removal_effects(bound)(PARAMS, masks, batch)
    np.testing.assert_allclose(numbers(effects), numbers(expected), rtol=1e-4)
    run = dynamics.gradient_descent(loss_fn, 0.1)(PARAMS, [0, 1], batch, **flags)
    expected_run = dynamics.gradient_descent(bound, 0.1)(PARAMS, [0, 1], batch)
    np.testing.assert_allclose(run.loss, expected_run.loss, rtol=1e-5)
    evolution = dynamics.follow(loss_fn)(run, batch, **flags)
    np.testing.assert_allclose(evolution.loss, expected_run.loss, rtol=1e-5)
    record = dynamics.Recorder(loss_fn)
    record(PARAMS, batch, True, "sum")
    tracker = dynamics.track(loss_fn)
    params = jax.tree.map(jnp.asarray, PARAMS)
    _, state = tracker.update(
        params, tracker.init(params), params, loss_args=(batch, True, "sum")
    )
    for held in (record.evolution(), dynamics.tracked(state, params)):
        np.testing.assert_allclose(held.loss[0], run.loss[0], rtol=1e-5)


def test_a_program_is_compiled_for_each_value_of_a_flag():
    traces = []

    def counted(params, batch, train):
        traces.append(train)
        return loss_fn(params, batch, train)

    measure = gf.taylor(counted)
    for train in (True, False, True, False):
        measure(PARAMS, (X, Y), train)
    assert traces == [True, False]
    assert "stablehlo" in measure.lower(PARAMS, (X, Y), True).as_text()


@pytest.mark.parametrize(
    "decide",
    [
        lambda w, steps: sum(w.sum() for _ in range(steps)),
        lambda w, steps: w.sum(axis=steps).sum(),
        lambda w, steps: w.sum() if w[0, 0] > 0 else -w.sum(),
        lambda w, steps: jnp.sum(w * np.asarray(w)),
    ],
    ids=["a number of turns", "an axis", "a weight", "NumPy"],
)
def test_a_loss_that_asks_for_a_traced_value_is_told_what_to_bind(decide):
    def loss(params, steps):
        return decide(params["w"], steps)

    with pytest.raises(TypeError, match="asks for the value .*functools.partial"):
        gf.loss_preservation(loss)(PARAMS, 1)


class Tensor:
    """What a tensor of another library looks like from outside."""

    def __init__(self, values, error=None):
        self.values, self.error = values, error
        self.shape, self.dtype = values.shape, "other.float32"

    def __array__(self, dtype=None, copy=None):
        if self.error is not None:
            raise self.error
        return np.asarray(self.values, dtype)


class Interface:
    """An image, say, which shares its memory and has no dtype."""

    def __init__(self, values):
        self.__array_interface__ = values.__array_interface__
        self.values = values


def dict_loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


@pytest.mark.parametrize("kind", [Tensor, Interface])
def test_what_numpy_reads_is_taken_as_numpy_takes_it(kind):
    data, tensors = {"x": X, "y": Y}, {"x": kind(X), "y": kind(Y)}
    expected = gf.loss_preservation(dict_loss)(PARAMS, data)["w"]
    batched = gf.over_batches(dict_loss, micro_batch=2)
    scores = [
        gf.loss_preservation(dict_loss)(PARAMS, tensors)["w"],
        gf.loss_preservation(batched)(PARAMS, [tensors])["w"],
    ]
    for values in scores:
        np.testing.assert_allclose(values, expected, rtol=1e-5)
    descend = gf.dynamics.gradient_descent(dict_loss, 0.1)
    np.testing.assert_allclose(
        descend(PARAMS, [1], tensors).loss, descend(PARAMS, [1], data).loss
    )
    mean = gf.over_batches(dict_loss)(PARAMS, [tensors])
    np.testing.assert_allclose(mean, dict_loss(PARAMS, data), rtol=1e-6)


def test_a_weight_is_asked_about_what_the_loader_made():
    seen = []
    weight = lambda batch: seen.append(type(batch["x"])) or 1.0  # noqa: E731
    mean_loss = gf.over_batches(dict_loss, weight=weight)
    gf.taylor(mean_loss)(PARAMS, [{"x": Tensor(X), "y": Tensor(Y)}])
    assert seen == [Tensor]


NO_ARRAYS = {
    "a text": ("a.png", "'z'.*text 'a.png'"),
    "texts": (np.array(["a", "b"]), r"'z'.* <U1\[2\]"),
    "objects": (np.array([None, 1]), r"'z'.* object\[2\]"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), r"'z'.* datetime64\[D\]\[1\]"),
    "records": (np.zeros(2, "i4, f4"), r"'z'.*\[2\].*Encode it as numbers"),
    "a masked array": (np.ma.array([1.0]), "'z'.* masked array"),
    "a function": (len, "'z'.* not an array.*functools.partial"),
    "unreadable": (Tensor(X, RuntimeError("detach()")), r"'z'.*numpy cannot.*detach"),
    "a shape": (jax.ShapeDtypeStruct((2,), np.float32), "'z'.*a shape without values"),
    "a huge number": (2**70, "'z'.* is a whole number that int32 cannot hold"),
    "a namespace": (SimpleNamespace(shape=(), dtype="f4"), "'z'.* SimpleNamespace"),
    "keys of no order": ({1: X, "b": X}, r"\['z'\] has keys of int and str"),
    "a generator": ((b for b in [X]), "'z'.*generator.*gf.over_batches"),
}


@pytest.mark.parametrize("case", NO_ARRAYS)
def test_what_is_no_array_is_named_by_its_key(case):
    value, words = NO_ARRAYS[case]
    batch = {"x": X, "y": Y, "z": value}
    masks = jax.tree.map(lambda leaf: leaf > 0, PARAMS)
    calls = [
        lambda: gf.loss_preservation(dict_loss)(PARAMS, batch),
        lambda: gf.grasp(gf.over_batches(dict_loss))(PARAMS, [batch]),
        lambda: gf.over_batches(dict_loss)(PARAMS, [batch]),
        lambda: gf.dynamics.gradient_descent(dict_loss, 0.1)(PARAMS, [1], batch),
        lambda: gf.dynamics.removal_effects(dict_loss)(PARAMS, masks, batch),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=words):
            call()


def test_shapes_suffice_to_lower_a_measure():
    shapes = jax.eval_shape(lambda *trees: trees, PARAMS, {"x": X, "y": Y})
    assert "func" in gf.loss_preservation(dict_loss).lower(*shapes).as_text()


def test_a_data_set_without_over_batches_is_told_of_it():
    for batches in (((X, Y) for _ in range(2)), iter([(X, Y)])):
        with pytest.raises(TypeError, match="argument 1 after params .*over_batches"):
            gf.loss_preservation(loss_fn)(PARAMS, batches)
    with pytest.raises(TypeError, match="argument 'extra' is function"):
        gf.taylor(lambda params, extra: 0.0)(PARAMS, extra=lambda: 0)


NO_PARAMS = {
    "objects": np.array([None, 1.0]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "records": np.zeros(2, "i4, f4"),
    "texts": np.array(["a"]),
    "a tensor": Tensor(X),
}


@pytest.mark.parametrize("case", NO_PARAMS)
def test_params_of_no_numbers_are_named_by_every_entry(case):
    params = {"w": PARAMS["w"], "odd": NO_PARAMS[case]}
    tracker = gf.dynamics.track(lambda params: 0.0)
    calls = [
        gf.magnitude,
        gf.random(jax.random.key(0)),
        gf.batch_norm_scale,
        gf.grasp(loss_fn),
        gf.differentiate(gf.over_batches(loss_fn)),
        gf.dynamics.Recorder(lambda params: 0.0),
        tracker.init,
        lambda params: gf.score(params, "magnitude"),
        lambda params: gf.biased_loss_preservation(loss_fn, origin=params)(
            {"w": PARAMS["w"], "odd": X}
        ),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="(params|origin) leaf 'odd' is "):
            call(params)


def test_parts_of_one_batch_are_no_batches():
    mean_loss = gf.over_batches(loss_fn)
    labels = np.arange(6)
    for batch in ((X, Y), (X, X), [X, labels], (X, labels, labels)):
        with pytest.raises(TypeError, match=r"is one batch: pass a list such as \[\(x"):
            gf.grasp(mean_loss)(PARAMS, batch)
    with pytest.raises(TypeError, match="is one batch"):
        gf.dynamics.gradient_descent(mean_loss, 0.1)(PARAMS, [1], (X, Y))
    with pytest.raises(TypeError, match="str, which cannot be iterated"):
        gf.taylor(mean_loss)(PARAMS, "train.npz")
    of_one_array = gf.over_batches(lambda params, x: jnp.mean(x @ params["w"]))
    gf.taylor(of_one_array)(PARAMS, [X, X])


def test_a_loss_of_images_and_labels_is_told_to_take_one_batch():
    def loss(params, x, y):
        return loss_fn(params, (x, y))

    mean_loss = gf.over_batches(loss)
    calls = [
        lambda: mean_loss(PARAMS, [(X, Y)]),
        lambda: gf.taylor(mean_loss)(PARAMS, [(X, Y)]),
        lambda: gf.taylor(gf.over_batches(loss_fn))(PARAMS, [(X, Y)], scale=2.0),
    ]
    for call in calls:
        with pytest.raises(
            TypeError, match=r"lambda params, batch: loss_fn\(params, \*"
        ):
            call()
    with pytest.raises(TypeError, match="the batches are missing"):
        gf.taylor(gf.over_batches(loss_fn))(PARAMS)


class Layers(NamedTuple):
    kernel: Any


TRANSFORMATIONS = {
    gf.loss_preservation: "(params, batch)",
    gf.biased_loss_preservation: "(params, batch)",
    gf.fisher: "(params, batch)",
    gf.batch_norm_taylor: "(params, batch)",
    gf.first_order_terms: "(params, batch)",
    gf.gradient_norm_preservation: "(params, batch)",
    gf.differentiate: "(params, batch)",
    gf.over_batches: "(params, batches)",
    gf.dynamics.follow: "(trajectory, batch)",
    gf.dynamics.removal_effects: "(params, masks, batch)",
    gf.dynamics.gradient_flow: "(params, times, batch)",
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_parameters_in_place_of_the_loss_are_told_the_phrase(transformation):
    phrase = f"{transformation.__name__}(loss_fn){TRANSFORMATIONS[transformation]}"
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    for params in (PARAMS, X, Layers(X), model, nnx.state(model), None):
        for args in ((params, (X, Y)), (params,)):
            with pytest.raises(TypeError) as error:
                transformation(*args)
            assert phrase in str(error.value)
        with pytest.raises(TypeError, match="its loss_fn is"):
            transformation(loss_fn=params)
    with pytest.raises(TypeError, match="was given 2 arguments more than it takes"):
        transformation(loss_fn, PARAMS, (X, Y))


def test_other_transformations_are_told_so_too():
    with pytest.raises(TypeError, match=r"gradient_descent\(loss_fn, learning_rate\)"):
        gf.dynamics.gradient_descent(PARAMS, 0.1)
    for make in (gf.dynamics.track, gf.dynamics.Recorder):
        with pytest.raises(TypeError, match=rf"{make.__name__}\(loss_fn\)"):
            make(PARAMS)


def test_a_function_in_place_of_a_tree_is_told_to_be_called():
    measure = gf.loss_preservation(loss_fn)
    for call, words in (
        (lambda: gf.magnitude(loss_fn), "params is the function loss_fn: pass the pyt"),
        (lambda: gf.grasp(loss_fn)(loss_fn), r"params is .*\(loss_fn\)\(params, batch"),
        (lambda: gf.global_masks(gf.magnitude, sparsity=0.5), r"gf.magnitude\(params"),
        (lambda: gf.global_masks(measure, sparsity=0.5), "function loss_preservation"),
        (lambda: gf.random(PARAMS), r"key is a dict: pass one key, jax.random.key"),
        (lambda: gf.random(0), r"key is a int: pass one key"),
    ):
        with pytest.raises(TypeError, match=words):
            call()
    assert gf.random(jax.random.PRNGKey(0))(PARAMS)["w"].shape == (4, 3)


def test_one_measure_s_score_of_parameters_alone():
    np.testing.assert_array_equal(
        gf.score(PARAMS, "magnitude")["w"], gf.magnitude(PARAMS)["w"]
    )
    with pytest.raises(ValueError, match="taylor needs gradient.*gf.differentiate"):
        gf.score(PARAMS, "taylor")
    with pytest.raises(TypeError, match=r"given dict: .*gf.differentiate\(loss_fn\)"):
        gf.score_all(PARAMS)


def test_a_module_changed_in_another_trace_is_told_to_be_copied():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    model = Net(nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, x, y):
        logits = nnx.merge(graphdef, params, rest)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    with pytest.raises(TypeError, match="graphdef, params, rest, copy=True"):
        gf.grasp(loss)(params, X, np.arange(6) % 3)
    with pytest.raises(TypeError, match="graphdef, params, rest, copy=True"):
        gf.global_masks(model, sparsity=0.5)


def test_options_that_a_measure_lacks_are_named_with_those_it_has():
    with pytest.raises(TypeError, match="no argument temperature=; .* divides the log"):
        gf.grasp(loss_fn, temperature=200)
    with pytest.raises(TypeError, match="fisher has no argument batch=; it takes"):
        gf.fisher(loss_fn, batch=None)
