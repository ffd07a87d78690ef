"""Predicts what removing weights does to the loss and to ‖g‖², and measures it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gradflow_jax.dynamics.loss_calls import drop_aux
from gradflow_jax.programs.forward_mode import derivative_along
from gradflow_jax.scores.batching import BatchedLoss
from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.evaluation import differentiate
from gradflow_jax.scores.losses import LossFn, of_a_loss, scalar_loss
from gradflow_jax.trees import (
    ArrayTree,
    Masks,
    Params,
    check_floating,
    is_traced,
    mask_leaves,
    real_array,
    widen,
)


class RemovalEffects(NamedTuple):
    """Changes when weights are removed, or scaled by 1 − ε.

    With r the removed weights, θ where the mask is False and 0 elsewhere, the model
    goes from θ to θ − εr.

    Attributes:
        scales: ε, [scale]; 1 removes.
        loss: L(θ − εr) − L(θ), measured, [scale].
        loss_first: −ε rᵀg, the prediction of the first order.
        loss_second: −ε rᵀg + ½ε² rᵀHr, that of the second.
        gradient_norm: ‖g(θ − εr)‖² − ‖g(θ)‖², measured.
        gradient_norm_first: −2ε rᵀHg, the prediction of the first order.
    """

    scales: jax.Array
    loss: jax.Array
    loss_first: jax.Array
    loss_second: jax.Array
    gradient_norm: jax.Array
    gradient_norm_first: jax.Array


@of_a_loss("(params, masks, batch)")
def removal_effects(
    loss_fn: LossFn, *, scales: Sequence[float] = (1.0,), has_aux: bool = False
) -> Callable[..., RemovalEffects]:
    """Predicts what removing weights does to loss and gradient norm, and measures it.

    The predictions are what scores promise: −Σθg is what `taylor` and loss
    preservation sum up, −2ΣθHg what GraSP and gradient-norm preservation do. Their
    errors say whether the weights removed are few and small enough for the scores to
    be believed. It costs the gradient, one Hessian-vector product Hr, which serves all
    predictions, and a gradient for each scale. Hr is reverse over forward, or where
    the loss has a function of `jax.custom_vjp` reverse over reverse, at twice its cost.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the data;
            or `gf.over_batches(loss_fn)`.
        scales: ε: by how much the weights are shrunk, 1.0 to remove them. Several
            show how the error falls, see `convergence_order`.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`; the aux is
            discarded.

    Returns:
        A function `(params, masks, *args, **kwargs) -> RemovalEffects`. `masks`: a
        tree like params of bool, True keeps.

    Raises:
        TypeError: for scales that are no real numbers; at the call, for a mask that is
            not bool, parameters that are not real floating-point arrays, or a loss that
            is not a scalar.
        ValueError: if there is no scale; at the call, if masks are another tree than
            params.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w**2) / 2  # g = w, H = 1
        >>> w, masks = jnp.array([3.0, 1.0]), jnp.array([True, False])
        >>> effects = gf.dynamics.removal_effects(loss_fn)(w, masks)
        >>> effects.loss.tolist(), effects.loss_second.tolist()  # a quadratic: exact
        ([-0.5], [-0.5])
        >>> effects.gradient_norm.tolist(), effects.gradient_norm_first.tolist()
        ([-1.0], [-2.0])
    """
    shrinkages = real_array(scales, "scales")
    if shrinkages.ndim != 1 or not shrinkages.size:
        raise ValueError(
            f"scales has shape {shrinkages.shape}: pass a sequence of at least one ε, "
            "(1.0,) to remove."
        )
    # Ranges and arrays too are then numbers of Python, which leave weights their dtype.
    epsilons = list(shrinkages) if is_traced(shrinkages) else shrinkages.tolist()
    differentiated = differentiate(loss_fn, order=1, has_aux=has_aux)
    derivatives = drop_aux(differentiated, has_aux)
    # The loss's derivative along r, rᵀ∇L, is itself a loss of θ, also over batches. Its
    # value is the first-order term, and its gradient ∇(rᵀ∇L) is Hr.
    derivatives_along = differentiate(_derivative_along(loss_fn, has_aux), order=1)

    def effects(
        params: Params, masks: Masks, /, *args: Any, **kwargs: Any
    ) -> RemovalEffects:
        check_floating(params, "params")
        removed = _removed_weights(params, mask_leaves(masks, params))

        def derivatives_at(scale: float) -> Derivatives:
            d = derivatives(_shrink(params, removed, scale), *args, **kwargs)
            return d._replace(params=None)

        return _compare(
            epsilons,
            removed,
            along=derivatives_along(params, *args, removed, **kwargs),
            before=derivatives_at(0.0),
            after=[derivatives_at(scale) for scale in epsilons],
        )

    return effects


def convergence_order(
    scales: npt.ArrayLike, predicted: npt.ArrayLike, measured: npt.ArrayLike
) -> float:
    """Returns the order p with which an error falls, |error| ∼ εᵖ as ε → 0.

    It is the slope of log |error| over log ε, by least squares. A prediction of the
    first order has an error of order 2, one of the second of order 3; rounding, which
    does not fall, shows as an order that is too low: measure in float64, or at larger
    ε.

    Args:
        scales: ε, [scale], two of them or more.
        predicted: [scale].
        measured: [scale].

    Returns:
        The order.

    Raises:
        TypeError: if one of the three holds no real numbers.
        ValueError: if there are no two different scales, if one is not positive, if
            the three differ in shape, or if an error is 0 or not finite, of which there
            is no order.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> scales = (0.5, 0.25)
        >>> loss_fn = lambda w: jnp.sum(w**2)
        >>> effects = gf.dynamics.removal_effects(loss_fn, scales=scales)
        >>> removal = effects(jnp.array([2.0]), jnp.array([False]))
        >>> first, measured = removal.loss_first, removal.loss
        >>> order = gf.dynamics.convergence_order(scales, first, measured)
        >>> round(order, 3)
        2.0
    """
    named = {"scales": scales, "predicted": predicted, "measured": measured}
    scales, predicted, measured = (
        real_array(values, name).astype(np.float64) for name, values in named.items()
    )
    if scales.ndim != 1 or not scales.shape == predicted.shape == measured.shape:
        shapes = f"{scales.shape}, {predicted.shape} and {measured.shape}"
        raise ValueError(
            f"scales, predicted and measured have the shapes {shapes}: pass one number "
            "of each for each scale, [scale]."
        )
    positive = np.isfinite(scales) & (scales > 0)
    if not positive.all() or np.unique(scales).size < 2:
        raise ValueError(
            f"scales is {scales.tolist()}: an order takes two positive ones or more."
        )
    errors = np.abs(predicted - measured)
    if not np.isfinite(errors).all():
        raise ValueError(
            f"the errors are {errors.tolist()}: where one is not finite there is no "
            "order. Look for NaN in the params, or an overflow in the loss."
        )
    if not errors.all():
        raise ValueError(
            f"the errors are {errors.tolist()}: where one is 0 there is no order. The "
            "prediction is exact there, or scales are so small that rounding hides it."
        )
    return float(np.polyfit(np.log(scales), np.log(errors), 1)[0])


def _derivative_along(loss_fn: LossFn, has_aux: bool) -> LossFn:
    """Returns `(params, *args, direction) -> directionᵀ∇L`, a loss of the same kind."""
    batched = isinstance(loss_fn, BatchedLoss)
    loss = scalar_loss(loss_fn.loss_fn if batched else loss_fn, has_aux)

    def derivative(
        params: Params, *args_and_direction: Any, **kwargs: Any
    ) -> jax.Array:
        *args, direction = args_and_direction

        def value(params: Params) -> jax.Array:
            return loss(params, *args, **kwargs)[0]

        slope = derivative_along(value, params, direction)
        if slope is None:
            # A function in the loss has a reverse rule alone.
            slope = _dot(jax.grad(value)(params), direction)
        return slope

    if not batched:
        return derivative
    return BatchedLoss(
        derivative, loss_fn.weight, loss_fn.micro_batch, loss_fn.dtype, loss_fn.progress
    )


@jax.jit
def _removed_weights(params: Params, kept: list[Any]) -> Params:
    """Returns r: θ where the mask is False, and 0 elsewhere."""
    leaves, structure = jax.tree.flatten(params)
    return structure.unflatten(
        jnp.where(mask, 0, leaf) for mask, leaf in zip(kept, leaves, strict=True)
    )


@jax.jit
def _shrink(params: Params, removed: ArrayTree, scale: float) -> Params:
    """Returns θ − εr."""
    return jax.tree.map(
        lambda leaf, removed_leaf: leaf - scale * removed_leaf, params, removed
    )


@jax.jit
def _compare(
    scales: Sequence[float],
    removed: ArrayTree,
    along: Derivatives,
    before: Derivatives,
    after: list[Derivatives],
) -> RemovalEffects:
    """Compares measured changes of loss and gradient norm with the predicted ones.

    Args:
        scales: ε.
        removed: r.
        along: the derivatives of the loss rᵀg: rᵀg and Hr.
        before: those at θ.
        after: those at θ − εr, one a scale.
    """
    g, hr = before.gradient, along.gradient
    losses = jnp.stack([d.loss for d in after])
    norms = jnp.stack([_dot(d.gradient, d.gradient) for d in after])
    epsilon = jnp.stack(list(scales)).astype(losses.dtype)
    first = -epsilon * along.loss
    return RemovalEffects(
        scales=epsilon,
        loss=losses - before.loss,
        loss_first=first,
        loss_second=first + epsilon**2 * _dot(removed, hr) / 2,
        gradient_norm=norms - _dot(g, g),
        gradient_norm_first=-2 * epsilon * _dot(g, hr),
    )


def _dot(a: ArrayTree, b: ArrayTree) -> jax.Array:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum((jnp.sum(widen(x) * widen(y)) for x, y in pairs), start=jnp.zeros(()))
