"""Makes masks of a regular pattern, as hardware wants them: N of every M weights."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.masks.keywords import explain_keywords
from gradflow_jax.masks.patterns.neighbors import NeighborsOutcome, keep_of_every
from gradflow_jax.masks.ranking import masks_like
from gradflow_jax.masks.ties import Tie, warn_of_ties
from gradflow_jax.trees import (
    Axes,
    Masks,
    Patterns,
    Prunable,
    Roles,
    Scores,
    check_finite,
    check_floating,
    checked_fraction,
    checked_whole_number,
    default_prunable,
    is_traced,
    label,
    mask_leaves,
    named_leaves,
    prunable_flags,
)
from gradflow_jax.trees.roles import linear_maps


@explain_keywords
def n_of_m_masks(
    scores: Scores,
    *,
    n: int = 2,
    m: int = 4,
    axis: Axes | None = None,
    roles: Roles | None = None,
    floor: float = 0.0,
    previous: Masks | None = None,
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
        scores: a tree of real floating-point arrays, higher is kept; not the
            parameters, whose negative half would go: score them by `gf.magnitude`. A
            weight of score −inf is never kept.
        n: how many of each group are kept.
        m: the size of a group; a divisor of the inputs of every prunable leaf.
        axis: the axis along which groups lie, or several, flattened in this order; or
            a dict of them by path or shell pattern, which goes before roles.
        roles: what each axis is, `gf.structured.axis_roles(model, params, x)`. Without
            roles and axis Flax's convention holds, (..., in, out), for leaves of two or
            four dimensions whose name is not `weight`, which is (out, in) in Equinox
            and torch; all others are refused, kernels of convolutions in one dimension
            among them.
        floor: the fraction of each prunable leaf that is kept at least; n / m must be
            as much.
        previous: masks of an earlier round. A weight they removed stays removed.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole. It
            replaces the default rule: begin it with `gf.default_prunable(path, leaf)
            and`, or biases are pruned too.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        Masks: a tree like scores of bool, True keeps. Among equal scores the lower
        index is kept.

    Raises:
        TypeError: if a leaf is not real floating-point, n, m or an axis no whole
            number, or roles are no tuples of words.
        ValueError: unless 0 <= n <= m and m divides the inputs of every prunable leaf;
            where it is not known which axes they are, or a leaf has none; if a score is
            NaN or +inf, no leaf is prunable, or `previous` is another tree; if a floor,
            `previous` or −inf leave no way to keep n of every m.

    Warns:
        EqualScoresWarning: as `gf.global_masks`, of each leaf by itself.

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
    n, m = checked_whole_number(n, "n"), checked_whole_number(m, "m")
    if not 0 <= n <= m or m < 1:
        raise ValueError(f"n of m is {n} of {m}; 0 <= n <= m and m >= 1 must hold.")
    if n / m < checked_fraction(floor, "floor"):
        raise ValueError(
            f"floor={floor} keeps more of each leaf than {n} of {m} does: lower the "
            "floor, or raise n."
        )
    flags = prunable_flags(scores, prunable, ignore)
    maps = linear_maps(scores, flags, what="scores", roles=roles, axis=axis)
    before: Sequence[Any] = [None] * len(flags)
    if previous is not None:
        before = mask_leaves(previous, scores, what="previous", like_what="scores")
    kept, outcomes, columns = [], [], []
    for (path, leaf), linear_map, alive in zip(
        named_leaves(scores), maps, before, strict=True
    ):
        if linear_map is None:
            continue
        inputs, shape = linear_map.inputs, jnp.shape(leaf)
        size = math.prod(shape[i] for i in inputs)
        if size % m:
            raise ValueError(
                f"scores {label(path)} of shape {shape} has {size} inputs, along axis "
                f"{', '.join(map(str, inputs))}, and {size} is no multiple of {m}: "
                "choose another axis or m, or exclude the leaf by ignore= or prunable=."
            )
        mask, outcome = keep_of_every(jnp.asarray(leaf), alive, n, m, inputs)
        kept.append(mask)
        outcomes.append(outcome)
        columns.append((path, leaf))
    _check_outcomes(outcomes, columns, n, m)
    return masks_like(scores, flags, kept, previous)


def _check_outcomes(
    outcomes: Sequence[NeighborsOutcome],
    paths_and_leaves: Sequence[tuple[str, Any]],
    n: int,
    m: int,
) -> None:
    """Raises ValueError where n of m cannot be kept, and warns of ties, unless traced.

    Raises:
        ValueError: at the first leaf with NaN or +inf, or with a group of which fewer
            than n may be kept.
    """
    if any(map(is_traced, jax.tree.leaves(outcomes))):
        for path, leaf in paths_and_leaves:
            check_finite(path, leaf, or_never_kept=True)
        return
    ties = []
    for (path, leaf), outcome in zip(
        paths_and_leaves, jax.device_get(outcomes), strict=True
    ):
        if outcome.unrankable:
            check_finite(path, leaf, or_never_kept=True)
        if outcome.short:
            raise ValueError(
                f"scores {label(path)} has {outcome.short} groups of {m} in which "
                f"fewer than {n} weights may be kept: previous= removed the others, or "
                "their score is −inf. For a pattern inside of earlier masks, which "
                f"keeps {n} of {m} at most, take gf.combine(previous, "
                "gf.n_of_m_masks(...))."
            )
        size = jnp.size(leaf)
        chosen, tied = int(outcome.chosen), int(outcome.tied)
        ties.append(Tie(f" of {label(path)}", chosen, tied, size // m * n, size))
    warn_of_ties(ties)
