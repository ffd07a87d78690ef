"""Residual networks of basic blocks, for small images."""

from collections.abc import Sequence

import jax
from flax import nnx

from gradflow_jax.models.conv_norm import ConvNorm, linear, module_list


class BasicBlock(nnx.Module):
    """Two convolutions of 3×3, added to the input.

    Attributes:
        first: makes the filters that only this block reads.
        second: writes to the residual stream; its norm is added without ReLU.
        shortcut: a convolution of 1×1 with its norm where the stream changes shape,
            otherwise None, and the input is added as it is.
    """

    def __init__(self, before: int, after: int, strides: int, *, rngs: nnx.Rngs):
        """Makes a block from `before` channels to `after`."""
        self.first = ConvNorm(before, after, strides=strides, rngs=rngs)
        self.second = ConvNorm(after, after, order="linear", rngs=rngs)
        shortcut = None
        if before != after or strides != 1:
            shortcut = ConvNorm(
                before, after, 1, strides=strides, order="linear", rngs=rngs
            )
        # It is set once: Flax does not let an attribute that was None become a module.
        self.shortcut = shortcut

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, height, width, channel] of an x of such a shape."""
        y = self.second(self.first(x))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    """A convolution, stages of basic blocks, and one linear layer.

    It is for images of 32×32, so the first convolution has no stride and no pooling
    follows it. Each stage but the first starts with a stride of 2; what is left of
    the image is averaged, whatever its size.

    Attributes:
        stem: the first convolution.
        blocks: the blocks of all stages, in order.
        classifier: the linear layer.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        classes: int,
        *,
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        """Makes the network.

        Args:
            blocks: the number of blocks of each stage.
            widths: the number of filters of each stage; the first convolution has
                those of the first.
            classes: the number of logits.
            channels: of the images.
            rngs: where the weights' keys come from.
        """
        self.stem = ConvNorm(channels, widths[0], rngs=rngs)
        before, layers = widths[0], []
        for stage, (count, after) in enumerate(zip(blocks, widths, strict=True)):
            for number in range(count):
                strides = 2 if stage and not number else 1
                layers.append(BasicBlock(before, after, strides, rngs=rngs))
                before = after
        self.blocks = module_list(layers)
        self.classifier = linear(before, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [batch, class] of images [batch, height, width, channel]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean((1, 2)))
