"""Fetches the values of arrays to this process, wherever their parts lie."""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gradflow_jax.trees.names import label, map_named
from gradflow_jax.trees.types import ArrayTree


def fetch(tree: ArrayTree, what: str) -> Any:
    """Returns a tree with the values of its arrays, also where processes share them.

    Parts that other processes hold are sent to all of them. So all processes call it,
    as they call whatever computes with such arrays.

    Args:
        tree: any pytree of arrays.
        what: what an error calls it: "scores".

    Returns:
        The tree, of arrays of NumPy in the dtypes that they had.

    Raises:
        ValueError: if an array lies on other processes alone, or on several but on no
            mesh.

    Example:
        >>> fetch({"kernel": jax.numpy.arange(3)}, "scores")["kernel"].tolist()
        [0, 1, 2]
    """

    def replicate(path: str, leaf: Any) -> Any:
        is_here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if is_here or (leaf.is_fully_replicated and leaf.addressable_shards):
            return leaf
        is_partly_here = bool(leaf.sharding.addressable_devices)
        if not (is_partly_here and isinstance(leaf.sharding, NamedSharding)):
            raise ValueError(
                f"{what} {label(path)} lies on devices of other processes, and its "
                "values are needed here: gather it in all processes by "
                "jax.experimental.multihost_utils.process_allgather(tree, tiled=True), "
                "or let it lie on a mesh of all their devices."
            )
        return jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))

    # One transfer brings all arrays from the devices.
    return jax.device_get(map_named(replicate, tree))
