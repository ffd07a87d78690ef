"""A convolution that is fast on small maps, too, where XLA's is slow on the CPU.

On maps of 2×2 with 512 channels XLA's convolution and its derivatives take a hundred
times as long as the product of matrices they are equal to.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# XLA's convolution is the faster one on larger maps.
_LARGEST_MAP = 4


def convolve(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    precision: Any = None,
    **options: Any,
) -> jax.Array:
    """Convolves images; stands in for `jax.lax.conv_general_dilated` in a Flax layer.

    Where the platform is the CPU and what comes out is at most 4×4, it multiplies the
    shifted maps, side by side, with the kernel. They are plain slices and one product,
    so that every transformation and every reading of programs goes through it.

    Args:
        inputs: [batch, height, width, channel].
        kernel: [height, width, channel, filter].
        strides: of both directions.
        padding: (before, after) of both directions.
        feature_group_count: into how many groups channels and filters are divided.
        precision: of the products.
        **options: what else Flax hands over: dilations of 1, and the order of axes,
            which is the one above.

    Returns:
        [batch, height, width, filter].
    """
    window = kernel.shape[:2]
    padded = [
        size + sum(pads) for size, pads in zip(inputs.shape[1:3], padding, strict=True)
    ]
    out = [
        (size - length) // stride + 1
        for size, length, stride in zip(padded, window, strides, strict=True)
    ]
    is_small = 0 < max(out) <= _LARGEST_MAP
    if feature_group_count > 1 or not is_small or jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            inputs,
            kernel,
            strides,
            padding,
            feature_group_count=feature_group_count,
            precision=precision,
            **options,
        )
    batch, *_, channels = inputs.shape
    maps = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))

    def shifted(down: int, right: int) -> jax.Array:
        """Returns what the weights at one place of the window meet."""
        starts = (0, down, right, 0)
        ends = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip((down, right), out, strides, strict=True)
        ]
        return lax.slice(maps, starts, (batch, *ends, channels), (1, *strides, 1))

    height, width = window
    rows = [
        jnp.stack([shifted(down, right) for right in range(width)], 3)
        for down in range(height)
    ]
    # [batch, height, width, and both of the window, channel], of which the last three
    # are summed over.
    return lax.dot_general(
        jnp.stack(rows, 3), kernel, (((3, 4, 5), (0, 1, 2)), ((), ())), precision
    )
