"""Computes ḡ, Hḡ and √E[g²] of the loss of one batch, in one jit.

Hessian-gradient products are forward over reverse, `jax.jvp` of `jax.grad`: no
Hessian is formed, and the cost is about two further gradients. Reverse over reverse
costs more, by a factor of two and above on convolutions, and is taken where the loss
has a function of `jax.custom_vjp`, which has no forward rule.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.programs.equations import place_of_error
from gradflow_jax.programs.forward_mode import derivative_along
from gradflow_jax.scores.arguments import Flag, batch_size
from gradflow_jax.scores.losses import LossFn, scalar_loss
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
        gradient_rms: √E[g²], over batches or examples, or None. The root is held: g²
            under- and overflows where g does not, in float32 below 1e-19 or so.
        origin: θ₀, which biased loss preservation measures distance from; None
            stands for zero.

    All but params and origin are held, and summed over batches, in float32 at least;
    what the loss computes has the dtypes that the loss gives it.
    """

    params: Params
    loss: jax.Array
    gradient: ArrayTree
    hessian_gradient: ArrayTree | None = None
    gradient_rms: ArrayTree | None = None
    origin: Params | None = None

    @property
    def squared_gradient(self) -> ArrayTree | None:
        """E[g²], over batches or examples, or None; 0 where it underflows."""
        if self.gradient_rms is None:
            return None
        return jax.tree.map(jnp.square, self.gradient_rms)

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
        product = rms = None
        if order == 2:
            # The two primal passes are the same expression, which XLA merges.
            product = hessian_times(gradient, gradient_fn, params)
        if squares is not None:
            rms = gradient_rms(squares, loss, gradient, params, args, kwargs)
            rms = constrain(rms, shardings)
        derivatives = Derivatives(
            params, widen(value), _widen_leaves(gradient), product, rms, origin
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
    # The gradient itself was computed before, so that what fails is its derivative. JAX
    # and the kernels of others raise errors of many kinds there.
    try:
        product = derivative_along(lambda at: gradient_fn(at)[0], params, tangent)
        if product is None:
            # H is symmetric, so its product from the left, which is reverse over
            # reverse, is the one from the right.
            _, pull_back, _ = jax.vjp(gradient_fn, params, has_aux=True)
            (product,) = pull_back(tangent)
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise TypeError(
            "the gradient of the loss has no derivative: a backward rule of "
            f"jax.custom_vjp or a callback at {place_of_error(error)} cannot be "
            "differentiated once more. Write it in operations of JAX, or score by a "
            f"measure of the first order. JAX says: {first_line}"
        ) from error
    return _widen_leaves(product)


def gradient_rms(
    squares: Squares, loss: LossFn, gradient: ArrayTree, params: Params, args, kwargs
) -> ArrayTree:
    """Returns |g| of the batch, or √E[g²] over its examples."""
    if squares == "batch":
        return jax.tree.map(jnp.abs, _widen_leaves(gradient))
    shared = [isinstance(argument, Flag) for argument in args[1:]]
    if not args or not all(shared):
        raise TypeError(
            "squared gradients of single examples take one positional argument after "
            f"params, the batch, but there are {len(args)}: pass the batch as one "
            "tuple or dict, and what every example shares by keyword."
        )
    batch, *flags = args
    batch_size(batch)

    def gradient_of(example: Any) -> ArrayTree:
        batch_of_one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], example)
        with_aux = jax.grad(loss, has_aux=True)
        return _widen_leaves(with_aux(params, batch_of_one, *flags, **kwargs)[0])

    return jax.tree.map(_root_mean_square, jax.vmap(gradient_of)(batch))


def _root_mean_square(gradients: jax.Array) -> jax.Array:
    """Returns √E[g²] of gradients [example, ...], each squared beside the largest."""
    largest = jnp.max(jnp.abs(gradients), axis=0, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    mean = jnp.mean(jnp.square(gradients / scale), axis=0, keepdims=True)
    return jnp.squeeze(scale * jnp.sqrt(mean), axis=0)


def _widen_leaves(tree: ArrayTree) -> ArrayTree:
    return jax.tree.map(widen, tree)
