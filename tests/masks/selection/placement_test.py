"""What a mesh axis of a partition is to a leaf; results on meshes: tests/sharding."""

import jax
from jax.sharding import PartitionSpec as P

from gradflow_jax.masks.selection.placement import Placement, Shard, whole


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


def test_axes_merge_into_those_before_them_where_nothing_splits_them():
    split = Shard((6, 4, 3, 3), (("x",), (), (), ()), idle=("y",))
    merged, piece = split.merge_axes((3, 4, 3, 3))
    assert merged == Shard((216,), (("x",),), idle=("y",)) and piece == (108,)
    split = Shard((3, 3, 4, 6), ((), (), (), ("x",)))
    assert split.merge_axes((3, 3, 4, 2)) == (Shard((36, 6), ((), ("x",))), (36, 2))
    assert whole(()).merge_axes(()) == (whole(()), ())
    assert whole((5, 7)).merge_axes((5, 7)) == (whole((35,)), (35,))


def test_of_a_leaf_that_may_be_split_anywhere_only_windows_merge():
    def merged(*shape):
        shard, piece = whole(shape, is_certain=False).merge_axes(shape)
        assert shard.shape == piece and not shard.is_certain
        return piece

    assert merged(512, 512, 3, 3) == (512, 4608)
    assert merged(3, 3, 512, 512) == (3, 3, 512, 512)
    assert merged(512, 512) == (512, 512)
    assert merged(3, 3, 3) == (27,)
