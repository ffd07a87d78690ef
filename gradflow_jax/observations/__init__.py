"""Evaluates the paper's five observations on any classifier.

    problem    a classifier and its images, of any framework
    model_functions  its functions (init, apply), of a module
    fitting    the loop of training, and the order of batches
    study      networks of several seeds, trained, pruned and fine-tuned
    runs       what a study returns of each seed
    arguments  lists, seeds, functions and arrays, checked
    findings   a mean, an interval and a verdict
    averages   means and deviations over seeds
    first      larger weights converge faster
    second     loss preservation removes the slowest weights
    third      with heuristics, magnitude preserves the loss
    fourth     increasing the gradient norm raises the loss
    fifth      preserving the gradient norm beats increasing it
    all_five   evaluates them all

Imports what scores, prunes and trains; `plotting` and `experiments` import it. To add
an observation, give it a file with a function of a `Study` and its runs, and a row in
`all_five`.

## On your model

The paper explains by gradient flow why some measures prune better, in five observations.
`observe` tests them on any classifier, with verdicts of intervals over seeds that may go
against the paper. `problem_of` makes the problem of a linen module, of a class of NNX or
Equinox modules, or of a pair of functions:

>>> import numpy as np
>>> from flax import linen as nn
>>> import gradflow_jax as gf
>>> class MyModule(nn.Module):
...     @nn.compact
...     def __call__(self, x):
...         return nn.Dense(3)(nn.tanh(nn.Dense(8)(x)))
>>> images = np.random.default_rng(0).normal(size=(96, 5)).astype(np.float32)
>>> labels = np.arange(96) % 3
>>> problem = gf.observations.problem_of(MyModule(), images, labels)
>>> study = gf.observations.Study(problem, steps=20, moments=2, finetuning=10)
>>> runs = study.runs(range(2))  # networks of two seeds, trained
>>> first = gf.observations.larger_weights_converge_faster(study, runs)
>>> print(first.findings[0])
keeping the k largest weights, the loss is smaller than keeping the k smallest: ...

`print(gf.observations.observe(study))` evaluates all five on five seeds, in half a minute
or more. `gradflow-jax observe` does the same on scikit-learn's digits.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.observations.all_five import Observations as Observations
from gradflow_jax.observations.all_five import observe as observe
from gradflow_jax.observations.fifth import (
    PreservingGradientNorm as PreservingGradientNorm,
)
from gradflow_jax.observations.fifth import (
    preserving_gradient_norm_is_better as preserving_gradient_norm_is_better,
)
from gradflow_jax.observations.findings import Finding as Finding
from gradflow_jax.observations.findings import finding as finding
from gradflow_jax.observations.first import LargerWeights as LargerWeights
from gradflow_jax.observations.first import (
    larger_weights_converge_faster as larger_weights_converge_faster,
)
from gradflow_jax.observations.fitting import draw_batches as draw_batches
from gradflow_jax.observations.fitting import fit as fit
from gradflow_jax.observations.fourth import (
    IncreasingGradientNorm as IncreasingGradientNorm,
)
from gradflow_jax.observations.fourth import (
    increasing_gradient_norm_raises_loss as increasing_gradient_norm_raises_loss,
)
from gradflow_jax.observations.problem import Problem as Problem
from gradflow_jax.observations.problem import problem_of as problem_of
from gradflow_jax.observations.runs import SeededRun as SeededRun
from gradflow_jax.observations.second import SlowWeights as SlowWeights
from gradflow_jax.observations.second import (
    loss_preservation_removes_the_slowest as loss_preservation_removes_the_slowest,
)
from gradflow_jax.observations.study import Study as Study
from gradflow_jax.observations.third import PreservingMagnitude as PreservingMagnitude
from gradflow_jax.observations.third import (
    magnitude_preserves_loss as magnitude_preserves_loss,
)

__all__ = _exported_names(globals())
