"""Scores of units, by each measure's own rule."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.rules import check_needs, rule_of
from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.families import Family, Slices
from gradflow_jax.structured.units import Units
from gradflow_jax.trees import PyTree, named_leaves, widen

UnitScores = Mapping[str, np.ndarray]
Normalisation = Literal["mean", "max", "parameters", "flops"]


def score_units(
    d: Derivatives | PyTree,
    units: Units,
    measure: str = "magnitude",
    *,
    over: Literal["producing", "all"] = "producing",
    normalize: Normalisation | None = None,
) -> dict[str, np.ndarray]:
    """Scores each unit by a measure's own rule for sets of weights.

    The score of the set U of a unit's weights is what the measure says of sets: ‖θ_U‖₂
    for magnitude, Σ_U |θḡ| for loss preservation, |Σ_U θḡ| for Taylor, Σ_U θHḡ, signed,
    for GraSP, |Σ_U θHḡ| for gradient-norm preservation.

    Args:
        d: what `gf.differentiate(loss_fn)(params, batch)` returns; for magnitude the
            parameters alone will do.
        units: of the model, from `gf.find_units`.
        measure: a measure's name, as `gf.score` takes it.
        over: "producing" sums over the weights that make a unit, as the filter of a
            convolution; "all" over every weight that goes with it, the next layer's
            and normalisation's too.
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
    if over not in ("producing", "all"):
        raise ValueError(f'over is {over!r}; it is "producing" or "all".')
    rule = rule_of(measure)
    if not isinstance(d, Derivatives):
        if rule.needs:
            raise ValueError(
                f"{measure} needs {rule.needs[0]}: pass what gf.differentiate(loss_fn)"
                "(params, batch) returns, not parameters alone."
            )
        d = Derivatives(params=d, loss=None, gradient=None)
    check_needs(d, measure)
    owners = align(d.params, units.leaves, what="params")
    terms = {
        owner: leaf
        for owner, (_, leaf) in zip(owners, named_leaves(rule.term(d)), strict=True)
        if owner is not None
    }
    result = {}
    for family in units.families:
        chosen = family.producers if over == "producing" else family.slices
        sums = _sums(family, chosen, terms)
        values = np.asarray(rule.outer(jnp.asarray(sums)), np.float64)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"the score of unit {bad} of {family.name!r} is {values[bad]}: the "
                "parameters, or the derivatives of the loss, are not finite."
            )
        result[family.name] = values / _scale(values, family, units, normalize)
    return result


def _sums(
    family: Family, chosen: tuple[Slices, ...], terms: Mapping[str, Any]
) -> np.ndarray:
    """Returns the sum of terms over the weights of each unit, each weight once."""
    by_leaf: dict[str, list[Slices]] = {}
    for own in chosen:
        if own.path in terms:
            by_leaf.setdefault(own.path, []).append(own)
    if not by_leaf:
        missing = ", ".join(dict.fromkeys(own.path for own in chosen))
        raise ValueError(
            f"params hold none of the leaves of the family {family.name!r}: {missing}."
        )
    total = np.zeros(family.size)
    for path, slices in by_leaf.items():
        term = widen(terms[path])
        for own in slices:
            total += _along(term, own, family.size)
        for i, one in enumerate(slices):
            # A weight where two axes meet belongs to its unit once.
            for other in slices[i + 1 :]:
                total -= _corner(term, one, other, family.size)
    return total


def _along(term: jax.Array, own: Slices, size: int) -> np.ndarray:
    others = tuple(axis for axis in range(term.ndim) if axis != own.axis)
    row = np.asarray(jnp.sum(term, others), np.float64)
    total = np.zeros(size)
    for labels in own.units:
        np.add.at(total, labels[labels >= 0], row[labels >= 0])
    return total


def _corner(term: jax.Array, one: Slices, other: Slices, size: int) -> np.ndarray:
    rest = tuple(
        axis for axis in range(term.ndim) if axis not in (one.axis, other.axis)
    )
    table = np.asarray(jnp.sum(term, rest), np.float64)
    if one.axis > other.axis:
        table = table.T
    total = np.zeros(size)
    for mine in one.units:
        for theirs in other.units:
            same = (mine[:, None] == theirs[None, :]) & (mine >= 0)[:, None]
            rows, columns = np.nonzero(same)
            np.add.at(total, mine[rows], table[rows, columns])
    return total


def _scale(
    values: np.ndarray, family: Family, units: Units, normalize: Normalisation | None
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
