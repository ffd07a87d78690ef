"""What the two kinds of leaves at hand have in common: operands, counts, masks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradflow_jax.masks.selection.pieces import kept

Counting = Callable[[], np.ndarray]
"""Counts that are under way: the call waits for them."""


class Operands(NamedTuple):
    """What is handed on to the flags of a pass, beside the ranks.

    Attributes:
        per_group: the rows of the group, [...] each.
        per_block: the rows of the blocks, [block, ...] each.
    """

    per_group: Sequence[Any]
    per_block: Sequence[Any]


def masking(
    low: Any, high: Any, cuts: np.ndarray, sizes: Sequence[int]
) -> tuple[Callable[..., Any], list[Any]]:
    """Returns what makes the masks of blocks, and its operands: see `kept`.

    Where of all that tie none is cut, or each, no index has to be computed.
    """
    if (cuts <= np.negative(sizes)).all():
        return at_least, [low]
    if not cuts.any():
        return at_least, [high + 1]
    return kept, [low, high, cuts]


def at_least(rank: Any, block: Any, zero: Any, threshold: Any) -> Any:
    """Returns the mask of what reaches a rank."""
    return rank >= threshold
