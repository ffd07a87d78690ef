"""Which weights stay: pytrees of bool with the tree of params, True keeps.

`thresholding` keeps the highest scores, `allocation` says how many of each layer,
`patterns` keeps N of every M, `algebra` applies and compares masks, `packing` makes
bits of them, `summary` reports.
"""

from gradflow_jax.masks.algebra import apply as apply
from gradflow_jax.masks.algebra import combine as combine
from gradflow_jax.masks.algebra import overlap as overlap
from gradflow_jax.masks.allocation import erdos_renyi as erdos_renyi
from gradflow_jax.masks.allocation import erdos_renyi_kernel as erdos_renyi_kernel
from gradflow_jax.masks.allocation import quotas as quotas
from gradflow_jax.masks.packing import pack_masks as pack_masks
from gradflow_jax.masks.packing import unpack_masks as unpack_masks
from gradflow_jax.masks.patterns import n_of_m_masks as n_of_m_masks
from gradflow_jax.masks.reports import LayerReport as LayerReport
from gradflow_jax.masks.reports import Report as Report
from gradflow_jax.masks.reports import report as report
from gradflow_jax.masks.thresholding import family_masks as family_masks
from gradflow_jax.masks.thresholding import global_masks as global_masks
from gradflow_jax.masks.thresholding import layerwise_masks as layerwise_masks
