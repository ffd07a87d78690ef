"""Counts, leaf by leaf, what a report says beside how many weights are kept."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.selection.counting import count_true
from gradflow_jax.masks.selection.ordering import Order, to_ordered_integers
from gradflow_jax.masks.selection.placement import place_like


def count_violations(masks: Sequence[Any], leaves: Sequence[Any]) -> list[int]:
    """Counts the pruned weights of each leaf that are not 0.0.

    They are compared as integers: some devices take denormals for zero.
    """
    return [
        count_true(~place_like(mask, leaf) & (to_ordered_integers(leaf) != 0))
        for mask, leaf in zip(masks, leaves, strict=True)
    ]


def count_by_position(masks: Sequence[Any], scores: Sequence[Any]) -> list[int]:
    """Counts the kept weights of each leaf that were as good as removed ones.

    These have the score of the highest weight that was removed, of their own leaf or of
    all leaves: in rankings of single leaves the one is the threshold, in rankings of
    several the other.
    """
    if not masks:
        return []
    scores = [jnp.asarray(leaf) for leaf in scores]
    masks = [place_like(m, leaf) for m, leaf in zip(masks, scores, strict=True)]
    return [int(count) for count in _count_by_position(masks, scores)]


@jax.jit
def _count_by_position(
    masks: Sequence[jax.Array], scores: Sequence[jax.Array]
) -> list[jax.Array]:
    order = Order.of(scores)
    ranks = [order.rank(leaf) for leaf in scores]
    none = np.array(np.iinfo(ranks[0].dtype).min, ranks[0].dtype)
    tops = [
        jnp.max(jnp.where(mask, none, rank), initial=none)
        for mask, rank in zip(masks, ranks, strict=True)
    ]
    top = jnp.max(jnp.stack(tops))
    return [
        jnp.sum(mask & ((rank == own_top) | (rank == top)))
        for mask, rank, own_top in zip(masks, ranks, tops, strict=True)
    ]
