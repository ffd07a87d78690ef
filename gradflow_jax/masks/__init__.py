"""Which weights stay: pytrees of bool with the tree of params, True keeps.

    thresholding    keeps the highest scores: globally, by layer, by group of layers
    ranking         the same of the flagged leaves of a tree, by groups
    ties            what equal scores left to positions, and a warning of it
    allocation      how many weights each layer keeps
    random_graphs   the same by Erdős and Rényi's densities
    by_path         which leaves a path or a pattern takes
    keywords        errors that name a misplaced or misnamed argument
    algebra         applies, combines and compares masks
    packing         a bit a weight
    reports         what masks keep, and whether they hold
    layer_reports   that as a table
    counts          pruned weights that are not 0.0, and those kept by position
    tables          text in columns
    sanity_checks   what a method has to beat: shuffled masks, labels and pixels
    patterns/       N of every M weights along what is summed over
    selection/      the k highest of many scores, exactly, without a sort

Imports `trees` and `programs`. To add an allocation, return how many weights each leaf
keeps, beside `allocation.quotas`; to add a pattern or a sparse layout, open
`patterns/`.

## Which masks there are

`global_masks` ranks all prunable weights together, `group_masks` those of each family of
layers, named by a pattern, and `layerwise_masks` each leaf by itself, at one sparsity or
by an allocation: `erdos_renyi`, `erdos_renyi_kernel`, or `quotas` by name, and
`n_of_m_masks` keeps 2 of every 4. All of them take `floor=0.05`, which lets no layer lose
more than 95 %, and `previous=masks`, which lets no pruned weight return; a weight of
score −inf is never kept. `prune`, `combine`, `overlap` and `report` do what they say.

Kernels and embeddings are prunable. `ignore="head/*"`, a path, a shell pattern or
several, leaves out what it names. `prunable=lambda path, leaf: ...` replaces the rule;
most who write one mean

    prunable=lambda path, leaf: gf.default_prunable(path, leaf) and "head" not in path

since without the first half biases are pruned too. A path is its leaf, whatever signs
it holds; a pattern takes the prunable leaves that it matches.

Exactly the number asked for is kept, whatever ties there are: of equal scores the first.
Where that decided more than a handful, an `EqualScoresWarning` says how many, outside of
`jax.jit`, and `gf.report(masks, scores=scores)` always. `gf.report(masks, params)` says
whether pruned weights are 0.0 still.

What sums over inputs is told by `roles=gf.structured.axis_roles(model, params, x)`, which
patterns and Erdős–Rényi need where a shape does not say it: of attention, of layers under
scan, of Equinox's weights.

>>> import jax.numpy as jnp
>>> import gradflow_jax as gf
>>> params = {"dense": {"kernel": jnp.arange(1.0, 13).reshape(4, 3), "bias": jnp.ones(3)},
...           "head": {"kernel": jnp.arange(1.0, 7).reshape(3, 2)}}
>>> masks = gf.global_masks(gf.magnitude(params), sparsity=0.5)
>>> print(gf.report(masks))
leaf              shape  kept  of    sparsity
---------------------------------------------
dense/bias            3     3   3  not pruned
dense/kernel        4×3     8  12      33.33%
head/kernel         3×2     1   6      83.33%
---------------------------------------------
prunable weights            9  18      50.00%
all weights                12  21      42.86%
prunable: kernels and embeddings, the default
>>> gentler = gf.global_masks(gf.magnitude(params), sparsity=0.5, floor=0.5)
>>> int(gentler["head"]["kernel"].sum())  # half of the layer is safe
3
>>> int(gf.prune(params, masks)["head"]["kernel"].sum())  # 6 alone is left of 1 to 6
6

Masks as bools are a byte a weight; `pack_masks` and `unpack_masks` make bits of them, an
eighth of the memory. The masked optimizer of `transforms` holds either.

## Does it matter which weights are kept?

Whether a score tells more than how many weights each layer needs is checked by
`gf.masks.shuffle_masks(key, masks)`, within layers or over the network, and its
neighbors `invert_scores`, `shuffle_labels` and `shuffle_pixels`: a method that does not
beat them has found proportions of layers, not weights. The room `connectivity` says
which kept weights are on a path from input to output at all. The functions of
`gradflow_jax.plotting` draw all of this.

## What selection costs

Exact global masks take ten times as long as one read of the scores; a stable sort takes
210 times as long as they do. The threshold is found by counting, and of scores that lie
on several devices counts travel alone. `tests/benchmarks` has the figures.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.masks.algebra import combine as combine
from gradflow_jax.masks.algebra import overlap as overlap
from gradflow_jax.masks.algebra import prune as prune
from gradflow_jax.masks.allocation import quotas as quotas
from gradflow_jax.masks.layer_reports import LayerReport as LayerReport
from gradflow_jax.masks.layer_reports import Report as Report
from gradflow_jax.masks.packing import pack_masks as pack_masks
from gradflow_jax.masks.packing import unpack_masks as unpack_masks
from gradflow_jax.masks.patterns.n_of_m import n_of_m_masks as n_of_m_masks
from gradflow_jax.masks.random_graphs import erdos_renyi as erdos_renyi
from gradflow_jax.masks.random_graphs import erdos_renyi_kernel as erdos_renyi_kernel
from gradflow_jax.masks.reports import report as report
from gradflow_jax.masks.reports import sparsity as sparsity
from gradflow_jax.masks.sanity_checks import invert_scores as invert_scores
from gradflow_jax.masks.sanity_checks import shuffle_labels as shuffle_labels
from gradflow_jax.masks.sanity_checks import shuffle_masks as shuffle_masks
from gradflow_jax.masks.sanity_checks import shuffle_pixels as shuffle_pixels
from gradflow_jax.masks.thresholding import global_masks as global_masks
from gradflow_jax.masks.thresholding import group_masks as group_masks
from gradflow_jax.masks.thresholding import layerwise_masks as layerwise_masks
from gradflow_jax.masks.ties import EqualScoresWarning as EqualScoresWarning

__all__ = _exported_names(globals())
