"""Crops and flips training images at random, on the device."""

from typing import Any

import jax
import jax.numpy as jnp

PADDING = 4
"""Pixels of black around an image before it is cropped to its size."""


def augment(images: jax.Array, key: jax.Array) -> jax.Array:
    """Shifts each image by up to 4 pixels at random and mirrors every other.

    Each image is padded with 4 pixels of black on all sides, cropped to its size at an
    offset of its own, and flipped left to right with probability ½. It can be jitted.

    Args:
        images: pixels [batch, height, width, channel] in which 0 is black: augment
            before `normalize_pixels`.
        key: consumed.

    Returns:
        Images of the same shape and dtype.

    Example:
        >>> white = jnp.full((2, 8, 8, 3), 255, jnp.uint8)
        >>> augment(white, jax.random.key(0)).shape
        (2, 8, 8, 3)
    """
    offset_key, flip_key = jax.random.split(key)
    batch, *shape = images.shape
    offsets = jax.random.randint(offset_key, (batch, 2), 0, 2 * PADDING + 1)
    flips = jax.random.bernoulli(flip_key, shape=(batch,))
    edge = (PADDING, PADDING)
    padded = jnp.pad(images, ((0, 0), edge, edge, (0, 0)))

    def crop_and_flip(image: jax.Array, offset: jax.Array, flip: jax.Array) -> Any:
        cropped = jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), shape)
        return jnp.where(flip, cropped[:, ::-1], cropped)

    return jax.vmap(crop_and_flip)(padded, offsets, flips)
