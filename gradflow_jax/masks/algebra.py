"""Masks as sets of weights: prune a tree by them, combine them, compare them."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradflow_jax.masks.selection.counting import count_true
from gradflow_jax.masks.selection.placement import place_like
from gradflow_jax.trees import (
    AnyTree,
    Masks,
    Patterns,
    Prunable,
    check_floating,
    check_masks,
    default_prunable,
    mask_leaves,
    prunable_flags,
)
from gradflow_jax.trees.numbers import check_choice


def prune(params: AnyTree, masks: Masks) -> AnyTree:
    """Sets the weights that the masks remove to exactly 0.0.

    Weights removed become 0.0 even where they were NaN or infinite. The weights do
    not stay zero under further training: chain `gf.apply_mask(masks)` last in the
    optimizer for that.

    Args:
        params: a tree of arrays, such as params, or an average of params.
        masks: the same tree of bool, True keeps.

    Returns:
        A tree like params, of the same dtypes.

    Raises:
        TypeError: if a mask leaf is not bool or a params leaf not floating-point; at
            an `nnx.Module`, which it does not change: write
            `nnx.update(model, gf.prune(nnx.state(model, nnx.Param), masks))`.
        ValueError: if the two are different trees; the message names the leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> gf.prune(jnp.array([1.0, -2.0]), jnp.array([False, True])).tolist()
        [0.0, -2.0]
    """
    # The masks are checked first: if the two arguments were swapped, the error then
    # says that the masks are not bool.
    check_masks(masks)
    check_floating(params, "params")
    kept = mask_leaves(masks, params)
    leaves, structure = jax.tree.flatten(params)
    return structure.unflatten(
        jnp.where(place_like(mask, leaf), leaf, jnp.zeros_like(leaf))
        for mask, leaf in zip(kept, leaves, strict=True)
    )


def all_true_like(leaf: Any) -> jax.Array:
    """Returns the mask that keeps all of a leaf, and lies where the leaf does."""
    return jnp.ones_like(leaf, bool)


def combine(
    *masks: Masks, how: Literal["intersection", "union"] = "intersection"
) -> Masks:
    """Combines masks of one tree: keeps what all of them keep, or what any does.

    Args:
        *masks: one or more mask trees, True keeps.
        how: "intersection" keeps a weight that every mask keeps, "union" one that
            some mask keeps.

    Returns:
        Masks: a tree like the first, which lies where that does.

    Raises:
        TypeError: if a leaf is not bool, or without masks.
        ValueError: if the masks are different trees, or `how` is neither.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> a, b = jnp.array([True, True, False]), jnp.array([True, False, False])
        >>> gf.combine(a, b).tolist(), gf.combine(a, b, how="union").tolist()
        ([True, False, False], [True, True, False])
    """
    operations = {"intersection": jnp.logical_and, "union": jnp.logical_or}
    check_choice(how, [*operations], "how")
    if not masks:
        raise TypeError("combine takes at least one mask tree, found none.")
    all_leaves = [
        mask_leaves(tree, masks[0], what=f"masks {i}", like_what="masks 0")
        for i, tree in enumerate(masks)
    ]
    return jax.tree.structure(masks[0]).unflatten(
        functools.reduce(
            operations[how], [place_like(leaf, leaves[0]) for leaf in leaves]
        )
        for leaves in zip(*all_leaves, strict=True)
    )


def overlap(
    a: Masks,
    b: Masks,
    *,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
) -> float:
    """Measures how far two masks keep the same weights: |a ∩ b| / |a ∪ b|.

    Only prunable leaves count, since all masks keep the others. Two masks of density
    d chosen by chance overlap by about d / (2 − d).

    Args:
        a: a mask tree, True keeps.
        b: another of the same tree.
        prunable: `prunable(path, leaf) -> bool`.
        ignore: a path or shell pattern, or several: leaves that do not count.

    Returns:
        The Jaccard index, from 0.0 (disjoint) to 1.0 (the same; also if both keep
        nothing).

    Raises:
        TypeError: if a leaf is not bool.
        ValueError: if the masks are different trees, or no leaf is prunable.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> a, b = jnp.array([[True, True, False]]), jnp.array([[True, False, False]])
        >>> gf.overlap(a, b)
        0.5
    """
    first = mask_leaves(a, a, what="a", like_what="a")
    second = mask_leaves(b, a, what="b", like_what="a")
    both = either = 0
    flags = prunable_flags(a, prunable, ignore)
    for x, y, flag in zip(first, second, flags, strict=True):
        if flag:
            y = place_like(y, x)
            both += count_true(x & y)
            either += count_true(x | y)
    return both / either if either else 1.0
