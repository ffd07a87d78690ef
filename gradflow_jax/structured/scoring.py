"""Scores of units, by each measure's own rule."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.rules import check_needs, rule_of, squared_weight
from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.families import Family, Slices, shares
from gradflow_jax.structured.units import Units
from gradflow_jax.trees import PyTree, describe, named_leaves, widen

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
    named = named_leaves(d.params)
    for (path, leaf), owner in zip(named, owners, strict=True):
        if owner is not None and jnp.shape(leaf) != units.leaves[owner].shape:
            raise ValueError(
                f"params leaf {path!r} is {describe(leaf)}, but the model's is "
                f"{describe(units.leaves[owner])}: score one model at a time."
            )
    squares = rule.term is squared_weight
    # θ² would under- or overflow in float32 where |θ| does not.
    scales = [_largest(leaf) if squares else 1.0 for _, leaf in named]
    if squares:
        d = d._replace(params=_divided(d.params, scales))
    terms = {
        owner: (leaf, scale**2)
        for owner, (_, leaf), scale in zip(
            owners, named_leaves(rule.term(d)), scales, strict=True
        )
        if owner is not None and units.model.is_parameter(owner)
    }
    # In NumPy, for sums in float64.
    known: dict[Any, Any] = {jnp.sqrt: np.sqrt, jnp.abs: np.abs}
    outer = known.get(rule.outer, rule.outer)
    result = {}
    for family in units.families:
        chosen = family.producers if over == "producing" else family.slices
        values = np.asarray(outer(_sums(family, chosen, terms)), np.float64)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"the score of unit {bad} of {family.name!r} is {values[bad]}: the "
                "parameters, or the derivatives of the loss, are not finite."
            )
        result[family.name] = values / _scale(values, family, units, normalize)
    return result


def _largest(leaf: Any) -> float:
    """Returns the largest |θ|, or 1 where that is no number to divide by."""
    found = float(jnp.max(jnp.abs(widen(leaf)))) if jnp.size(leaf) else 1.0
    return found if 0 < found < float("inf") else 1.0


def _divided(params: PyTree, scales: list[float]) -> PyTree:
    leaves, structure = jax.tree.flatten(params)
    return structure.unflatten(
        widen(leaf) / scale for leaf, scale in zip(leaves, scales, strict=True)
    )


def _sums(
    family: Family, chosen: tuple[Slices, ...], terms: Mapping[str, Any]
) -> np.ndarray:
    """Returns the sum of terms over the weights of each unit, each weight once."""
    held = [own for own in chosen if own.path in terms]
    if not held:
        missing = ", ".join(dict.fromkeys(own.path for own in chosen))
        raise ValueError(
            f"params hold none of the leaves of the family {family.name!r}: {missing}."
        )
    total = np.zeros(family.size)
    for path, sign, labels in shares(held):
        term, scale = terms[path]
        total += scale * sign * _common(widen(term), labels, family.size)
    return total


def _fetchable(array: jax.Array) -> jax.Array:
    """Returns an array that this process can read, where others hold parts of it."""
    sharding = array.sharding
    if array.is_fully_addressable or not isinstance(sharding, NamedSharding):
        return array
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.jit(lambda x: x, out_shardings=everywhere)(array)


def _common(term: jax.Array, labels: Mapping[int, np.ndarray], size: int) -> np.ndarray:
    """Returns the sums over the weights that the labels of all axes give to a unit."""
    rest = tuple(axis for axis in range(term.ndim) if axis not in labels)
    table = np.asarray(_fetchable(jnp.sum(term, rest)), np.float64)
    total = np.zeros(size)
    order = sorted(labels)
    if len(order) == 1:
        own = labels[order[0]]
        np.add.at(total, own[own >= 0], table[own >= 0])
        return total
    for unit in range(size):
        here = [np.flatnonzero(labels[axis] == unit) for axis in order]
        total[unit] = table[np.ix_(*here)].sum()
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
