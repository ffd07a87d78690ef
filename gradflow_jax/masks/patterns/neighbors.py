"""Keeps the n highest of every m neighbors along axes, where they lie."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.pieces import rank_leaf, reduce_devices
from gradflow_jax.masks.selection.placement import (
    LEAVES,
    REPLICATED,
    Placement,
    Shard,
    known_placement,
    place_like,
    whole,
)


class NeighborsOutcome(NamedTuple):
    """What ranking the groups of a leaf came upon.

    Attributes:
        unrankable: how many scores are NaN or +inf.
        short: how many groups have fewer than n weights that may be kept.
        chosen: over the groups in which some of equal scores are kept and others not,
            how many are kept.
        tied: how many such scores there are.
    """

    unrankable: jax.Array
    short: jax.Array
    chosen: jax.Array
    tied: jax.Array


def keep_of_every(
    leaf: jax.Array, alive: Any, n: int, m: int, axes: tuple[int, ...]
) -> tuple[jax.Array, NeighborsOutcome]:
    """Keeps the n highest of every m consecutive scores along some axes of a leaf.

    Args:
        leaf: scores; m divides the product of these axes.
        alive: bool of that shape; False is never kept. None: all may be.
        n: how many of each group are kept.
        m: the size of a group.
        axes: along which groups lie, flattened in this order.

    Returns:
        The mask, which lies where the leaf does; and what the ranking came upon.
    """
    placement = known_placement([leaf])
    if placement is not None:
        placement = _with_whole_groups(placement, leaf.shape, m, axes)
    mask, outcome = _keep_of_every(
        leaf, alive, np.int32(n), m=m, axes=axes, placement=placement
    )
    return place_like(mask, leaf), outcome


def _with_whole_groups(
    placement: Placement, shape: tuple[int, ...], m: int, axes: tuple[int, ...]
) -> Placement:
    """Returns a placement in which no group of neighbors lies on two devices."""
    (shard,), (spec,) = placement.shards([shape]), placement.specs
    parts = int(np.prod([placement.mesh.shape[name] for name in shard.spec[axes[-1]]]))
    if shape[axes[-1]] // parts % m == 0:
        return placement
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    for axis in axes:
        entries[axis] = None
    return placement._replace(specs=(type(spec)(*entries),))


@functools.partial(jax.jit, static_argnames=("m", "axes", "placement"))
def _keep_of_every(
    leaf: jax.Array,
    alive: jax.Array | None,
    n: Any,
    *,
    m: int,
    axes: tuple[int, ...],
    placement: Placement | None,
) -> tuple[jax.Array, NeighborsOutcome]:
    if placement is None:
        return _rank_groups(leaf, alive, n, m, axes, whole(leaf.shape), ())
    (shard,) = placement.shards([leaf.shape])

    def rank(columns: Any, n: Any) -> Any:
        ((leaf,), alive) = columns
        alive = None if alive is None else alive[0]
        mask, outcome = _rank_groups(leaf, alive, n, m, axes, shard, placement.axes)
        return [mask], outcome

    columns = [leaf], None if alive is None else [alive]
    over_devices = placement.map_over_devices(rank, (LEAVES, REPLICATED))
    (mask,), outcome = over_devices(columns, n)
    return mask, outcome


def _rank_groups(
    leaf: jax.Array,
    alive: jax.Array | None,
    n: Any,
    m: int,
    axes: tuple[int, ...],
    shard: Shard,
    mesh_axes: tuple[str, ...],
) -> tuple[jax.Array, NeighborsOutcome]:
    """Ranks the groups of the piece of a leaf that lies on this device."""
    order = Order.of([leaf])
    rank, largest = order.rank(leaf), order.largest()
    last = range(-len(axes), 0)
    axes_last = jnp.moveaxis(rank_leaf(leaf, alive, None, order), axes, last)
    leading, sizes = axes_last.shape[: -len(axes)], axes_last.shape[-len(axes) :]
    groups = axes_last.reshape(*leading, math.prod(sizes) // m, m)
    # Inverted bits sort the highest score first, and a stable sort leaves equal ones in
    # the order of their indices. The argsort of that argsort is the place of each score
    # in its group.
    highest_first = jnp.argsort(~groups, stable=True)
    places = jnp.argsort(highest_first, stable=True)
    # The ranks of −inf, and of what may not be kept, lie below those of all numbers.
    kept = (places < n) & (groups >= -largest)
    lowest_kept = jnp.min(
        jnp.where(kept, groups, jnp.iinfo(groups.dtype).max), -1, keepdims=True
    )
    equal = groups == lowest_kept
    is_cut = jnp.any(equal & ~kept, -1, keepdims=True)
    lowest_rank = order.rank(jnp.asarray(-jnp.inf, order.float_kind))
    outcome = NeighborsOutcome(
        unrankable=jnp.sum((rank > largest) | (rank < lowest_rank)),
        short=jnp.sum(jnp.sum(kept, -1) < n),
        chosen=jnp.sum(equal & kept & is_cut),
        tied=jnp.sum(equal & is_cut),
    )
    counts = jax.tree.map(
        lambda count: reduce_devices(jax.lax.psum, shard.count_once(count), mesh_axes),
        outcome,
    )
    return jnp.moveaxis(kept.reshape(axes_last.shape), last, axes), counts
