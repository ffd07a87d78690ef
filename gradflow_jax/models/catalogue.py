"""The architectures that pruning papers compare on, by name."""

from collections.abc import Callable
from typing import Any, Protocol

from flax import nnx

from gradflow_jax.models.mobilenet import MobileNetV1
from gradflow_jax.models.resnet import ResNet
from gradflow_jax.models.vgg import VGG

ImageShape = tuple[int, int, int]

NARROWEST = 4
"""The fewest filters of a layer, however small the factor of its width."""


class Make(Protocol):
    """Makes a network of one architecture."""

    def __call__(
        self,
        image_shape: ImageShape,
        classes: int,
        *,
        width: float = 1.0,
        fast: bool = False,
        rngs: nnx.Rngs,
    ) -> nnx.Module:
        """Makes a network that returns logits [batch, class].

        Args:
            image_shape: [height, width, channel].
            classes: the number of logits.
            width: multiplies the number of filters of every layer, which is rounded
                and at least 4.
            fast: whether to make a small stand-in, which compiles in seconds on a CPU
                and has every kind of layer and of connection of the full network but
                few of each: VGG three convolutions and two poolings, MobileNet three
                blocks, one with a stride, ResNet-56 stages of 1, 2 and 1 blocks,
                ResNet-18 and ResNet-34 four stages, of 1, 1, 1 and 1 and of 1, 2, 2
                and 1. Layers have 4 to 16 filters, times `width`.
            rngs: where the weights' keys come from.
        """
        ...


def _scale(filters: int, width: float) -> int:
    return max(NARROWEST, round(filters * width))


def _vgg(stages: Any, shape: ImageShape, classes: int, width: float, rngs: Any) -> VGG:
    layers = []
    for stage in stages:
        layers += [n if n == "M" else _scale(n, width) for n in stage]
    return VGG(layers, classes, image_shape=shape, rngs=rngs)


def _mobilenet(
    layers: Any, shape: ImageShape, classes: int, width: float, rngs: Any
) -> MobileNetV1:
    first, *blocks = layers
    return MobileNetV1(
        _scale(first, width),
        [(_scale(filters, width), strides) for filters, strides in blocks],
        classes,
        channels=shape[2],
        rngs=rngs,
    )


def _resnet(
    stages: Any, shape: ImageShape, classes: int, width: float, rngs: Any
) -> ResNet:
    return ResNet(
        [blocks for blocks, _ in stages],
        [_scale(filters, width) for _, filters in stages],
        classes,
        channels=shape[2],
        rngs=rngs,
    )


def _maker(build: Callable[..., nnx.Module], full: Any, small: Any) -> Make:
    """Returns what makes the network of these layers, or its fast stand-in."""

    def make(
        image_shape: ImageShape,
        classes: int,
        *,
        width: float = 1.0,
        fast: bool = False,
        rngs: nnx.Rngs,
    ) -> nnx.Module:
        return build(small if fast else full, image_shape, classes, width, rngs)

    return make


# `Make` says how one is called: MODELS["vgg13"](image_shape, classes, rngs=rngs). Each
# row has the layers of the full network, then those of its fast stand-in.
MODELS: dict[str, Make] = {
    # A stage is its filters and a pooling. The stand-in ends with two poolings, so that
    # its classifier reads several pixels.
    "vgg13": _maker(
        _vgg,
        [(n, n, "M") for n in (64, 128, 256, 512, 512)],
        [(8, "M"), (12, "M"), (16,)],
    ),
    # The first convolution has its filters, each block its filters and stride.
    "mobilenet": _maker(
        _mobilenet,
        [32, (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
        + 5 * [(512, 1)]
        + [(1024, 2), (1024, 1)],
        [8, (8, 1), (12, 2), (16, 1)],
    ),
    # A stage is its number of blocks and their filters.
    "resnet56": _maker(_resnet, [(9, 16), (9, 32), (9, 64)], [(1, 6), (2, 8), (1, 12)]),
    "resnet18": _maker(
        _resnet,
        [(2, 64), (2, 128), (2, 256), (2, 512)],
        [(1, 4), (1, 6), (1, 8), (1, 12)],
    ),
    "resnet34": _maker(
        _resnet,
        [(3, 64), (4, 128), (6, 256), (3, 512)],
        [(1, 4), (2, 6), (2, 8), (1, 12)],
    ),
}
