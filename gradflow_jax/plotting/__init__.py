"""Plots: functions of (Axes, data) that return what they drew; no computation.

    drawable        checks of what is to be drawn
    curves          accuracy against sparsity
    training        losses, accuracies and correlations over epochs
    layers          sparsities and pruned shares by layer
    distributions   histograms of scores
    matrices        how alike measures rank
    pictures        masks as pictures
    predictions     what a theory predicts over time, beside what was measured
    recovery        loss against gradient norm
    observations    the paper's five observations

Needs matplotlib. Imports what its arguments are made of; `experiments` imports it.
To add a plot, write a function of (Axes, data) in the file of its subject; it computes
nothing and opens no window.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.plotting import observations as observations
from gradflow_jax.plotting.curves import Curve as Curve
from gradflow_jax.plotting.curves import (
    accuracy_against_sparsity as accuracy_against_sparsity,
)
from gradflow_jax.plotting.curves import look as look
from gradflow_jax.plotting.distributions import score_histograms as score_histograms
from gradflow_jax.plotting.layers import DrawnLayers as DrawnLayers
from gradflow_jax.plotting.layers import LayerShares as LayerShares
from gradflow_jax.plotting.layers import pruned_by_layer as pruned_by_layer
from gradflow_jax.plotting.layers import sparsity_by_layer as sparsity_by_layer
from gradflow_jax.plotting.matrices import DrawnMatrix as DrawnMatrix
from gradflow_jax.plotting.matrices import correlation_matrix as correlation_matrix
from gradflow_jax.plotting.pictures import mask_picture as mask_picture
from gradflow_jax.plotting.predictions import (
    DrawnPredictionCheck as DrawnPredictionCheck,
)
from gradflow_jax.plotting.predictions import PredictionCheck as PredictionCheck
from gradflow_jax.plotting.predictions import (
    measured_and_predicted as measured_and_predicted,
)
from gradflow_jax.plotting.recovery import DrawnRecovery as DrawnRecovery
from gradflow_jax.plotting.recovery import Recovery as Recovery
from gradflow_jax.plotting.recovery import (
    loss_against_gradient_norm as loss_against_gradient_norm,
)
from gradflow_jax.plotting.training import DrawnCurve as DrawnCurve
from gradflow_jax.plotting.training import EpochCurve as EpochCurve
from gradflow_jax.plotting.training import (
    correlations_over_epochs as correlations_over_epochs,
)
from gradflow_jax.plotting.training import training_curves as training_curves

__all__ = ["observations", *_exported_names(globals())]
