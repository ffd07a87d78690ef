"""What a mesh axis of a partition is to a leaf; results on meshes: tests/sharding."""

import jax
from jax.sharding import PartitionSpec as P

from gradflow_jax.masks.selection.placement import Placement, Shard


def test_a_shard_knows_what_splits_each_axis_and_along_what_it_is_repeated():
    mesh = jax.make_mesh((1, 1), ("data", "model"))
    specs = P(None, "model"), P(("data", "model")), P()
    shapes = (4, 6), (8, 3), (5,)
    placement = Placement(mesh, specs, mesh.axis_names)
    assert placement.shards(shapes) == [
        Shard((4, 6), ((), ("model",)), idle=("data",)),
        Shard((8, 3), (("data", "model"), ()), idle=()),
        Shard((5,), ((),), idle=("data", "model")),
    ]
