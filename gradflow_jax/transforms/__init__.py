"""Pruning inside optax: transformations of gradients that keep pruned weights at zero.

    masking   keeps what masks remove at exactly 0.0, whatever the optimizer

Imports `trees` and `masks`. A method of pruning while training is a further file here.
"""

from gradflow_jax.transforms.masking import MaskState as MaskState
from gradflow_jax.transforms.masking import apply_mask as apply_mask
from gradflow_jax.transforms.masking import replace_masks as replace_masks
