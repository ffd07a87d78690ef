"""Where signals pass what reads or writes at indices: gathers, slices, scatters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.connectivity.signals import (
    Indicators,
    Signal,
    each,
    live,
    unknown,
)


def look_up(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Reads the indicators of a table at the places where its numbers are read.

    Where the places are no constants a result may be read anywhere along the axes that
    they index, and depends on all that stands there. Where the input reaches a place,
    it reaches what is read there.
    """
    table, *places = operands
    shape, sizes = table.nonzero.shape, eqn.params["slice_sizes"]
    indices = [place.constant for place in places]
    numbers = eqn.params.get("dimension_numbers")
    axes = range(len(shape)) if numbers is None else numbers.start_index_map
    summed_axes: tuple[int, ...] = ()
    if any(index is None for index in indices):
        # Any indices will do: along the summed axes the same stands at all of them.
        indices = [
            np.zeros(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars[1:]
        ]
        # A slice of a whole axis can only start at its beginning.
        summed_axes = tuple(i for i in axes if sizes[i] != shape[i])
    params = dict(eqn.params)
    if "fill_value" in params:
        # Outside of the table stands no signal, where the program may fill in NaN.
        params["fill_value"] = 0

    def read(array: jax.Array) -> jax.Array:
        total = jnp.sum(array, summed_axes, keepdims=True)
        table_of_sums = live(jnp.broadcast_to(total, shape))
        return eqn.primitive.bind(table_of_sums, *indices, **params)

    ((nonzero, reached),) = each(read, [table])
    place_reached = [place.reached for place in places if place.reached is not None]
    if place_reached:
        any_place = live(sum(jnp.sum(array) for array in place_reached))
        by_places = any_place * read(table.factor)
        reached = live(by_places if reached is None else by_places + reached)
    return [(nonzero, reached)]


def update(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Puts indicators in the places of others, if these places are constants."""
    table, new, *places = operands
    if any(place.constant is None for place in places):
        return unknown(eqn, operands)
    indices = [place.constant for place in places]
    return each(
        lambda *arrays: eqn.primitive.bind(*arrays, *indices, **eqn.params),
        [table, new],
    )


def scatter(eqn: Any, operands: Sequence[Signal]) -> list[Indicators]:
    """Adds indicators at the places of others, if these places are constants.

    What is written over is taken to stay: where two updates meet, or a place is outside
    of the array, the program may keep it. So `scatter` itself claims too many paths.
    """
    table, places, new = operands
    if places.constant is None:
        return unknown(eqn, operands)
    names = "dimension_numbers indices_are_sorted unique_indices mode".split()
    options = {name: eqn.params[name] for name in names}

    def add(array: jax.Array, updates: jax.Array) -> jax.Array:
        return live(lax.scatter_add(array, places.constant, updates, **options))

    return each(add, [table, new])
