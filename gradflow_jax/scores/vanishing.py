"""Tells where derivatives vanished in the computing of them, not in the mathematics.

What is looked for is decided by the parameters' dtypes and by what was asked for, so
that most evaluations look for nothing and wait for nothing.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.scores.derivatives import Derivatives, Squares
from gradflow_jax.trees import ArrayTree, Params, is_traced, label, named_leaves

# The numbers of float16 are 2⁻²⁴ apart below 2⁻¹⁴, so that here five bits are left.
_COARSE = 2.0**-19
# A few small entries are the lowest scores anyhow.
_MOST_LOST = 0.3
# Rounding alone makes gradients so small beside the largest.
_ROUNDING = 1e-6


class Vanished(NamedTuple):
    """What to look at when the derivatives are there; None where nothing is to be.

    Attributes:
        of_examples: for each leaf whether the gradients of all its examples are 0 while
            the gradient of the batch is not, [leaf].
        lost: of ḡ, and of Hḡ if it is there, in float16 leaves: how many entries are
            below 2⁻¹⁹, and how many are not 0, [derivative, 2].
    """

    of_examples: jax.Array | None
    lost: jax.Array | None


def find_vanished(d: Derivatives, squares: Squares) -> Vanished:
    """Looks for derivatives that vanished, inside of a jit."""
    of_examples = None
    if squares == "example":
        largest = jnp.stack([_largest(leaf) for leaf in jax.tree.leaves(d.gradient)])
        roots = jnp.stack([_largest(leaf) for leaf in jax.tree.leaves(d.gradient_rms)])
        of_examples = (roots == 0) & (largest > _ROUNDING * jnp.max(largest))
    is_half = [
        jnp.result_type(leaf) == jnp.float16 for leaf in jax.tree.leaves(d.params)
    ]
    lost = None
    if any(is_half):
        trees = [d.gradient]
        trees += [] if d.hessian_gradient is None else [d.hessian_gradient]
        lost = jnp.stack([_count_lost(tree, is_half) for tree in trees])
    return Vanished(of_examples, lost)


def tell_vanished(vanished: Vanished, params: Params) -> None:
    """Says what vanished, unless it is traced.

    Raises:
        ValueError: if the gradients of a leaf's examples are all 0 but not the batch's.

    Warns:
        UserWarning: if float16 lost the digits of many derivatives.
    """
    if _is_known(vanished.of_examples):
        flags = jax.device_get(vanished.of_examples)
        for (path, _), is_zero in zip(named_leaves(params), flags, strict=True):
            if is_zero:
                raise ValueError(
                    f"the gradients of single examples are 0 throughout params "
                    f"{label(path)}, the batch's gradient is not: the loss of a batch "
                    "is no mean over its examples. Batch norm in training mode does "
                    "so, since a batch of one is its own mean: score with running "
                    "statistics (model.eval(), use_running_average=True)."
                )
    if _is_known(vanished.lost):
        for name, (few, count) in zip(
            ("ḡ", "Hḡ"), jax.device_get(vanished.lost), strict=False
        ):
            if few > _MOST_LOST * count:
                warnings.warn(
                    f"{few} of {count} entries of {name} of float16 params are below "
                    f"{_COARSE:.1g}, where float16 keeps five bits or less: they "
                    "rank weights by rounding. Score a float32 copy, "
                    "jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params).",
                    stacklevel=3,
                )
                return


def _is_known(array: jax.Array | None) -> bool:
    """Says whether there is an array whose values this process can look at."""
    if array is None or is_traced(array):
        return False
    return array.is_fully_addressable or array.is_fully_replicated


def _largest(leaf: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(leaf), initial=0)


def _count_lost(tree: ArrayTree, is_half: list[bool]) -> jax.Array:
    """Counts entries of float16 leaves that lost digits, and such as are not 0.

    Where all are 0 all are lost. Beside others zeros are not counted: units that are
    dead have them too.
    """
    leaves = [
        leaf for leaf, half in zip(jax.tree.leaves(tree), is_half, strict=True) if half
    ]
    entries = jnp.abs(jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]))
    nonzero = jnp.sum(entries > 0)
    small = jnp.sum((entries > 0) & (entries < _COARSE))
    counts = jnp.stack([small, nonzero])
    return jnp.where(nonzero > 0, counts, entries.size)
