"""Plots: functions of (Axes, data) that return what they drew; no computation."""

from gradflow_jax.plotting.curves import Curve as Curve
from gradflow_jax.plotting.curves import (
    accuracy_against_sparsity as accuracy_against_sparsity,
)
