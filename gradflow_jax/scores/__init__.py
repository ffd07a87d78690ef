"""How much each weight matters: importance measures as transformations of a loss.

`derivatives` computes (θ, ḡ, Hḡ), `evaluation` hands them out, `rules` turns them
into scores; `zeroth_order`, `first_order` and `second_order` hold the measures by what
they need; `losses` says what a loss is, `batching` averages it over many batches;
`normalization` finds batch norms; `sharding` keeps gradients where the params lie.
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
