"""Networks for experiments, in Flax NNX."""

from gradflow_jax.models.small_cnn import SmallCNN as SmallCNN
