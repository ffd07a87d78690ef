"""How leaves are sharded over a mesh, and which piece of each a device sees."""

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
        """Returns the index at which a piece of `local` along an axis starts."""
        return lax.axis_index(self.spec[axis]) * local if self.spec[axis] else 0

    def count_once(self, counts: jax.Array) -> jax.Array:
        """Returns counts on one of the devices with the same piece, 0 on the others."""
        for name in self.idle:
            counts = jnp.where(lax.axis_index(name) == 0, counts, 0)
        return counts


class Placement(NamedTuple):
    """How leaves lie on a mesh.

    Attributes:
        mesh: the mesh of `jax.shard_map`.
        specs: how each leaf is split over the axes of the mesh.
        axes: the names of the mesh axes over which is known how leaves are split. Over
            the others, the automatic ones of a traced leaf, the partitioner splits.
    """

    mesh: Any
    specs: tuple[PartitionSpec, ...]
    axes: tuple[str, ...]

    def shards(self, shapes: Sequence[tuple[int, ...]]) -> list[Shard]:
        """Returns what each device sees of the leaves."""
        shards = []
        for shape, spec in zip(shapes, self.specs, strict=True):
            axes = _mesh_axes(spec, len(shape))
            used = {name for names in axes for name in names}
            idle = tuple(name for name in self.axes if name not in used)
            shards.append(Shard(shape, axes, idle))
        return shards

    def map_over_devices(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Maps `function(columns, replicated) -> (leaves, replicated)` over devices.

        Columns are lists of leaves that all lie like these, or None.
        """
        everywhere, like = PartitionSpec(), list(self.specs)

        def call(columns: Sequence[Any], replicated: Any) -> Any:
            specs = tuple(everywhere if column is None else like for column in columns)
            over_mesh = jax.shard_map(
                function,
                mesh=self.mesh,
                axis_names=set(self.axes),
                in_specs=(specs, everywhere),
                out_specs=(like, everywhere),
                check_vma=False,
            )
            placed = tuple(self._reshard(column) for column in columns)
            return over_mesh(placed, replicated)

        return call

    def _reshard(self, column: Any) -> Any:
        """Returns leaves where these lie; on explicit axes nobody else moves them."""
        if column is None or AxisType.Explicit not in self.mesh.axis_types:
            return column
        return [
            jax.sharding.reshard(leaf, _on_explicit_axes(self.mesh, spec))
            for leaf, spec in zip(column, self.specs, strict=True)
        ]


def explicit_sharding(leaf: Any) -> NamedSharding | None:
    """Returns where a leaf lies, if it lies on axes that the user moves by hand."""
    sharding = _sharding(leaf)
    if not isinstance(sharding, NamedSharding):
        return None
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def on_every_device(leaf: Any) -> Any:
    """Gathers a leaf that lies on explicit axes, where JAX moves nothing itself."""
    sharding = explicit_sharding(leaf)
    if sharding is None:
        return leaf
    return jax.sharding.reshard(leaf, NamedSharding(sharding.mesh, PartitionSpec()))


def _sharding(leaf: Any) -> Any:
    """Returns the sharding of an array or, if traced, of its type; else None."""
    return getattr(jax.typeof(leaf) if is_traced(leaf) else leaf, "sharding", None)


def _on_explicit_axes(mesh: Any, spec: PartitionSpec) -> NamedSharding:
    """Returns the part of a sharding that `jax.sharding.reshard` takes."""
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    entries = [
        tuple(name for name in names if kinds[name] == AxisType.Explicit) or None
        for names in _mesh_axes(spec, len(spec))
    ]
    return NamedSharding(mesh, PartitionSpec(*entries))


def place_like(leaf: jax.Array, like: Any) -> jax.Array:
    """Moves a leaf to where another lies.

    What is traced is moved over explicit axes, which nobody else does; over automatic
    ones the partitioner decides.
    """
    sharding = _sharding(like)
    if not isinstance(sharding, NamedSharding):
        return leaf
    if not is_traced(leaf) and not is_traced(like):
        is_there = getattr(leaf, "sharding", None) == sharding
        return leaf if is_there else jax.device_put(leaf, sharding)
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return leaf
    return jax.sharding.reshard(leaf, _on_explicit_axes(sharding.mesh, sharding.spec))


def whole(shape: tuple[int, ...]) -> Shard:
    """Returns the shard that is all of a leaf."""
    return Shard(shape, ((),) * len(shape))


def known_placement(leaves: Sequence[Any]) -> Placement | None:
    """Returns how leaves lie on a mesh of several devices, if that can be told.

    It can for arrays, and for traced ones over explicit mesh axes. Over automatic ones
    the partitioner of XLA decides after tracing.
    """
    meshes, specs = [], []
    for leaf in leaves:
        sharding = _sharding(leaf)
        if isinstance(sharding, NamedSharding):
            meshes.append(sharding.mesh)
            specs.append(sharding.spec)
        else:
            specs.append(PartitionSpec())
    if not meshes or meshes[0].size == 1 or any(mesh != meshes[0] for mesh in meshes):
        return None
    mesh, traced = meshes[0], any(map(is_traced, leaves))
    axes = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Explicit or not traced
    )
    if not axes:
        return None
    for leaf, spec in zip(leaves, specs, strict=True):
        if PartitionSpec.UNCONSTRAINED in tuple(spec):
            return None
        # `jax.shard_map` takes only axes that the mesh divides evenly.
        parts = [
            math.prod(mesh.shape[name] for name in names)
            for names in _mesh_axes(spec, leaf.ndim)
        ]
        if any(size % part for size, part in zip(leaf.shape, parts, strict=True)):
            return None
    return Placement(mesh, tuple(specs), axes)


def _mesh_axes(spec: PartitionSpec, ndim: int) -> tuple[tuple[str, ...], ...]:
    """Returns for each axis of a leaf the names of the mesh axes that split it."""
    entries = tuple(spec) + (None,) * (ndim - len(spec))
    return tuple(
        () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        for entry in entries
    )
