"""Outputs of a cut model that are not the masked one's are refused."""

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
