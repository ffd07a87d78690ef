"""Makes masks of a regular pattern, as hardware wants them: N of every M weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.masks.algebra import all_true_like
from gradflow_jax.masks.selection.ordering import to_ordered_integers
from gradflow_jax.masks.selection.placement import place_like
from gradflow_jax.trees import (
    Axes,
    Masks,
    Patterns,
    Prunable,
    Roles,
    Scores,
    check_finite,
    check_floating,
    default_prunable,
    label,
    map_named,
    prunable_flags,
    widen,
)
from gradflow_jax.trees.roles import linear_maps


def n_of_m_masks(
    scores: Scores,
    *,
    n: int = 2,
    m: int = 4,
    axis: Axes | None = None,
    roles: Roles | None = None,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Masks:
    """Keeps the n highest-scored of every m consecutive weights of an output's inputs.

    2 of 4 along what is summed over is what GPUs with sparse tensor cores take. Which
    axes these are a shape does not say: pass `roles` of any model with attention,
    layers under scan or weights of Equinox. Groups then lie along the "in" axes,
    flattened in their order, at each index of the others: a kernel of attention gets
    the mask that the same map gets as a dense kernel, a convolution one for each place
    of its window.

    Args:
        scores: a tree of real floating-point arrays, higher is kept.
        n: how many of each group are kept.
        m: the size of a group; a divisor of the inputs of every prunable leaf.
        axis: the axis along which groups lie, or several, flattened in this order; or
            a dict of them by path or shell pattern, which goes before roles.
        roles: what each axis is, `gf.structured.axis_roles(model, params, x)`. Without
            roles and axis Flax's convention holds, (..., in, out), for leaves of two or
            four dimensions whose name is not `weight`, which is (out, in) in Equinox
            and torch; all others are refused, kernels of convolutions in one dimension
            among them.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        Masks: a tree like scores of bool, True keeps. Among equal scores the lower
        index is kept.

    Raises:
        TypeError: if a leaf is not real floating-point, n, m or an axis no whole
            number, or roles are no tuples of words.
        ValueError: unless 0 <= n <= m and m divides the inputs of every prunable leaf;
            where it is not known which axes they are, or a leaf has none; if a score is
            NaN or infinite, or no leaf is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scores = jnp.array([[4.0], [1.0], [2.0], [3.0]])
        >>> gf.n_of_m_masks(scores)[:, 0].tolist()
        [True, False, False, True]
        >>> gf.n_of_m_masks(scores.T, roles=("out", "in")).tolist()
        [[True, False, False, True]]

    Reference:
        Mishra et al., Accelerating Sparse Deep Neural Networks, 2021.
    """
    check_floating(scores, "scores")
    if not (isinstance(n, int) and isinstance(m, int)):
        raise TypeError(f"n and m are {n!r} and {m!r}, not whole numbers.")
    if not 0 <= n <= m or m < 1:
        raise ValueError(f"n of m is {n} of {m}; 0 <= n <= m and m >= 1 must hold.")
    flags = prunable_flags(scores, prunable, ignore)
    maps = iter(linear_maps(scores, flags, what="scores", roles=roles, axis=axis))

    def mask(path: str, leaf: Any) -> jax.Array:
        linear_map = next(maps)
        if linear_map is None:
            return all_true_like(leaf)
        inputs, shape = linear_map.inputs, jnp.shape(leaf)
        size = math.prod(shape[i] for i in inputs)
        if size % m:
            raise ValueError(
                f"scores {label(path)} of shape {shape} has {size} inputs, along axis "
                f"{', '.join(map(str, inputs))}, and {size} is no multiple of {m}: "
                "choose another axis or m, or exclude the leaf by ignore= or prunable=."
            )
        check_finite(path, leaf)
        last = range(-len(inputs), 0)
        inputs_last = jnp.moveaxis(widen(leaf), inputs, last)
        others = inputs_last.shape[: -len(inputs)]
        groups = inputs_last.reshape(*others, size // m, m)
        # Inverted bits sort the highest score first, and a stable sort leaves equal
        # ones in the order of their indices. The argsort of that argsort is the place
        # of each score in its group.
        highest_first = jnp.argsort(~to_ordered_integers(groups), stable=True)
        places = jnp.argsort(highest_first, stable=True)
        kept = jnp.moveaxis((places < n).reshape(inputs_last.shape), last, inputs)
        return place_like(kept, leaf)

    return map_named(mask, scores)
