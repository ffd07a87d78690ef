"""Which original indices a cut, or several one after the other, leave."""

import numpy as np

from gradflow_jax.structured.units import (
    Keep,
    Units,
    check_units,
    plan_cut,
    program_of,
)

# Which original indices stay, by the path of each leaf that is cut and by its axis.
Indices = dict[str, dict[int, np.ndarray]]


def kept_indices(units: Units, keep: Keep) -> Indices:
    """Returns which indices of each leaf stay, in the numbers of the model analyzed.

    Args:
        units: of the model.
        keep: bool [units] for families that are cut, by name, True keeps.

    Returns:
        For each leaf that loses something, by path, for each axis that does, the
        indices that stay, ascending.

    Raises:
        TypeError: if units are not what `gf.find_units` returned, or keep is no
            mapping.
        ValueError: if keep is out of range or empty.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.ones((2, 3)), "out": jnp.ones((3, 1))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 2)))
        >>> gf.structured.kept_indices(units, {"in[1]": jnp.array([True, False, True])})
        {'in': {1: array([0, 2])}, 'out': {0: array([0, 2])}}
    """
    check_units(units)
    plan = plan_cut(units, keep)
    result: Indices = {}
    for path, dims in program_of(units).dims.items():
        for axis, dim in enumerate(dims):
            flags = plan.flags(dim)
            if not flags.all():
                result.setdefault(path, {})[axis] = np.flatnonzero(flags)
    return result


def compose_keep(
    units: Units, first: Keep, again: Units, second: Keep
) -> dict[str, np.ndarray]:
    """Returns the one cut that a cut, and a cut of what it left, amount to.

    Args:
        units: of the original model.
        first: the first cut: bool [units] for families, by name.
        again: the units of the cut model, found in it anew.
        second: the second cut, of those.

    Returns:
        bool [units] for each family of the original model, by its name: True stays.

    Raises:
        TypeError: if units are not what `gf.find_units` returned, or a cut is no
            mapping.
        ValueError: if the second model is not what the first cut leaves, or if the two
            cuts are no cut of the original's units.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.ones((2, 4)), "out": jnp.ones((4, 1))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 2)))
        >>> first = {"in[1]": np.array([True, False, True, True])}
        >>> small = gf.cut(params, units, first)
        >>> again = gf.find_units(apply, small, jnp.ones((1, 2)))
        >>> second = {"in[1]": np.array([True, False, True])}
        >>> gf.structured.compose_keep(units, first, again, second)
        {'in[1]': array([ True, False, False,  True])}
    """
    check_units(units)
    check_units(again, what="again")
    shapes = units.shapes(first)
    for path, leaf in again.leaves.items():
        if shapes.get(path) != leaf.shape:
            raise ValueError(
                f"the second model's leaf {path!r} has shape {leaf.shape}, but the "
                f"first cut leaves {shapes.get(path, 'no such leaf')}."
            )
    # Indices are composed and not names: where axes share a place, cutting one to a
    # single index renames the others.
    before, after = kept_indices(units, first), kept_indices(again, second)
    composed: Indices = {path: dict(by_axis) for path, by_axis in before.items()}
    for path, by_axis in after.items():
        for axis, kept in by_axis.items():
            old = before.get(path, {}).get(axis)
            composed.setdefault(path, {})[axis] = kept if old is None else old[kept]
    result = {}
    for family in units:
        stays = np.zeros(family.size, bool)
        for place in family.slices:
            left = composed.get(place.path, {}).get(place.axis)
            for labels in place.units:
                unit_of = labels if left is None else labels[left]
                stays[unit_of[unit_of >= 0]] = True
        result[family.name] = stays
    at_once = kept_indices(units, result)
    for path in {*composed, *at_once}:
        for axis in {*composed.get(path, {}), *at_once.get(path, {})}:
            in_two_cuts, in_one_cut = (
                indices.get(path, {}).get(axis) for indices in (composed, at_once)
            )
            if (
                in_two_cuts is None
                or in_one_cut is None
                or not np.array_equal(in_two_cuts, in_one_cut)
            ):
                raise ValueError(
                    f"the two cuts of {path!r}, axis {axis}, are no cut of the "
                    "original model's units."
                )
    return result
