"""ḡ, Hḡ and E[g²] of a loss, of one batch in one jit or over many batches.

Hessian-gradient products are forward over reverse, `jax.jvp` of `jax.grad`: no
Hessian is formed, and the cost is about two further gradients. Reverse over reverse
costs more, by a factor of two and above on convolutions.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.scores.losses import (
    BatchedLoss,
    LossFn,
    batch_size,
    scalar_loss,
)
from gradflow_jax.trees import PyTree, widen

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

    params: PyTree
    loss: Any
    gradient: PyTree
    hessian_gradient: PyTree | None = None
    squared_gradient: PyTree | None = None
    origin: PyTree | None = None


def of_one_batch(
    finish: Callable[[Derivatives], PyTree],
    loss_fn: LossFn,
    *,
    order: int,
    squares: Squares,
    has_aux: bool,
) -> Any:
    """Returns `(origin, params, *args, **kwargs) -> (finish(derivatives), aux)`."""
    loss = scalar_loss(loss_fn, has_aux)

    @jax.jit
    def evaluate(origin: PyTree, params: PyTree, /, *args: Any, **kwargs: Any) -> Any:
        gradient_fn = _gradient_fn(loss, args, kwargs)
        gradient, (value, aux) = gradient_fn(params)
        product = squared = None
        if order == 2:
            # The two primal passes are the same expression, which XLA merges.
            product = _along(gradient_fn, params, gradient)
        if squares is not None:
            squared = _squared(squares, loss, gradient, params, args, kwargs)
        found = Derivatives(
            params, widen(value), _wide(gradient), product, squared, origin
        )
        return finish(found), aux

    return evaluate


def of_many_batches(
    finish: Callable[[Derivatives], PyTree],
    batched: BatchedLoss,
    *,
    order: int,
    squares: Squares,
    has_aux: bool,
) -> Callable[..., Any]:
    """As `of_one_batch`, with batches in place of the batch and a list of auxes.

    The loop over a jitted step is Python's: a convolution's gradient inside
    `jax.lax.scan` is many times slower on the CPU.
    """
    loss = scalar_loss(batched.loss_fn, has_aux)

    # args and kwargs are the loss's own, kept whole: it may have keywords of any name.
    @functools.partial(jax.jit, donate_argnums=0)
    def first(sums: Any, weight: Any, params: PyTree, args: Any, kwargs: Any) -> Any:
        gradient, (value, aux) = _gradient_fn(loss, args, kwargs)(params)
        squared = None
        if squares is not None:
            squared = _squared(squares, loss, gradient, params, args, kwargs)
        return _add(sums, weight, (value, gradient, squared)), aux

    @functools.partial(jax.jit, donate_argnums=0)
    def second(
        sums: Any, weight: Any, gradient: PyTree, params: PyTree, args: Any, kwargs: Any
    ) -> Any:
        gradient_fn = _gradient_fn(loss, args, kwargs)
        return _add(sums, weight, _along(gradient_fn, params, gradient))

    mean = jax.jit(
        lambda sums, weights: jax.tree.map(lambda leaf: leaf / weights, sums),
        donate_argnums=0,
    )
    # Not donated: params and origin are the caller's.
    finish_jitted = jax.jit(finish)

    def evaluate(
        origin: PyTree, params: PyTree, batches: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        zeros = _zeros_like(params)
        squared = _zeros_like(params) if squares is not None else None
        sums, weights, count, auxes = (widen(0.0), zeros, squared), 0.0, 0, []
        for batch, weight in batched.stream(batches, passes=order):
            sums, aux = first(sums, weight, params, (batch, *args), kwargs)
            del batch
            auxes.append(aux)
            weights, count = weights + weight, count + 1
            # Else Python runs ahead and the batches pile up in the device's queue.
            jax.block_until_ready(sums)
        value, gradient, squared = mean(sums, weights)
        product = None
        if order == 2:
            product, again = _zeros_like(params), 0.0
            for batch, weight in batched.stream(batches, passes=order, done=count):
                product = second(
                    product, weight, gradient, params, (batch, *args), kwargs
                )
                del batch
                again += weight
                jax.block_until_ready(product)
            if not math.isclose(again, weights):
                raise ValueError(
                    f"the first pass saw batches of weight {weights:g} in all, the "
                    f"second {again:g}: Hḡ needs the same data twice. Pass batches "
                    "that yield the same every time they are iterated."
                )
            product = mean(product, weights)
        found = Derivatives(params, value, gradient, product, squared, origin)
        return finish_jitted(found), auxes

    return evaluate


def _gradient_fn(loss: LossFn, args: Any, kwargs: Any) -> Callable[[PyTree], Any]:
    """Returns `params -> (gradient, (value, aux))`."""

    def gradient_fn(params: PyTree) -> Any:
        with_aux = jax.value_and_grad(loss, has_aux=True)
        (value, aux), gradient = with_aux(params, *args, **kwargs)
        return gradient, (value, aux)

    return gradient_fn


def _along(
    gradient_fn: Callable[[PyTree], Any], params: PyTree, direction: PyTree
) -> PyTree:
    """Returns H·direction, the derivative of the gradient in that direction."""
    # A tangent has its primal's dtype: ḡ of bf16 parameters was summed in float32.
    tangent = jax.tree.map(
        lambda leaf, along: along.astype(jnp.result_type(leaf)), params, direction
    )
    _, product, _ = jax.jvp(gradient_fn, (params,), (tangent,), has_aux=True)
    return _wide(product)


def _squared(
    squares: Squares, loss: LossFn, gradient: PyTree, params: PyTree, args, kwargs
) -> PyTree:
    """Returns g² of the batch, or the mean of g² over its examples."""
    if squares == "batch":
        return jax.tree.map(jnp.square, _wide(gradient))
    if len(args) != 1:
        raise TypeError(
            "squared gradients of single examples take one positional argument after "
            f"params, the batch, but there are {len(args)}: pass the batch as one "
            "tuple or dict, and what every example shares by keyword."
        )
    (batch,) = args
    batch_size(batch)

    def one(example: Any) -> PyTree:
        batch_of_one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], example)
        gradient, _ = _gradient_fn(loss, (batch_of_one,), kwargs)(params)
        return jax.tree.map(jnp.square, _wide(gradient))

    return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(one)(batch))


def _add(sums: PyTree, weight: Any, terms: PyTree) -> PyTree:
    return jax.tree.map(lambda total, leaf: total + weight * widen(leaf), sums, terms)


def _zeros_like(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros_like(widen(leaf)), params)


def _wide(tree: PyTree) -> PyTree:
    return jax.tree.map(widen, tree)
