"""Keeps the highest scores: of all layers, of families of layers, or of each layer."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from gradflow_jax.masks.allocation import checked_allocation, kept_number
from gradflow_jax.masks.by_path import check_by_path, first_matches
from gradflow_jax.masks.keywords import explain_keywords
from gradflow_jax.masks.ranking import Group, keep_highest, select_flagged
from gradflow_jax.trees import (
    Allocation,
    Masks,
    Patterns,
    Prunable,
    Scores,
    check_floating,
    default_prunable,
    label,
    match_paths,
    named_leaves,
    prunable_flags,
)


@explain_keywords
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
        scores: a tree of real floating-point arrays, higher is kept; not the
            parameters, whose negative half would go: score them by `gf.magnitude`. A
            weight of score −inf is never kept.
        sparsity: the fraction of the prunable weights that is removed, in [0, 1].
        floor: the fraction of each prunable leaf that is kept at least, its highest
            scores. The paper lets no layer lose more than 95 %: `floor=0.05`.
        previous: masks of an earlier round. A weight they removed stays removed.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole. It
            replaces the default rule: begin it with `gf.default_prunable(path, leaf)
            and`, or biases are pruned too.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        Masks: a tree like scores of bool, True keeps.

    Raises:
        TypeError: if a leaf is not real floating-point; if `sparsity` is traced.
        ValueError: if a prunable score is NaN or +inf (told outside `jax.jit` only),
            if sparsity or floor is outside [0, 1], if no leaf is prunable, if
            `previous` is another tree, or if floors, `previous` or −inf leave no way
            to keep the number asked for.

    Warns:
        EqualScoresWarning: outside `jax.jit`, if equal scores left it to positions
            which of more than a handful of weights are kept.

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
    together = [Group(kept_number(sum(sizes), sparsity), f"sparsity={sparsity}")]
    return keep_highest(
        scores, flags, together, [0] * len(sizes), floor=floor, previous=previous
    )


@explain_keywords
def layerwise_masks(
    scores: Scores,
    *,
    sparsity: float | None = None,
    allocation: Allocation | None = None,
    floor: float = 0.0,
    previous: Masks | None = None,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Masks:
    """Keeps the highest-scored weights of each leaf by itself.

    Of a leaf of n weights exactly n − round(sparsity · n) are kept, or the number
    that the allocation gives: among equal scores the lower index is kept.

    Args:
        scores: a tree of real floating-point arrays, higher is kept; not the
            parameters, whose negative half would go: score them by `gf.magnitude`. A
            weight of score −inf is never kept.
        sparsity: the fraction of each prunable leaf that is removed, in [0, 1].
        allocation: instead of sparsity, how many weights each leaf keeps: a tree like
            scores of ints, from `gf.erdos_renyi`, `gf.erdos_renyi_kernel`,
            `gf.quotas`, or your own.
        floor: the fraction of each prunable leaf that is kept at least; sparsity or
            allocation must leave it.
        previous: masks of an earlier round. A weight they removed stays removed.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole. It
            replaces the default rule: begin it with `gf.default_prunable(path, leaf)
            and`, or biases are pruned too.
            An allocation decides by itself which leaves are.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.
            With an allocation pass it to what makes the allocation.

    Returns:
        Masks: a tree like scores of bool, True keeps.

    Raises:
        TypeError: if a leaf is not real floating-point, or unless exactly one of
            sparsity and allocation is given.
        ValueError: if a prunable score is NaN or +inf (told outside `jax.jit` only),
            if sparsity or floor is outside [0, 1], if no leaf is prunable, if the
            allocation or `previous` is another tree, or if the size of a leaf, a
            floor, `previous` or −inf leave no way to keep the number asked for.

    Warns:
        EqualScoresWarning: as `gf.global_masks`, of each leaf by itself.

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
    paths_and_leaves = named_leaves(scores)
    places = [f" of {label(path)}" for path, _ in paths_and_leaves]
    sizes = [jnp.size(leaf) for _, leaf in paths_and_leaves]
    whole = None
    if sparsity is not None:
        flags = prunable_flags(scores, prunable, ignore)
        groups = [
            Group(kept_number(size, sparsity), f"sparsity={sparsity}{place}", place)
            for size, place in select_flagged(
                list(zip(sizes, places, strict=True)), flags
            )
        ]
    else:
        keep = checked_allocation(allocation, scores)  # type: ignore[arg-type]
        # All leaves are ranked, so that another allocation compiles nothing.
        flags = [True] * len(sizes)
        groups = [
            Group(number, f"the allocation{place}", place)
            for number, place in zip(keep, places, strict=True)
        ]
        whole = [number == size for number, size in zip(keep, sizes, strict=True)]
    return keep_highest(
        scores,
        flags,
        groups,
        range(len(groups)),
        floor=floor,
        previous=previous,
        whole=whole,
    )


@explain_keywords
def group_masks(
    scores: Scores,
    by_path: Mapping[str, float],
    *,
    floor: float = 0.0,
    previous: Masks | None = None,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Masks:
    """Keeps the highest-scored weights of each family of leaves ranked together.

    It stands between `global_masks`, which has one family, and `layerwise_masks`, in
    which each leaf is a family: use it where layers of one kind compare with each other
    but not with other kinds, such as attention and MLP.

    Args:
        scores: a tree of real floating-point arrays, higher is kept; not the
            parameters, whose negative half would go: score them by `gf.magnitude`. A
            weight of score −inf is never kept.
        by_path: the sparsity of each family by path or shell pattern,
            `{"*/attention/*": 0.5, "*/mlp/*": 0.9}`; of several patterns that match a
            leaf the first decides. Leaves that match none are kept whole. A pattern
            takes prunable leaves alone; a path takes its leaf, whatever it is.
        floor: the fraction of each leaf of a family that is kept at least, its highest
            scores.
        previous: masks of an earlier round. A weight they removed stays removed.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole. It
            replaces the default rule: begin it with `gf.default_prunable(path, leaf)
            and`, or biases are pruned too.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too,
            whatever family they match.

    Returns:
        Masks: a tree like scores of bool, True keeps. Of a family of n weights exactly
        n − round(sparsity · n) are kept; among equal scores the earlier leaf, then the
        lower index.

    Raises:
        TypeError: if a leaf is not real floating-point or a sparsity is traced.
        ValueError: if a family's score is NaN or +inf (told outside `jax.jit` only),
            if a sparsity or the floor is outside [0, 1], if a pattern matches no
            prunable leaf or there is none, if all leaves of a family are ignored, or
            if floors, `previous` or −inf leave no way to keep the number asked for.

    Warns:
        EqualScoresWarning: as `gf.global_masks`, of each family by itself.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scores = {"conv1": jnp.array([[4.0, 1.0]]), "bias": jnp.array([5.0]),
        ...           "conv2": jnp.array([[3.0, 2.0]]), "dense": jnp.ones((1, 2))}
        >>> masks = gf.group_masks(scores, {"conv*": 0.75, "dense": 0.5})
        >>> [masks[path].tolist() for path in ("conv1", "conv2", "dense")]
        [[[True, False]], [[False, False]], [[True, False]]]
    """
    check_floating(scores, "scores")
    check_by_path(by_path, "gf.global_masks(scores, sparsity=...)")
    if not by_path:
        raise ValueError(
            "there is no family: name one at least, such as {'*/kernel': 0.9}."
        )
    paths_and_leaves = named_leaves(scores)
    paths = [path for path, _ in paths_and_leaves]
    families = first_matches(paths_and_leaves, by_path, prunable)
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
    groups = [
        Group(
            kept_number(size, by_path[pattern]),
            f"sparsity={by_path[pattern]} of the family {pattern!r}",
            f" of the family {pattern!r}",
        )
        for pattern, size in sizes.items()
    ]
    group_of = {pattern: group for group, pattern in enumerate(sizes)}
    return keep_highest(
        scores,
        [pattern is not None for pattern in patterns],
        groups,
        [group_of[p] for p in patterns if p is not None],
        floor=floor,
        previous=previous,
    )
