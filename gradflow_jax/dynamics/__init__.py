"""Analysis of gradient flow and of what pruning leaves.

`ranking` compares scores, `sanity_checks` makes what a method is checked against,
`connectivity` and `reporting` find the weights on paths from input to output;
`reading`, `signals` and `signal_rules` read a model's program for them.
"""

from gradflow_jax.dynamics.connectivity import effective_masks as effective_masks
from gradflow_jax.dynamics.ranking import Agreement as Agreement
from gradflow_jax.dynamics.ranking import agreement as agreement
from gradflow_jax.dynamics.ranking import kendall as kendall
from gradflow_jax.dynamics.ranking import spearman as spearman
from gradflow_jax.dynamics.ranking import top_overlap as top_overlap
from gradflow_jax.dynamics.reporting import DeadUnits as DeadUnits
from gradflow_jax.dynamics.reporting import EffectiveReport as EffectiveReport
from gradflow_jax.dynamics.reporting import effective_report as effective_report
from gradflow_jax.dynamics.sanity_checks import invert_scores as invert_scores
from gradflow_jax.dynamics.sanity_checks import shuffle_labels as shuffle_labels
from gradflow_jax.dynamics.sanity_checks import shuffle_masks as shuffle_masks
from gradflow_jax.dynamics.sanity_checks import shuffle_pixels as shuffle_pixels
