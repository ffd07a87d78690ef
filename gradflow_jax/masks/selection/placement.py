"""Where the pieces of sharded leaves lie, so that each device counts its own."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradflow_jax.trees import is_traced


class Shard(NamedTuple):
    """The piece of one leaf that a function sees: the whole, or that of one device.

    Attributes:
        shape: the shape of the whole leaf.
        spec: for each axis the names of the mesh axes that split it.
        idle: the names of the mesh axes along which the leaf is repeated.
    """

    shape: tuple[int, ...]
    spec: tuple[tuple[str, ...], ...]
    idle: tuple[str, ...] = ()

    def start(self, axis: int, local: int) -> Any:
        """Returns where a piece of so many along an axis of the whole starts."""
        return lax.axis_index(self.spec[axis]) * local if self.spec[axis] else 0

    def once(self, counts: jax.Array) -> jax.Array:
        """Returns counts on one of the devices with the same piece, 0 on the others."""
        for name in self.idle:
            counts = jnp.where(lax.axis_index(name) == 0, counts, 0)
        return counts


class Placement(NamedTuple):
    """How leaves lie on a mesh; the mesh axes are those of `jax.shard_map`."""

    mesh: Any
    specs: tuple[PartitionSpec, ...]

    def shards(self, shapes: Sequence[tuple[int, ...]]) -> list[Shard]:
        """Returns what each device sees of the leaves."""
        found = []
        for shape, spec in zip(shapes, self.specs, strict=True):
            names = _names(spec, len(shape))
            used = {name for axis in names for name in axis}
            idle = tuple(name for name in self.mesh.axis_names if name not in used)
            found.append(Shard(shape, names, idle))
        return found

    def mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Maps `function(columns, replicated) -> (leaves, replicated)` over devices.

        Columns are lists of leaves that all lie like these, or None.
        """
        whole, like = PartitionSpec(), list(self.specs)

        def call(columns: Sequence[Any], replicated: Any) -> Any:
            specs = tuple(whole if column is None else like for column in columns)
            over_mesh = jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=(specs, whole),
                out_specs=(like, whole),
                check_vma=False,
            )
            placed = tuple(self._lying_so(column) for column in columns)
            return over_mesh(placed, replicated)

        return call

    def _lying_so(self, column: Any) -> Any:
        """Returns leaves where these lie; on explicit axes nobody else moves them."""
        if column is None or AxisType.Explicit not in self.mesh.axis_types:
            return column
        return [
            jax.sharding.reshard(leaf, NamedSharding(self.mesh, spec))
            for leaf, spec in zip(column, self.specs, strict=True)
        ]


def explicit_sharding(leaf: Any) -> NamedSharding | None:
    """Returns where a leaf lies, if it lies on axes that the user moves by hand."""
    sharding = _sharding(leaf)
    if not isinstance(sharding, NamedSharding):
        return None
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def _sharding(leaf: Any) -> Any:
    """Returns where a leaf lies, a traced one by its type; None of what is no array."""
    return getattr(jax.typeof(leaf) if is_traced(leaf) else leaf, "sharding", None)


def lying_like(leaf: jax.Array, like: Any) -> jax.Array:
    """Returns a leaf where another lies; on explicit axes nobody else moves it."""
    sharding = explicit_sharding(like)
    return leaf if sharding is None else jax.sharding.reshard(leaf, sharding)


def whole(shape: tuple[int, ...]) -> Shard:
    """Returns the shard that is all of a leaf."""
    return Shard(shape, ((),) * len(shape))


def known_placement(leaves: Sequence[Any]) -> Placement | None:
    """Returns how leaves lie on a mesh of several devices, if that can be told.

    It can for arrays, and for traced ones whose mesh axes are all explicit. For others
    the partitioner of XLA decides after tracing.
    """
    meshes, specs = [], []
    for leaf in leaves:
        sharding = _sharding(leaf)
        if is_traced(leaf) and set(sharding.mesh.axis_types) != {AxisType.Explicit}:
            return None
        if isinstance(sharding, NamedSharding):
            meshes.append(sharding.mesh)
            specs.append(sharding.spec)
        else:
            specs.append(PartitionSpec())
    if not meshes or meshes[0].size == 1 or any(mesh != meshes[0] for mesh in meshes):
        return None
    for leaf, spec in zip(leaves, specs, strict=True):
        if PartitionSpec.UNCONSTRAINED in tuple(spec):
            return None
        sizes = [
            math.prod(meshes[0].shape[name] for name in names)
            for names in _names(spec, leaf.ndim)
        ]
        if any(n % size for n, size in zip(leaf.shape, sizes, strict=True)):
            return None
    return Placement(meshes[0], tuple(specs))


def _names(spec: PartitionSpec, ndim: int) -> tuple[tuple[str, ...], ...]:
    entries = tuple(spec) + (None,) * (ndim - len(spec))
    return tuple(
        () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        for entry in entries
    )
