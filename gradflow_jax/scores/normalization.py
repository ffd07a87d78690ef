"""Scores channels by the parameters of their normalization layers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.trees import ArrayTree, Prunable, named_leaves
from gradflow_jax.trees.numbers import quote
from gradflow_jax.trees.prunable import ask

ChannelScores = dict[str, jax.Array]


class ChannelMeasure(NamedTuple):
    """A measure of channels, which sums scores of what normalization scales them by.

    Attributes:
        of_parameters: the measure of γ and β.
        of_shift: whether β counts beside γ.
    """

    of_parameters: str
    of_shift: bool


CHANNEL_MEASURES = {
    "batch_norm_scale": ChannelMeasure("magnitude", of_shift=False),
    "batch_norm_taylor": ChannelMeasure("fisher", of_shift=True),
}
"""The measures that score channels and no weights, by their public names."""


def channel_scores(
    measure: str,
    scores: ArrayTree,
    prunable: Prunable | None = None,
    names: tuple[str, str] = ("scale", "bias"),
) -> ChannelScores:
    """Returns the scores of the channels of each normalization layer.

    Args:
        measure: a measure of channels.
        scores: a tree like params, by its measure of parameters.
        prunable: `prunable(path, leaf)` chooses layers by their scales.
        names: of γ and β in the layer.

    Raises:
        TypeError: if `prunable` is no function or `names` are not two texts.
        ValueError: if there is no normalization layer.
    """
    _check_names(names)
    counted = names if CHANNEL_MEASURES[measure].of_shift else names[:1]
    return {
        path: jnp.sum(jnp.stack(layer), axis=0)
        for path, leaves in norm_layers(scores, prunable, names).items()
        if (layer := [leaves[name] for name in counted if name in leaves])
    }


def _check_names(names: object) -> None:
    """Raises TypeError at what are not the names of γ and β."""
    quoted = quote(names)
    if isinstance(names, (tuple, list)):
        if [isinstance(name, str) for name in names] == [True, True]:
            return
        quoted = f"({', '.join(map(quote, names))})"
    raise TypeError(
        f"names is {quoted}: pass the names of a layer's scale and shift, two texts "
        'such as ("scale", "bias").'
    )


def norm_layers(
    tree: ArrayTree, prunable: Prunable | None, names: tuple[str, str]
) -> dict[str, dict[str, Any]]:
    """Returns each layer's leaves by name, `{"bn1": {"scale": ..., "bias": ...}}`.

    A layer is a subtree with a one-dimensional leaf called `names[0]`, beside which
    stands nothing but, perhaps, a leaf called `names[1]` of the same shape.

    Raises:
        TypeError: if `prunable` is no function.
        ValueError: if there is none.
    """
    layers: dict[str, dict[str, Any]] = {}
    for path, leaf in named_leaves(tree):
        parent, _, name = path.rpartition("/")
        layers.setdefault(parent, {})[name] = leaf
    scale = names[0]
    norms = {
        parent: leaves
        for parent, leaves in layers.items()
        if _is_norm(leaves, names)
        and (prunable is None or ask(prunable, f"{parent}/{scale}", leaves[scale]))
    }
    if not norms:
        condition = "" if prunable is None else " that `prunable` accepts"
        raise ValueError(
            f"params have no normalization layer{condition}: no subtree holds only "
            f"{names[0]!r} and {names[1]!r} of shape [channel]. Pass names=(...) if "
            "yours are called otherwise."
        )
    return norms


def _is_norm(leaves: dict[str, Any], names: tuple[str, str]) -> bool:
    shapes = {jnp.shape(leaf) for leaf in leaves.values()}
    return (
        names[0] in leaves
        and set(leaves) <= set(names)
        and len(shapes) == 1
        and len(next(iter(shapes))) == 1
    )
