"""How leaves are sharded over a mesh, and which piece of each a device sees."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradflow_jax.trees import is_traced

# No axis of a convolution's window is larger; it is no axis that anybody shards.
_LARGEST_WINDOW = 8


class Shard(NamedTuple):
    """The piece of one leaf that a function sees: the whole, or that of one device.

    Attributes:
        shape: the shape of the whole leaf.
        spec: for each axis the names of the mesh axes that split it.
        idle: the names of the mesh axes along which the leaf is repeated.
        is_certain: whether the spec names all that splits the leaf. Of a traced leaf
            the partitioner decides after tracing, and may split any axis.
    """

    shape: tuple[int, ...]
    spec: tuple[tuple[str, ...], ...]
    idle: tuple[str, ...] = ()
    is_certain: bool = True

    def start(self, axis: int, local: int) -> Any:
        """Returns the index at which a piece of `local` along an axis starts."""
        return lax.axis_index(self.spec[axis]) * local if self.spec[axis] else 0

    def merge_axes(self, local: tuple[int, ...]) -> tuple["Shard", tuple[int, ...]]:
        """Merges axes that nothing splits into those before them.

        XLA computes along the last axis, and slowly where it is as short as those of
        the kernels [out, in, 3, 3]. To merge axes of a row-major array costs nothing.

        Args:
            local: the shape of the piece.

        Returns:
            The shard and the shape of its piece, both with fewer axes.
        """
        # A split axis cannot be merged without sending weights, so that, where none is
        # known to be whole, only windows are taken to be.
        last_wide = max(
            (axis for axis, size in enumerate(self.shape) if size > _LARGEST_WINDOW),
            default=0,
        )
        merged: list[tuple[int, tuple[str, ...], int]] = []
        for axis, (size, names, part) in enumerate(
            zip(self.shape, self.spec, local, strict=True)
        ):
            is_whole = not names and (self.is_certain or axis > last_wide)
            if merged and is_whole:
                before, names, part_before = merged.pop()
                size, part = size * before, part * part_before
            merged.append((size, names, part))
        sizes, spec, parts = zip(*merged, strict=True) if merged else ((), (), ())
        return self._replace(shape=sizes, spec=spec), parts

    def count_once(self, counts: jax.Array) -> jax.Array:
        """Returns counts on one of the devices with the same piece, 0 on the others."""
        for name in self.idle:
            counts = jnp.where(lax.axis_index(name) == 0, counts, 0)
        return counts


LEAVES, REPLICATED = "leaves", "replicated"


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
            is_certain = len(self.axes) == len(self.mesh.axis_names)
            shards.append(Shard(shape, axes, idle, is_certain))
        return shards

    def map_over_devices(
        self, function: Callable[..., Any], returns: Any
    ) -> Callable[..., Any]:
        """Maps `function(columns, replicated)` over devices.

        Columns are lists of leaves that all lie like these, or None.

        Args:
            function: of the pieces of one device.
            returns: the tree of what it returns: `LEAVES` for a list of leaves that lie
                like these, `REPLICATED` for what is the same on all devices.
        """
        everywhere, like = PartitionSpec(), list(self.specs)
        out_specs = jax.tree.map(
            lambda kind: like if kind == LEAVES else everywhere, returns
        )

        def call(columns: Sequence[Any], replicated: Any) -> Any:
            specs = tuple(everywhere if column is None else like for column in columns)
            over_mesh = jax.shard_map(
                function,
                mesh=self.mesh,
                axis_names=set(self.axes),
                in_specs=(specs, everywhere),
                out_specs=out_specs,
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


def whole(shape: tuple[int, ...], *, is_certain: bool = True) -> Shard:
    """Returns the shard that is all of a leaf, as a program without a mesh sees it."""
    return Shard(shape, ((),) * len(shape), is_certain=is_certain)


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
