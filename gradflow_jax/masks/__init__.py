"""Which weights stay: pytrees of bool with the tree of params, True keeps.

    thresholding    keeps the highest scores: globally, by layer, by group of layers
    allocation      how many weights each layer keeps
    patterns        N of every M weights along an axis
    algebra         applies, combines and compares masks
    packing         a bit a weight
    reports         what masks keep, layer by layer
    tables          text in columns
    sanity_checks   what a method has to beat: shuffled masks, labels and pixels
    selection/      the k highest of many scores, exactly, without a sort

Imports `trees` and `scores`. To add an allocation, return how many weights each leaf
keeps, beside `allocation.erdos_renyi`; to add a pattern or a sparse layout, open
`patterns`.
"""

from gradflow_jax.masks.algebra import combine as combine
from gradflow_jax.masks.algebra import overlap as overlap
from gradflow_jax.masks.algebra import prune as prune
from gradflow_jax.masks.allocation import erdos_renyi as erdos_renyi
from gradflow_jax.masks.allocation import erdos_renyi_kernel as erdos_renyi_kernel
from gradflow_jax.masks.allocation import quotas as quotas
from gradflow_jax.masks.packing import pack_masks as pack_masks
from gradflow_jax.masks.packing import unpack_masks as unpack_masks
from gradflow_jax.masks.patterns import n_of_m_masks as n_of_m_masks
from gradflow_jax.masks.reports import LayerReport as LayerReport
from gradflow_jax.masks.reports import Report as Report
from gradflow_jax.masks.reports import report as report
from gradflow_jax.masks.sanity_checks import invert_scores as invert_scores
from gradflow_jax.masks.sanity_checks import shuffle_labels as shuffle_labels
from gradflow_jax.masks.sanity_checks import shuffle_masks as shuffle_masks
from gradflow_jax.masks.sanity_checks import shuffle_pixels as shuffle_pixels
from gradflow_jax.masks.thresholding import global_masks as global_masks
from gradflow_jax.masks.thresholding import group_masks as group_masks
from gradflow_jax.masks.thresholding import layerwise_masks as layerwise_masks
