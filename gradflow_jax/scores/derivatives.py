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

from gradflow_jax.scores.batching import BatchedLoss
from gradflow_jax.scores.losses import LossFn, batch_size, scalar_loss
from gradflow_jax.scores.sharding import Shardings, constrained
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
    """Returns `(shardings, origin, params, *args, **kwargs) -> (finished, aux)`."""
    loss = scalar_loss(loss_fn, has_aux)

    @functools.partial(jax.jit, static_argnums=0)
    def evaluate(
        shardings: Shardings,
        origin: PyTree,
        params: PyTree,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        gradient_fn = _gradient_fn(loss, args, kwargs, shardings)
        gradient, (value, aux) = gradient_fn(params)
        product = squared = None
        if order == 2:
            # The two primal passes are the same expression, which XLA merges.
            product = _along(gradient_fn, params, gradient)
        if squares is not None:
            squared = _squared(squares, loss, gradient, params, args, kwargs)
            squared = constrained(squared, shardings)
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
    if squares == "batch" and batched.micro_batch is not None:
        raise TypeError(
            "this measure squares the gradient of each batch, which micro_batch="
            f"{batched.micro_batch} would cut into others: hand over batches that fit, "
            "or square the gradients of examples (per_example=True)."
        )

    # args and kwargs are the loss's own, kept whole: it may have keywords of any name.
    step = functools.partial(jax.jit, donate_argnums=0, static_argnames="shardings")

    @step
    def first(
        sums: Any, weight: Any, params: PyTree, args: Any, kwargs: Any, shardings: Any
    ) -> Any:
        gradient_fn = _gradient_fn(loss, args, kwargs, shardings)
        gradient, (value, aux) = gradient_fn(params)
        squared = None
        if squares is not None:
            squared = _squared(squares, loss, gradient, params, args, kwargs)
            squared = constrained(squared, shardings)
        return _add(sums, weight, (value, gradient, squared)), aux

    @step
    def second(
        sums: Any,
        weight: Any,
        gradient: PyTree,
        params: PyTree,
        args: Any,
        kwargs: Any,
        shardings: Any,
    ) -> Any:
        gradient_fn = _gradient_fn(loss, args, kwargs, shardings)
        return _add(sums, weight, _along(gradient_fn, params, gradient))

    mean = jax.jit(
        lambda sums, weights: jax.tree.map(lambda leaf: leaf / weights, sums),
        donate_argnums=0,
    )
    # Not donated: params and origin are the caller's.
    finish_jitted = jax.jit(finish)

    def evaluate(
        shardings: Shardings,
        origin: PyTree,
        params: PyTree,
        batches: Any,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        zeros = functools.partial(_zeros_like, params, batched.dtype)
        squared = zeros() if squares is not None else None
        sums: Any = (widen(0.0), zeros(), squared)
        weights, auxes, product = 0.0, [], None

        def add_first(batch: Any, weight: float) -> Any:
            nonlocal sums, weights
            sums, aux = first(sums, weight, params, (batch, *args), kwargs, shardings)
            auxes.append(aux)
            weights += weight
            return sums

        count = batched.each(add_first, batches, passes=order)
        value, gradient, squared = mean(sums, weights)
        if order == 2:
            product, again = zeros(), 0.0

            def add_second(batch: Any, weight: float) -> Any:
                nonlocal product, again
                rest = params, (batch, *args), kwargs, shardings
                product = second(product, weight, gradient, *rest)
                again += weight
                return product

            batched.each(add_second, batches, passes=order, done=count)
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


def _gradient_fn(
    loss: LossFn, args: Any, kwargs: Any, shardings: Shardings
) -> Callable[[PyTree], Any]:
    """Returns `params -> (gradient, (value, aux))`."""

    def gradient_fn(params: PyTree) -> Any:
        with_aux = jax.value_and_grad(loss, has_aux=True)
        (value, aux), gradient = with_aux(params, *args, **kwargs)
        return constrained(gradient, shardings), (value, aux)

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
        gradient = jax.grad(loss, has_aux=True)(params, batch_of_one, **kwargs)[0]
        return jax.tree.map(jnp.square, _wide(gradient))

    return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(one)(batch))


def _add(sums: PyTree, weight: Any, terms: PyTree) -> PyTree:
    def add(total: jax.Array, leaf: jax.Array) -> jax.Array:
        term = widen(leaf)
        term = term.astype(jnp.promote_types(term.dtype, total.dtype))
        return (total + weight * term).astype(total.dtype)

    return jax.tree.map(add, sums, terms)


def _zeros_like(params: PyTree, dtype: Any) -> PyTree:
    def zeros(leaf: Any) -> jax.Array:
        return jnp.zeros_like(leaf, widen(leaf).dtype if dtype is None else dtype)

    return jax.tree.map(zeros, params)


def _wide(tree: PyTree) -> PyTree:
    return jax.tree.map(widen, tree)
