"""Makes the functions that evaluate derivatives, or what a measure takes from them."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import numpy as np

from gradflow_jax.programs.parameters import params_of
from gradflow_jax.scores.arguments import take_arguments
from gradflow_jax.scores.batching import BatchedLoss
from gradflow_jax.scores.derivatives import (
    Derivatives,
    Squares,
    derivatives_of_batch,
)
from gradflow_jax.scores.losses import LossFn, of_a_loss, take_module
from gradflow_jax.scores.passes import derivatives_over_batches
from gradflow_jax.scores.sharding import shardings_of
from gradflow_jax.scores.vanishing import Vanished, find_vanished, tell_vanished
from gradflow_jax.trees import (
    Params,
    aligned_leaves,
    check_floating,
    check_trained,
    is_traced,
    map_named,
)
from gradflow_jax.trees.numbers import check_choice


class Jitted(Protocol):
    """A jitted function of `(params, *args, **kwargs)`."""

    def __call__(self, params: Params, /, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the function at the arguments."""
        ...

    def lower(self, params: Params, /, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lowers it for the arguments, as the `lower` of `jax.jit` does."""
        ...


@of_a_loss("(params, batch)")
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
        order: 2 for Hḡ too, at about three times the cost of 1; four to five times
            where a function in the loss has a reverse rule alone (`jax.custom_vjp`).
        squares: "batch" adds √E[g²] over the batches' gradients, "example" over those
            of single examples: there the batch is the one positional argument after
            params, and a gradient for each of its examples is held at once.
        origin: θ₀ of biased loss preservation, a tree like params, copied now.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`.

    Returns:
        A function `(params, *args, **kwargs) -> Derivatives`, jitted; with `has_aux`
        it returns `(Derivatives, aux)`, where over batches aux is the list of each
        batch's aux in the first pass, or of each piece's where `micro_batch` cuts them.

    Raises:
        TypeError: at the call, for params that are not real floating-point arrays
            or a loss that is not a scalar.
        ValueError: for another order, or squares of anything else; at the call, for
            params without leaves, an origin that is another tree than params or holds
            their very arrays, or examples whose gradients are 0 where the batch's is
            not.

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
    check_choice(order, (1, 2), "order")
    check_choice(squares, ("batch", "example", None), "squares")
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
    is_batched = isinstance(loss_fn, BatchedLoss)

    def finish_and_look(derivatives: Derivatives) -> tuple[Any, Vanished]:
        return finish(derivatives), find_vanished(derivatives, squares)

    evaluate: Any
    if isinstance(loss_fn, BatchedLoss):
        evaluate = derivatives_over_batches(finish_and_look, loss_fn, **options)
    else:
        evaluate = derivatives_of_batch(finish_and_look, loss_fn, **options)
    origin = None if origin is None else params_of(origin)
    kept_origin = None if origin is None else map_named(_copy, origin)
    made_of = [_refer_to(leaf) for leaf in jax.tree.leaves(origin)]

    def take(
        params: Params, args: Any, kwargs: Any, *, or_shapes: bool = False
    ) -> tuple[Any, Any, Any]:
        """Returns parameters and the loss's arguments as JAX takes them, checked."""
        params, kwargs = take_module(params, kwargs)
        check_trained(params)
        check_floating(params, "params", or_shapes=or_shapes)
        if kept_origin is not None:
            _check_origin(kept_origin, made_of, params)
        if is_batched and not args:
            raise TypeError(
                "the batches are missing: call measure(params, batches) of a loss made "
                "by gf.over_batches."
            )
        # Batches are taken one by one, as they are fetched.
        batches, rest = args[:is_batched], args[is_batched:]
        rest, kwargs = take_arguments(
            rest, kwargs, first=len(batches), or_shapes=or_shapes
        )
        return params, (*batches, *rest), kwargs

    @functools.wraps(finish)
    def call(params: Params, /, *args: Any, **kwargs: Any) -> Any:
        params, args, kwargs = take(params, args, kwargs)
        evaluated = evaluate(shardings_of(params), kept_origin, params, *args, **kwargs)
        (result, vanished), aux = evaluated
        tell_vanished(vanished, params)
        return (result, aux) if has_aux else result

    def lower(params: Params, /, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        if not hasattr(evaluate, "lower"):
            raise TypeError(
                "a measure over batches is a Python loop over a jitted step and "
                "cannot be lowered whole; lower the measure of the plain loss."
            )
        params, args, kwargs = take(params, args, kwargs, or_shapes=True)
        shardings = shardings_of(params)
        return evaluate.lower(shardings, kept_origin, params, *args, **kwargs)

    call.lower = lower  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _copy(path: str, leaf: Any) -> Any:
    """Returns a leaf that stays as it is when the model trains.

    The state of an NNX module holds the module's own variables, NumPy's arrays may be
    written to, and JAX's are gone where a step was given them as a donation.
    """
    return leaf.copy() if isinstance(leaf, (np.ndarray, jax.Array)) else leaf


def _refer_to(leaf: Any) -> Callable[[], Any]:
    """Returns a function that returns an array of JAX while somebody else holds it.

    An array of NumPy may have been written to since, and is compared by its numbers.
    """
    is_array = isinstance(leaf, jax.Array) and not is_traced(leaf)
    return weakref.ref(leaf) if is_array else lambda: None


def _check_origin(
    origin: Params, made_of: list[Callable[[], Any]], params: Params
) -> None:
    """Checks that θ₀ is a tree like θ, and is not θ itself.

    Args:
        origin: θ₀, copied.
        made_of: what each of its leaves was copied from.
        params: θ.

    Raises:
        TypeError: if a leaf is not a real floating-point array.
        ValueError: if the trees differ, or if no leaf does.
    """
    check_floating(origin, "origin")
    leaves = aligned_leaves(origin, params, what="origin", like_what="params")

    def is_same(leaf: Any, original: Callable[[], Any], other: Any) -> bool:
        both_numpy = isinstance(leaf, np.ndarray) and isinstance(other, np.ndarray)
        return original() is other or both_numpy and np.array_equal(leaf, other)

    if all(map(is_same, leaves, made_of, jax.tree.leaves(params))):
        raise ValueError(
            "origin holds the very arrays of params, so that θ − θ₀ is 0 and so is "
            "every score. State of an NNX model that was kept from the start follows "
            "the model: make the measure before training, which copies origin, or keep "
            "jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))."
        )
