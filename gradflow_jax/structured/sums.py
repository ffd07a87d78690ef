"""Sums over the weights of each unit, every weight once.

A unit is made of slices of several leaves, and of one leaf it may have slices along
several axes. So a sum over a unit adds shares up by inclusion and exclusion: the terms
of a leaf, summed over the axes that no label concerns, are looked up by the labels of
the others. These partial sums are small, and are all that leaves the devices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.families import Family, Slices, shares
from gradflow_jax.structured.units import Units, check_units
from gradflow_jax.trees import (
    ArrayTree,
    Params,
    describe,
    fetch,
    label,
    named_leaves,
    widen,
)
from gradflow_jax.trees.checks import check_numbers
from gradflow_jax.trees.numbers import check_choice

Scope = Literal["producing", "all"]
# Which of a family's slices count.
Chosen = Callable[[Family], Sequence[Slices]]
# A partial sum is a leaf's position in the tree and the axes that are summed over.
PartialSum = tuple[int, tuple[int, ...]]
# A share is a partial sum, its sign, and for each axis that is left the unit that each
# index goes with.
Share = tuple[PartialSum, int, dict[int, np.ndarray]]


def sum_over_units(
    terms: ArrayTree, units: Units, *, scope: Scope = "producing"
) -> dict[str, np.ndarray]:
    """Sums a number of each weight over the weights of each unit.

    Args:
        terms: a tree like params: |θ|, θ ⊙ g, or what else is to be summed.
        units: of the model, from `gf.find_units`.
        scope: "producing" sums over the weights that make a unit, as the filter of a
            convolution; "all" over every weight that goes with it, the next layer's
            and normalization's too.

    Returns:
        float64 [units] for each family, by its name.

    Raises:
        TypeError: if units are not what `gf.find_units` returned, or a term is no
            array of real numbers.
        ValueError: if there is no such scope, or if the terms are not those of the
            units' model, or hold none of the leaves of a family.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def apply(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> weights = jnp.array([[3.0, 0.0], [4.0, 1.0]])
        >>> params = {"in": weights, "out": jnp.ones((2, 1))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 2)))
        >>> gf.structured.sum_over_units(params, units)
        {'in[1]': array([7., 1.])}
        >>> gf.structured.sum_over_units(params, units, scope="all")
        {'in[1]': array([8., 2.])}
    """
    check_units(units)
    check_numbers(terms, "terms", or_shapes=False)
    for path, leaf in named_leaves(terms):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise TypeError(
                f"terms {label(path)} is {describe(leaf)}, and sums over units are "
                "real: pass the real part or the absolute value."
            )
    plan = UnitSums(terms, units, chosen=slices_in(scope), what="terms")
    partial = _jitted_partial_sums(jax.tree.leaves(terms), plan.partial_sums)
    return plan.add_up([fetch_in_float64(table) for table in partial])


class UnitSums:
    """What to sum and to add up for the units of a model.

    Attributes:
        partial_sums: those that the units share, each once.
    """

    def __init__(
        self,
        params: Params,
        units: Units,
        *,
        chosen: Chosen,
        what: str,
        families: Sequence[Family] | None = None,
    ):
        """Finds the weights of each unit in a tree like params.

        Args:
            params: the parameters, or anything of their tree and shapes.
            units: of the model.
            chosen: which slices of a family count.
            what: what an error calls the tree.
            families: those whose units are asked for; all by default.
        """
        position_of = _positions(params, units, what)
        self._families = units.families if families is None else families
        self._shares = [
            _shares_of(family, chosen(family), units, position_of, what)
            for family in self._families
        ]
        self.partial_sums: tuple[PartialSum, ...] = tuple(
            dict.fromkeys(key for shares in self._shares for key, _, _ in shares)
        )

    def add_up(self, tables: Sequence[Any]) -> dict[str, Any]:
        """Returns the sums of each family's units, by its name, [unit].

        Args:
            tables: the partial sums, in their order, of NumPy or of JAX; the results
                are what they are.
        """
        table_of = dict(zip(self.partial_sums, tables, strict=True))
        return {
            family.name: sum(
                sign * _sum_by_labels(table_of[key], labels, family.size)
                for key, sign, labels in shares
            )
            for family, shares in zip(self._families, self._shares, strict=True)
        }


def slices_in(scope: Scope) -> Chosen:
    """Returns which slices of a family a scope takes.

    Raises:
        ValueError: if there is no such scope.
    """
    check_choice(scope, ["producing", "all"], "scope")
    return lambda family: family.producers if scope == "producing" else family.slices


def sum_partially(
    leaves: Sequence[Any], partial_sums: Sequence[PartialSum]
) -> list[jax.Array]:
    """Returns partial sums of terms, in float32 at least."""
    return [jnp.sum(widen(leaves[i]), axes) for i, axes in partial_sums]


_jitted_partial_sums = jax.jit(sum_partially, static_argnums=1)


def fetch_in_float64(array: jax.Array) -> np.ndarray:
    """Returns an array of devices in NumPy, where others hold parts of it too."""
    return np.asarray(fetch(array, "partial sums"), np.float64)


def _positions(params: Params, units: Units, what: str) -> dict[str, int]:
    """Returns where the parameters of the model stand in a tree, by their paths."""
    position_of = {}
    owners = align(params, units.model.variables, what=what)
    for position, ((path, leaf), owner) in enumerate(
        zip(named_leaves(params), owners, strict=True)
    ):
        if owner is None:
            continue
        if jnp.shape(leaf) != units.leaves[owner].shape:
            raise ValueError(
                f"{what} leaf {path!r} is {describe(leaf)}, but the units' model has "
                f"{describe(units.leaves[owner])}: find the units of this model."
            )
        if units.model.is_parameter(owner):
            position_of[owner] = position
    return position_of


def _shares_of(
    family: Family,
    slices: Sequence[Slices],
    units: Units,
    position_of: Mapping[str, int],
    what: str,
) -> list[Share]:
    present = [slice_ for slice_ in slices if slice_.path in position_of]
    if not present:
        missing = ", ".join(dict.fromkeys(slice_.path for slice_ in slices))
        raise ValueError(
            f"{what} hold none of the leaves of the family {family.name!r}: {missing}. "
            "Pass all parameters of the model."
        )
    result = []
    for path, sign, labels in shares(present):
        rank = len(units.leaves[path].shape)
        rest = tuple(axis for axis in range(rank) if axis not in labels)
        result.append(((position_of[path], rest), sign, labels))
    return result


def _sum_by_labels(table: Any, labels: Mapping[int, np.ndarray], size: int) -> Any:
    """Returns the sums over the indices that the labels of all axes give to a unit.

    Args:
        table: terms, an axis for each label.
        labels: for each axis the unit that each index goes with, −1 with none.
        size: the number of units.
    """
    numbers: Any = np if isinstance(table, np.ndarray) else jnp
    axes = sorted(labels)
    if len(axes) == 1:
        unit_of = labels[axes[0]]
        belongs = unit_of >= 0
        if numbers is np:
            return np.bincount(unit_of[belongs], table[belongs], minlength=size)
        return jnp.zeros(size, table.dtype).at[unit_of[belongs]].add(table[belongs])
    operands: list[Any] = [table, [*range(len(axes))]]
    for i, axis in enumerate(axes):
        members = labels[axis] == np.arange(size)[:, None]
        operands += [members.astype(table.dtype), [len(axes), i]]
    precision: dict[str, Any] = {} if numbers is np else {"precision": "highest"}
    return numbers.einsum(*operands, [len(axes)], **precision)
