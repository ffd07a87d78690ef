"""Pruning as optax transformations: `masking` keeps pruned weights exactly zero."""

from gradflow_jax.transforms.masking import MaskState as MaskState
from gradflow_jax.transforms.masking import apply_mask as apply_mask
from gradflow_jax.transforms.masking import replace_masks as replace_masks
