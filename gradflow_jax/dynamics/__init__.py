"""Gradient flow, dθ/dt = −∇L(θ): what it does, and what pruning does to it.

    flow             integrates it
    descent          its discrete twin
    trajectory       what both return
    loss_calls       how they and the others call a loss: its batches, its aux
    inner_products   of θ, g and Hg, of leaves and of units
    evolution        evaluates them along a trajectory
    rates            their predicted and measured derivatives in time
    tracking         follows them in training, as a link of an optax chain
    recording        follows them in training, from outside of the step
    effects          what removing weights does, beside what scores predict

Imports `trees`, `scores`, `masks`, `structured` and `transforms`. To follow another
quantity, add it to `inner_products.Products`; the others evaluate what stands there.
"""

from gradflow_jax.dynamics.descent import gradient_descent as gradient_descent
from gradflow_jax.dynamics.effects import RemovalEffects as RemovalEffects
from gradflow_jax.dynamics.effects import convergence_order as convergence_order
from gradflow_jax.dynamics.effects import removal_effects as removal_effects
from gradflow_jax.dynamics.evolution import Evolution as Evolution
from gradflow_jax.dynamics.evolution import follow as follow
from gradflow_jax.dynamics.flow import gradient_flow as gradient_flow
from gradflow_jax.dynamics.inner_products import Products as Products
from gradflow_jax.dynamics.rates import NormRates as NormRates
from gradflow_jax.dynamics.rates import Rates as Rates
from gradflow_jax.dynamics.rates import measured_rates as measured_rates
from gradflow_jax.dynamics.rates import predicted_rates as predicted_rates
from gradflow_jax.dynamics.recording import Recorder as Recorder
from gradflow_jax.dynamics.tracking import TrackState as TrackState
from gradflow_jax.dynamics.tracking import track as track
from gradflow_jax.dynamics.tracking import tracked as tracked
from gradflow_jax.dynamics.trajectory import Trajectory as Trajectory
