"""Trees of parameters: names of leaves, which are prunable, checks, dtypes.

A leaf is named by its path, `"conv1/kernel"`, in dicts, lists, NamedTuples,
dataclasses, Flax and Equinox modules alike.

    types          what trees hold: `Params`, `Scores`, `Masks`, `Allocation`, any `ArrayTree`
    names          paths of leaves, and maps over them
    dtypes         what numbers a leaf holds, in words and in the width that sums need
    mirroring      which leaf of a model a leaf of another tree mirrors, and packed masks
    roles          which axes of a leaf are summed over, from roles or Flax's convention
    prunable       which leaves are pruned: by default, and but for those ignored
    fetching       values of arrays, also where processes share them
    keys           one key of random numbers, or an error
    flax_objects   what is an object of Flax, told without importing Flax in vain
    mistaken       refuses a module or a function in place of a tree
    trained        parameters, told from what frameworks keep beside them
    checks         errors that name the leaf, the value found and the remedy
    numbers        numbers and bools that are options, and lists of numbers, checked

Every room imports this one; it imports none. To add a check that two rooms need, open
`checks`.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.trees.checks import aligned_leaves as aligned_leaves
from gradflow_jax.trees.checks import check_finite as check_finite
from gradflow_jax.trees.checks import check_floating as check_floating
from gradflow_jax.trees.checks import check_masks as check_masks
from gradflow_jax.trees.checks import mask_leaves as mask_leaves
from gradflow_jax.trees.dtypes import describe as describe
from gradflow_jax.trees.dtypes import is_numeric as is_numeric
from gradflow_jax.trees.dtypes import is_real_floating as is_real_floating
from gradflow_jax.trees.dtypes import is_traced as is_traced
from gradflow_jax.trees.dtypes import widen as widen
from gradflow_jax.trees.fetching import fetch as fetch
from gradflow_jax.trees.flax_objects import is_linen_module as is_linen_module
from gradflow_jax.trees.flax_objects import is_nnx_module as is_nnx_module
from gradflow_jax.trees.flax_objects import is_nnx_state as is_nnx_state
from gradflow_jax.trees.keys import check_key as check_key
from gradflow_jax.trees.names import label as label
from gradflow_jax.trees.names import map_named as map_named
from gradflow_jax.trees.names import named_leaves as named_leaves
from gradflow_jax.trees.numbers import check_number as check_number
from gradflow_jax.trees.numbers import checked_fraction as checked_fraction
from gradflow_jax.trees.numbers import checked_whole_number as checked_whole_number
from gradflow_jax.trees.numbers import real_array as real_array
from gradflow_jax.trees.prunable import Patterns as Patterns
from gradflow_jax.trees.prunable import Prunable as Prunable
from gradflow_jax.trees.prunable import default_prunable as default_prunable
from gradflow_jax.trees.prunable import match_paths as match_paths
from gradflow_jax.trees.prunable import prunable_flags as prunable_flags
from gradflow_jax.trees.trained import check_trained as check_trained
from gradflow_jax.trees.types import Allocation as Allocation
from gradflow_jax.trees.types import AnyTree as AnyTree
from gradflow_jax.trees.types import ArrayTree as ArrayTree
from gradflow_jax.trees.types import Axes as Axes
from gradflow_jax.trees.types import Masks as Masks
from gradflow_jax.trees.types import Params as Params
from gradflow_jax.trees.types import Roles as Roles
from gradflow_jax.trees.types import Scores as Scores

__all__ = _exported_names(globals())
