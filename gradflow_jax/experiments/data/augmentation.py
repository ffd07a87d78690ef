"""Random crops and flips of training images, on the device."""

import jax
import jax.numpy as jnp

# Pixels of black around an image before it is cropped to its size.
PADDING = 4


def augmented(images: jax.Array, key: jax.Array) -> jax.Array:
    """Shifts each image by up to 4 pixels at random and mirrors every other.

    Each image is padded with 4 pixels of black on all sides, cropped to its size at an
    offset of its own, and flipped left to right with probability ½. It can be jitted.

    Args:
        images: pixels [batch, height, width, channel] in which 0 is black: augment
            before `normalized`.
        key: consumed.

    Returns:
        Images of the same shape and dtype.

    Example:
        >>> white = jnp.full((2, 8, 8, 3), 255, jnp.uint8)
        >>> augmented(white, jax.random.key(0)).shape
        (2, 8, 8, 3)
    """
    offset_key, flip_key = jax.random.split(key)
    batch, *shape = images.shape
    offsets = jax.random.randint(offset_key, (batch, 2), 0, 2 * PADDING + 1)
    flips = jax.random.bernoulli(flip_key, shape=(batch,))
    edge = (PADDING, PADDING)
    padded = jnp.pad(images, ((0, 0), edge, edge, (0, 0)))

    def one(image: jax.Array, offset: jax.Array, flip: jax.Array) -> jax.Array:
        cropped = jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), shape)
        return jnp.where(flip, cropped[:, ::-1], cropped)

    return jax.vmap(one)(padded, offsets, flips)
