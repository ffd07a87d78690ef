"""The inner products of θ, g and Hg: of a model, of its leaves and of its units."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.selection.placement import on_every_device
from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.structured.sums import UnitSums, slices_in, sum_partially
from gradflow_jax.structured.units import Units
from gradflow_jax.trees import Params, widen


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

    theta2: jax.Array | np.ndarray
    g2: jax.Array | np.ndarray
    theta_g: jax.Array | np.ndarray
    theta_hg: jax.Array | np.ndarray
    g_hg: jax.Array | np.ndarray


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
    # Each is a sum of products and not a dot, which accelerators compute with fewer
    # bits.
    terms = [
        Products(theta * theta, g * g, theta * g, theta * hg, g * hg)
        for theta, g, hg in zip(*leaves, strict=True)
    ]
    columns = [
        jnp.stack([jnp.sum(term) for term in leaf_terms])[:, None]
        for leaf_terms in terms
    ]
    if units is not None:
        columns += _products_of_units(d.params, terms, units)
    return jnp.concatenate(columns, axis=1, dtype=jnp.result_type(*columns))


def named_products(packed: np.ndarray, paths: list[str], units: Units | None) -> Split:
    """Returns packed products, [time, product, set], by the names of their sets.

    With two leaves and families of 3 and 4 units the sets are numbered 0 and 1, 2 to 4
    and 5 to 8.
    """
    families = units.families if units is not None else ()
    # The end of the leaves and of each family: the first family starts where the
    # leaves end, and the last end starts nothing.
    ends = np.cumsum([len(paths), *(family.size for family in families)])

    def products_of(sets: Any) -> Products:
        return Products(*np.moveaxis(packed[:, :, sets], 1, 0))

    return Split(
        model=Products(*packed[:, :, : len(paths)].sum(-1).T),
        leaves={path: products_of(i) for i, path in enumerate(paths)},
        units={
            family.name: products_of(slice(start, start + family.size))
            for family, start in zip(families, ends, strict=False)
        },
    )


def _products_of_units(
    params: Params, terms: list[Products], units: Units
) -> list[jax.Array]:
    """Returns the products of the weights that make the units, [product, unit]."""
    plan = UnitSums(params, units, chosen=slices_in("producing"), what="params")
    sums_of_products = [
        plan.add_up(
            # The sums of one unit may lie on several devices.
            list(map(on_every_device, sum_partially(leaves, plan.partial_sums)))
        )
        for leaves in zip(*terms, strict=True)
    ]
    return [
        jnp.stack([sums[family.name] for sums in sums_of_products])
        for family in units.families
    ]
