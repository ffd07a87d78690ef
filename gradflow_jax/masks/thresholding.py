"""Keeps the highest scores: of all layers, of families of layers, or of each layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.masks.allocation import (
    checked_allocation,
    first_matches,
    kept_number,
)
from gradflow_jax.masks.ranking import keep_highest, masks_like, select_flagged
from gradflow_jax.trees import (
    Allocation,
    Masks,
    Patterns,
    Prunable,
    Scores,
    check_floating,
    checked_fraction,
    default_prunable,
    is_traced,
    mask_leaves,
    match_paths,
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
    ignore: Patterns = (),
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
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

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
    flags = prunable_flags(scores, prunable, ignore)
    sizes = select_flagged([jnp.size(leaf) for leaf in jax.tree.leaves(scores)], flags)
    keep = kept_number(sum(sizes), sparsity)
    alive = None
    if previous is not None:
        before = mask_leaves(previous, scores, what="previous", like_what="scores")
        alive = select_flagged(before, flags)
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
        first = keep_highest(scores, flags, minimum, each_alone, among=alive)
    together = [0] * len(sizes)
    kept = keep_highest(scores, flags, [keep], together, among=alive, first=first)
    return masks_like(scores, flags, kept, previous)


def layerwise_masks(
    scores: Scores,
    *,
    sparsity: float | None = None,
    allocation: Allocation | None = None,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
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
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.
            With an allocation pass it to what makes the allocation.

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
    if allocation is not None and ignore:
        raise TypeError(
            f"ignore={ignore!r} with allocation=: an allocation says what each leaf "
            "keeps; pass ignore= to what makes it, such as gf.erdos_renyi."
        )
    if (sparsity is None) == (allocation is None):
        raise TypeError(
            "layerwise_masks takes either sparsity= or allocation=, and one of them; "
            f"found sparsity={sparsity} and "
            f"{'no' if allocation is None else 'an'} allocation."
        )
    check_floating(scores, "scores")
    sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(scores)]
    if sparsity is not None:
        flags = checked = prunable_flags(scores, prunable, ignore)
        keep = [
            kept_number(size, sparsity) if flag else size
            for size, flag in zip(sizes, flags, strict=True)
        ]
    else:
        keep = checked_allocation(allocation, scores)  # type: ignore[arg-type]
        # All leaves are ranked, so that another allocation compiles nothing; a leaf
        # that is kept whole may hold NaN.
        flags = [True] * len(sizes)
        checked = [number < size for number, size in zip(keep, sizes, strict=True)]
    each_alone = range(sum(flags))
    keep = select_flagged(keep, flags)
    kept = keep_highest(scores, flags, keep, each_alone, checked)
    return masks_like(scores, flags, kept)


def group_masks(
    scores: Scores, by_path: Mapping[str, float], *, ignore: Patterns = ()
) -> Masks:
    """Keeps the highest-scored weights of each family of leaves ranked together.

    It stands between `global_masks`, which has one family, and `layerwise_masks`, in
    which each leaf is a family: use it where layers of one kind compare with each other
    but not with other kinds, such as attention and MLP.

    Args:
        scores: a tree of real floating-point arrays, higher is kept.
        by_path: the sparsity of each family by path or shell pattern,
            `{"*/attention/*": 0.5, "*/mlp/*": 0.9}`; of several patterns that match a
            leaf the first decides. Leaves that match none are kept whole.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole,
            whatever family they match.

    Returns:
        Masks: a tree like scores of bool, True keeps. Of a family of n weights exactly
        n − round(sparsity · n) are kept; among equal scores the earlier leaf, then the
        lower index.

    Raises:
        TypeError: if a leaf is not real floating-point or a sparsity is traced.
        ValueError: if a family's score is NaN or infinite (told outside `jax.jit`
            only), if a sparsity is outside [0, 1], or if a pattern matches no leaf or
            there is none, or if all leaves of a family are ignored.

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
    paths = [path for path, _ in paths_and_leaves]
    families = first_matches(paths, by_path)
    ignored = match_paths(ignore, paths)
    patterns = [
        None if is_ignored else family
        for family, is_ignored in zip(families, ignored, strict=True)
    ]
    for family in by_path:
        if family in families and family not in patterns:
            raise ValueError(
                f"ignore={ignore!r} leaves no leaf of the family {family!r}: ignore "
                "fewer, or leave the family out."
            )
    sizes = {p: 0 for p in by_path if p in patterns}
    for (_, leaf), pattern in zip(paths_and_leaves, patterns, strict=True):
        if pattern is not None:
            sizes[pattern] += jnp.size(leaf)
    group_of = {pattern: group for group, pattern in enumerate(sizes)}
    groups = [group_of[p] for p in patterns if p is not None]
    keep = [kept_number(size, by_path[p]) for p, size in sizes.items()]
    flags = [pattern is not None for pattern in patterns]
    return masks_like(scores, flags, keep_highest(scores, flags, keep, groups))


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
