"""Which units stay: ranking under floors, multiples and budgets."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import chex
import numpy as np

from gradflow_jax.masks.ties import Tie, tie_at_the_cut, warn_of_ties
from gradflow_jax.structured.families import Family, Ignored, ignored_by
from gradflow_jax.structured.units import Units, check_units
from gradflow_jax.trees import (
    check_number,
    checked_fraction,
    is_traced,
    real_array,
)
from gradflow_jax.trees.numbers import check_choice, checked_count

Budget = Literal["units", "parameters", "flops"] | Callable[[dict], float]
Scope = Literal["global", "family", "isomorphic"]


def choose_units(
    scores: Mapping[str, chex.Array],
    units: Units,
    *,
    sparsity: float,
    budget: Budget = "units",
    scope: Scope = "global",
    floor: float = 0.0,
    min_units: int | Mapping[str, int] = 1,
    round_to: int = 1,
    ignore: Ignored = (),
) -> dict[str, np.ndarray]:
    """Chooses the units that stay: those of the highest scores.

    Units are removed from the lowest score on until the budget is met, so it is met
    within one unit, or within `round_to` of them.

    Args:
        scores: [units] for each family, by its name, as `gf.score_units` returns them.
            A unit of score −inf is never kept.
        units: of the model.
        sparsity: the fraction of the budget to remove, in [0, 1).
        budget: what is counted: "units" (the filters, neurons and heads of all
            families), "parameters", "flops", or a function `keep -> cost`, such as a
            measured latency; the cost must not rise as units go.
        scope: "global" ranks all units together. "family" removes the same fraction of
            every family. "isomorphic" ranks together what has the same structure, as
            the heads of all layers, and removes the same fraction of each such group.
        floor: the fraction of every family that is kept at least, its best-scored
            units; the paper's is 0.05.
        min_units: how many units every family keeps at least, or by name how many
            each does, 1 where it is not named: in several rounds the paper's floor is
            5 % of what a family had at first.
        round_to: families that are cut keep a multiple of this, rounded up, or all.
        ignore: a path or shell pattern of leaves, `"*/conv1/kernel"`, or several: the
            families that one of these leaves produces stay whole. The name of a family
            serves too, or a function that says so of a family: `lambda family:
            family.reads_input` for first layers. They need no scores.

    Returns:
        bool [units] for each family, by its name: True keeps.

    Raises:
        TypeError: if a score, or an option that is a number, is none, or if units are
            not what `gf.find_units` returned.
        ValueError: if scores lack a family or hold another number of units, if an
            option is out of range, if a pattern matches neither a leaf nor a family,
            if the floors do not let the budget be met, or if more units have the score
            −inf than it removes.

    Warns:
        EqualScoresWarning: if equal scores left it to positions which of more than a
            handful of units stay.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def apply(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> params = {"in": jnp.array([[3.0, 0.0, 2.0]]), "out": jnp.ones((3, 1))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 1)))
        >>> scores = gf.score_units(params, units)
        >>> gf.choose_units(scores, units, sparsity=1 / 3)
        {'in[1]': array([ True, False,  True])}
    """
    check_units(units)
    sparsity = checked_fraction(sparsity, "sparsity")
    if sparsity == 1:
        raise ValueError("sparsity is 1, outside [0, 1): some units have to stay.")
    floor = checked_fraction(floor, "floor")
    round_to = checked_count(round_to, "round_to")
    if isinstance(min_units, Mapping):
        min_units = {k: checked_count(n, "min_units") for k, n in min_units.items()}
    else:
        min_units = checked_count(min_units, "min_units")
    check_choice(scope, ["global", "family", "isomorphic"], "scope")
    if not callable(budget):
        choices = "units", "parameters", "flops"
        check_choice(budget, choices, "budget, no function keep -> cost,")
    if not units.families:
        raise ValueError(f"there is nothing to choose from: {units}")
    stays_whole = ignored_by(ignore, units.families, units.leaves)
    values = _checked_scores(scores, units, stays_whole)
    order = [
        np.lexsort((np.arange(family.size), values[family.name]))
        for family in units.families
    ]
    limits = [
        0 if stays_whole(family) else _limit(family, floor, min_units)
        for family in units.families
    ]
    ranked = _rank(units, values, order, limits, scope)

    def keep(count: int) -> dict[str, np.ndarray]:
        """Removes the first so many of all units that may go."""
        removed = np.bincount(ranked[:count], minlength=len(units.families))
        result = {}
        for family, gone, lowest in zip(units.families, removed, order, strict=True):
            flags = np.ones(family.size, bool)
            left = math.ceil((family.size - gone) / round_to) * round_to
            flags[lowest[: max(family.size - left, 0)]] = False
            result[family.name] = flags
        return result

    cost = _cost(budget, units)
    whole = cost(keep(0))
    target_cost = (1 - sparsity) * whole
    allowed = target_cost + 1e-9 * abs(whole)
    low, high = 0, len(ranked)
    least = cost(keep(high))
    if least > allowed:
        name = budget if isinstance(budget, str) else "cost"
        raise ValueError(
            f"sparsity={sparsity:g} of {name} asks for {target_cost:,.6g} of "
            f"{whole:,.6g} to be left, but {least:,.6g} are left where all goes that "
            f"floor={floor:g}, min_units={min_units}, round_to={round_to} and ignore "
            f"let go: ask for at most {_rounded_down(1 - least / whole):g}."
        )
    while low < high:
        middle = (low + high) // 2
        if cost(keep(middle)) <= allowed:
            high = middle
        else:
            low = middle + 1
    chosen = keep(low)
    may_go = {
        family.name: values[family.name]
        for family, limit in zip(units.families, limits, strict=True)
        if limit
    }
    _check_never_kept(may_go, chosen)
    warn_of_ties(ties_of_units(may_go, units, chosen, scope), "units")
    return chosen


def _check_never_kept(scores: Mapping[str, np.ndarray], keep: Mapping) -> None:
    """Raises ValueError where a unit of score −inf stays."""
    for name, values in scores.items():
        if (np.isneginf(values) & keep[name]).any():
            raise ValueError(
                f"units of {name!r} stay whose score is −inf, and such are never kept: "
                "raise sparsity, or lower floor, min_units and round_to."
            )


def ties_of_units(
    scores: Mapping[str, np.ndarray],
    units: Units,
    keep: Mapping[str, chex.Array],
    scope: Scope,
) -> list[Tie]:
    """Returns how many units positions chose among equal scores, by what is ranked.

    Args:
        scores: [units] of the families that may lose units, by name.
        units: of the model.
        keep: what `choose_units` chose of them.
        scope: as it was given to it.
    """
    ranked: dict[str, list[str]] = {}
    for family in units.families:
        if family.name in scores:
            ranked.setdefault(_ranked_with(family, scope), []).append(family.name)
    return [
        tie_at_the_cut(
            "" if scope == "global" else f" of {names[0]!r}",
            np.concatenate([scores[name] for name in names]),
            np.concatenate([np.asarray(keep[name]) for name in names]),
        )
        for names in ranked.values()
    ]


def _ranked_with(family: Family, scope: Scope) -> str:
    """Returns what the families that are ranked together have in common."""
    return {"global": "", "family": family.name, "isomorphic": family.kind}[scope]


def _rounded_down(fraction: float) -> float:
    return max(0.0, math.floor(fraction * 1e4) / 1e4)


def _checked_scores(
    scores: Mapping[str, chex.Array],
    units: Units,
    stays_whole: Callable[[Family], bool],
) -> dict[str, np.ndarray]:
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"scores is a {type(scores).__name__}: pass the scores of units by family, "
            "as gf.score_units returns them."
        )
    result = {}
    for family in units.families:
        if stays_whole(family):
            result[family.name] = np.zeros(family.size)
            continue
        if family.name not in scores:
            raise ValueError(
                f"scores lack the family {family.name!r}: score its units, or let "
                f"them stay by ignore={family.name!r}."
            )
        values = real_array(scores[family.name], f"scores of {family.name!r}")
        if is_traced(values):
            raise TypeError(
                f"scores of {family.name!r} are traced by jax.jit or a like "
                "transformation: which units stay is chosen outside of it."
            )
        values = np.asarray(values, np.float64)
        if values.shape != (family.size,):
            raise ValueError(
                f"scores of {family.name!r} have shape {values.shape}, but the family "
                f"has {family.size} units."
            )
        if np.isnan(values).any():
            bad = int(np.flatnonzero(np.isnan(values))[0])
            raise ValueError(f"the score of unit {bad} of {family.name!r} is NaN.")
        result[family.name] = values
    return result


def _limit(family: Family, floor: float, min_units: int | Mapping[str, int]) -> int:
    """Returns how many of a family's units may go."""
    # A float such as 0.05 is a little more or less than it says; 0.05 · 20 must be 1.
    by_fraction = math.ceil(floor * family.size - 1e-9 * family.size)
    by_number = min_units
    if isinstance(by_number, Mapping):
        by_number = by_number.get(family.name, 1)
    return max(family.size - max(by_fraction, by_number), 0)


def _rank(
    units: Units,
    values: Mapping[str, np.ndarray],
    order: list[np.ndarray],
    limits: list[int],
    scope: Scope,
) -> np.ndarray:
    """Returns the family of each unit that may go, in the order in which they go."""
    owners, keys, groups, sizes = [], [], [], {}
    for number, (family, lowest, limit) in enumerate(
        zip(units.families, order, limits, strict=True)
    ):
        owners += [number] * limit
        keys.append(values[family.name][lowest[:limit]])
        group = _ranked_with(family, scope)
        groups += [group] * limit
        sizes[group] = sizes.get(group, 0) + family.size
    owner, key = np.array(owners, int), np.concatenate(keys)
    # The sort is stable, so that ties are broken by family and by unit.
    first = np.argsort(key, kind="stable")
    if scope == "global":
        return owner[first]
    places: dict[str, int] = dict.fromkeys(sizes, 0)
    share = np.empty(len(first))
    for place, index in enumerate(first):
        group = groups[index]
        places[group] += 1
        share[place] = places[group] / sizes[group]
    return owner[first][np.argsort(share, kind="stable")]


def _cost(budget: Budget, units: Units) -> Callable[[dict], float]:
    if budget == "units":
        return lambda keep: float(sum(int(flags.sum()) for flags in keep.values()))
    if not callable(budget):
        return lambda keep: float(getattr(units, budget)(keep))

    def cost(keep: dict) -> float:
        value: Any = budget(keep)
        check_number(value, "budget(keep)")
        return float(value)

    return cost
