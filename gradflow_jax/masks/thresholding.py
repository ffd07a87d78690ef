"""Masks that keep the highest scores: over all layers together, or layer by layer."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.allocation import (
    checked_allocation,
    checked_fraction,
    kept_number,
    quotas,
)
from gradflow_jax.masks.ordering import descending
from gradflow_jax.trees import (
    Prunable,
    PyTree,
    check_finite,
    check_floating,
    default_prunable,
    is_traced,
    mask_leaves,
    named_leaves,
    prunable_flags,
    widen,
)


def global_masks(
    scores: PyTree,
    *,
    sparsity: float,
    floor: float = 0.0,
    previous: PyTree | None = None,
    prunable: Prunable = default_prunable,
) -> PyTree:
    """Keeps the highest-scored weights of all prunable leaves ranked together.

    Of n prunable weights exactly n − round(sparsity · n) are kept, whatever ties
    there are: among equal scores the earlier leaf, then the lower index is kept.

    Args:
        scores: a tree of real floating-point arrays, higher is kept.
        sparsity: the fraction of the prunable weights that is removed, in [0, 1].
        floor: the fraction of each prunable leaf that is kept at least, its highest
            scores. The paper lets no layer lose more than 95 %: `floor=0.05`.
        previous: masks of an earlier round. A weight they removed stays removed.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.

    Returns:
        Masks: a tree like scores of bool, True keeps.

    Raises:
        TypeError: if a leaf is not real floating-point; if `sparsity` is traced.
        ValueError: if a prunable score is NaN or infinite (told outside `jax.jit`
            only), if sparsity or floor is outside [0, 1], if no leaf is prunable, if
            `previous` is another tree, or if floors or `previous` leave no way to
            keep the number asked for.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scores = {"a": jnp.array([[3.0, 1.0]]), "b": jnp.array([[2.0, 0.5]])}
        >>> masks = gf.global_masks(scores, sparsity=0.5)
        >>> masks["a"].tolist(), masks["b"].tolist()
        ([[True, False]], [[True, False]])

    Reference:
        Global ranking with a floor per layer: Lubana & Dick, ICLR 2021.
    """
    check_floating(scores, "scores")
    flags = prunable_flags(scores, prunable)
    ranked = _ranked(scores, flags)
    sizes = [jnp.size(leaf) for leaf in ranked]
    keep = kept_number(sum(sizes), sparsity)
    alive = None
    if previous is not None:
        named = mask_leaves(previous, scores, what="previous", like_what="scores")
        alive = _chosen(named, flags)
        _check_alive(alive, keep)
    floor = checked_fraction(floor, "floor")
    # Rounded first: 0.07 · 100 is a hair above 7.
    minimum = [math.ceil(round(floor * size, 6)) for size in sizes]
    if sum(minimum) > keep:
        raise ValueError(
            f"floor={floor} keeps {sum(minimum)} weights, but sparsity={sparsity} "
            f"keeps only {keep} of {sum(sizes)}: lower the floor or the sparsity."
        )
    kept = select_global(ranked, keep, minimum if floor else None, alive)
    return _masks_like(scores, flags, kept, previous)


def layerwise_masks(
    scores: PyTree,
    *,
    sparsity: float | None = None,
    allocation: PyTree | None = None,
    prunable: Prunable = default_prunable,
) -> PyTree:
    """Keeps the highest-scored weights of each leaf by itself.

    Of a leaf of n weights exactly n − round(sparsity · n) are kept, or the number
    that the allocation gives; ties as in `global_masks`.

    Args:
        scores: a tree of real floating-point arrays, higher is kept.
        sparsity: the fraction of each prunable leaf that is removed, in [0, 1].
        allocation: instead of sparsity, how many weights each leaf keeps: a tree like
            scores of ints, from `gf.erdos_renyi`, `gf.erdos_renyi_kernel`,
            `gf.quotas`, or your own.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.
            With an allocation, the allocation says so.

    Returns:
        Masks: a tree like scores of bool, True keeps.

    Raises:
        TypeError: if a leaf is not real floating-point, or unless exactly one of
            sparsity and allocation is given.
        ValueError: if a prunable score is NaN or infinite (told outside `jax.jit`
            only), if sparsity is outside [0, 1], if no leaf is prunable, or if the
            allocation is another tree or keeps more than a leaf has.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scores = {"a": jnp.array([[3.0, 1.0]]), "b": jnp.array([[0.2, 0.5]])}
        >>> masks = gf.layerwise_masks(scores, sparsity=0.5)
        >>> masks["a"].tolist(), masks["b"].tolist()
        ([[True, False]], [[False, True]])
    """
    if (sparsity is None) == (allocation is None):
        raise TypeError(
            "layerwise_masks takes either sparsity= or allocation=, and one of them; "
            f"found sparsity={sparsity} and "
            f"{'no' if allocation is None else 'an'} allocation."
        )
    check_floating(scores, "scores")
    if sparsity is not None:
        allocation = quotas(scores, {}, sparsity=sparsity, prunable=prunable)
        flags = prunable_flags(scores, prunable)
        keep = jax.tree.leaves(allocation)
    else:
        keep = checked_allocation(allocation, scores)
        flags = [
            number < jnp.size(leaf)
            for number, leaf in zip(keep, jax.tree.leaves(scores), strict=True)
        ]
    kept = select_each(_ranked(scores, flags), _chosen(keep, flags))
    return _masks_like(scores, flags, kept)


def select_global(
    leaves: Sequence[jax.Array],
    keep: int,
    minimum: Sequence[int] | None = None,
    alive: Sequence[jax.Array] | None = None,
) -> list[jax.Array]:
    """Returns bool leaves with True at the `keep` highest of finite scores together.

    Args:
        leaves: scores, each of any shape.
        keep: how many to keep in all.
        minimum: how many of each leaf are kept in any case, its highest.
        alive: where False, never kept.
    """
    leaves = [widen(leaf) for leaf in leaves]
    if alive is not None:
        leaves = [
            jnp.where(mask, x, -jnp.inf) for mask, x in zip(alive, leaves, strict=True)
        ]
    if minimum is not None:
        protected = select_each(leaves, minimum)
        leaves = [
            jnp.where(mask & (x > -jnp.inf), jnp.inf, x)
            for mask, x in zip(protected, leaves, strict=True)
        ]
    kept = _top(leaves, np.int32(keep))
    if alive is not None:
        kept = [mask & living for mask, living in zip(kept, alive, strict=True)]
    return kept


def select_each(leaves: Sequence[jax.Array], keep: Sequence[int]) -> list[jax.Array]:
    """Returns bool leaves with True at the `keep[i]` highest of leaf i."""
    return [
        _top([leaf], np.int32(number))[0]
        for leaf, number in zip(leaves, keep, strict=True)
    ]


@jax.jit
def _top(leaves: Sequence[jax.Array], keep: Any) -> list[jax.Array]:
    """The selection itself: everything that ranks scores passes through here."""
    flat = jnp.concatenate([jnp.ravel(widen(leaf)) for leaf in leaves])
    # Stable, so that equal scores stay in the order of leaf and index.
    order = jnp.argsort(descending(flat), stable=True)
    kept = jnp.zeros(flat.shape, bool).at[order].set(jnp.arange(flat.size) < keep)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    pieces = jnp.split(kept, ends)
    return [x.reshape(leaf.shape) for x, leaf in zip(pieces, leaves, strict=True)]


def _ranked(scores: PyTree, flags: Sequence[bool]) -> list[Any]:
    """Returns the flagged leaves of scores, checked to be finite.

    Raises:
        ValueError: at the first leaf with a NaN or an infinity.
    """
    for (path, leaf), flag in zip(named_leaves(scores), flags, strict=True):
        if flag:
            check_finite(path, leaf)
    return _chosen(jax.tree.leaves(scores), flags)


def _chosen(leaves: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    return [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]


def _check_alive(alive: Sequence[Any], keep: int) -> None:
    if any(map(is_traced, alive)):
        return
    with jax.ensure_compile_time_eval():
        living = sum(int(jnp.sum(leaf)) for leaf in alive)
    if living < keep:
        raise ValueError(
            f"previous masks keep {living} weights, but {keep} are to be kept now and "
            "a pruned weight never returns: ask for a higher sparsity, or leave out "
            "previous= to let weights return."
        )


def _masks_like(
    scores: PyTree,
    flags: Sequence[bool],
    kept: Sequence[jax.Array],
    others: PyTree | None = None,
) -> PyTree:
    """Returns a mask tree: `kept` where flagged, elsewhere `others`, or all True."""
    leaves, structure = jax.tree.flatten(scores)
    if others is None:
        rest = [jnp.ones(jnp.shape(leaf), bool) for leaf in leaves]
    else:
        rest = jax.tree.leaves(others)
    masks = iter(kept)
    return structure.unflatten(
        next(masks) if flag else other for flag, other in zip(flags, rest, strict=True)
    )
