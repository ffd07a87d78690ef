"""How much each weight matters: importance measures as transformations of a loss.

    zeroth_order     measures of the weights alone
    first_order      measures of the gradient
    second_order     measures of Hg, the Hessian's product with the gradient
    rules            a measure as a pair (term, outer): score(U) = outer(Σ_U term)
    derivatives      (θ, ḡ, Hḡ) of one batch, in one jit
    passes           the same of many batches, in one or two passes over them
    evaluation       hands them out, jitted, with the loss's own arguments
    losses           what a loss is, and what is wrong with one
    batching         the mean of a loss over many batches
    normalization    finds batch norms, whose scales are measures of units
    sharding         keeps gradients where the params lie
    rank_agreement   how alike two scores rank weights

Imports `trees`; everything that prunes imports it. To add a measure, add its rule to
`rules.RULES` and its function, a transformation of a loss, to the file of its order.
"""

from gradflow_jax.scores.batching import over_batches as over_batches
from gradflow_jax.scores.derivatives import Derivatives as Derivatives
from gradflow_jax.scores.evaluation import differentiate as differentiate
from gradflow_jax.scores.first_order import batch_norm_taylor as batch_norm_taylor
from gradflow_jax.scores.first_order import (
    biased_loss_preservation as biased_loss_preservation,
)
from gradflow_jax.scores.first_order import first_order_terms as first_order_terms
from gradflow_jax.scores.first_order import fisher as fisher
from gradflow_jax.scores.first_order import loss_preservation as loss_preservation
from gradflow_jax.scores.first_order import taylor as taylor
from gradflow_jax.scores.rank_agreement import Agreement as Agreement
from gradflow_jax.scores.rank_agreement import agreement as agreement
from gradflow_jax.scores.rank_agreement import kendall as kendall
from gradflow_jax.scores.rank_agreement import spearman as spearman
from gradflow_jax.scores.rank_agreement import top_overlap as top_overlap
from gradflow_jax.scores.rules import score as score
from gradflow_jax.scores.rules import score_all as score_all
from gradflow_jax.scores.second_order import (
    gradient_norm_increase as gradient_norm_increase,
)
from gradflow_jax.scores.second_order import (
    gradient_norm_preservation as gradient_norm_preservation,
)
from gradflow_jax.scores.second_order import grasp as grasp
from gradflow_jax.scores.zeroth_order import batch_norm_scale as batch_norm_scale
from gradflow_jax.scores.zeroth_order import magnitude as magnitude
from gradflow_jax.scores.zeroth_order import random as random
