"""Masks in eighths of their memory: one bit a weight."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.trees import (
    PyTree,
    check_masks,
    is_traced,
    map_named,
    mask_leaves,
    named_leaves,
)

_BITS = 8


def pack_masks(masks: PyTree) -> PyTree:
    """Packs masks into bits, eight neighbours of the last axis to a byte.

    Where memory matters, or to save masks: `gf.apply_mask(masks, packed=True)` keeps
    them so in the optimizer's state.

    Args:
        masks: a tree of bool, True keeps.

    Returns:
        The same tree of uint8, [..., n] packed to [..., ⌈n/8⌉], the first of eight in
        the lowest bit. A leaf stays bool where it would gain nothing (fewer than 8
        along its last axis) or where a device holds a piece of that axis that is no
        multiple of 8.

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


def unpack_masks(packed: PyTree, like: PyTree) -> PyTree:
    """Unpacks what `pack_masks` packed.

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
    return jax.tree.structure(like).unflatten(unpacked_leaves(packed, like))


def unpacked_leaves(
    packed: PyTree, like: PyTree, *, what: str = "masks", like_what: str = "params"
) -> list[Any]:
    """Returns the leaves of packed masks as bool, checked to fit `like`."""
    shapes = {path: jnp.shape(leaf) for path, leaf in named_leaves(like)}

    def unpacked(path: str, leaf: Any) -> Any:
        if getattr(leaf, "dtype", None) != jnp.uint8 or not jnp.ndim(leaf):
            return leaf
        shape = shapes.get(path, ())
        fits = jnp.shape(leaf) == packed_shape(shape)
        # Of what does not fit all the bits, so that the check below names it.
        return unpacked_leaf(leaf, shape[-1] if fits else None)

    flags = map_named(unpacked, packed)
    return mask_leaves(flags, like, what=what, like_what=like_what)


def is_packable(leaf: Any) -> bool:
    """Says whether whole bytes of a leaf's bits lie on one device, and save memory."""
    shape = jnp.shape(leaf)
    if not shape or shape[-1] < _BITS:
        return False
    sharding = getattr(jax.typeof(leaf) if is_traced(leaf) else leaf, "sharding", None)
    piece = shape[-1] if sharding is None else sharding.shard_shape(shape)[-1]
    return piece == shape[-1] or piece % _BITS == 0


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a mask's bytes."""
    return (*shape[:-1], -(-shape[-1] // _BITS)) if shape else ()


def packed_leaf(mask: Any) -> jax.Array:
    """Returns one mask as bytes."""
    return jnp.packbits(mask, axis=-1, bitorder="little")


def unpacked_leaf(bits: Any, count: int | None) -> jax.Array:
    """Returns one mask from its bytes; XLA fuses it into what reads the mask."""
    flags = jnp.unpackbits(jnp.asarray(bits), axis=-1, count=count, bitorder="little")
    return flags.astype(bool)
