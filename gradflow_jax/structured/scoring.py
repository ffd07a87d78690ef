"""Scores of units, by each measure's own rule."""

import functools
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.parameters import params_of
from gradflow_jax.programs.variables import variables_in
from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.normalization import CHANNEL_MEASURES
from gradflow_jax.scores.rules import Rule, derivatives_for, rule_of
from gradflow_jax.structured.coupling.normalizations import normalizations_of
from gradflow_jax.structured.families import Family, Ignored, Slices, ignored_by
from gradflow_jax.structured.sums import (
    Chosen,
    PartialSum,
    Scope,
    UnitSums,
    fetch_in_float64,
    slices_in,
    sum_partially,
)
from gradflow_jax.structured.units import Units, check_units, program_of
from gradflow_jax.trees import Params, Scores, is_nnx_module
from gradflow_jax.trees.numbers import check_choice

UnitScores = Mapping[str, np.ndarray]
Normalization = Literal["mean", "max", "parameters", "flops"]


def score_units(
    d: Derivatives | Params,
    units: Units,
    measure: str = "magnitude",
    *,
    scope: Scope = "producing",
    normalize: Normalization | None = None,
    ignore: Ignored = (),
) -> dict[str, np.ndarray]:
    """Scores each unit by a measure's own rule for sets of weights.

    The score of the set U of a unit's weights is what the measure says of sets: ‖θ_U‖₂
    for magnitude, Σ_U |θḡ| for loss preservation, |Σ_U θḡ| for Taylor, Σ_U θHḡ, signed,
    for GraSP, |Σ_U θHḡ| for gradient-norm preservation. The measures of channels score
    a unit by the normalizations that it passes, all of them, found in the program
    whatever their leaves are called: Σ |γ| for batch-norm scale, network slimming's,
    and Σ γ² E[g_γ²] + β² E[g_β²] for batch-norm Taylor.

    Args:
        d: what `gf.differentiate(loss_fn)(params, batch)` returns; for magnitude and
            batch-norm scale the parameters, or a module that holds them, will do.
        units: of the model, from `gf.find_units`.
        measure: a measure's name, as `gf.score` takes it.
        scope: "producing" sums over the weights that make a unit, as the filter of a
            convolution; "all" over every weight that goes with it, the next layer's
            and normalization's too.
        normalize: None for scores as they are. "mean" or "max" divides a family's by
            the mean or the largest of their absolute values, which lets families of
            different scales be ranked together; "parameters" or "flops" divides by
            what removing one unit of the family saves.
        ignore: families that are not scored, as `gf.choose_units` takes them: those
            without a normalization, for one, where a measure asks for it.

    Returns:
        float64 [units] for each family, by its name; higher is kept.

    Raises:
        TypeError: if `d` is a model that holds no parameters, if a leaf of them is not
            a real floating-point array, or if units are not what `gf.find_units`
            returned.
        ValueError: if the measure is unknown, if `d` lacks what it needs, if the
            parameters are not the model's, if a family passes no normalization where
            the measure is of channels, or if a score is not finite.

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
    check_units(units)
    choices = None, "mean", "max", "parameters", "flops"
    check_choice(normalize, choices, "normalize")
    if not isinstance(d, Derivatives):
        d = params_of(d) if is_nnx_module(d) else variables_in(d, what="params")
    is_ignored = ignored_by(ignore, units.families, units.leaves)
    families = [family for family in units.families if not is_ignored(family)]
    rule = rule_of(measure)
    d = _read_by(rule, derivatives_for(measure, d))
    if measure in CHANNEL_MEASURES:
        chosen = _normalizing(families, units, measure)
        rule = rule._replace(term=rule.alone or rule.term, outer=abs, alone=None)
    else:
        chosen = slices_in(scope)
    plan = UnitSums(d.params, units, chosen=chosen, what="params", families=families)
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
    for family in families:
        values = np.asarray(rule.outer(totals[family.name]), np.float64)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"the score of unit {bad} of {family.name!r} is {values[bad]}: the "
                "parameters, or the derivatives of the loss, are not finite."
            )
        result[family.name] = values / _scale(values, family, units, normalize)
    return result


def _read_by(rule: Rule, d: Derivatives) -> Derivatives:
    """Returns the derivatives that a rule reads, and no others."""
    fields = {
        "gradient_rms" if field == "squared_gradient" else field
        for field in (*rule.needs, *rule.optional)
    }
    return Derivatives.without_loss(d.params)._replace(
        **{field: getattr(d, field) for field in fields}
    )


def _normalizing(families: Sequence[Family], units: Units, measure: str) -> Chosen:
    """Returns which slices of a family are those of the normalizations it passes.

    Raises:
        ValueError: if a family passes none.
    """
    counted: set[str | None] = set()
    scales: set[str] = set()
    for scale, shift in normalizations_of(program_of(units)):
        scales.add(scale)
        counted |= {scale, shift} if CHANNEL_MEASURES[measure].of_shift else {scale}

    def is_normalizing(slices: Slices, paths: Container) -> bool:
        return slices.path in paths and slices.kinds == {"elementwise"}

    without = [
        family.name
        for family in families
        if not any(is_normalizing(slices, scales) for slices in family.slices)
    ]
    if without:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        named = ", ".join(map(repr, without[:3]))
        raise ValueError(
            f"{measure} scores a unit by the scale of its batch norm, but the units of "
            f"{named}{more} pass none: let them stay by ignore={without!r}, here and "
            "in gf.choose_units, or score them by another measure."
        )
    return lambda family: [s for s in family.slices if is_normalizing(s, counted)]


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
    count = getattr(units, normalize)
    flags = np.arange(family.size) > 0
    if not flags.any():
        return 1.0
    return float(count() - count({family.name: flags})) or 1.0
