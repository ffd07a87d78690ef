"""Computes ḡ, Hḡ and E[g²] of the loss of one batch, in one jit.

Hessian-gradient products are forward over reverse, `jax.jvp` of `jax.grad`: no
Hessian is formed, and the cost is about two further gradients. Reverse over reverse
costs more, by a factor of two and above on convolutions.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.scores.losses import LossFn, batch_size, scalar_loss
from gradflow_jax.scores.sharding import Shardings, constrain
from gradflow_jax.trees import ArrayTree, Params, widen

Squares = Literal["batch", "example"] | None


class Derivatives(NamedTuple):
    """Everything the measures are made of, of one model on one set of data.

    Attributes:
        params: θ, the parameters.
        loss: the mean loss, a scalar.
        gradient: ḡ, the gradient of the mean loss; the tree of params.
        hessian_gradient: Hḡ, or None where it was not asked for.
        squared_gradient: E[g²], over batches or examples, or None.
        origin: θ₀, which biased loss preservation measures distance from; None
            stands for zero.

    All but params and origin are in float32 at least, whatever the parameters' dtype.
    """

    params: Params
    loss: jax.Array
    gradient: ArrayTree
    hessian_gradient: ArrayTree | None = None
    squared_gradient: ArrayTree | None = None
    origin: Params | None = None

    @classmethod
    def without_loss(cls, params: Params) -> "Derivatives":
        """Returns the parameters alone, for measures that need no derivative."""
        missing: Any = None
        return cls(params, loss=missing, gradient=missing)


def derivatives_of_batch(
    finish: Callable[[Derivatives], Any],
    loss_fn: LossFn,
    *,
    order: int,
    squares: Squares,
    has_aux: bool,
) -> Any:
    """Makes a jit `(shardings, origin, params, *args, **kwargs) -> (finished, aux)`.

    Args:
        finish: turns the derivatives into what is asked for, inside the jit.
        loss_fn: a loss of one batch.
        order: 2 for Hḡ too.
        squares: whose squared gradients are averaged, or None.
        has_aux: whether the loss returns `(loss, aux)`.
    """
    loss = scalar_loss(loss_fn, has_aux)

    @functools.partial(jax.jit, static_argnums=0)
    def evaluate(
        shardings: Shardings,
        origin: Params,
        params: Params,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        gradient_fn = make_gradient_fn(loss, args, kwargs, shardings)
        gradient, (value, aux) = gradient_fn(params)
        product = squared = None
        if order == 2:
            # The two primal passes are the same expression, which XLA merges.
            product = hessian_times(gradient, gradient_fn, params)
        if squares is not None:
            squared = squared_gradient(squares, loss, gradient, params, args, kwargs)
            squared = constrain(squared, shardings)
        derivatives = Derivatives(
            params, widen(value), _widen_leaves(gradient), product, squared, origin
        )
        return finish(derivatives), aux

    return evaluate


def make_gradient_fn(
    loss: LossFn, args: Any, kwargs: Any, shardings: Shardings
) -> Callable[[Params], Any]:
    """Returns `params -> (gradient, (value, aux))`."""

    def gradient_fn(params: Params) -> Any:
        with_aux = jax.value_and_grad(loss, has_aux=True)
        (value, aux), gradient = with_aux(params, *args, **kwargs)
        return constrain(gradient, shardings), (value, aux)

    return gradient_fn


def hessian_times(
    direction: ArrayTree, gradient_fn: Callable[[Params], Any], params: Params
) -> ArrayTree:
    """Returns H·direction, the derivative of the gradient in that direction."""
    # A tangent has its primal's dtype: ḡ of bf16 parameters was summed in float32.
    tangent = jax.tree.map(
        lambda leaf, along: along.astype(jnp.result_type(leaf)), params, direction
    )
    _, product, _ = jax.jvp(gradient_fn, (params,), (tangent,), has_aux=True)
    return _widen_leaves(product)


def squared_gradient(
    squares: Squares, loss: LossFn, gradient: ArrayTree, params: Params, args, kwargs
) -> ArrayTree:
    """Returns g² of the batch, or the mean of g² over its examples."""
    if squares == "batch":
        return jax.tree.map(jnp.square, _widen_leaves(gradient))
    if len(args) != 1:
        raise TypeError(
            "squared gradients of single examples take one positional argument after "
            f"params, the batch, but there are {len(args)}: pass the batch as one "
            "tuple or dict, and what every example shares by keyword."
        )
    (batch,) = args
    batch_size(batch)

    def squares_of(example: Any) -> ArrayTree:
        batch_of_one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], example)
        gradient = jax.grad(loss, has_aux=True)(params, batch_of_one, **kwargs)[0]
        return jax.tree.map(jnp.square, _widen_leaves(gradient))

    return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(squares_of)(batch))


def _widen_leaves(tree: ArrayTree) -> ArrayTree:
    return jax.tree.map(widen, tree)
