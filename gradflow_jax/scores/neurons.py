"""Scores of neurons, filters and heads: of the weights that share an output."""

from collections.abc import Callable
from typing import Any

import chex
import jax.numpy as jnp

from gradflow_jax.trees import ArrayTree, Axes, Roles, Scores, map_named, named_leaves
from gradflow_jax.trees.roles import (
    SUMMED,
    axes_of_leaves,
    known_words,
    words_of_leaves,
)


def score_neurons(
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
