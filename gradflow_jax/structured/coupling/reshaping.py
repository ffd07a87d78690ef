"""Reshapes of symbolic axes: which dimensions merge and split into which."""

from collections.abc import Callable, Sequence

from gradflow_jax.structured.coupling.axes import (
    ONE,
    Axis,
    Reason,
    factors,
    find,
    new_pinned,
)
from gradflow_jax.structured.coupling.unification import factor, give_up, refine


def regroup(
    axes: Sequence[Axis], sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis]:
    """Returns the axes of a reshape: from row-major axes to those of other sizes.

    Args:
        axes: the dimensions before.
        sizes: the shape after.
        blame: makes a reason of its text.
    """
    result: list[Axis] = []
    if 0 in sizes:
        text = "an empty array is reshaped"
        give_up(axes, text, blame)
        return [new_pinned(size, blame(text)) for size in sizes]
    i = j = 0
    while i < len(axes) or j < len(sizes):
        # A block is the fewest dimensions whose sizes have one product on both sides: a
        # reshape moves no index from one block to another.
        first, target = i, j
        before = after = 1
        if i < len(axes):
            before, i = axes[i].size, i + 1
        if j < len(sizes):
            after, j = sizes[j], j + 1
        while before != after:
            if before < after:
                before, i = before * axes[i].size, i + 1
            else:
                after, j = after * sizes[j], j + 1
        result.extend(_regroup_block(axes[first:i], sizes[target:j], blame))
    return result


def _regroup_block(
    axes: Sequence[Axis], sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis]:
    if [axis.size for axis in axes] == list(sizes):
        return list(axes)
    merged = [a for a in axes if not (a.size == 1 and find(a).reason is not None)]
    inner = [size for size in sizes if size != 1]
    if not merged:
        regrouped: list[Axis] | None = [new_pinned(1, ONE) for _ in inner]
    elif len(inner) == 0:
        give_up(merged, "its only index is dropped by a reshape", blame)
        regrouped = []
    elif len(merged) == 1:
        regrouped = factor(merged[0], inner, blame)
    else:
        flat = [f for axis in merged for f in factors(axis)]
        regrouped = refine(flat, inner, blame)
    if regrouped is None:
        before = tuple(axis.size for axis in axes)
        text = f"a reshape from {before} to {tuple(sizes)} mixes its indices"
        give_up(axes, text, blame)
        regrouped = [new_pinned(size, blame(text)) for size in inner]
    remaining = iter(regrouped)
    return [new_pinned(1, ONE) if size == 1 else next(remaining) for size in sizes]
