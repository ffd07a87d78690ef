"""Scores weights without a gradient: by magnitude, batch-norm scale, or chance."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from gradflow_jax.programs.parameters import params_of
from gradflow_jax.scores.normalization import ChannelScores, channel_scores
from gradflow_jax.trees import (
    Params,
    Prunable,
    Scores,
    check_floating,
    check_key,
    widen,
)


def magnitude(params: Params) -> Scores:
    """Scores each weight by |θ|: the smallest weights matter least.

    When to use it: first, always; it costs nothing and is hard to beat after
    training. Magnitude-pruned networks train fastest right after pruning, since
    removing small weights moves the network least (Lubana & Dick, observation 1).
    The trap is global ranking of layers whose weights have different scales, with or
    without normalization: look at `gf.report(masks)` for layers that vanish.

    Args:
        params: a pytree of real floating-point arrays, or an `nnx.Module`, whose
            `nnx.Param`s are scored.

    Returns:
        Scores: a tree like params, float32 at least, non-negative, in units of θ.

    Raises:
        TypeError: if a leaf is not a real floating-point array.
        ValueError: if there is no leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> gf.magnitude({"kernel": jnp.array([[-3.0, 0.5]])})["kernel"].tolist()
        [[3.0, 0.5]]

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural
        Networks, NeurIPS 2015. Of a filter: its 2-norm (`gf.score` with `roles`).
    """
    params = params_of(params)
    check_floating(params, "params")
    return jax.tree.map(lambda leaf: jnp.abs(widen(leaf)), params)


def random(key: chex.PRNGKey) -> Callable[..., Scores]:
    """Scores each weight by chance: the baseline every measure has to beat.

    With `gf.global_masks` every layer loses about the same share. A measure that does
    no better than random scores *at equal sparsity per layer* has told which layers to
    prune, not which weights.

    Args:
        key: `jax.random.key(seed)`. The same key gives the same scores.

    Returns:
        A function `(params, *args, **kwargs) -> scores` of a tree or an `nnx.Module`,
        which looks at nothing but the shapes of params: independent uniform numbers in
        [0, 1), no unit, in a tree like params.

    Raises:
        TypeError: for what is no key; at scoring, if a leaf is not a real
            floating-point array.
        ValueError: at scoring, if there is no leaf.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scores = gf.random(jax.random.key(0))({"kernel": jnp.ones((2, 3))})
        >>> scores["kernel"].shape
        (2, 3)
    """
    check_key(key)

    def random(params: Params, *args: Any, **kwargs: Any) -> Scores:
        del args, kwargs
        params = params_of(params)
        check_floating(params, "params")
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        return structure.unflatten(
            jax.random.uniform(leaf_key, jnp.shape(leaf), widen(leaf).dtype)
            for leaf_key, leaf in zip(keys, leaves, strict=True)
        )

    return random


def batch_norm_scale(
    params: Params,
    *,
    prunable: Prunable | None = None,
    names: tuple[str, str] = ("scale", "bias"),
) -> ChannelScores:
    """Scores each channel by |γ|, the scale of its batch normalization.

    A channel whose scale is small hardly reaches the next layer, *if* γ was trained
    under an L1 penalty or weight decay; without either, γ says little. It is a score
    of channels, not of weights, hence a dict and not a tree like params.

    Args:
        params: a pytree of parameters, or an `nnx.Module` that holds them. Flax's
            layers are found by the names of their leaves. Layer norms have the same
            names: exclude them by `prunable`.
        prunable: `prunable(path, leaf) -> bool` chooses layers by the path of their
            scales, `"block1/bn/scale"`.
        names: the names of γ and β in the layer; ("weight", "bias") in Equinox.

    Returns:
        A dict from each layer's path to non-negative scores of shape [channel], in
        units of γ.

    Raises:
        TypeError: if a leaf is not a real floating-point array, `names` are not two
            texts, or `prunable` is no function.
        ValueError: if no normalization layer is found.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> params = {"bn": {"scale": jnp.array([-2.0, 0.5]), "bias": jnp.zeros(2)}}
        >>> gf.batch_norm_scale(params)["bn"].tolist()
        [2.0, 0.5]

    Reference:
        Liu et al., Learning Efficient Convolutional Networks through Network
        Slimming, ICCV 2017.
    """
    return channel_scores("batch_norm_scale", magnitude(params), prunable, names)
