"""Outputs of a cut model that are not the masked one's are refused."""

import jax
import ml_dtypes
import numpy as np
import pytest

from gradflow_jax.structured import check_cut

EXPECTED = {"logits": np.array([[1.0, -4.0]]), "hidden": np.array([[0.5]])}


def shifted(by):
    return {**EXPECTED, "logits": EXPECTED["logits"] + np.float32(by)}


def test_rounding_is_allowed_and_no_more():
    check_cut(shifted(3e-4), EXPECTED)
    with pytest.raises(ValueError, match=r"differs .* by 0\.00012 of .*0\.0001 is"):
        check_cut(shifted(5e-4), EXPECTED)
    check_cut(shifted(5e-4), EXPECTED, tolerance=1e-3)


def test_an_output_of_zeros_is_compared_absolutely():
    zeros = {"logits": np.zeros((1, 2)), "hidden": np.zeros((1, 1))}
    check_cut(zeros, zeros)
    with pytest.raises(ValueError, match="by 1 of"):
        check_cut({**zeros, "hidden": np.ones((1, 1))}, zeros)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_no_number_is_refused(number):
    with pytest.raises(ValueError, match="the narrow network differs"):
        check_cut(shifted(number), EXPECTED, what="the narrow network")
    with pytest.raises(ValueError, match="No result of this cut can be trusted"):
        check_cut(EXPECTED, shifted(number))


def test_outputs_of_another_shape_are_not_broadcast():
    with pytest.raises(ValueError, match=r"'logits' has shape \(1,\)"):
        check_cut({**EXPECTED, "logits": np.ones(1)}, EXPECTED)


@pytest.mark.parametrize("tolerance", [None, "0.1", np.ones(2), {1.0}, True])
def test_a_tolerance_is_a_number(tolerance):
    with pytest.raises(TypeError, match="tolerance is .*: pass .*real number"):
        check_cut(EXPECTED, EXPECTED, tolerance=tolerance)
    with pytest.raises(ValueError, match="tolerance is -1: pass a finite number, 0 or"):
        check_cut(EXPECTED, EXPECTED, tolerance=-1)


def test_outputs_of_any_dtype_are_compared():
    classes = {"class": np.array([True, False]), "code": np.ones(2, np.int8)}
    check_cut(classes, classes)
    with pytest.raises(ValueError, match="differs from the masked one by 1 of"):
        check_cut({**classes, "class": np.array([True, True])}, classes)
    narrow = np.ones(2, ml_dtypes.float8_e4m3fn)
    check_cut({"x": narrow}, {"x": narrow.astype(np.float32)})
    # An empty output beside others has nothing that differs.
    check_cut({**classes, "x": np.ones((0, 3))}, {**classes, "x": np.ones((0, 3))})


@pytest.mark.parametrize("outputs", [{}, {"x": np.ones((0, 3))}])
def test_nothing_is_not_compared(outputs):
    with pytest.raises(ValueError, match="hold no number, so that nothing is compared"):
        check_cut(outputs, outputs)


def test_outputs_that_are_no_arrays_are_named():
    shapes = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in EXPECTED.items()
    }
    texts = {path: np.array([["a"]]) for path in EXPECTED}
    for odd, said in ((shapes, "a shape without values"), (texts, "no array of num")):
        with pytest.raises(TypeError, match=f"outputs leaf 'hidden' is .*, {said}"):
            check_cut(odd, EXPECTED)
        with pytest.raises(TypeError, match=f"expected leaf 'hidden' is .*, {said}"):
            check_cut(EXPECTED, odd)
