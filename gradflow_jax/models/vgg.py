"""VGG networks with batch norm."""

from collections.abc import Sequence
from typing import Literal

import jax
from flax import nnx

from gradflow_jax.models.conv_norm import ConvNorm, linear, module_list


class VGG(nnx.Module):
    """Convolutions of 3×3 with max pooling between them, and one linear layer.

    Each convolution is followed by ReLU and then by batch norm, in this order, as in
    the release of Lubana & Dick. So a filter of zeros still puts out a constant, its
    norm's, and is gone only if the norm's scale and bias are zero too.

    Attributes:
        layers: the convolutions with their norms.
        pooled: the numbers of the layers that max pooling follows.
        classifier: the linear layer.
    """

    def __init__(
        self,
        widths: Sequence[int | Literal["M"]],
        classes: int,
        *,
        image_shape: tuple[int, int, int] = (32, 32, 3),
        rngs: nnx.Rngs,
    ):
        """Makes the network.

        Args:
            widths: the number of filters of each convolution, from first to last, and
                "M" for max pooling by 2. Where the image is one pixel high or wide
                already, as the 1×1 that four poolings leave of 28×28, it is left out.
            classes: the number of logits.
            image_shape: [height, width, channel]. The classifier reads what is left
                of the image, flattened: 1×1 of 32×32 after five poolings.
            rngs: where the weights' keys come from.
        """
        height, width, channels = image_shape
        layers, pooled = [], []
        for after in widths:
            if after != "M":
                layer = ConvNorm(channels, after, order="relu_first", rngs=rngs)
                layers.append(layer)
                channels = after
            elif min(height, width) > 1:
                pooled.append(len(layers) - 1)
                height, width = height // 2, width // 2
        self.layers = module_list(layers)
        self.pooled = tuple(pooled)
        self.classifier = linear(height * width * channels, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [batch, class] of images [batch, height, width, channel]."""
        x = images
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.pooled:
                x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.classifier(x.reshape(len(x), -1))
