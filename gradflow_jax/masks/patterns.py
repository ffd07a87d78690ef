"""Makes masks of a regular pattern, as hardware wants them: N of every M weights."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.masks.algebra import all_true_like
from gradflow_jax.masks.selection.ordering import to_ordered_integers
from gradflow_jax.masks.selection.placement import place_like
from gradflow_jax.trees import (
    Masks,
    Patterns,
    Prunable,
    Scores,
    check_finite,
    check_floating,
    default_prunable,
    label,
    map_named,
    prunable_flags,
    widen,
)


def n_of_m_masks(
    scores: Scores,
    *,
    n: int = 2,
    m: int = 4,
    axis: int = -2,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Masks:
    """Keeps the n highest-scored of every m consecutive weights along an axis.

    2 of 4 along the axis that is summed over is what GPUs with sparse tensor cores
    take: in Flax a kernel's last axis but one, its inputs.

    Args:
        scores: a tree of real floating-point arrays, higher is kept.
        n: how many of each group are kept.
        m: the size of a group; a divisor of the axis in every prunable leaf.
        axis: the axis along which groups lie; -2 is the inputs of a Flax kernel.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        Masks: a tree like scores of bool, True keeps. Among equal scores the lower
        index is kept.

    Raises:
        TypeError: if a leaf is not real floating-point, or n or m no whole number.
        ValueError: unless 0 <= n <= m and m divides the axis of every prunable leaf,
            or if a score is NaN or infinite, or no leaf is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scores = jnp.array([[4.0], [1.0], [2.0], [3.0]])
        >>> gf.n_of_m_masks(scores)[:, 0].tolist()
        [True, False, False, True]

    Reference:
        Mishra et al., Accelerating Sparse Deep Neural Networks, 2021.
    """
    check_floating(scores, "scores")
    if not (isinstance(n, int) and isinstance(m, int)):
        raise TypeError(f"n and m are {n!r} and {m!r}, not whole numbers.")
    if not 0 <= n <= m or m < 1:
        raise ValueError(f"n of m is {n} of {m}; 0 <= n <= m and m >= 1 must hold.")
    flags = iter(prunable_flags(scores, prunable, ignore))

    def mask(path: str, leaf: Any) -> jax.Array:
        shape = jnp.shape(leaf)
        if not next(flags):
            return all_true_like(leaf)
        if not -len(shape) <= axis < len(shape) or shape[axis] % m:
            raise ValueError(
                f"scores {label(path)} of shape {shape} has no axis {axis} that is a "
                f"multiple of {m}: choose another axis or m, or exclude the leaf by "
                "ignore= or prunable=."
            )
        check_finite(path, leaf)
        axis_last = jnp.moveaxis(widen(leaf), axis, -1)
        *leading, size = axis_last.shape
        groups = axis_last.reshape(*leading, size // m, m)
        # Inverted bits sort the highest score first, and a stable sort leaves equal
        # ones in the order of their indices. The argsort of that argsort is the place
        # of each score in its group.
        highest_first = jnp.argsort(~to_ordered_integers(groups), stable=True)
        places = jnp.argsort(highest_first, stable=True)
        kept = jnp.moveaxis((places < n).reshape(axis_last.shape), -1, axis)
        return place_like(kept, leaf)

    return map_named(mask, scores)
