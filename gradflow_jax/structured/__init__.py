"""Whole channels: units found in a model's program, proved, and physically cut."""

from gradflow_jax.structured.choosing import choose_units as choose_units
from gradflow_jax.structured.composing import compose_keep as compose_keep
from gradflow_jax.structured.composing import kept_indices as kept_indices
from gradflow_jax.structured.coupling.pointwise import elementwise as elementwise
from gradflow_jax.structured.cutting import cut as cut
from gradflow_jax.structured.families import Family as Family
from gradflow_jax.structured.finding import find_units as find_units
from gradflow_jax.structured.finding import register_rule as register_rule
from gradflow_jax.structured.latency import forward_time as forward_time
from gradflow_jax.structured.saving import SavedCut as SavedCut
from gradflow_jax.structured.saving import load_cut as load_cut
from gradflow_jax.structured.saving import save_cut as save_cut
from gradflow_jax.structured.scoring import score_units as score_units
from gradflow_jax.structured.shrinking import Shrunk as Shrunk
from gradflow_jax.structured.shrinking import cut_error as cut_error
from gradflow_jax.structured.shrinking import shrink as shrink
from gradflow_jax.structured.units import Units as Units
