"""Plots: functions of (Axes, data) that return what they drew; no computation."""

from gradflow_jax.plotting.curves import Curve as Curve
from gradflow_jax.plotting.curves import (
    accuracy_against_sparsity as accuracy_against_sparsity,
)
from gradflow_jax.plotting.training import DrawnCurve as DrawnCurve
from gradflow_jax.plotting.training import EpochCurve as EpochCurve
from gradflow_jax.plotting.training import LayerShares as LayerShares
from gradflow_jax.plotting.training import (
    correlations_over_epochs as correlations_over_epochs,
)
from gradflow_jax.plotting.training import pruned_by_layer as pruned_by_layer
from gradflow_jax.plotting.training import training_curves as training_curves
