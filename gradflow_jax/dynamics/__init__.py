"""Gradient flow, dθ/dt = −∇L(θ): what it does, and what pruning does to it.

`flow` integrates it, `descent` is its discrete twin, `trajectory` what both return;
`evolution` evaluates the `products` of θ, g and Hg along them and `rates` compares
their predicted and measured derivatives; `tracking` and `recording` do so in training;
`effects` compares what removing weights does with what scores predict.

`ranking` compares scores, `sanity_checks` makes what a method is checked against,
`connectivity` and `reporting` find the weights on paths from input to output;
`reading`, `signals` and `signal_rules` read a model's program for them.

`observations` evaluates the paper's five on any classifier, a `Problem`; how its
networks are trained and pruned is a `Study`; `findings` are what the seeds say.
"""

from gradflow_jax.connectivity.effective import effective_masks as effective_masks
from gradflow_jax.dynamics.descent import gradient_descent as gradient_descent
from gradflow_jax.dynamics.effects import RemovalEffects as RemovalEffects
from gradflow_jax.dynamics.effects import convergence_order as convergence_order
from gradflow_jax.dynamics.effects import removal_effects as removal_effects
from gradflow_jax.dynamics.evolution import Evolution as Evolution
from gradflow_jax.dynamics.evolution import follow as follow
from gradflow_jax.observations.findings import Finding as Finding
from gradflow_jax.observations.findings import finding as finding
from gradflow_jax.observations.first_order import (
    larger_weights_converge_faster as larger_weights_converge_faster,
)
from gradflow_jax.observations.first_order import (
    loss_preservation_removes_the_slowest as loss_preservation_removes_the_slowest,
)
from gradflow_jax.observations.first_order import (
    magnitude_preserves_loss as magnitude_preserves_loss,
)
from gradflow_jax.dynamics.flow import gradient_flow as gradient_flow
from gradflow_jax.observations.all_five import Observations as Observations
from gradflow_jax.observations.all_five import observe as observe
from gradflow_jax.observations.problem import Problem as Problem
from gradflow_jax.observations.problem import problem_of as problem_of
from gradflow_jax.dynamics.inner_products import Products as Products
from gradflow_jax.scores.rank_agreement import Agreement as Agreement
from gradflow_jax.scores.rank_agreement import agreement as agreement
from gradflow_jax.scores.rank_agreement import kendall as kendall
from gradflow_jax.scores.rank_agreement import spearman as spearman
from gradflow_jax.scores.rank_agreement import top_overlap as top_overlap
from gradflow_jax.dynamics.rates import NormRates as NormRates
from gradflow_jax.dynamics.rates import Rates as Rates
from gradflow_jax.dynamics.rates import measured_rates as measured_rates
from gradflow_jax.dynamics.rates import predicted_rates as predicted_rates
from gradflow_jax.dynamics.recording import Recorder as Recorder
from gradflow_jax.connectivity.report import DeadUnits as DeadUnits
from gradflow_jax.connectivity.report import EffectiveReport as EffectiveReport
from gradflow_jax.connectivity.report import effective_report as effective_report
from gradflow_jax.masks.sanity_checks import invert_scores as invert_scores
from gradflow_jax.masks.sanity_checks import shuffle_labels as shuffle_labels
from gradflow_jax.masks.sanity_checks import shuffle_masks as shuffle_masks
from gradflow_jax.masks.sanity_checks import shuffle_pixels as shuffle_pixels
from gradflow_jax.observations.second_order import (
    increasing_gradient_norm_raises_loss as increasing_gradient_norm_raises_loss,
)
from gradflow_jax.observations.second_order import (
    preserving_gradient_norm_is_better as preserving_gradient_norm_is_better,
)
from gradflow_jax.observations.study import SeededRun as SeededRun
from gradflow_jax.observations.study import Study as Study
from gradflow_jax.dynamics.tracking import TrackState as TrackState
from gradflow_jax.dynamics.tracking import track as track
from gradflow_jax.dynamics.tracking import tracked as tracked
from gradflow_jax.dynamics.trajectory import Trajectory as Trajectory
