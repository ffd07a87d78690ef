"""MobileNet-V1 for small images."""

from collections.abc import Sequence

import jax
from flax import nnx

from gradflow_jax.models.conv_norm import ConvNorm, linear, module_list


class Separable(nnx.Module):
    """A filter of 3×3 for each channel, then a convolution of 1×1 across channels.

    Attributes:
        depthwise: the convolution of 3×3, with its norm and ReLU.
        pointwise: that of 1×1, likewise.
    """

    def __init__(self, before: int, after: int, strides: int, *, rngs: nnx.Rngs):
        """Makes a block from `before` channels to `after`."""
        self.depthwise = ConvNorm(
            before, before, strides=strides, groups=before, rngs=rngs
        )
        self.pointwise = ConvNorm(before, after, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, height, width, channel] of an x of such a shape."""
        return self.pointwise(self.depthwise(x))


class MobileNetV1(nnx.Module):
    """A convolution, blocks of depthwise and pointwise ones, and one linear layer.

    It is for images of 32×32, so the first convolution has no stride. Of such images
    the blocks leave 2×2; what is left is averaged, whatever its size.

    Attributes:
        stem: the first convolution.
        blocks: the other convolutions, in pairs.
        classifier: the linear layer.
    """

    def __init__(
        self,
        first: int,
        blocks: Sequence[tuple[int, int]],
        classes: int,
        *,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        """Makes the network.

        Args:
            first: the number of filters of the first convolution.
            blocks: of each block the number of filters and the stride.
            classes: the number of logits.
            channels: of the images.
            rngs: where the weights' keys come from.
        """
        self.stem = ConvNorm(channels, first, rngs=rngs)
        before, layers = first, []
        for after, strides in blocks:
            layers.append(Separable(before, after, strides, rngs=rngs))
            before = after
        self.blocks = module_list(layers)
        self.classifier = linear(before, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [batch, class] of images [batch, height, width, channel]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean((1, 2)))
