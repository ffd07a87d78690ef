"""Which of the weights that masks keep are on a path from the input to the output."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.connectivity.reader import Reader
from gradflow_jax.connectivity.signals import Signal
from gradflow_jax.trees import (
    Prunable,
    PyTree,
    default_prunable,
    mask_leaves,
    prunable_flags,
)


def effective_masks(
    apply: Callable[..., Any], *, prunable: Prunable = default_prunable
) -> Callable[..., PyTree]:
    """Drops from masks the weights that no path from input to output passes through.

    A weight whose unit has lost all incoming or all outgoing weights does nothing, kept
    or not: at high sparsity many do, and a measure that leaves many is credited with a
    density that its network does not have. Dropping them changes the model by constants
    at most, those that a dead unit's bias makes: see
    `gf.connectivity.effective_report`.

    The model's program is read, not its layers: a weight counts where a signal is
    multiplied by it, or by what is computed from it, and the signal comes from the
    input and goes on to an output. Additions let a signal through from any side, maxima
    and activations too, products where the other factor is not always zero; so biases
    are on no path. What looks along a whole axis, such as a softmax or a layer norm,
    lets every number of it depend on every other. Loops of unknown length, scatters and
    primitives without a rule (`gf.connectivity.effective_report` lists them) count as
    if every result depended on every operand, which can only keep too much.

    Args:
        apply: a pure function `apply(params, *inputs)` that returns the model's
            outputs and nothing else, traced as it is evaluated: statistics of batch
            norm closed over, dropout off.
        prunable: `prunable(path, leaf) -> bool`; other leaves stay as the masks say.

    Returns:
        A function `(params, masks, *inputs) -> masks`, compiled once for each set of
        shapes: a tree like params of bool, True where a weight is kept and on a path.
        Of params and inputs only the shapes matter; a batch of one is cheapest.

    Raises:
        TypeError: at the call, if a mask is not bool.
        ValueError: at the call, if params and masks are different trees or no leaf is
            prunable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def apply(params, x):
        ...     return jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> params = {"in": jnp.ones((2, 2)), "out": jnp.ones((2, 1))}
        >>> masks = {"in": jnp.array([[True, False], [True, False]]),
        ...          "out": jnp.array([[True], [True]])}
        >>> find_effective = gf.connectivity.effective_masks(apply)
        >>> find_effective(params, masks, jnp.ones((1, 2)))["out"].tolist()
        [[True], [False]]

    Reference:
        Vysogorets & Kempe, Connectivity Matters: Neural Network Pruning Through the
        Lens of Effective Sparsity, JMLR 2023.
    """
    reader = Reader()

    @jax.jit
    def effective_masks(params: PyTree, masks: PyTree, *inputs: Any) -> PyTree:
        found = on_paths(reader, apply, params, masks, inputs)
        return where_prunable(found.signals, params, masks, prunable)

    return effective_masks


def where_prunable(
    found: Sequence[Any], params: PyTree, masks: PyTree, prunable: Prunable
) -> PyTree:
    """Returns masks with the prunable leaves replaced by those found."""
    kept = mask_leaves(masks, params)
    flags = prunable_flags(params, prunable)
    return jax.tree.structure(masks).unflatten(
        own if flag else mask
        for own, mask, flag in zip(found, kept, flags, strict=True)
    )


class OnPaths(NamedTuple):
    """What passes through the weights that are kept, a bool array for each leaf.

    Attributes:
        signals: whether a signal from the input does, on its way to an output.
        constants: whether a signal or a constant other than zero does; empty if it was
            not asked for.
    """

    signals: list[jax.Array]
    constants: list[jax.Array]


def on_paths(
    reader: Reader,
    apply: Callable[..., Any],
    params: PyTree,
    masks: PyTree,
    inputs: Sequence[Any],
    *,
    constants: bool = False,
) -> OnPaths:
    """Finds the weights that signals pass through.

    Args:
        reader: notes the primitives without a rule.
        apply: the model.
        params: its parameters.
        masks: of them.
        inputs: of the model.
        constants: whether constants are asked for, too. Then the numbers of params and
            inputs matter.
    """
    kept = mask_leaves(masks, params)
    closed = jax.make_jaxpr(apply)(params, *inputs)
    numbers = [
        jnp.where(mask, leaf, jnp.zeros_like(leaf)) if constants else None
        for leaf, mask in zip(jax.tree.leaves(params), kept, strict=True)
    ]
    given = []
    for leaf in jax.tree.leaves(inputs):
        ones = jnp.ones(jnp.shape(leaf), jnp.float32)
        whole = Signal(ones, ones, number=jnp.asarray(leaf), carried=ones)
        given.append(whole if constants else Signal(ones, ones))

    def at_the_outputs(indicators: list[jax.Array]) -> tuple[list, list]:
        weights = [
            Signal(one, number=number)
            for one, number in zip(indicators, numbers, strict=True)
        ]
        results = reader.read(closed.jaxpr, closed.consts, [*weights, *given])
        return (
            [own.reached for own in results if own.reached is not None],
            [own.carried for own in results if own.carried is not None],
        )

    indicators = [jnp.asarray(mask, jnp.float32) for mask in kept]
    (reached, carried), backwards = jax.vjp(at_the_outputs, indicators)

    def through(signals: float, constants: float) -> list[jax.Array]:
        weights = (
            [jnp.full_like(one, signals) for one in reached],
            [jnp.full_like(one, constants) for one in carried],
        )
        (counts,) = backwards(weights)
        return [mask & (own > 0.5) for mask, own in zip(kept, counts, strict=True)]

    return OnPaths(through(1.0, 0.0), through(0.0, 1.0) if constants else [])
