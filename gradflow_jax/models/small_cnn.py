"""A small convolutional network with batch norm, for experiments of seconds."""

import jax
from flax import nnx


class SmallCNN(nnx.Module):
    """Two strided convolutions and a dense layer, each with batch norm, a classifier.

    It has strides and no pooling, since on a CPU the gradient of max pooling takes
    longer than everything else. For images of 28×28×1 and ten classes it has 105,744
    weights of kernels and 105,978 parameters in all.
    """

    NORMALIZED = {
        "bn1": "conv1/kernel",
        "bn2": "conv2/kernel",
        "bn3": "dense/kernel",
    }
    """The kernel whose filters each batch norm normalizes, by paths of parameters."""

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, *, rngs: nnx.Rngs
    ):
        """Makes the network for images of shape [height, width, channel]."""
        height, width, channels = image_shape
        options = {"strides": 2, "use_bias": False, "rngs": rngs}

        def norm(features: int) -> nnx.BatchNorm:
            # By the default of 0.99 two thirds of the running statistics after an epoch
            # of forty steps (0.99⁴⁰ = 0.67) would still be those from before pruning.
            return nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

        self.conv1 = nnx.Conv(channels, 16, (3, 3), **options)
        self.bn1 = norm(16)
        self.conv2 = nnx.Conv(16, 32, (3, 3), **options)
        self.bn2 = norm(32)
        # Two strides of 2 leave a quarter of each side, rounded up.
        features = -(-height // 4) * -(-width // 4) * 32
        self.dense = nnx.Linear(features, 64, use_bias=False, rngs=rngs)
        self.bn3 = norm(64)
        self.classifier = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [batch, class] of images [batch, height, width, channel]."""
        x = nnx.relu(self.bn1(self.conv1(images)))
        x = nnx.relu(self.bn2(self.conv2(x)))
        x = nnx.relu(self.bn3(self.dense(x.reshape(len(x), -1))))
        return self.classifier(x)
