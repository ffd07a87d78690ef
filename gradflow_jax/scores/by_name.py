"""Takes scores by the name of a measure from derivatives that are there.

They are of weights, or of neurons, filters and heads: of the weights that share an
output.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax.numpy as jnp

from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.normalization import (
    CHANNEL_MEASURES,
    ChannelScores,
    channel_scores,
)
from gradflow_jax.scores.rules import (
    RULES,
    align,
    derivatives_for,
    per_weight,
    rule_of,
)
from gradflow_jax.trees import (
    ArrayTree,
    Axes,
    Params,
    Roles,
    Scores,
    map_named,
    named_leaves,
)
from gradflow_jax.trees.roles import (
    SUMMED,
    axes_of_leaves,
    known_words,
    words_of_leaves,
)


def score(
    d: Derivatives | Params,
    measure: str,
    *,
    axis: Axes | None = None,
    roles: Roles | None = None,
) -> Scores | ChannelScores:
    """Takes one measure's scores from derivatives that are already there.

    Scores of neurons, filters and heads come from the measure's own rule for sets of
    weights. `roles` says which axes a leaf's neurons lie along; without them, name the
    axis: in Flax the last one (-1) of a dense or convolution kernel, but the last two
    of a query's [embed, heads, dim], and in Equinox the first.

    Args:
        d: what `gf.differentiate(loss_fn)(params, batch)` returns; for magnitude and
            batch-norm scale the parameters, or an `nnx.Module`, alone will do.
        measure: a measure's name: "magnitude", "loss_preservation", "taylor", "fisher"
            (with squares), "biased_loss_preservation" (with `d.origin`), "grasp", which
            is "gradient_norm_increase", or "gradient_norm_preservation";
            "batch_norm_scale" or "batch_norm_taylor" (with squares) of channels.
        axis: None for a score per weight. An axis, or several, for a score per index of
            them in every leaf; a scalar, which has no axis, is scored as it is. A dict
            of them by path or shell pattern goes before roles, and the leaves that it
            does not name are scored by these or, without roles, per weight.
        roles: what each axis is, `gf.structured.axis_roles(model, params, x)`, for a
            score per output: sums are over the "in" and "window" axes.

    Returns:
        Scores, higher is kept: a tree like params of float32 at least. With `axis` or
        `roles` its leaves have the axes that are not summed over, [heads, dim] of a
        query's kernel. Of a measure of channels, as `gf.batch_norm_scale` returns them:
        a dict from each layer's path to scores of shape [channel].

    Raises:
        TypeError: if the measure is no name, an axis no whole number, roles are no
            tuples of words, or a leaf is not a real floating-point array.
        ValueError: if the measure is unknown, if `d` lacks what it needs (the message
            says how to get it) or holds different trees, if a leaf lacks the axis, or
            if its roles are unknown; if scores of channels are given an axis or roles,
            or find no normalization.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss = lambda w: jnp.sum(w * jnp.array([[1.0, 2.0], [-3.0, 4.0]]))
        >>> d = gf.differentiate(loss)(jnp.ones((2, 2)))
        >>> gf.score(d, "loss_preservation", axis=-1).tolist()  # Σ|θg|
        [4.0, 6.0]
        >>> gf.score(d, "taylor", roles=("in", "out")).tolist()  # |Σθg|
        [2.0, 6.0]
    """
    rule = rule_of(measure)
    d = derivatives_for(measure, d)
    if measure in CHANNEL_MEASURES:
        if axis is not None or roles is not None:
            raise ValueError(
                f"{measure} scores channels, not weights, so there is no axis to take: "
                "leave out axis= and roles=."
            )
        return channel_scores(measure, per_weight(rule, d))
    if axis is None and roles is None:
        return per_weight(rule, d)
    return _score_neurons(rule.term(d), rule.outer, per_weight(rule, d), axis, roles)


def score_all(d: Derivatives) -> dict[str, Scores]:
    """Takes every measure's scores from one evaluation of the derivatives.

    Args:
        d: what `gf.differentiate(loss_fn)(params, batch)` returns.

    Returns:
        A dict from each measure's name to its scores per weight, of all measures
        whose derivatives are there: fisher only with `squares`, the second-order ones
        only with `order=2`.

    Raises:
        TypeError: for parameters in place of derivatives, and at a leaf that is not a
            real floating-point array.
        ValueError: if a tree of `d` is another than that of its params.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> d = gf.differentiate(lambda w: jnp.sum(w**2), order=1)(jnp.ones(3))
        >>> sorted(gf.score_all(d))
        ['biased_loss_preservation', 'loss_preservation', 'magnitude', 'taylor']
    """
    if not isinstance(d, Derivatives):
        raise TypeError(
            f"score_all was given {type(d).__name__}: pass what "
            "gf.differentiate(loss_fn)(params, batch) returns."
        )
    d = align(d, RULES.values())
    return {
        name: per_weight(rule, d)
        for name, rule in RULES.items()
        if all(getattr(d, field) is not None for field in rule.needs)
    }


def _score_neurons(
    terms: ArrayTree,
    outer: Callable[[chex.Array], chex.Array],
    alone: Scores,
    axis: Axes | None,
    roles: Roles | None,
) -> Scores:
    """Scores the sets of weights that share their indices along some axes.

    Args:
        terms: the measure's signed term of each weight.
        outer: is applied to the sum of the terms of a set.
        alone: the scores of single weights, for leaves without such axes.
        axis: the axes that are kept, as `gf.score` takes them.
        roles: what each axis is; those of outputs are kept where no axis is named.

    Raises:
        TypeError: if an axis is no whole number, or roles are no tuples of words.
        ValueError: if a leaf lacks the axis, or if its roles are unknown.
    """
    shapes = {path: tuple(jnp.shape(term)) for path, term in named_leaves(terms)}
    has_axes = [bool(shape) for shape in shapes.values()]
    words = words_of_leaves(roles, shapes, what="scores")
    axes = axes_of_leaves(axis, shapes, what="scores", flags=has_axes)

    def score_along(path: str, term: Any, score: chex.Array) -> chex.Array:
        kept = axes[path]
        if kept is None and roles is not None:
            words_of_leaf = known_words(words, path, shapes[path], "scores")
            kept = [i for i, word in enumerate(words_of_leaf) if word not in SUMMED]
        if kept is None:
            return score
        summed_axes = [i for i in range(len(shapes[path])) if i not in kept]
        if not summed_axes:
            return score
        return outer(jnp.sum(term, axis=tuple(summed_axes)))

    return map_named(score_along, terms, alone)
