"""Ranks the flagged leaves of a tree of scores, and makes masks of what is kept.

Every selection goes through `keep_highest`: what a floor, earlier masks, −inf and equal
scores are to one, they are to all.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.masks.algebra import all_true_like
from gradflow_jax.masks.selection.counting import count_true
from gradflow_jax.masks.selection.exact_threshold import Outcome, highest
from gradflow_jax.masks.selection.placement import place_like
from gradflow_jax.masks.ties import Tie, warn_of_ties
from gradflow_jax.trees import (
    Masks,
    Scores,
    check_finite,
    checked_fraction,
    is_traced,
    label,
    mask_leaves,
    named_leaves,
)


class Group(NamedTuple):
    """Leaves that are ranked together.

    Attributes:
        keep: how many of their weights are kept.
        asked: what asks for that number: "sparsity=0.9".
        place: what an error adds to say which leaves these are: " of leaf 'a'".
    """

    keep: int
    asked: str
    place: str = ""


def keep_highest(
    scores: Scores,
    flags: Sequence[bool],
    groups: Sequence[Group],
    group_of: Sequence[int],
    *,
    floor: float = 0.0,
    previous: Masks | None = None,
    whole: Sequence[bool] | None = None,
) -> Masks:
    """Keeps the highest scores of each group among the flagged leaves.

    Args:
        scores: a tree of real floating arrays.
        flags: which leaves are ranked; the others are as `previous` has them, or whole.
        groups: how many of each are kept.
        group_of: the group of each flagged leaf.
        floor: the fraction of each flagged leaf that is kept at least.
        previous: masks of an earlier round; what they removed stays removed.
        whole: which of all leaves are kept whole though they are flagged, so that they
            may hold NaN.

    Raises:
        TypeError: if previous are no masks, or the floor is no number.
        ValueError: at the first leaf with NaN or +inf, or if a floor, `previous` or
            −inf leave no way to keep the number asked for.

    Warns:
        EqualScoresWarning: outside jit, if positions decided more than a handful.
    """
    # A Python number, which has no dtype, becomes an array.
    leaves = [
        leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
        for leaf in select_flagged(jax.tree.leaves(scores), flags)
    ]
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    group_sizes = _sum_groups(sizes, group_of, len(groups))
    alive = _alive(scores, previous, flags)
    if alive is not None:
        _check_alive(alive, groups, group_of)
    floor = checked_fraction(floor, "floor")
    # The product is rounded before it is raised: 0.07 · 100 is a hair above 7.
    minimum = [math.ceil(round(floor * size, 6)) for size in sizes]
    _check_floor(
        floor, _sum_groups(minimum, group_of, len(groups)), groups, group_sizes
    )
    each_alone = range(len(leaves))
    safe, of_leaves = None, None
    # A floor under a leaf that is ranked alone is reached if the number kept is.
    if floor and len(groups) < len(leaves):
        safe, of_leaves = highest(leaves, minimum, each_alone, among=alive)
    keep = [group.keep for group in groups]
    kept, outcome = highest(leaves, keep, group_of, among=alive, first=safe)
    outcome, of_leaves = _read(outcome), _read(of_leaves)
    stays = [False] * len(leaves) if whole is None else select_flagged(whole, flags)
    if outcome is None or not outcome.rankable:
        names = zip(_paths(scores, flags), leaves, stays, strict=True)
        for path, leaf, is_whole in names:
            if not is_whole:
                check_finite(path, leaf, or_never_kept=True)
    kept = [
        all_true_like(leaf) if is_whole else mask
        for leaf, mask, is_whole in zip(leaves, kept, stays, strict=True)
    ]
    if outcome is not None:
        if not outcome.rankable:
            _check_enough(leaves, kept, _paths(scores, flags), groups, group_of)
        ties = _ties(outcome, groups, group_sizes)
        if of_leaves is not None:
            floors = [
                Group(number, "", f" of {label(path)}")
                for number, path in zip(minimum, _paths(scores, flags), strict=True)
            ]
            ties += _ties(of_leaves, floors, sizes)
        warn_of_ties(ties)
    return masks_like(scores, flags, kept, previous)


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
            return place_like(next(ranked), leaf)
        return all_true_like(leaf) if previous_mask is None else previous_mask

    return structure.unflatten(map(mask, leaves, flags, unranked))


def _sum_groups(
    numbers: Sequence[int], group_of: Sequence[int], group_count: int
) -> list[int]:
    """Returns the sums of numbers, one a leaf, over the leaves of each group."""
    sums = [0] * group_count
    for number, group in zip(numbers, group_of, strict=True):
        sums[group] += number
    return sums


def _alive(
    scores: Scores, previous: Masks | None, flags: Sequence[bool]
) -> list[Any] | None:
    """Returns of the flagged leaves which weights earlier masks keep."""
    if previous is None:
        return None
    masks = mask_leaves(previous, scores, what="previous", like_what="scores")
    return select_flagged(masks, flags)


def _check_alive(
    alive: Sequence[Any], groups: Sequence[Group], group_of: Sequence[int]
) -> None:
    """Raises ValueError if previous masks keep too few of a group, unless traced."""
    if any(map(is_traced, alive)):
        return
    living = _sum_groups(list(map(count_true, alive)), group_of, len(groups))
    for number, group in zip(living, groups, strict=True):
        if number < group.keep:
            raise ValueError(
                f"previous masks keep {number} weights{group.place}, but {group.keep} "
                "are to be kept now and a pruned weight never returns: ask for a "
                "higher sparsity, or leave out previous= to let weights return."
            )


def _check_floor(
    floor: float,
    minimum: Sequence[int],
    groups: Sequence[Group],
    sizes: Sequence[int],
) -> None:
    """Raises ValueError if the floor keeps more of a group than is to be kept."""
    for number, group, size in zip(minimum, groups, sizes, strict=True):
        if number > group.keep:
            raise ValueError(
                f"floor={floor} keeps {number} weights, but {group.asked} "
                f"keeps only {group.keep} of {size}: lower the floor or the sparsity."
            )


def _check_enough(
    leaves: Sequence[Any],
    kept: Sequence[Any],
    paths: Sequence[str],
    groups: Sequence[Group],
    group_of: Sequence[int],
) -> None:
    """Raises ValueError if −inf leaves fewer of a group than are to be kept."""
    numbers = _sum_groups(list(map(count_true, kept)), group_of, len(groups))
    for g, (number, group) in enumerate(zip(numbers, groups, strict=True)):
        if number == group.keep:
            continue
        counts = {
            path: count_true(jnp.isneginf(leaf))
            for path, leaf, of in zip(paths, leaves, group_of, strict=True)
            if of == g
        }
        most = max(counts, key=lambda path: counts[path])
        raise ValueError(
            f"scores{group.place} hold {sum(counts.values())} values of −inf (never "
            f"keep), {counts[most]} of them in {label(most)}, which leave {number} "
            f"weights of the {group.keep} that {group.asked} keeps: ask for a higher "
            "sparsity, or give fewer weights −inf."
        )


def _read(rows: Any) -> Outcome | None:
    """Returns what a selection came upon; None if there was none or it is traced."""
    return None if rows is None or is_traced(rows) else Outcome.read(rows)


def _paths(scores: Scores, flags: Sequence[bool]) -> list[str]:
    """Returns the names of the flagged leaves, which take long to make."""
    return [path for path, _ in select_flagged(named_leaves(scores), flags)]


def _ties(
    outcome: Outcome,
    groups: Sequence[Group],
    sizes: Sequence[int],
) -> list[Tie]:
    """Returns what positions decided in each group that has scores."""
    present = [g for g in range(len(groups)) if sizes[g]]
    columns = zip(present, outcome.needed, outcome.tied, strict=True)
    return [
        Tie(groups[g].place, needed, tied, groups[g].keep, sizes[g])
        for g, needed, tied in columns
    ]
