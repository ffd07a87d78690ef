"""Allots to each layer how many weights it keeps: a tree like params of ints."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.by_path import check_by_path, first_matches
from gradflow_jax.masks.keywords import explain_keywords
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
    named_leaves,
    prunable_flags,
)


@explain_keywords
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
            patterns that match a leaf the first decides. A pattern takes prunable
            leaves alone; a path takes its leaf, even where `prunable` says no.
        sparsity: that of the other prunable leaves.
        prunable: `prunable(path, leaf) -> bool`; the other leaves are kept whole. It
            replaces the default rule: begin it with `gf.default_prunable(path, leaf)
            and`, or biases are pruned too.
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
    check_floating(params, "params", or_shapes=True)
    check_by_path(by_path, "sparsity=")
    checked_fraction(sparsity, "sparsity")
    paths_and_leaves = named_leaves(params)
    patterns = first_matches(paths_and_leaves, by_path, prunable)
    is_named = iter([pattern is not None for pattern in patterns])
    flags = prunable_flags(
        params, lambda path, leaf: next(is_named) or prunable(path, leaf), ignore
    )
    keep = []
    columns = zip(paths_and_leaves, patterns, flags, strict=True)
    for (_, leaf), pattern, flag in columns:
        size = math.prod(jnp.shape(leaf))
        quota = sparsity if pattern is None else by_path[pattern]
        keep.append(kept_number(size, quota) if flag else size)
    return jax.tree.structure(params).unflatten(keep)


def kept_number(size: int, sparsity: float) -> int:
    """Returns how many of `size` weights are kept: size − round(sparsity · size)."""
    if isinstance(sparsity, Mapping):
        raise TypeError(
            f"sparsity is {sparsity!r}, one for each of several names: pass them to "
            "gf.group_masks(scores, {...}), or to gf.quotas(scores, {...}), whose "
            "allocation gf.layerwise_masks takes."
        )
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
