"""Ranks the flagged leaves of a tree of scores, and makes masks of what is kept."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.masks.algebra import all_true_like
from gradflow_jax.masks.selection.exact_threshold import highest
from gradflow_jax.trees import Masks, Scores, check_finite, is_traced, named_leaves


def keep_highest(
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
        for leaf in select_flagged(jax.tree.leaves(scores), flags)
    ]
    kept, finite = highest(leaves, keep, groups, **restrictions)
    if is_traced(finite) or not finite:
        for path, leaf in select_flagged(named_leaves(scores), checked or flags):
            check_finite(path, leaf)
    return kept


def select_flagged(leaves: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    """Returns the leaves whose flag is set."""
    return [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]


def masks_like(
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
