"""Where signals pass products: multiplication, division, dots and convolutions.

These are the rules by which weights are on paths. All of them are `bilinear`: a signal
in one factor passes where the other can be other than zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradflow_jax.connectivity.signals import (
    Indicators,
    Signal,
    live,
    live_sum,
    unknown,
)


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


def ragged_dot_general(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Takes each row to meet every group's matrix, as experts of a mixture.

    Which group a row belongs to is computed from the sizes of the groups, so a signal
    in these reaches all that any choice of matrices makes.
    """
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracted, batch) = numbers.dot_dimension_numbers
    groups = numbers.rhs_group_dimensions
    if (
        batch[0]
        or not groups
        or set(numbers.lhs_ragged_dimensions) & set(contracted[0])
    ):
        return unknown(eqn, operands)
    rows, matrices, sizes = operands
    # The axes of the groups are summed over, and the later ones move up.
    moved = [axis - sum(group < axis for group in groups) for axis in contracted[1]]

    def multiply_any(a: jax.Array, b: jax.Array) -> jax.Array:
        any_matrix = live(jnp.sum(b, groups))
        return lax.dot_general(a, any_matrix, ((contracted[0], moved), ((), ())))

    nonzero, reached = bilinear(multiply_any, rows, matrices)
    if sizes.reached is not None:
        products = multiply_any(rows.factor, matrices.factor)
        by_sizes = live(jnp.sum(sizes.reached)) * live(products)
        reached = by_sizes if reached is None else live(reached + by_sizes)
    return [(nonzero, reached)]


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
