"""Scores of units, by each measure's own rule."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.rules import check_needs, rule_of, squared_weight
from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.families import Family, shares
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
    scales = _scales(d.params) if squares else [1.0] * len(named)
    where = {
        owner: position
        for position, owner in enumerate(owners)
        if owner is not None and units.model.is_parameter(owner)
    }
    chosen = {
        family.name: _shares(family, over == "producing", units, where)
        for family in units.families
    }
    wanted = dict.fromkeys(key for parts in chosen.values() for key, _, _ in parts)
    arrays = _tables(d, scales if squares else None, rule.term, tuple(wanted))
    tables = {
        key: scales[key[0]] ** 2 * np.asarray(_fetchable(table), np.float64)
        for key, table in zip(wanted, arrays, strict=True)
    }
    # In NumPy, for sums in float64.
    known: dict[Any, Any] = {jnp.sqrt: np.sqrt, jnp.abs: np.abs}
    outer = known.get(rule.outer, rule.outer)
    result = {}
    for family in units.families:
        total = np.zeros(family.size)
        for key, sign, labels in chosen[family.name]:
            total += sign * _common(tables[key], labels, family.size)
        values = np.asarray(outer(total), np.float64)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"the score of unit {bad} of {family.name!r} is {values[bad]}: the "
                "parameters, or the derivatives of the loss, are not finite."
            )
        result[family.name] = values / _scale(values, family, units, normalize)
    return result


# A leaf's position, and the axes of it that are summed over.
Wanted = tuple[int, tuple[int, ...]]


def _shares(
    family: Family, producing: bool, units: Units, where: Mapping[str, int]
) -> list[tuple[Wanted, int, dict[int, np.ndarray]]]:
    """Returns what to add up for a family: a table, its sign, the units of its axes.

    Args:
        family: of units.
        producing: whether only what makes a unit counts.
        units: of the model.
        where: the positions of the parameters' leaves, by path.
    """
    slices = family.producers if producing else family.slices
    held = [one for one in slices if one.path in where]
    if not held:
        missing = ", ".join(dict.fromkeys(one.path for one in slices))
        raise ValueError(
            f"params hold none of the leaves of the family {family.name!r}: {missing}."
        )
    result = []
    for path, sign, labels in shares(held):
        rank = len(units.leaves[path].shape)
        rest = tuple(axis for axis in range(rank) if axis not in labels)
        result.append(((where[path], rest), sign, labels))
    return result


def _scales(params: PyTree) -> list[float]:
    """Returns the largest |θ| of each leaf, or 1 where that is no number to divide by.

    Exactly, so that what is divided by it can be multiplied by it again.
    """
    largest = [float(value) for value in _largest(params)]
    return [value if 0 < value < float("inf") else 1.0 for value in largest]


@jax.jit
def _largest(params: PyTree) -> list[jax.Array]:
    return [
        jnp.max(jnp.abs(widen(leaf))) if jnp.size(leaf) else jnp.ones(())
        for leaf in jax.tree.leaves(params)
    ]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _tables(
    d: Derivatives,
    scales: Sequence[float] | None,
    term: Callable[[Derivatives], PyTree],
    wanted: Sequence[Wanted],
) -> list[jax.Array]:
    """Returns the terms of some leaves, summed over some of their axes.

    One program for all, of which every family takes what it needs.
    """
    if scales is not None:
        leaves, structure = jax.tree.flatten(d.params)
        wide = [widen(leaf) for leaf in leaves]
        d = d._replace(
            params=structure.unflatten(
                leaf / jnp.asarray(scale, leaf.dtype)
                for leaf, scale in zip(wide, scales, strict=True)
            )
        )
    terms = [widen(leaf) for leaf in jax.tree.leaves(term(d))]
    return [jnp.sum(terms[position], rest) for position, rest in wanted]


def _fetchable(array: jax.Array) -> jax.Array:
    """Returns an array that this process can read, where others hold parts of it."""
    sharding = array.sharding
    if array.is_fully_addressable or not isinstance(sharding, NamedSharding):
        return array
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.jit(lambda x: x, out_shardings=everywhere)(array)


def _common(
    table: np.ndarray, labels: Mapping[int, np.ndarray], size: int
) -> np.ndarray:
    """Returns the sums over the weights that the labels of all axes give to a unit."""
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
