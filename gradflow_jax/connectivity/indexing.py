"""Where signals pass what reads or writes at indices: gathers, slices, scatters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.connectivity.products import bilinear
from gradflow_jax.connectivity.signals import (
    Indicators,
    Signal,
    each,
    live,
    live_sum,
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
    """Adds indicators at the places of others, or multiplies them there.

    What is written over is taken to stay: where two updates meet, or a place is outside
    of the array, the program may keep it. So `scatter` itself claims too many paths.
    Where the places are no constants, any of them may be written.
    """
    table, places, new = operands
    numbers = eqn.params["dimension_numbers"]
    if places.constant is None and not _writes_whole_windows(eqn, numbers):
        return unknown(eqn, operands)
    names = "dimension_numbers indices_are_sorted unique_indices mode".split()
    options = {name: eqn.params[name] for name in names}

    def write(updates: jax.Array) -> jax.Array:
        if places.constant is None:
            return _write_anywhere(updates, numbers, table.nonzero.shape)
        empty = jnp.zeros_like(table.nonzero)
        written = lax.scatter_add(empty, places.constant, updates, **options)
        return live(written)

    ((nonzero, reached),) = each(write, [new])
    written = Signal(nonzero, reached)
    if eqn.primitive.name == "scatter-mul":
        # Where nothing may be written stands a factor of 1.
        factor = written._replace(nonzero=jnp.ones_like(nonzero))
        result = bilinear(jnp.multiply, table, factor)
    else:
        (result,) = each(lambda *arrays: live(sum(arrays)), [table, written])
    if places.reached is None:
        return [result]
    nonzero, reached = result
    any_place = live(jnp.sum(places.reached))
    by_places = any_place * live(table.factor + written.factor)
    return [(nonzero, live_sum([by_places] + ([] if reached is None else [reached])))]


def _writes_whole_windows(eqn: Any, numbers: Any) -> bool:
    """Says whether each update is as large as the table, but for the axes of places."""
    table, _, new = (atom.aval.shape for atom in eqn.invars)
    windows = [i for i in range(len(table)) if i not in numbers.inserted_window_dims]
    return not numbers.operand_batching_dims and all(
        table[axis] == new[position]
        for axis, position in zip(windows, numbers.update_window_dims, strict=True)
    )


def _write_anywhere(
    updates: jax.Array, numbers: Any, shape: Sequence[int]
) -> jax.Array:
    """Writes each update at all places."""
    others = [i for i in range(updates.ndim) if i not in numbers.update_window_dims]
    total = live(jnp.sum(updates, others))
    return jnp.broadcast_to(
        jnp.expand_dims(total, tuple(numbers.inserted_window_dims)), shape
    )
