"""Losses of one batch and of many: equal results, memory, progress, errors."""

import weakref
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow_jax as gf
from gradflow_jax.scores import Derivatives

RNG = np.random.default_rng(2)
X = RNG.normal(size=(23, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 23)
PARAMS = {
    "first": {"kernel": RNG.normal(size=(6, 5)).astype(np.float32)},
    "second": {"kernel": RNG.normal(size=(5, 3)).astype(np.float32)},
}
RAGGED = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]

SECOND_ORDER = ("grasp", "gradient_norm_preservation")
FIRST_ORDER = ("loss_preservation", "biased_loss_preservation", "taylor")


def loss_fn(params, batch):
    x, y = batch
    logits = jnp.tanh(x @ params["first"]["kernel"]) @ params["second"]["kernel"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def assert_trees_close(a, b, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max())


@pytest.mark.parametrize("name", FIRST_ORDER + SECOND_ORDER)
def test_unequal_batches_give_the_result_of_one_big_batch(name):
    measure = getattr(gf, name)
    batched = measure(gf.over_batches(loss_fn))(PARAMS, RAGGED)
    assert_trees_close(batched, measure(loss_fn)(PARAMS, (X, Y)))


def test_the_batched_loss_is_the_mean_loss():
    whole = loss_fn(PARAMS, (X, Y))
    np.testing.assert_allclose(gf.over_batches(loss_fn)(PARAMS, RAGGED), whole, 1e-6)
    d = gf.differentiate(gf.over_batches(loss_fn), order=1)(PARAMS, RAGGED)
    np.testing.assert_allclose(d.loss, whole, 1e-6)


def test_weight_decides_what_a_batch_counts_for():
    only_first = gf.over_batches(
        loss_fn, weight=lambda b: 1 if b is RAGGED[0] else 1e-9
    )
    scores = gf.grasp(only_first)(PARAMS, RAGGED)
    assert_trees_close(scores, gf.grasp(loss_fn)(PARAMS, RAGGED[0]))


def test_a_batch_of_one_shape_is_traced_once():
    traces = 0

    def counted(params, batch):
        nonlocal traces
        traces += 1
        return loss_fn(params, batch)

    loss_preservation = gf.loss_preservation(counted)
    for i in range(3):
        loss_preservation(PARAMS, (X + i, Y))
    assert traces == 1
    traces = 0
    measure = gf.loss_preservation(gf.over_batches(counted))
    for _ in range(2):
        measure(PARAMS, RAGGED)
    assert traces == 2  # eight examples, then seven


class Stream:
    """Makes each batch anew and counts those alive; arrays in Python's memory."""

    def __init__(self, count):
        self.count = count
        self.alive = 0
        self.most = 0

    def __len__(self):
        return self.count

    def __iter__(self):
        for i in range(self.count):
            x, y = X[:8] + i, Y[:8].copy()
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(x, self.release)
            yield x, y
            del x, y

    def release(self):
        self.alive -= 1


def test_one_batch_and_two_accumulators_are_held():
    stream, accumulators = Stream(20), []
    shape = (6, 5)

    def count_accumulators(done, total):
        assert total == 40
        arrays = [leaf for leaf in jax.live_arrays() if leaf.shape == shape]
        accumulators.append(len(arrays))

    params = jax.tree.map(jnp.asarray, PARAMS)
    before = sum(leaf.shape == shape for leaf in jax.live_arrays())
    loss = gf.over_batches(loss_fn, progress=count_accumulators)
    gf.gradient_norm_preservation(loss)(params, stream)
    # The limit is not 1: JAX drops its references to Python's arrays a little later.
    assert stream.most <= 4
    assert max(accumulators[:20]) - before == 1
    assert max(accumulators[20:]) - before == 2


def test_progress_counts_batches_over_all_passes():
    seen = []
    loss = gf.over_batches(loss_fn, progress=lambda *step: seen.append(step))
    gf.grasp(loss)(PARAMS, RAGGED)
    assert seen == [(i, 6) for i in range(1, 7)]
    seen.clear()
    gf.loss_preservation(loss)(PARAMS, iter(RAGGED))
    assert seen == [(i, None) for i in range(1, 4)]


def test_a_generator_serves_one_pass_and_its_function_two():
    def batches():
        yield from RAGGED

    expected = gf.taylor(loss_fn)(PARAMS, (X, Y))
    assert_trees_close(gf.taylor(gf.over_batches(loss_fn))(PARAMS, batches()), expected)
    grasp = gf.grasp(gf.over_batches(loss_fn))
    assert_trees_close(grasp(PARAMS, batches), gf.grasp(loss_fn)(PARAMS, (X, Y)))
    with pytest.raises(TypeError, match="only once.*2 times.*Pass a list"):
        grasp(PARAMS, batches())


def test_further_arguments_go_to_every_batch():
    def scaled(params, batch, temperature, *, shift):
        x, y = batch
        return loss_fn(params, (x / temperature + shift, y))

    options = {"shift": jnp.float32(0.5)}
    batched = gf.grasp(gf.over_batches(scaled))(PARAMS, RAGGED, 2.0, **options)
    assert_trees_close(batched, gf.grasp(scaled)(PARAMS, (X, Y), 2.0, **options))


def test_the_loss_may_have_keywords_of_any_name():
    names = ("weight", "origin", "sums", "gradient", "batches", "finish", "loss")

    def loss(w, batch, **keywords):
        assert sorted(keywords) == sorted(names)
        return jnp.mean(w * batch) ** 2 * sum(keywords.values())

    keywords = dict.fromkeys(names, 1.0)
    x = jnp.arange(4.0)
    for measure in (gf.grasp, gf.fisher):
        measure(loss)(jnp.float32(2), x, **keywords)
        measure(gf.over_batches(loss))(jnp.float32(2), [x], **keywords)
    gf.over_batches(loss)(jnp.float32(2), [x], **keywords)


def test_batches_may_come_in_another_order_the_second_time():
    order = iter([RAGGED, RAGGED[::-1]])
    scores = gf.grasp(gf.over_batches(loss_fn))(PARAMS, lambda: next(order))
    assert_trees_close(scores, gf.grasp(loss_fn)(PARAMS, (X, Y)))


def test_has_aux_returns_aux_beside_the_scores():
    def with_aux(params, batch):
        return loss_fn(params, batch), len(batch[0])

    expected = gf.grasp(loss_fn)(PARAMS, (X, Y))
    scores, aux = gf.grasp(with_aux, has_aux=True)(PARAMS, (X, Y))
    assert_trees_close(scores, expected)
    assert int(aux) == 23
    batched = gf.over_batches(with_aux)
    scores, auxes = gf.grasp(batched, has_aux=True)(PARAMS, RAGGED)
    assert_trees_close(scores, expected)
    assert [int(aux) for aux in auxes] == [8, 8, 7]


def test_scores_of_bfloat16_params_are_float32():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    for loss, data in ((loss_fn, RAGGED[0]), (gf.over_batches(loss_fn), RAGGED)):
        d = gf.differentiate(loss, squares="batch")(params, data)
        for scores in gf.score_all(d).values():
            assert {leaf.dtype for leaf in jax.tree.leaves(scores)} == {
                np.dtype(np.float32)
            }
    exact = gf.grasp(gf.over_batches(loss_fn))(PARAMS, RAGGED)
    rounded = gf.grasp(gf.over_batches(loss_fn))(params, RAGGED)
    assert_trees_close(rounded, exact, rtol=0.05)


def test_a_measure_lowers_like_a_jitted_function():
    lowered = gf.grasp(loss_fn).lower(PARAMS, (X, Y))
    assert "dot" in lowered.as_text()
    with pytest.raises(TypeError, match="lower the measure of the plain loss"):
        gf.grasp(gf.over_batches(loss_fn)).lower(PARAMS, RAGGED)


def test_params_and_origin_are_the_caller_s_still():
    params = jax.tree.map(jnp.asarray, PARAMS)
    origin = jax.tree.map(lambda leaf: leaf + 1, params)
    loss = gf.over_batches(loss_fn)
    gf.biased_loss_preservation(loss, origin=origin)(params, RAGGED)
    assert_trees_close(params, PARAMS)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(origin))


BAD_BATCHES = {
    "empty list": ([], ValueError, "batches is empty"),
    "spent iterator": (iter([]), TypeError, "only once"),
    "one array": (X, TypeError, r"single ndarray.*pass a list such as \[batch\]"),
    "one dict": ({"x": X}, TypeError, "single dict"),
    "a number": (3, TypeError, "int, which cannot be iterated"),
    "arrays of unequal length": (
        [(X[:8], Y[:7])],
        ValueError,
        r"0: 8, 1: 7\).*weight=lambda batch",
    ),
    "no array": ([(1.0, 2.0)], ValueError, "there is no array"),
}


@pytest.mark.parametrize("case", list(BAD_BATCHES))
def test_bad_batches(case):
    batches, error, message = BAD_BATCHES[case]
    with pytest.raises(error, match=message):
        gf.grasp(gf.over_batches(loss_fn))(PARAMS, batches)


def test_an_empty_iterator_is_an_error_for_one_pass_too():
    with pytest.raises(ValueError, match="may have been consumed before"):
        gf.taylor(gf.over_batches(loss_fn))(PARAMS, iter([]))


def test_data_that_change_between_passes():
    left = list(RAGGED)

    def shrinking():
        yield from list(left)
        left.pop(0)

    with pytest.raises(ValueError, match="weight 23 in all, the second 15"):
        gf.grasp(gf.over_batches(loss_fn))(PARAMS, shrinking)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_weights(weight):
    loss = gf.over_batches(loss_fn, weight=lambda batch: weight)
    with pytest.raises(ValueError, match="positive and finite"):
        gf.taylor(loss)(PARAMS, RAGGED)


@pytest.mark.parametrize(
    "weight, words",
    [
        (np.ones(2), r"weight\(batch\) returned float32\[2\]: return one number"),
        ((1.0, 2.0), r"weight\(batch\) returned tuple: return one number"),
        (None, "the weight of a batch is None: pass real numbers"),
        ("four", "the weight of a batch is 'four': pass real numbers"),
    ],
    ids=str,
)
def test_weights_that_are_no_number(weight, words):
    mean_loss = gf.over_batches(loss_fn, weight=lambda batch: weight)
    with pytest.raises(TypeError, match=words):
        mean_loss(PARAMS, RAGGED)


BAD_LOSSES = {
    "a vector": (lambda p: p["w"], False, r"float32\[2\], not a scalar.*jnp.mean"),
    "an integer": (lambda p: 3, False, "not a scalar"),
    "complex": (lambda p: jnp.sum(p["w"]) + 0j, False, r"complex64\[\], not a scalar"),
    "nothing": (lambda p: None, False, "the loss returned NoneType"),
    "a shape": (lambda p: jax.eval_shape(jnp.sum, p["w"]), False, "not a scalar"),
    "a pair": (lambda p: (jnp.sum(p["w"]), 1), False, "has_aux=True"),
    "no pair": (lambda p: jnp.sum(p["w"]), True, r"return \(loss, aux\)"),
}


@pytest.mark.parametrize("case", list(BAD_LOSSES))
def test_bad_losses(case):
    bad_loss, has_aux, message = BAD_LOSSES[case]
    with pytest.raises(TypeError, match=message):
        gf.loss_preservation(bad_loss, has_aux=has_aux)({"w": jnp.ones(2)})


BAD_PARAMS = {
    "integer": ({"a": 1.0, "ids": jnp.arange(2)}, TypeError, r"'ids' is int32\[2\]"),
    "bool": ({"m": jnp.array([True])}, TypeError, r"'m' is bool\[1\]"),
    "complex": ({"z": jnp.ones(2) + 0j}, TypeError, r"'z' is complex64\[2\].*real and"),
    "a key": ({"k": jax.random.key(0)}, TypeError, r"'k' is key<fry>\[\]"),
    "a shape": ({"s": jax.ShapeDtypeStruct((2,), "f4")}, TypeError, "'s'.*without val"),
    "a function": ({"f": jnp.tanh}, TypeError, "leaf 'f' is "),
    "a string": ({"s": "relu"}, TypeError, "leaf 's' is str"),
    "empty": ({}, ValueError, "params has no leaves: {}"),
    "none": (None, ValueError, "params has no leaves: None"),
}


@pytest.mark.parametrize("case", list(BAD_PARAMS))
def test_bad_params(case):
    params, error, message = BAD_PARAMS[case]

    def loss(params):
        return jnp.float32(0)

    calls = [
        gf.magnitude,
        gf.random(jax.random.key(0)),
        gf.batch_norm_scale,
        gf.loss_preservation(loss),
        gf.grasp(loss),
    ]
    for call in calls:
        with pytest.raises(error, match=message):
            call(params)


def test_an_origin_of_another_tree():
    loss = lambda params: jnp.sum(params["w"])  # noqa: E731
    for origin, message in (
        ({"v": jnp.ones(2)}, "lacks the leaf 'w'"),
        ({"w": jnp.ones(3)}, r"'w' has shape \(3,\), but params has \(2,\)"),
    ):
        measure = gf.biased_loss_preservation(loss, origin=origin)
        with pytest.raises(ValueError, match=message):
            measure({"w": jnp.ones(2)})


def test_per_example_takes_the_batch_as_one_argument():
    def loss(params, x, y):
        return jnp.mean(params * x * y)

    with pytest.raises(TypeError, match="there are 2: pass the batch as one tuple"):
        gf.fisher(loss, per_example=True)(jnp.ones(()), jnp.ones(3), jnp.ones(3))


def test_score_says_what_is_missing():
    d = gf.differentiate(lambda w: jnp.sum(w**2), order=1)(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="there is no measure 'grap'; known are"):
        gf.score(d, "grap")
    with pytest.raises(ValueError, match="grasp needs hessian_gradient.*order=2"):
        gf.score(d, "grasp")
    with pytest.raises(ValueError, match="fisher needs squared_gradient.*squares="):
        gf.score(d, "fisher")
    with pytest.raises(ValueError, match=r"shape \(2, 2\) has no axis 2"):
        gf.score(d, "taylor", axis=2)


def test_batch_norm_layers_are_found_by_their_leaves():
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)},
        "block": {"bn": {"scale": -2 * jnp.ones(2), "bias": jnp.ones(2)}},
        "rms": {"scale": jnp.ones(3)},
        "heads": {"scale": jnp.ones((2, 2)), "bias": jnp.ones((2, 2))},
    }
    assert sorted(gf.batch_norm_scale(params)) == ["block/bn", "rms"]
    chosen = gf.batch_norm_scale(params, prunable=lambda path, leaf: "bn" in path)
    assert {path: scores.tolist() for path, scores in chosen.items()} == {
        "block/bn": [2.0, 2.0]
    }
    with pytest.raises(ValueError, match="no normalization layer.*names="):
        gf.batch_norm_scale({"conv": params["conv"]})
    with pytest.raises(ValueError, match="layer that `prunable` accepts"):
        gf.batch_norm_scale(params, prunable=lambda path, leaf: False)
    with pytest.raises(TypeError, match="prunable is a set: pass a function of a leaf"):
        gf.batch_norm_scale(params, prunable={"bn"})


@pytest.mark.parametrize(
    "names, found",
    [
        (("scale",), r"\('scale'\)"),
        ("scale", "'scale'"),
        (None, "None"),
        (("scale", None), r"\('scale', None\)"),
        ([{}, "bias"], r"\(dict, 'bias'\)"),
        (frozenset({"scale", "bias"}), "frozenset"),
    ],
)
def test_names_of_normalization_are_two_texts(names, found):
    params = {"bn": {"scale": np.ones(2, np.float32), "bias": np.ones(2, np.float32)}}
    with pytest.raises(TypeError, match=f"names is {found}: pass the names of a layer"):
        gf.batch_norm_scale(params, names=names)


@pytest.mark.parametrize("value", [1, None, "yes", np.ones((2, 3))])
def test_switches_of_every_measure_are_true_or_false(value):
    for measure, switch in (
        (gf.grasp, "has_aux"),
        (gf.fisher, "per_example"),
        (gf.dynamics.follow, "has_aux"),
    ):
        with pytest.raises(TypeError, match=f"{switch} is .*: pass True or False"):
            measure(loss_fn, **{switch: value})


def test_orders_and_squares_are_those_that_there_are():
    for options, words in (
        ({"order": 3}, "order is 3; it is one of 1, 2"),
        ({"order": np.ones(2)}, "order is float64; it is"),
        ({"squares": "examples"}, "squares is 'examples'; it is one of 'batch', 'exam"),
        ({"squares": True}, "squares is True; it is one of"),
    ):
        with pytest.raises(ValueError, match=words):
            gf.differentiate(loss_fn, **options)


def test_trees_of_derivatives_are_those_of_params():
    w = np.ones((2, 2), np.float32)
    d = Derivatives({"w": w}, 0.0, {"w": w}, {"w": w}, {"w": w}, {"w": w})
    fields = {
        "gradient": "taylor",
        "hessian_gradient": "grasp",
        "gradient_rms": "fisher",
        "origin": "biased_loss_preservation",
    }
    bad = [
        ({"v": w}, ValueError, "are different trees: .* lacks the leaf 'w'"),
        ({"w": w[0]}, ValueError, r"leaf 'w' has shape \(2,\), but params has"),
        ({"w": None}, ValueError, "has no leaves"),
        ({"w": "no"}, TypeError, "leaf 'w' is str; "),
        ({"w": w > 0}, TypeError, r"leaf 'w' is bool\[2,2\]; "),
        (1j, TypeError, r"\(the array itself\) is complex64\[\]; "),
    ]
    for field, measure in fields.items():
        for tree, error, words in bad:
            odd = d._replace(**{field: tree})
            for take in (gf.score_all, lambda d, name=measure: gf.score(d, name)):
                with pytest.raises(error, match=f"{field} {words}|{field}.*{words}"):
                    take(odd)
            # What a measure does not look at is not its affair.
            gf.score(odd, "magnitude")
    with pytest.raises(TypeError, match="params leaf 'w' is str; "):
        gf.score_all(d._replace(params={"w": "no"}))
    # Containers may differ, as after a file was read.
    read = d._replace(params=OrderedDict(w=w))
    np.testing.assert_array_equal(gf.score(read, "taylor")["w"], w)


@pytest.mark.parametrize("measure", [None, ["taylor"], {"taylor"}, 2**70, b"taylor"])
def test_a_measure_is_named_by_a_text(measure):
    with pytest.raises(TypeError, match="measure is .*: pass the name of one"):
        gf.score({"w": np.ones((2, 2), np.float32)}, measure)
