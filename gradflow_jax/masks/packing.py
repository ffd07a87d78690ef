"""Packs masks into bits: one a weight, an eighth of the memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradflow_jax.masks.selection.placement import explicit_sharding, place_like
from gradflow_jax.trees import (
    ArrayTree,
    Masks,
    check_masks,
    map_named,
    mask_leaves,
    named_leaves,
)
from gradflow_jax.trees.mirroring import MASKS_PER_BYTE, packed_shape


def pack_masks(masks: Masks) -> ArrayTree:
    """Packs masks into bits, eight neighbors of the last axis to a byte.

    Where memory matters, or to save masks: `gf.apply_mask(masks, packed=True)` keeps
    them so in the optimizer's state.

    Args:
        masks: a tree of bool, True keeps.

    Returns:
        The same tree of uint8, [..., n] packed to [..., ⌈n/8⌉], the first of eight in
        the lowest bit. A leaf stays bool where it would gain nothing: with fewer than
        8 along its last axis.

    Raises:
        TypeError: if a leaf is not bool.
        ValueError: if there is no leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> masks = {"w": jnp.arange(16) % 2 == 0, "b": jnp.array([True, False])}
        >>> packed = gf.pack_masks(masks)
        >>> packed["w"].tolist(), packed["b"].tolist()
        ([85, 85], [True, False])
        >>> gf.unpack_masks(packed, masks)["w"].sum().item()
        8
    """
    check_masks(masks)
    return jax.tree.map(
        lambda leaf: packed_leaf(leaf) if is_packable(leaf) else leaf, masks
    )


def unpack_masks(packed: ArrayTree, like: ArrayTree) -> Masks:
    """Unpacks masks that `pack_masks` packed.

    Args:
        packed: a tree of uint8, or of bool where a leaf was not packed.
        like: a tree with the shapes of the masks, such as params.

    Returns:
        Masks: a tree like `like` of bool, True keeps.

    Raises:
        TypeError: if a leaf is neither uint8 nor bool.
        ValueError: if the two are different trees, or a leaf does not fit; the message
            names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> packed = {"w": jnp.array([5, 1], jnp.uint8)}
        >>> gf.unpack_masks(packed, {"w": jnp.zeros(10)})["w"].nonzero()[0].tolist()
        [0, 2, 8]
    """
    leaves = unpacked_leaves(packed, like)
    return jax.tree.structure(like).unflatten(leaves)


def unpacked_leaves(
    packed: ArrayTree,
    like: ArrayTree,
    *,
    what: str = "masks",
    like_what: str = "params",
) -> list[Any]:
    """Returns the leaves of packed masks as bool, checked to fit `like`.

    Raises:
        TypeError: if a leaf is neither uint8 nor bool.
        ValueError: if the two are different trees, or a leaf does not fit.
    """
    leaf_like = dict(named_leaves(like))

    def unpack(path: str, leaf: Any) -> Any:
        if getattr(leaf, "dtype", None) != jnp.uint8 or not jnp.ndim(leaf):
            return leaf
        target = leaf_like.get(path)
        if target is not None and np.shape(leaf) == packed_shape(np.shape(target)):
            return unpacked_leaf(leaf, target)
        # Bytes that fit no leaf are unpacked whole: the check below then names them.
        return jnp.unpackbits(jnp.asarray(leaf), axis=-1).astype(bool)

    masks = map_named(unpack, packed)
    return mask_leaves(masks, like, what=what, like_what=like_what)


def is_packable(leaf: Any) -> bool:
    """Says whether bits save memory.

    By the shape alone, so that the structure of a checkpoint is known from the params.
    """
    return jnp.ndim(leaf) > 0 and jnp.shape(leaf)[-1] >= MASKS_PER_BYTE


def packed_leaf(mask: Any) -> jax.Array:
    """Returns one mask as bytes."""
    sharding = explicit_sharding(mask)
    if sharding is not None and sharding.shard_shape(mask.shape)[-1] % MASKS_PER_BYTE:
        # A byte lies on one device, so the last axis is not split where the parts of
        # it would not be whole bytes.
        spec = PartitionSpec(*tuple(sharding.spec)[: mask.ndim - 1])
        mask = jax.sharding.reshard(mask, NamedSharding(sharding.mesh, spec))
    return jnp.packbits(mask, axis=-1, bitorder="little")


def unpacked_leaf(bits: Any, like: Any) -> jax.Array:
    """Returns one mask from its bytes; XLA fuses it into what reads the mask."""
    flags = jnp.unpackbits(
        jnp.asarray(bits), axis=-1, count=jnp.shape(like)[-1], bitorder="little"
    )
    return place_like(flags.astype(bool), like)
