"""What a refusal says."""

import pytest

from gradflow_jax.structured.coupling.axes import Reason
from gradflow_jax.structured.proof.removed_values import Refusal


@pytest.mark.parametrize("equation", ["", "sort f32[3]"])
def test_a_refusal_says_its_reason(equation):
    reason = Reason("it works along this axis as a whole", equation)
    assert str(Refusal(reason, True)) == str(reason)
