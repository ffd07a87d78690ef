"""Allots to each layer how many weights it keeps: a tree like params of ints."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees import (
    Allocation,
    ArrayTree,
    Params,
    Patterns,
    Prunable,
    aligned_leaves,
    check_floating,
    checked_fraction,
    default_prunable,
    is_traced,
    label,
    match_paths,
    named_leaves,
    prunable_flags,
)


def quotas(
    params: Params,
    by_path: Mapping[str, float],
    *,
    sparsity: float = 0.0,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> Allocation:
    """Allots to each layer a sparsity of its own, by the name of the leaf.

    Args:
        params: the parameters, or scores; only shapes matter.
        by_path: sparsity by path or shell pattern, `{"conv*/kernel": 0.5}`; of several
            patterns that match a leaf the first decides. A path named here is pruned
            even where `prunable` says no.
        sparsity: that of the other prunable leaves.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole.
        ignore: a path or shell pattern, `"head/*"`, or several: leaves kept whole too.

    Returns:
        An allocation for `gf.layerwise_masks`: a tree like params with the number of
        weights each leaf keeps, n − round(sparsity · n) of n.

    Raises:
        TypeError: if a sparsity is traced or a leaf is not real floating-point.
        ValueError: if a sparsity is outside [0, 1], if a pattern matches no leaf, or
            if no leaf is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> params = {"conv": jnp.ones((2, 5)), "dense": jnp.ones((5, 4))}
        >>> gf.quotas(params, {"conv": 0.5}, sparsity=0.9)
        {'conv': 5, 'dense': 2}
    """
    check_floating(params, "params")
    checked_fraction(sparsity, "sparsity")
    paths_and_leaves = named_leaves(params)
    paths = [path for path, _ in paths_and_leaves]
    patterns = dict(zip(paths, first_matches(paths, by_path), strict=True))
    flags = prunable_flags(
        params,
        lambda path, leaf: patterns[path] is not None or prunable(path, leaf),
        ignore,
    )
    keep = []
    for (path, leaf), flag in zip(paths_and_leaves, flags, strict=True):
        pattern = patterns[path]
        size = math.prod(jnp.shape(leaf))
        quota = sparsity if pattern is None else by_path[pattern]
        keep.append(kept_number(size, quota) if flag else size)
    return jax.tree.structure(params).unflatten(keep)


def first_matches(
    paths: Sequence[str], by_path: Mapping[str, float]
) -> list[str | None]:
    """Returns for each path the first of the patterns that matches it, or None.

    Raises:
        TypeError: if a sparsity is traced or is no number.
        ValueError: if a sparsity is outside [0, 1] or a pattern matches no leaf.
    """
    matches: list[str | None] = [None] * len(paths)
    for pattern, quota in by_path.items():
        checked_fraction(quota, f"the quota {pattern!r}")
        flags = match_paths(pattern, paths, what="the quota")
        matches = [
            pattern if first is None and flag else first
            for first, flag in zip(matches, flags, strict=True)
        ]
    return matches


def kept_number(size: int, sparsity: float) -> int:
    """Returns how many of `size` weights are kept: size − round(sparsity · size)."""
    return size - round(checked_fraction(sparsity, "sparsity") * size)


def checked_allocation(allocation: Allocation, like: ArrayTree) -> list[int]:
    """Returns the leaves of an allocation, checked to fit the tree `like`.

    Raises:
        TypeError: at a leaf that is not a whole number.
        ValueError: if it is another tree or keeps more weights than a leaf has.
    """
    counts = jax.tree.map(lambda leaf: 0, like)
    keep = aligned_leaves(allocation, counts, what="allocation", like_what="scores")
    for (path, leaf), number in zip(named_leaves(like), keep, strict=True):
        # An array of one integer will do too, but True is no number of weights.
        whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
        if not whole and not is_traced(number):
            array = np.asarray(number)
            whole = array.ndim == 0 and np.issubdtype(array.dtype, np.integer)
        if not whole:
            shown = "traced by jax.jit" if is_traced(number) else repr(number)
            raise TypeError(
                f"allocation {label(path)} is {shown}, not a number of weights; "
                "gf.quotas turns sparsities into numbers."
            )
        if not 0 <= number <= jnp.size(leaf):
            raise ValueError(
                f"allocation {label(path)} keeps {number} weights of a leaf that has "
                f"{jnp.size(leaf)}: allot from none to all of them."
            )
    return [int(number) for number in keep]
