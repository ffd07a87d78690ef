"""What is typed first, and what the answer says."""

import numpy as np
import pytest

import gradflow_jax as gf

SCORES = {"fc": {"kernel": np.arange(8.0).reshape(4, 2)}}


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: gf.global_masks(SCORES, 0.9),
            r"global_masks\(scores, sparsity=0\.9\)",
        ),
        (lambda: gf.layerwise_masks(SCORES, 0.9), r"\(scores, sparsity=0\.9\)"),
        (lambda: gf.n_of_m_masks(SCORES, 2, 4), r"\(scores, n=2, m=4\)"),
        (lambda: gf.group_masks(SCORES, {"*": 0.5}, 0.1), r"by_path, floor=0\.1\)"),
        (lambda: gf.report(SCORES, SCORES, SCORES), r"masks, params, scores=\.\.\.\)"),
        (
            lambda: gf.global_masks(SCORES, sparsity=0.5, exclude="a"),
            "ignore= is meant",
        ),
        (lambda: gf.global_masks(SCORES, amount=0.5), "sparsity= is meant"),
        (lambda: gf.global_masks(SCORES, sparsty=0.5), "sparsity= is meant"),
        (lambda: gf.quotas(SCORES, {}, density=0.5), "sparsity= is meant"),
        (lambda: gf.erdos_renyi(SCORES, 0.5), r"erdos_renyi\(params, sparsity=0\.5\)"),
        (
            lambda: gf.n_of_m_masks(SCORES, temperature=2),
            "no argument temperature=; it",
        ),
        (lambda: gf.global_masks(SCORES, sparsity={"a": 0.5}), "gf.group_masks"),
        (lambda: gf.layerwise_masks(SCORES, sparsity={"a": 0.5}), "gf.quotas"),
        (
            lambda: gf.group_masks(SCORES, 0.9),
            "by_path is 0.9, not .*gf.global_masks",
        ),
        (lambda: gf.quotas(SCORES, 0.9), "by_path is 0.9, not .*sparsity="),
        (lambda: gf.group_masks(SCORES, {3: 0.5}), "the quota is a int: pass a path"),
    ],
)
def test_the_answer_names_the_argument_that_is_meant(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_a_missing_argument_is_named_by_python():
    with pytest.raises(TypeError, match="missing .* 'sparsity'"):
        gf.global_masks(SCORES)


BOOLS = [True, np.bool_(True), np.array(False)]


@pytest.mark.parametrize("value", BOOLS)
@pytest.mark.parametrize(
    "call, name",
    [
        (lambda v: gf.global_masks(SCORES, sparsity=v), "sparsity"),
        (lambda v: gf.layerwise_masks(SCORES, sparsity=v), "sparsity"),
        (lambda v: gf.global_masks(SCORES, sparsity=0.5, floor=v), "floor"),
        (lambda v: gf.group_masks(SCORES, {"*": v}), "quota"),
        (lambda v: gf.quotas(SCORES, {"*": v}), "quota"),
        (lambda v: gf.quotas(SCORES, {}, sparsity=v), "sparsity"),
        (lambda v: gf.erdos_renyi(SCORES, sparsity=v), "sparsity"),
        (lambda v: gf.erdos_renyi_kernel(SCORES, sparsity=v), "sparsity"),
        (lambda v: gf.n_of_m_masks(SCORES, n=v), "n"),
        (lambda v: gf.n_of_m_masks(SCORES, m=v), "m"),
        (lambda v: gf.n_of_m_masks(SCORES, axis=v), "axis"),
        (
            lambda v: gf.layerwise_masks(SCORES, allocation={"fc": {"kernel": v}}),
            "allocation",
        ),
    ],
)
def test_true_and_false_are_no_numbers(call, name, value):
    with pytest.raises(TypeError, match=rf"{name}.* is .*(True|False).*, not a"):
        call(value)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint8, np.array])
def test_the_integers_of_numpy_are_numbers(kind):
    masks = gf.n_of_m_masks(SCORES, n=kind(1), m=kind(2), axis=kind(0))
    np.testing.assert_array_equal(
        masks["fc"]["kernel"],
        gf.n_of_m_masks(SCORES, n=1, m=2, axis=0)["fc"]["kernel"],
    )


def test_other_numbers_of_weights_are_no_whole_numbers():
    for value in (2.0, "2", None, 1 + 0j):
        with pytest.raises(TypeError, match="n is .*, not a whole number"):
            gf.n_of_m_masks(SCORES, n=value)
