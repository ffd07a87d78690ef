"""The paper's networks, in Flax NNX.

    vgg, resnet, mobilenet   as the paper trains them, at any width
    small_cnn                the network of `gradflow-jax prune`
    conv_norm                a convolution and its batch norm as one layer
    catalogue                networks by name

Imports no other room; `experiments` imports it. To add a network, write its file, a row
in `catalogue.MODELS` and its name in `experiments/names.py`.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.models.catalogue import MODELS as MODELS
from gradflow_jax.models.conv_norm import ConvNorm as ConvNorm
from gradflow_jax.models.conv_norm import normalized_kernels as normalized_kernels
from gradflow_jax.models.mobilenet import MobileNetV1 as MobileNetV1
from gradflow_jax.models.resnet import ResNet as ResNet
from gradflow_jax.models.small_cnn import SmallCNN as SmallCNN
from gradflow_jax.models.vgg import VGG as VGG

__all__ = _exported_names(globals())
