"""Whole channels: units found in a model's program, proved, and physically cut.

    finding       a model's units, from its program
    units         what was found: families of units, refused axes, sizes, FLOPs
    plans         what a keep set does to axes, masks and biases
    families      a family: the slices of leaves that go together
    grouping      makes families of coupled axes
    alignment     refuses trees whose leaves mirror none of the model
    sums          sums over the weights of each unit
    scoring       scores of units, by each measure's rule
    choosing      which units stay within a budget
    composing     a cut after a cut as one
    cutting       takes units out of params, optimizer states and masks
    shrinking     models that run at the widths that are left
    checking      whether a cut model computes what the masked one does
    latency       the time of a forward pass
    roles/        what each axis of each leaf is: summed over, an output, a head
    coupling/     which axes go together: the rules of primitives, unification
    proof/        whether removing is masking: what removed slices hold
    running/      the program, linen and NNX modules at other widths
    saving/       a cut on disk

Imports `trees`, `programs`, `scores` and `masks`. To add the rule of a primitive, open
`coupling` (and `proof`, `running` where its parameters hold shapes); to support a layer
whose attributes hold widths, open `running/linen_widths` or `running/nnx_widths`.

## Whole channels

A mask saves no time: the zeros are computed with. `cut` removes filters, neurons, heads
and residual channels from the arrays, and what is left runs faster: a VGG-13 with half of
its channels gone 6.6 times at batch 16 on two CPU cores, a ResNet-56 1.9 times; the
masked ones as fast as the dense ones.

>>> import jax, jax.numpy as jnp, optax
>>> from flax import linen as nn
>>> import gradflow_jax as gf
>>> x = jnp.zeros((16, 32, 32, 3))
>>> class Net(nn.Module):
...     @nn.compact
...     def __call__(self, x, train):
...         x = nn.Conv(32, (3, 3), strides=2)(x)
...         x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
...         x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
...         return nn.Dense(10)(x.reshape(len(x), -1))
>>> net = Net()
>>> variables = net.init(jax.random.key(0), x, train=False)
>>> units = gf.find_units(net, variables, x, train=False)  # traced, not computed
>>> print(units)
family                   units  made by  goes with
params/Conv_0/kernel[3]     32  1 leaf   6 others
params/Conv_1/kernel[3]     64  1 leaf   2 others
96 units in 2 families
>>> print(units.explain("params/Dense_0/kernel"))
params/Dense_0/kernel float32[4096,10]
  axis 0 of 4096: 64 units of params/Conv_1/kernel[3], which are removed with
  params/Conv_1/bias[0], params/Conv_1/kernel[3]
    its other part stays: a convolution slides along it (...)
  axis 1 of 10: cannot be cut: it is an axis of the model's output
>>> scores = gf.score_units(variables["params"], units)  # by magnitude
>>> keep = gf.choose_units(scores, units, sparsity=0.5, budget="flops", round_to=8)
>>> small = gf.shrink(net, units, keep)
>>> weights = gf.cut(variables, units, keep)
>>> tx = optax.adam(1e-3)
>>> state = gf.cut(tx.init(variables["params"]), units, keep)  # training goes on
>>> small(weights, x).shape, units.flops(keep) <= 0.5 * units.flops()
((16, 10), True)
>>> gf.cut_error(variables, units, keep, x) < 1e-5  # against the masked model
True

- `find_units` takes a function `apply(variables, *inputs)`, a linen or an NNX module, and
  arrays or shapes. It reads the model's jaxpr, so no layer needs a rule: flattening,
  concatenations, residual streams, grouped convolutions, attention heads and head
  dimensions, gated and fused projections, tied embeddings, recurrent cells and layers
  under `scan` follow from the equations, and so do the channels of graph networks. ResNet-50 and a 24-layer transformer take a
  second.
- A family of units is offered only where removing it is proved to be masking it:
  constants are pushed through the program, and every sum must add zeros. What is refused
  says why and at which line. `leaks="fold"` also offers units that leave a constant,
  sigmoid(0) = ½, which the cut adds to the next bias. Trace the model in eval mode.
- `score_units` scores by each measure's own rule, from `gf.differentiate`, over the
  weights that make a unit or all that go with it; by batch-norm scale or Taylor, over
  the normalizations that it passes. `choose_units` ranks globally, by
  family or among families of equal structure, under floors (`floor=0.05` is the paper's),
  multiples (odd widths can be slower than wider ones) and budgets of units, parameters,
  FLOPs or `gf.structured.forward_time`, measured.
- `cut` cuts variables, any optax state, masks, averages and initial weights; `shrink`
  gives the model to run them. An NNX module comes back from either with its attributes
  changed, from `shrink` with a proof that its code computes the same. The
  model's own code runs where, traced at the new widths, it is the program that the cut
  predicts, number by number; where Python computed from a width (1/√d, a mean over
  channels) the recorded program runs instead, exactly as the masked model
  (`small.native`, `small.why`). If your module takes its widths as arguments,
  `units.widths(keep)` has them, and it runs the cut weights by itself.
- `gf.structured.axis_roles` reads from the same program what each axis of each leaf is:
  an input, an output, a head, a window, a layer of a stack, a group. `gf.n_of_m_masks`,
  `gf.erdos_renyi` and `gf.score` take it as `roles=`.
- `gf.cut_error` compares a cut with the masked model on a batch;
  `gf.structured.check_cut` refuses outputs that differ by more than rounding.
- `recalibrate` measures the running statistics of batch norms anew, on data: they lag
  behind a mask or a cut, by hundreds of steps at momentum 0.99. Do it before the network
  is evaluated or fine-tuned.
- `save_cut` and `load_cut` (`pip install 'gradflow-jax[saving]'`) keep the weights and
  which original units they are, in one safetensors file that is refused if a byte of it
  is another; the full weights are not needed again.
  `gf.structured.compose_keep` makes one cut of several.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.programs.rules import register_rule as register_rule
from gradflow_jax.structured.checking import check_cut as check_cut
from gradflow_jax.structured.checking import cut_error as cut_error
from gradflow_jax.structured.choosing import choose_units as choose_units
from gradflow_jax.structured.composing import compose_keep as compose_keep
from gradflow_jax.structured.composing import kept_indices as kept_indices
from gradflow_jax.structured.coupling.pointwise import elementwise as elementwise
from gradflow_jax.structured.cutting import cut as cut
from gradflow_jax.structured.families import Family as Family
from gradflow_jax.structured.finding import find_units as find_units
from gradflow_jax.structured.latency import forward_time as forward_time
from gradflow_jax.structured.roles import axis_roles as axis_roles
from gradflow_jax.structured.running.recalibration import recalibrate as recalibrate
from gradflow_jax.structured.saving.cut_files import SavedCut as SavedCut
from gradflow_jax.structured.saving.cut_files import load_cut as load_cut
from gradflow_jax.structured.saving.cut_files import save_cut as save_cut
from gradflow_jax.structured.scoring import score_units as score_units
from gradflow_jax.structured.shrinking import Shrunk as Shrunk
from gradflow_jax.structured.shrinking import shrink as shrink
from gradflow_jax.structured.sums import sum_over_units as sum_over_units
from gradflow_jax.structured.units import Units as Units

__all__ = _exported_names(globals())
