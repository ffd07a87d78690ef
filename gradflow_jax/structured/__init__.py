"""Whole channels: units found in a model's program, proved, and physically cut.

    finding       a model's units, from its program
    units         what was found: families of units, refused axes, sizes, FLOPs
    plans         what a keep set does to axes, masks and biases
    families      a family: the slices of leaves that go together
    grouping      makes families of coupled axes
    alignment     whose leaf of the model a leaf of another tree is
    sums          sums over the weights of each unit
    scoring       scores of units, by each measure's rule
    choosing      which units stay within a budget
    composing     a cut after a cut as one
    cutting       takes units out of params, optimizer states and masks
    shrinking     models that run at the widths that are left
    saving        a cut on disk
    latency       the time of a forward pass
    coupling/     which axes go together: the rules of primitives, unification
    proof/        whether removing is masking: what removed slices hold
    running/      the program, linen and NNX modules at other widths

Imports `trees`, `programs`, `scores` and `masks`. To add the rule of a primitive, open
`coupling` (and `proof`, `running` where its parameters hold shapes); to support a layer
whose attributes hold widths, open `running/linen_widths` or `running/nnx_widths`.
"""

from gradflow_jax.programs.rules import register_rule as register_rule
from gradflow_jax.structured.choosing import choose_units as choose_units
from gradflow_jax.structured.composing import compose_keep as compose_keep
from gradflow_jax.structured.composing import kept_indices as kept_indices
from gradflow_jax.structured.coupling.pointwise import elementwise as elementwise
from gradflow_jax.structured.cutting import cut as cut
from gradflow_jax.structured.families import Family as Family
from gradflow_jax.structured.finding import find_units as find_units
from gradflow_jax.structured.latency import forward_time as forward_time
from gradflow_jax.structured.saving import SavedCut as SavedCut
from gradflow_jax.structured.saving import load_cut as load_cut
from gradflow_jax.structured.saving import save_cut as save_cut
from gradflow_jax.structured.scoring import score_units as score_units
from gradflow_jax.structured.shrinking import Shrunk as Shrunk
from gradflow_jax.structured.shrinking import cut_error as cut_error
from gradflow_jax.structured.shrinking import shrink as shrink
from gradflow_jax.structured.sums import sum_over_units as sum_over_units
from gradflow_jax.structured.units import Units as Units
