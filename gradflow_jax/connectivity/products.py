"""Where signals pass products: multiplication, division, dots and convolutions.

These are the rules by which weights are on paths. All of them are `bilinear`: a signal
in one factor passes where the other can be other than zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradflow_jax.connectivity.signals import Indicators, Signal, live, live_sum


def bilinear(function: Callable[..., jax.Array], a: Signal, b: Signal) -> Indicators:
    """Lets a signal in one factor through where the other is not always zero.

    Args:
        function: multiplies arrays, and may sum the products: linear in each array.
        a: the first factor.
        b: the second factor.
    """
    nonzero = live(function(a.nonzero, b.nonzero))
    terms = []
    if a.reached is not None:
        terms.append(function(a.reached, b.factor))
    if b.reached is not None:
        terms.append(function(a.factor, b.reached))
    return nonzero, live_sum(terms)


def multiply(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Lets a signal through where the other factor is not always zero."""
    return [bilinear(jnp.multiply, *operands)]


def divide(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Treats a / b as the product of a with 1 / b, which is nowhere zero."""
    numerator, denominator = operands
    inverse = denominator._replace(nonzero=jnp.ones_like(denominator.nonzero))
    return [bilinear(jnp.multiply, numerator, inverse)]


def dot_general(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Lets a signal through to each sum of which a term lets it through."""
    numbers = eqn.params["dimension_numbers"]
    return [
        bilinear(
            lambda a, b: lax.dot_general(a, b, dimension_numbers=numbers), *operands
        )
    ]


def conv_general_dilated(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Lets a signal through to each sum of which a term lets it through."""
    names = """window_strides padding lhs_dilation rhs_dilation dimension_numbers
    feature_group_count batch_group_count""".split()
    options = {name: eqn.params[name] for name in names}
    return [
        bilinear(
            lambda a, b: lax.conv_general_dilated(a, b, **options),
            *operands,
        )
    ]
