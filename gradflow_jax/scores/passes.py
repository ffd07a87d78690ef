"""Computes ḡ, Hḡ and √E[g²] of the mean loss over many batches, in one or two passes.

The first pass sums the gradients, and the second, for which the mean gradient ḡ of all
data must be known, the products H_b ḡ. Only the sums are held beside a batch.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow_jax.scores.batching import BatchedLoss
from gradflow_jax.scores.derivatives import (
    Derivatives,
    Squares,
    gradient_rms,
    hessian_times,
    make_gradient_fn,
)
from gradflow_jax.scores.losses import LossFn, scalar_loss
from gradflow_jax.scores.sharding import Shardings, constrain
from gradflow_jax.trees import ArrayTree, Params, widen


def derivatives_over_batches(
    finish: Callable[[Derivatives], Any],
    batched: BatchedLoss,
    *,
    order: int,
    squares: Squares,
    has_aux: bool,
) -> Callable[..., Any]:
    """Makes a function `(shardings, origin, params, batches, *args, **kwargs)`.

    It returns `(finished, auxes)`; the arguments are those of `derivatives_of_batch`,
    with a loss of many batches. The loop over a jitted step is Python's: a
    convolution's gradient inside `jax.lax.scan` is many times slower on the CPU.
    """
    loss = scalar_loss(batched.loss_fn, has_aux)
    if squares == "batch" and batched.micro_batch is not None:
        raise TypeError(
            "this measure squares the gradient of each batch, which micro_batch="
            f"{batched.micro_batch} would cut into others: hand over batches that fit, "
            "or square the gradients of examples (per_example=True)."
        )
    first_step, second_step = _first_step(loss, squares), _second_step(loss)
    # Nothing is donated here: params and origin are the caller's.
    finish_jitted = jax.jit(finish)

    def evaluate(
        shardings: Shardings,
        origin: Params,
        params: Params,
        batches: Any,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        batched.check_call(args, kwargs)
        call = _Call(batched, batches, params, args, kwargs, shardings)
        zeros = functools.partial(_zeros_like, params, batched.dtype)
        rms = zeros() if squares is not None else None
        sums = Sums((widen(0.0), zeros(), rms), _divide_first)
        count, auxes = _first_pass(first_step, sums, call, passes=order)
        value, gradient, rms = sums.mean()
        product = None
        if order == 2:
            products = Sums(zeros(), _divide)
            _second_pass(second_step, products, call, gradient, done=count)
            _check_same_weight(sums.weight, products.weight)
            product = products.mean()
        derivatives = Derivatives(params, value, gradient, product, rms, origin)
        return finish_jitted(derivatives), auxes

    return evaluate


class Sums:
    """Weighted sums over batches: Σ w_b term_b for each leaf of a tree, and Σ w_b.

    Attributes:
        total: the sums, arrays that every step consumes and replaces.
        weight: Σ w_b.
    """

    def __init__(self, zeros: Any, divide: Callable[[Any, float], Any]):
        self.total, self.weight = zeros, 0.0
        self._divide = divide

    def add(self, step: Callable[..., Any], weight: float, *args: Any) -> Any:
        """Adds the terms of one batch and returns the loss's aux.

        Args:
            step: a jitted `(sums, weight, *args) -> (sums, aux)`. The terms are made
                and added in the same jit, so that none is held beside the sums.
            weight: the batch's.
            *args: what else the step takes.
        """
        self.total, aux = step(self.total, weight, *args)
        self.weight += weight
        return aux

    def mean(self) -> Any:
        """Returns Σ w_b term_b / Σ w_b, in the memory of the sums."""
        return self._divide(self.total, self.weight)


class _Call(NamedTuple):
    """One call of a measure over batches."""

    batched: BatchedLoss
    batches: Any
    params: Params
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shardings: Shardings

    def with_batch(self, batch: Any) -> tuple[Any, ...]:
        """Returns what a step takes of a batch: it is the loss's first argument."""
        return self.params, (batch, *self.args), self.kwargs, self.shardings


def _first_pass(
    step: Callable[..., Any], sums: Sums, call: _Call, *, passes: int
) -> tuple[int, list[Any]]:
    """Sums the loss, gradient and squares; returns the number of batches, and auxes."""
    auxes = []

    def add(batch: Any, weight: float) -> Any:
        auxes.append(sums.add(step, weight, *call.with_batch(batch)))
        return sums.total

    return call.batched.each(add, call.batches, passes=passes), auxes


def _second_pass(
    step: Callable[..., Any], sums: Sums, call: _Call, gradient: ArrayTree, *, done: int
) -> None:
    """Sums H_b ḡ of each batch: ḡ, of all data, is known after the first pass only."""

    def add(batch: Any, weight: float) -> Any:
        sums.add(step, weight, gradient, *call.with_batch(batch))
        return sums.total

    call.batched.each(add, call.batches, passes=2, done=done)


def _check_same_weight(first: float, second: float) -> None:
    """Raises ValueError unless both passes saw batches of the same weight in all."""
    if not math.isclose(second, first):
        raise ValueError(
            f"the first pass saw batches of weight {first:g} in all, the "
            f"second {second:g}: Hḡ needs the same data twice. Pass batches "
            "that yield the same every time they are iterated."
        )


# A step takes the loss's args and kwargs whole, since these may have any names.
_jit_step = functools.partial(jax.jit, donate_argnums=0, static_argnames="shardings")


def _first_step(loss: LossFn, squares: Squares) -> Callable[..., Any]:
    """Makes the step that adds a batch's loss, gradient and squares to sums."""

    @_jit_step
    def first(
        sums: Any, weight: Any, params: Params, args: Any, kwargs: Any, shardings: Any
    ) -> Any:
        gradient_fn = make_gradient_fn(loss, args, kwargs, shardings)
        gradient, (value, aux) = gradient_fn(params)
        *means, root = sums
        means = _add_weighted(means, weight, [value, gradient])
        if squares is not None:
            rms = gradient_rms(squares, loss, gradient, params, args, kwargs)
            root = _add_in_quadrature(root, weight, constrain(rms, shardings))
        return (*means, root), aux

    return first


def _second_step(loss: LossFn) -> Callable[..., Any]:
    """Makes the step that adds H_b ḡ to sums."""

    @_jit_step
    def second(
        sums: Any,
        weight: Any,
        gradient: ArrayTree,
        params: Params,
        args: Any,
        kwargs: Any,
        shardings: Any,
    ) -> Any:
        gradient_fn = make_gradient_fn(loss, args, kwargs, shardings)
        product = hessian_times(gradient, gradient_fn, params)
        return _add_weighted(sums, weight, product), None

    return second


def _add_weighted(sums: Any, weight: Any, terms: Any) -> Any:
    """Returns sums + weight · terms, in the dtype of the sums."""

    def add(total: jax.Array, leaf: jax.Array) -> jax.Array:
        term = widen(leaf)
        term = term.astype(jnp.promote_types(term.dtype, total.dtype))
        return (total + weight * term).astype(total.dtype)

    return jax.tree.map(add, sums, terms)


def _add_in_quadrature(roots: ArrayTree, weight: Any, terms: ArrayTree) -> ArrayTree:
    """Returns √(roots² + weight · terms²), in the dtype of the roots.

    No square is formed, so that none under- or overflows.
    """

    def add(root: jax.Array, term: jax.Array) -> jax.Array:
        weighted = jnp.sqrt(weight).astype(term.dtype) * term
        return jnp.hypot(root.astype(term.dtype), weighted).astype(root.dtype)

    return jax.tree.map(add, roots, terms)


@functools.partial(jax.jit, donate_argnums=0)
def _divide(sums: Any, weights: Any) -> Any:
    """Returns Σ w_b term_b / Σ w_b."""
    return jax.tree.map(lambda leaf: leaf / weights, sums)


@functools.partial(jax.jit, donate_argnums=0)
def _divide_first(sums: Any, weights: Any) -> Any:
    """Returns the means of loss and gradient, and the root of the mean of g²."""
    *means, root = sums
    rms = jax.tree.map(lambda leaf: leaf / jnp.sqrt(weights), root)
    return *jax.tree.map(lambda leaf: leaf / weights, means), rms


def _zeros_like(params: Params, dtype: jax.typing.DTypeLike | None) -> ArrayTree:
    def zeros(leaf: Any) -> jax.Array:
        return jnp.zeros_like(leaf, widen(leaf).dtype if dtype is None else dtype)

    return jax.tree.map(zeros, params)
