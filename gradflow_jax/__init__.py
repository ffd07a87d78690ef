"""Functional pruning for JAX, on the gradient-flow view of Lubana & Dick (ICLR 2021).

    import gradflow_jax as gf

    loss_preservation = gf.loss_preservation(loss_fn)   # loss_fn(params, batch)
    scores = loss_preservation(params, batch)           # a tree like params
    masks = gf.global_masks(scores, sparsity=0.9)       # bool, True keeps
    tx = optax.chain(optax.adamw(1e-3), gf.apply_mask(masks))

A score says how much a weight matters: higher is kept, whatever a paper's sign. A mask
is a pytree of bool with the tree of params, True keeps. Pruning is score × allocation
× pattern, composed of functions. The rooms, each of which imports those above it:

    trees          names of leaves, what is prunable, checks
    programs       what every reader of a model's program needs
    scores         how much each weight matters
    masks          which weights stay
    structured     whole channels, found in a model's program and cut
    transforms     pruning as optax transformations
    dynamics       gradient flow followed and tracked, and what pruning does to it
    connectivity   which kept weights are on a path from input to output
    observations   the paper's five observations, on any classifier
    models         networks for experiments
    plotting       functions of (Axes, data)
    experiments    data, training, sweeps: what the `gradflow-jax` command runs
    cli            the command itself

At the top stand the functions that make scores and masks and put them to use: those of
`scores`, `masks` and `transforms`, and the verbs of `structured` from finding units to
saving what is left. The rest, and every class, is reached by its room:
`gf.dynamics.track`, `gf.structured.Units`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradflow_jax import cli as cli
    from gradflow_jax import connectivity as connectivity
    from gradflow_jax import dynamics as dynamics
    from gradflow_jax import experiments as experiments
    from gradflow_jax import masks as masks
    from gradflow_jax import models as models
    from gradflow_jax import observations as observations
    from gradflow_jax import plotting as plotting
    from gradflow_jax import programs as programs
    from gradflow_jax import scores as scores
    from gradflow_jax import structured as structured
    from gradflow_jax import transforms as transforms
    from gradflow_jax import trees as trees
    from gradflow_jax.masks import combine as combine
    from gradflow_jax.masks import erdos_renyi as erdos_renyi
    from gradflow_jax.masks import erdos_renyi_kernel as erdos_renyi_kernel
    from gradflow_jax.masks import global_masks as global_masks
    from gradflow_jax.masks import group_masks as group_masks
    from gradflow_jax.masks import layerwise_masks as layerwise_masks
    from gradflow_jax.masks import n_of_m_masks as n_of_m_masks
    from gradflow_jax.masks import overlap as overlap
    from gradflow_jax.masks import pack_masks as pack_masks
    from gradflow_jax.masks import prune as prune
    from gradflow_jax.masks import quotas as quotas
    from gradflow_jax.masks import report as report
    from gradflow_jax.masks import sparsity as sparsity
    from gradflow_jax.masks import unpack_masks as unpack_masks
    from gradflow_jax.scores import batch_norm_scale as batch_norm_scale
    from gradflow_jax.scores import batch_norm_taylor as batch_norm_taylor
    from gradflow_jax.scores import biased_loss_preservation as biased_loss_preservation
    from gradflow_jax.scores import differentiate as differentiate
    from gradflow_jax.scores import first_order_terms as first_order_terms
    from gradflow_jax.scores import fisher as fisher
    from gradflow_jax.scores import gradient_norm_increase as gradient_norm_increase
    from gradflow_jax.scores import (
        gradient_norm_preservation as gradient_norm_preservation,
    )
    from gradflow_jax.scores import grasp as grasp
    from gradflow_jax.scores import loss_preservation as loss_preservation
    from gradflow_jax.scores import magnitude as magnitude
    from gradflow_jax.scores import over_batches as over_batches
    from gradflow_jax.scores import random as random
    from gradflow_jax.scores import score as score
    from gradflow_jax.scores import score_all as score_all
    from gradflow_jax.scores import taylor as taylor
    from gradflow_jax.structured import choose_units as choose_units
    from gradflow_jax.structured import cut as cut
    from gradflow_jax.structured import cut_error as cut_error
    from gradflow_jax.structured import find_units as find_units
    from gradflow_jax.structured import load_cut as load_cut
    from gradflow_jax.structured import recalibrate as recalibrate
    from gradflow_jax.structured import save_cut as save_cut
    from gradflow_jax.structured import score_units as score_units
    from gradflow_jax.structured import shrink as shrink
    from gradflow_jax.transforms import apply_mask as apply_mask
    from gradflow_jax.transforms import masks_of as masks_of
    from gradflow_jax.transforms import replace_masks as replace_masks
    from gradflow_jax.trees import default_prunable as default_prunable

__version__ = "0.1.0"

_ROOMS = (
    "connectivity",
    "dynamics",
    "masks",
    "models",
    "observations",
    "programs",
    "scores",
    "structured",
    "transforms",
    "trees",
)
# These are reached as attributes too, but not listed: who lists an attribute may ask
# for it, as `help` does, and these import packages of the extras.
_ROOMS_OF_EXTRAS = ("cli", "experiments", "plotting")
_NAMES_OF = {
    "masks": """
        combine erdos_renyi erdos_renyi_kernel global_masks group_masks
        layerwise_masks n_of_m_masks overlap pack_masks prune quotas report
        sparsity unpack_masks
    """,
    "scores": """
        batch_norm_scale batch_norm_taylor biased_loss_preservation
        differentiate first_order_terms fisher gradient_norm_increase
        gradient_norm_preservation grasp loss_preservation magnitude
        over_batches random score score_all taylor
    """,
    "structured": """
        choose_units cut cut_error find_units load_cut recalibrate save_cut
        score_units shrink
    """,
    "transforms": "apply_mask masks_of replace_masks",
    "trees": "default_prunable",
}
# Names that people try here, and where what they mean is.
_PLACE_OF = {
    "apply": "prune(params, masks)",
    "axis_roles": "structured.axis_roles",
    "check_masks": "report(masks, params).violations",
    "observe": "observations.observe",
    "problem_of": "observations.problem_of",
    "snip": "loss_preservation",
    "track": "dynamics.track",
}
_ROOM_OF = {name: room for room, names in _NAMES_OF.items() for name in names.split()}

# Type checkers do not see this: any name would be one that `__getattr__` finds.
if not TYPE_CHECKING:
    __all__ = [*_ROOM_OF, *_ROOMS]

    def __getattr__(name):
        """Imports what a name stands for when it is first asked for.

        So the help of the command, which needs the version alone, is there before JAX
        would be.
        """
        if name in _ROOM_OF:
            value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
        elif name in _ROOMS or name in _ROOMS_OF_EXTRAS:
            value = import_module(f"{__name__}.{name}")
        else:
            # Python itself adds a name that is spelled like it.
            place = f"; see gf.{_PLACE_OF[name]}" if name in _PLACE_OF else ""
            raise AttributeError(
                f"module {__name__!r} has no attribute {name!r}{place}"
            )
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*__all__, *(name for name in globals() if name[:2] == "__")})
