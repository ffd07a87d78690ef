"""Networks for experiments, in Flax NNX."""

from gradflow_jax.models.catalogue import MODELS as MODELS
from gradflow_jax.models.conv_norm import ConvNorm as ConvNorm
from gradflow_jax.models.conv_norm import normalised_kernels as normalised_kernels
from gradflow_jax.models.mobilenet import MobileNetV1 as MobileNetV1
from gradflow_jax.models.resnet import ResNet as ResNet
from gradflow_jax.models.small_cnn import SmallCNN as SmallCNN
from gradflow_jax.models.vgg import VGG as VGG
