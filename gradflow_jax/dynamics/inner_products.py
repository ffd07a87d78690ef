"""The inner products of θ, g and Hg: of a model, of its leaves and of its units."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.families import shares
from gradflow_jax.structured.units import Units
from gradflow_jax.trees import PyTree, describe, named_leaves, widen


class Products(NamedTuple):
    """Inner products of θ, g = ∇L and Hg, each taken over one set of weights.

    They are what the identities of gradient flow are made of, and sums over weights:
    those of a layer are the sum of its leaves', those of the model the sum of all.

    Attributes:
        theta2: ‖θ‖².
        g2: ‖g‖².
        theta_g: θᵀg.
        theta_hg: θᵀHg.
        g_hg: gᵀHg.
    """

    theta2: Any
    g2: Any
    theta_g: Any
    theta_hg: Any
    g_hg: Any


class Split(NamedTuple):
    """Products of the sets of weights that a model is made of.

    Attributes:
        model: of all weights, [...].
        leaves: of each leaf of params, by its path, [...].
        units: of the units of each family, by its name, [..., unit].
    """

    model: Products
    leaves: dict[str, Products]
    units: dict[str, Products]


def packed_products(d: Derivatives, units: Units | None) -> jax.Array:
    """Returns the products of every set as one array, [product, set].

    The sets are the leaves, in the order of the tree, and the units, family by family.
    One array, since a state of many small ones is slow to hand on.

    Raises:
        ValueError: if the units are those of another model.
    """
    trees = d.params, d.gradient, d.hessian_gradient
    leaves = [map(widen, jax.tree.leaves(tree)) for tree in trees]
    # Products and sums, no dots, which accelerators compute with fewer bits.
    terms = [
        Products(theta * theta, g * g, theta * g, theta * hg, g * hg)
        for theta, g, hg in zip(*leaves, strict=True)
    ]
    columns = [jnp.stack([jnp.sum(term) for term in own])[:, None] for own in terms]
    if units is not None:
        columns += _of_units(d.params, terms, units)
    return jnp.concatenate(columns, axis=1, dtype=jnp.result_type(*columns))


def named_products(packed: np.ndarray, paths: list[str], units: Units | None) -> Split:
    """Returns packed products, [time, product, set], by the names of their sets."""
    families = units.families if units is not None else ()
    ends = np.cumsum([len(paths), *(family.size for family in families)])

    def of(sets: Any) -> Products:
        return Products(*np.moveaxis(packed[..., sets], 1, 0))

    return Split(
        model=Products(*packed[..., : len(paths)].sum(-1).T),
        leaves={path: of(i) for i, path in enumerate(paths)},
        units={
            family.name: of(slice(start, start + family.size))
            for family, start in zip(families, ends, strict=False)
        },
    )


def _of_units(params: PyTree, terms: list[Products], units: Units) -> list[jax.Array]:
    """Returns the products of the weights that make the units, [product, unit]."""
    owners = align(params, units.leaves, what="params")
    named = zip(named_leaves(params), owners, terms, strict=True)
    known = {}
    for (path, leaf), owner, own in named:
        if owner is None or not units.model.is_parameter(owner):
            continue
        if jnp.shape(leaf) != units.leaves[owner].shape:
            raise ValueError(
                f"params leaf {path!r} is {describe(leaf)}, but the units' model has "
                f"{describe(units.leaves[owner])}: find the units of this model."
            )
        known[owner] = own
    found = []
    for family in units.families:
        total: Any = 0.0
        for path, sign, labels in shares(family.producers):
            if path in known:
                sums = [_common(term, labels, family.size) for term in known[path]]
                total += sign * jnp.stack(sums)
        if isinstance(total, float):
            raise ValueError(
                f"params hold none of the leaves that make the units of "
                f"{family.name!r}: pass all parameters of the model."
            )
        found.append(total)
    return found


def _common(term: jax.Array, labels: dict[int, np.ndarray], size: int) -> jax.Array:
    """Returns the sums over the weights that labels of several axes give each unit."""
    axes = sorted(labels)
    rest = tuple(axis for axis in range(term.ndim) if axis not in labels)
    table = jnp.sum(term, rest)
    if len(axes) == 1:
        own = labels[axes[0]]
        return jnp.zeros(size, table.dtype).at[own[own >= 0]].add(table[own >= 0])
    members: list[Any] = []
    for i, axis in enumerate(axes):
        flags = labels[axis] == np.arange(size)[:, None]
        members += [flags.astype(table.dtype), [len(axes), i]]
    return jnp.einsum(
        table, [*range(len(axes))], *members, [len(axes)], precision="highest"
    )
