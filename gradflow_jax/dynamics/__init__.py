"""Gradient flow, dθ/dt = −∇L(θ): what it does, and what pruning does to it.

    flow             integrates it
    descent          its discrete twin
    trajectory       what both return
    loss_calls       how they and the others call a loss: its batches, its aux
    options          checks of the options that several of them take
    clock            the time of training: the sum of the times of its steps
    inner_products   of θ, g and Hg, of leaves and of units
    evolution        evaluates them along a trajectory
    rates            their predicted and measured derivatives in time
    tracking         follows them in training, as a link of an optax chain
    reading          reads what the link tracked
    recording        follows them in training, from outside of the step
    effects          what removing weights does, beside what scores predict

Imports `trees`, `scores`, `masks`, `structured` and `transforms`. To follow another
quantity, add it to `inner_products.Products`; the others evaluate what stands there.

## Followed

The measures speak of gradient flow. `gf.dynamics.gradient_flow` integrates it to a
tolerance (`pip install 'gradflow-jax[flow]'`), up to a loss if you name one; `follow`
evaluates L, ‖θ‖², ‖g‖², θᵀg, θᵀHg and gᵀHg along it, of the model, of each leaf and of
each unit of `find_units`, and the rates that the identities predict stand beside those
that are seen:

>>> import jax, jax.numpy as jnp, optax
>>> import gradflow_jax as gf
>>> draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
>>> def loss_fn(params, x, y):
...     return jnp.mean((jnp.tanh(x @ params["in"]) @ params["out"] - y) ** 2)
>>> params = {"in": draw(6, 8, 4), "out": draw(7, 4, 1)}
>>> data = draw(8, 64, 8), draw(9, 64, 1)
>>> run = gf.dynamics.gradient_flow(loss_fn)(params, jnp.linspace(0, 0.2, 9), *data)
>>> evolution = gf.dynamics.follow(loss_fn)(run, *data)
>>> predicted = gf.dynamics.predicted_rates(evolution)  # dL/dt = −‖g‖², and others
>>> measured = gf.dynamics.measured_rates(evolution)  # finite differences
>>> bool(jnp.allclose(measured.loss, predicted.loss, rtol=1e-3))
True

## Tracked in training

In training an optax link tracks the same. A tracked step costs two to three gradients
more, the others nothing, and the memory stays that of `capacity` samples however long the
run:

>>> tracker = gf.dynamics.track(loss_fn, every=10, learning_rate=0.1)
>>> tx = optax.chain(optax.sgd(0.1), tracker)
>>> state = tx.init(params)
>>> for _ in range(20):
...     grads = jax.grad(loss_fn)(params, *data)
...     updates, state = tx.update(grads, state, params, loss_args=data)
...     params = optax.apply_updates(params, updates)
>>> evolution = gf.dynamics.tracked(state, params)
>>> evolution.times.tolist(), evolution.leaves["in"].theta_g.shape
([0.0, 1.0], (2,))

`Recorder` is the same as a plain call in any loop, outside of the compiled step: on the
CPU, where XLA is tens of times slower at a convolution's gradient in a branch or a loop,
record networks for images so; their flow is as slow.

## What pruning does

`removal_effects` compares what scores predict of a mask with what it does to loss and
gradient norm, and `convergence_order` measures how the error falls as weights are removed
by little.
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
from gradflow_jax.dynamics.reading import tracked as tracked
from gradflow_jax.dynamics.recording import Recorder as Recorder
from gradflow_jax.dynamics.tracking import TrackState as TrackState
from gradflow_jax.dynamics.tracking import track as track
from gradflow_jax.dynamics.trajectory import Trajectory as Trajectory
from gradflow_jax.exports import exported_names as _exported_names

__all__ = _exported_names(globals())
