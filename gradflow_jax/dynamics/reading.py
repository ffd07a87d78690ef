"""Reads from an optimizer's state what was tracked inside of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradflow_jax.dynamics.evolution import Evolution, evolution_of
from gradflow_jax.dynamics.tracking import TrackState
from gradflow_jax.structured.units import Units, check_units
from gradflow_jax.trees import Params, describe, fetch, is_traced
from gradflow_jax.trees.names import routed_leaves


def tracked(
    opt_state: optax.OptState, params: Params, *, units: Units | None = None
) -> Evolution:
    """Returns what `track` has tracked so far.

    Args:
        opt_state: the optimizer's state, for Flax NNX `optimizer.opt_state`.
        params: the parameters, whose leaves lend their names.
        units: those that `track` was given.

    Returns:
        The evolution, each sample at the sum of the learning rates before it.

    Raises:
        TypeError: for units that are none, or a state that is traced.
        ValueError: if the state holds no samples, those of other params or units, or
            what `track` did not make.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> tx = gf.dynamics.track(lambda w: jnp.sum(w**2))
        >>> w = jnp.array([3.0])
        >>> _, state = tx.update(w, tx.init(w), w, loss_args=())
        >>> gf.dynamics.tracked(state, w).loss.tolist()
        [9.0]
    """
    check_units(units, optional=True)
    track_states = [
        # Flax NNX keeps each of a state's arrays in a variable, which this takes away.
        _state_of([leaf for _, leaf in routed_leaves(state)])
        for _, state in routed_leaves(
            opt_state, is_leaf=lambda node: isinstance(node, TrackState)
        )
        if isinstance(state, TrackState)
    ]
    if not track_states:
        raise ValueError(
            "opt_state holds no samples: make the optimizer by "
            "optax.chain(tx, gf.dynamics.track(loss_fn))."
        )
    state = fetch(track_states[0], "opt_state")
    count = int(state.size)
    sets = len(routed_leaves(params)) + sum(family.size for family in units or ())
    if (held := state.products.shape[-1]) != sets:
        raise ValueError(
            f"the state holds samples of {held} leaves and units, but params and units "
            f"have {sets}: pass those that were tracked."
        )
    if not count:
        raise ValueError("nothing was tracked yet: call tx.update first.")
    samples = zip(state.loss[:count], state.products[:count], strict=True)
    return evolution_of(state.times[:count], list(samples), params, units)


def _state_of(leaves: list[Any]) -> TrackState:
    """Returns the state of which these are the arrays.

    Raises:
        TypeError: if one is traced.
        ValueError: if they are not as `track` made them.
    """
    if any(map(is_traced, leaves)):
        raise TypeError(
            "opt_state is traced by jax.jit or a like transformation, and the samples "
            "are read by name: return the state and read it outside."
        )
    axes = [getattr(leaf, "ndim", None) for leaf in leaves]
    are_numbers = all(
        isinstance(leaf, (jax.Array, np.ndarray))
        and jnp.issubdtype(leaf.dtype, jnp.number)
        for leaf in leaves
    )
    if not are_numbers or axes != [0, 0, 0, 0, 0, 1, 1, 1, 3]:
        raise ValueError(
            "opt_state holds a TrackState that gf.dynamics.track did not make, of "
            f"{', '.join(map(describe, leaves))}: pass the state that tx.update "
            "returned."
        )
    return TrackState(*leaves)
