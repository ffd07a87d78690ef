"""Keeps the highest scores: of all layers, of families of layers, or of each layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.masks.algebra import all_true_like
from gradflow_jax.masks.allocation import (
    checked_allocation,
    first_matches,
    kept_number,
    quotas,
)
from gradflow_jax.masks.selection.exact_threshold import highest
from gradflow_jax.trees import (
    Allocation,
    Masks,
    Prunable,
    Scores,
    check_finite,
    check_floating,
    checked_fraction,
    default_prunable,
    is_traced,
    mask_leaves,
    named_leaves,
    prunable_flags,
)


def global_masks(
    scores: Scores,
    *,
    sparsity: float,
    floor: float = 0.0,
    previous: Masks | None = None,
    prunable: Prunable = default_prunable,
) -> Masks:
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
    sizes = _select_flagged([jnp.size(leaf) for leaf in jax.tree.leaves(scores)], flags)
    keep = kept_number(sum(sizes), sparsity)
    alive = None
    if previous is not None:
        before = mask_leaves(previous, scores, what="previous", like_what="scores")
        alive = _select_flagged(before, flags)
        _check_alive(alive, keep)
    floor = checked_fraction(floor, "floor")
    # The product is rounded before it is raised: 0.07 · 100 is a hair above 7.
    minimum = [math.ceil(round(floor * size, 6)) for size in sizes]
    if sum(minimum) > keep:
        raise ValueError(
            f"floor={floor} keeps {sum(minimum)} weights, but sparsity={sparsity} "
            f"keeps only {keep} of {sum(sizes)}: lower the floor or the sparsity."
        )
    first = None
    if floor:
        each_alone = range(len(sizes))
        first = _keep_highest(scores, flags, minimum, each_alone, among=alive)
    together = [0] * len(sizes)
    kept = _keep_highest(scores, flags, [keep], together, among=alive, first=first)
    return _masks_like(scores, flags, kept, previous)


def layerwise_masks(
    scores: Scores,
    *,
    sparsity: float | None = None,
    allocation: Allocation | None = None,
    prunable: Prunable = default_prunable,
) -> Masks:
    """Keeps the highest-scored weights of each leaf by itself.

    Of a leaf of n weights exactly n − round(sparsity · n) are kept, or the number
    that the allocation gives: among equal scores the lower index is kept.

    Args:
        scores: a tree of real floating-point arrays, higher is kept.
        sparsity: the fraction of each prunable leaf that is removed, in [0, 1].
        allocation: instead of sparsity, how many weights each leaf keeps: a tree like
            scores of ints, from `gf.erdos_renyi`, `gf.erdos_renyi_kernel`,
            `gf.quotas`, or your own.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.
            An allocation decides by itself which leaves are.

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
    sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(scores)]
    if sparsity is not None:
        allocation = quotas(scores, {}, sparsity=sparsity, prunable=prunable)
        keep = jax.tree.leaves(allocation)
        flags = checked = prunable_flags(scores, prunable)
    else:
        keep = checked_allocation(allocation, scores)  # type: ignore[arg-type]
        # All leaves are ranked, so that another allocation compiles nothing; a leaf
        # that is kept whole may hold NaN.
        flags = [True] * len(sizes)
        checked = [number < size for number, size in zip(keep, sizes, strict=True)]
    each_alone = range(sum(flags))
    keep = _select_flagged(keep, flags)
    kept = _keep_highest(scores, flags, keep, each_alone, checked)
    return _masks_like(scores, flags, kept)


def group_masks(scores: Scores, by_path: Mapping[str, float]) -> Masks:
    """Keeps the highest-scored weights of each family of leaves ranked together.

    It stands between `global_masks`, which has one family, and `layerwise_masks`, in
    which each leaf is a family: use it where layers of one kind compare with each other
    but not with other kinds, such as attention and MLP.

    Args:
        scores: a tree of real floating-point arrays, higher is kept.
        by_path: the sparsity of each family by path or shell pattern,
            `{"*/attention/*": 0.5, "*/mlp/*": 0.9}`; of several patterns that match a
            leaf the first decides. Leaves that match none are kept whole.

    Returns:
        Masks: a tree like scores of bool, True keeps. Of a family of n weights exactly
        n − round(sparsity · n) are kept; among equal scores the earlier leaf, then the
        lower index.

    Raises:
        TypeError: if a leaf is not real floating-point or a sparsity is traced.
        ValueError: if a family's score is NaN or infinite (told outside `jax.jit`
            only), if a sparsity is outside [0, 1], or if a pattern matches no leaf or
            there is none.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scores = {"conv1": jnp.array([4.0, 1.0]), "conv2": jnp.array([3.0, 2.0]),
        ...           "dense": jnp.array([9.0, 8.0])}
        >>> masks = gf.group_masks(scores, {"conv*": 0.75, "dense": 0.5})
        >>> {path: mask.tolist() for path, mask in masks.items()}
        {'conv1': [True, False], 'conv2': [False, False], 'dense': [True, False]}
    """
    check_floating(scores, "scores")
    if not by_path:
        raise ValueError(
            "there is no family: name one at least, such as {'*/kernel': 0.9}."
        )
    paths_and_leaves = named_leaves(scores)
    patterns = first_matches([path for path, _ in paths_and_leaves], by_path)
    sizes = {p: 0 for p in by_path if p in patterns}
    for (_, leaf), pattern in zip(paths_and_leaves, patterns, strict=True):
        if pattern is not None:
            sizes[pattern] += jnp.size(leaf)
    group_of = {pattern: group for group, pattern in enumerate(sizes)}
    groups = [group_of[p] for p in patterns if p is not None]
    keep = [kept_number(size, by_path[p]) for p, size in sizes.items()]
    flags = [pattern is not None for pattern in patterns]
    return _masks_like(scores, flags, _keep_highest(scores, flags, keep, groups))


def _keep_highest(
    scores: Scores,
    flags: Sequence[bool],
    keep: Sequence[int],
    groups: Sequence[int],
    checked: Sequence[bool] | None = None,
    **restrictions: Sequence[Any] | None,
) -> list[jax.Array]:
    """Chooses the `keep[g]` highest of each group among the flagged leaves of scores.

    Args:
        scores: a tree of real floating arrays.
        flags: which leaves are ranked.
        keep: how many of each group.
        groups: the group of each flagged leaf.
        checked: which leaves must be finite; by default the flagged ones.
        **restrictions: `among` and `first` of `highest`.

    Raises:
        ValueError: at the first of them with a NaN or an infinity.
    """
    # A Python number, which has no dtype, becomes an array.
    leaves = [
        leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
        for leaf in _select_flagged(jax.tree.leaves(scores), flags)
    ]
    kept, finite = highest(leaves, keep, groups, **restrictions)
    if is_traced(finite) or not finite:
        for path, leaf in _select_flagged(named_leaves(scores), checked or flags):
            check_finite(path, leaf)
    return kept


def _select_flagged(leaves: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    return [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]


def _check_alive(alive: Sequence[Any], keep: int) -> None:
    """Raises ValueError if previous masks keep fewer than `keep`, unless traced."""
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
    scores: Scores,
    flags: Sequence[bool],
    kept: Sequence[jax.Array],
    previous: Masks | None = None,
) -> Masks:
    """Returns a mask tree: `kept` where flagged, elsewhere `previous` or all True."""
    leaves, structure = jax.tree.flatten(scores)
    unranked = [None] * len(leaves)
    if previous is not None:
        unranked = jax.tree.leaves(previous)
    ranked = iter(kept)

    def mask(leaf: Any, flag: bool, previous_mask: Any) -> Any:
        if flag:
            return next(ranked)
        return all_true_like(leaf) if previous_mask is None else previous_mask

    return structure.unflatten(map(mask, leaves, flags, unranked))
