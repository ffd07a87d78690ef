"""Scores of units, by each measure's own rule."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.parameters import params_of
from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.rules import check_needs, rule_of
from gradflow_jax.structured.families import Family
from gradflow_jax.structured.sums import (
    PartialSum,
    Scope,
    UnitSums,
    fetch_in_float64,
    sum_partially,
)
from gradflow_jax.structured.units import Units
from gradflow_jax.trees import Params, Scores

UnitScores = Mapping[str, np.ndarray]
Normalization = Literal["mean", "max", "parameters", "flops"]


def score_units(
    d: Derivatives | Params,
    units: Units,
    measure: str = "magnitude",
    *,
    scope: Scope = "producing",
    normalize: Normalization | None = None,
) -> dict[str, np.ndarray]:
    """Scores each unit by a measure's own rule for sets of weights.

    The score of the set U of a unit's weights is what the measure says of sets: ‖θ_U‖₂
    for magnitude, Σ_U |θḡ| for loss preservation, |Σ_U θḡ| for Taylor, Σ_U θHḡ, signed,
    for GraSP, |Σ_U θHḡ| for gradient-norm preservation.

    Args:
        d: what `gf.differentiate(loss_fn)(params, batch)` returns; for magnitude the
            parameters, or an `nnx.Module`, alone will do.
        units: of the model, from `gf.find_units`.
        measure: a measure's name, as `gf.score` takes it.
        scope: "producing" sums over the weights that make a unit, as the filter of a
            convolution; "all" over every weight that goes with it, the next layer's
            and normalization's too.
        normalize: None for scores as they are. "mean" or "max" divides a family's by
            the mean or the largest of their absolute values, which lets families of
            different scales be ranked together; "parameters" or "flops" divides by
            what removing one unit of the family saves.

    Returns:
        float64 [units] for each family, by its name; higher is kept.

    Raises:
        ValueError: if the measure is unknown, if `d` lacks what it needs, if the
            parameters are not the model's, or if a score is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def apply(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> weights = jnp.array([[3.0, 0.0], [4.0, 1.0]])
        >>> params = {"in": weights, "out": jnp.ones((2, 1))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 2)))
        >>> gf.score_units(params, units)
        {'in[1]': array([5., 1.])}
    """
    rule = rule_of(measure)
    if not isinstance(d, Derivatives):
        if rule.needs:
            raise ValueError(
                f"{measure} needs {rule.needs[0]}: pass what gf.differentiate(loss_fn)"
                "(params, batch) returns, not parameters alone."
            )
        d = Derivatives.without_loss(params_of(d))
    check_needs(d, measure)
    plan = UnitSums(d.params, units, scope=scope, what="params")
    if rule.alone is None:
        partial = _sum_terms(d, rule.term, plan.partial_sums)
        tables = [fetch_in_float64(table) for table in partial]
    else:
        scales, partial = _sum_squares(d, rule.alone, plan.partial_sums)
        largest = [float(scale) for scale in scales]
        tables = [
            largest[position] ** 2 * fetch_in_float64(table)
            for (position, _), table in zip(plan.partial_sums, partial, strict=True)
        ]
    result = {}
    totals = plan.add_up(tables)
    for family in units.families:
        values = np.asarray(rule.outer(totals[family.name]), np.float64)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"the score of unit {bad} of {family.name!r} is {values[bad]}: the "
                "parameters, or the derivatives of the loss, are not finite."
            )
        result[family.name] = values / _scale(values, family, units, normalize)
    return result


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sum_terms(
    d: Derivatives,
    term: Callable[[Derivatives], Scores],
    partial_sums: Sequence[PartialSum],
) -> list[jax.Array]:
    """Returns partial sums of a measure's terms, in one program for all families."""
    return sum_partially(jax.tree.leaves(term(d)), partial_sums)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sum_squares(
    d: Derivatives,
    alone: Callable[[Derivatives], Scores],
    partial_sums: Sequence[PartialSum],
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Returns partial sums of squared scores of weights, and what those are divided by.

    Each leaf is divided by its largest score, or by 1 where that is no number to divide
    by: its squares under- and overflow where they do not.
    """
    leaves, scales = jax.tree.leaves(alone(d)), []
    for leaf in leaves:
        largest = jnp.max(leaf) if jnp.size(leaf) else jnp.ones((), leaf.dtype)
        usable = (largest > 0) & (largest < jnp.inf)
        scales.append(jnp.where(usable, largest, 1))
    squares = [
        jnp.square(leaf / scale) for leaf, scale in zip(leaves, scales, strict=True)
    ]
    return scales, sum_partially(squares, partial_sums)


def _scale(
    values: np.ndarray, family: Family, units: Units, normalize: Normalization | None
) -> float:
    if normalize is None:
        return 1.0
    if normalize in ("mean", "max"):
        magnitudes = np.abs(values)
        return float(getattr(magnitudes, normalize)()) or 1.0
    if normalize in ("parameters", "flops"):
        count = getattr(units, normalize)
        flags = np.arange(family.size) > 0
        if not flags.any():
            return 1.0
        return float(count() - count({family.name: flags})) or 1.0
    raise ValueError(
        f"normalize is {normalize!r}; it is None, 'mean', 'max', 'parameters' or "
        "'flops'."
    )
