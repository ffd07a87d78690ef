"""Makes the functions that evaluate derivatives, or what a measure takes from them."""

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax

from gradflow_jax.programs.parameters import params_of
from gradflow_jax.scores.batching import BatchedLoss
from gradflow_jax.scores.derivatives import (
    Derivatives,
    Squares,
    derivatives_of_batch,
)
from gradflow_jax.scores.losses import LossFn, take_module
from gradflow_jax.scores.passes import derivatives_over_batches
from gradflow_jax.scores.sharding import shardings_of
from gradflow_jax.trees import Params, aligned_leaves, check_floating


class Jitted(Protocol):
    """A jitted function of `(params, *args, **kwargs)`."""

    def __call__(self, params: Params, /, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the function at the arguments."""
        ...

    def lower(self, params: Params, /, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lowers it for the arguments, as the `lower` of `jax.jit` does."""
        ...


def differentiate(
    loss_fn: LossFn,
    *,
    order: Literal[1, 2] = 2,
    squares: Squares = None,
    origin: Params | None = None,
    has_aux: bool = False,
) -> Jitted:
    """Evaluates (θ, ḡ, Hḡ), from which every measure of a model can be taken.

    Use it to compare measures: `gf.score(derivatives, "grasp")` and its like then
    cost nothing more. A single measure is shorter by its own name.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the data;
            or `gf.over_batches(loss_fn)`. Called with an `nnx.Module` in place of
            params, it takes that: `loss_fn(model, *args, **kwargs)`.
        order: 2 for Hḡ too, at about three times the cost of 1.
        squares: "batch" adds E[g²] over the batches' gradients, "example" over those
            of single examples: there the batch is the one positional argument after
            params, and a gradient for each of its examples is held at once.
        origin: θ₀ of biased loss preservation, a tree like params.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A function `(params, *args, **kwargs) -> Derivatives`, jitted; with `has_aux`
        it returns `(Derivatives, aux)`, where over batches aux is the list of each
        batch's aux, in the first pass.

    Raises:
        TypeError: at the call, for params that are not real floating-point arrays
            or a loss that is not a scalar.
        ValueError: at the call, for params without leaves, or an origin that is
            another tree than params.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> A = jnp.array([[2.0, 1.0], [1.0, 3.0]])
        >>> evaluate = gf.differentiate(lambda x: 0.5 * x @ A @ x)
        >>> d = evaluate(jnp.array([1.0, 1.0]))
        >>> d.gradient.tolist(), d.hessian_gradient.tolist()  # Aθ, A·Aθ
        ([3.0, 4.0], [10.0, 15.0])
        >>> gf.score(d, "grasp").tolist()
        [10.0, 15.0]
    """
    return evaluate_then(
        lambda derivatives: derivatives,
        loss_fn,
        order=order,
        squares=squares,
        origin=origin,
        has_aux=has_aux,
    )


def evaluate_then(
    finish: Callable[[Derivatives], Any],
    loss_fn: LossFn,
    *,
    order: int = 1,
    squares: Squares = None,
    origin: Params | None = None,
    has_aux: bool = False,
) -> Jitted:
    """Makes `finish(derivatives)` a function of `(params, *args, **kwargs)`.

    The evaluation and `finish` are one jit; over batches, a jit for the steps of each
    pass and one for `finish`.

    Args:
        finish: takes from the derivatives what is asked for; the function has its name.
        loss_fn: a loss of one batch, or of many.
        order: 2 for Hḡ too.
        squares: whose squared gradients are averaged, or None.
        origin: θ₀, a tree like params, or None.
        has_aux: whether the loss returns `(loss, aux)`; the function then does too.
    """
    options = {"order": order, "squares": squares, "has_aux": has_aux}
    evaluate: Any
    if isinstance(loss_fn, BatchedLoss):
        evaluate = derivatives_over_batches(finish, loss_fn, **options)
    else:
        evaluate = derivatives_of_batch(finish, loss_fn, **options)

    if origin is not None:
        origin = params_of(origin)

    def check(params: Params) -> None:
        check_floating(params, "params")
        if origin is not None:
            check_floating(origin, "origin")
            aligned_leaves(origin, params, what="origin", like_what="params")

    @functools.wraps(finish)
    def call(params: Params, /, *args: Any, **kwargs: Any) -> Any:
        params, kwargs = take_module(params, kwargs)
        check(params)
        result, aux = evaluate(shardings_of(params), origin, params, *args, **kwargs)
        return (result, aux) if has_aux else result

    def lower(params: Params, /, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        params, kwargs = take_module(params, kwargs)
        check(params)
        if not hasattr(evaluate, "lower"):
            raise TypeError(
                "a measure over batches is a Python loop over a jitted step and "
                "cannot be lowered whole; lower the measure of the plain loss."
            )
        shardings = shardings_of(params)
        return evaluate.lower(shardings, origin, params, *args, **kwargs)

    call.lower = lower  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]
