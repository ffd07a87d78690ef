"""Turns the loss of a batch into its mean over many: loads ahead, cuts small, sums."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.scores.arguments import (
    batch_size,
    check_batches,
    slice_batch,
    take_arguments,
    take_arrays,
)
from gradflow_jax.scores.losses import LossFn, of_a_loss, scalar_loss, take_module
from gradflow_jax.trees import Params, checked_whole_number, describe, real_array
from gradflow_jax.trees.numbers import quote

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
"""Batches of any kind that the loss takes, or a function that yields them anew."""

Weight = Callable[[Any], float]
"""What a batch counts for in a mean: `weight(batch)`, such as its examples."""

Progress = Callable[[int, int | None], None]


class BatchedLoss:
    """The mean of a loss over many batches, made by `over_batches`."""

    def __init__(
        self,
        loss_fn: LossFn,
        weight: Weight | None,
        micro_batch: int | None,
        dtype: jax.typing.DTypeLike | None,
        progress: Progress | None,
    ):
        self.loss_fn = loss_fn
        self.weight = weight
        self.micro_batch = micro_batch
        self.dtype = dtype
        self.progress = progress
        self._value = jax.jit(scalar_loss(loss_fn, has_aux=False))

    def __call__(
        self, params: Params, batches: Batches, /, *args: Any, **kwargs: Any
    ) -> jax.Array:
        """Returns the mean loss over the batches."""
        params, kwargs = take_module(params, kwargs)
        params = take_arrays(params, "params")
        args, kwargs = take_arguments(args, kwargs, first=1)
        self.check_call(args, kwargs)
        total, weights = 0.0, 0.0

        def add(batch: Any, weight: float) -> jax.Array:
            nonlocal total, weights
            value, _ = self._value(params, batch, *args, **kwargs)
            total, weights = total + weight * value, weights + weight
            return total

        self.each(add, batches, passes=1)
        return jnp.asarray(total / weights)

    def check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Checks that the loss takes params, one batch, and these arguments.

        Raises:
            TypeError: if it takes others, such as images and labels each by itself.
        """
        try:
            signature = inspect.signature(self.loss_fn)
        # A function of C may tell nothing.
        except (TypeError, ValueError):
            return
        named = {name: kwargs[name] for name in kwargs if name.isidentifier()}
        try:
            signature.bind(None, None, *args, **named)
        except TypeError as error:
            raise TypeError(
                "over batches a loss is called with params, a batch, which is one "
                f"argument, and what is the same for all; this one takes {signature} "
                f"({error}). Wrap it: gf.over_batches(lambda params, batch: "
                "loss_fn(params, *batch))."
            ) from None

    def each(
        self,
        step: Callable[[Any, float], Any],
        batches: Batches,
        *,
        passes: int,
        done: int = 0,
    ) -> int:
        """Calls `step(batch, weight)` for each batch of one pass over the data.

        A step's result is awaited only after the next batch was fetched and put on the
        device, so that loading and computing overlap; no later, lest Python run ahead
        and the batches pile up in the device's queue.

        Args:
            step: dispatches the work of one batch and returns what to wait for.
            batches: what the user handed over.
            passes: how many passes the caller makes in all.
            done: batches seen in earlier passes, for the progress callback.

        Returns:
            How many batches there were.
        """
        source = batches() if callable(batches) else batches
        check_batches(source, 1 if callable(batches) else passes)
        total = passes * len(source) if hasattr(source, "__len__") else None  # type: ignore[arg-type]
        stream, count = iter(source), 0
        pieces = self._fetch(stream)
        while pieces is not None:
            pending = None
            for piece, weight in _pop_each(pieces):
                pending = step(piece, weight)
                # Its name would hold the piece until the next one is assigned.
                del piece
            pieces = self._fetch(stream)
            jax.block_until_ready(pending)
            count += 1
            if self.progress is not None:
                self.progress(done + count, total)
        if not count:
            raise ValueError(
                "batches is empty: no batch came out of it. If it is an iterator, it "
                "may have been consumed before: pass a list or a data loader that can "
                "be iterated again."
            )
        return count

    def _fetch(self, stream: Iterator[Any]) -> list[tuple[Any, float]] | None:
        """Puts the next batch on the device in weighted pieces; None after the last.

        The weights of the pieces sum to the batch's, by their numbers of examples.
        """
        end = object()
        batch = next(stream, end)
        if batch is end:
            return None
        taken = take_arrays(batch, "a batch")
        # A weight of the user's own is asked about what the loader made.
        weight = self._weigh(taken if self.weight is None else batch)
        batch = taken
        size = self.micro_batch
        if size is not None and size < (examples := batch_size(batch)):
            pieces = [
                (slice_batch(batch, i, i + size), min(size, examples - i) / examples)
                for i in range(0, examples, size)
            ]
        else:
            pieces = [(batch, 1.0)]
        # In several processes batches are global arrays, which lie on devices already.
        if jax.process_count() == 1:
            pieces = [(jax.device_put(piece), share) for piece, share in pieces]
        return [(piece, weight * share) for piece, share in pieces]

    def _weigh(self, batch: Any) -> float:
        """Returns what a batch counts for, checked to be positive and finite."""
        answer = (self.weight or batch_size)(batch)
        number = real_array(answer, "the weight of a batch")
        if number.ndim:
            raise TypeError(
                f"weight(batch) returned {describe(answer)}: return one number."
            )
        weight = float(number)
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(
                f"a batch has weight {weight}; weights are positive and finite, "
                "such as the number of examples."
            )
        return weight


@of_a_loss("(params, batches)")
def over_batches(
    loss_fn: LossFn,
    *,
    weight: Weight | None = None,
    micro_batch: int | None = None,
    dtype: jax.typing.DTypeLike | None = None,
    progress: Progress | None = None,
) -> BatchedLoss:
    """Turns the loss of a batch into the mean loss over many batches.

    The importance measures are defined by the gradient ḡ of the mean loss over *all*
    scoring data and by Hḡ of that same mean. Every measure takes what this returns in
    place of a loss; the batch's place in the call is then taken by the batches:

        loss_preservation = gf.loss_preservation(gf.over_batches(loss_fn))
        scores = loss_preservation(params, batches)

    First-order measures pass over the data once, second-order ones twice (ḡ, then
    Hḡ = Σ w_b H_b ḡ / Σ w_b). While a batch is computed the next one is loaded; these
    two are held, beside one accumulator the size of the parameters in the first pass
    and two in the second. Batches of one shape are compiled once; a last batch of
    another size is compiled once more.

    Args:
        loss_fn: `loss_fn(params, batch, *args, **kwargs) -> scalar`, the *mean* over
            the batch, which is one argument: of a loss of images and labels pass
            `lambda params, batch: loss_fn(params, *batch)`. A sum over the batch would
            be weighted once more by its size, and over unequal batches be neither mean
            nor sum. Further arguments are the same for every batch. Called with an
            `nnx.Module` in place of params, it takes that.
        weight: what a batch counts for; by default its number of examples, the
            leading axis that all arrays of the batch share.
        micro_batch: how many examples of a batch are computed at a time, where the
            whole would not fit in memory; the result is the same. Every array of a
            batch then has the examples as its leading axis.
        dtype: in which the sums over batches are held; by default that of the
            parameters, and float32 at least.
        progress: `progress(done, total)`, called after each batch of each pass;
            `total` is None where the number of batches is not known.

    Returns:
        A loss `(params, batches, *args, **kwargs) -> scalar`. `batches` is a list, a
        data loader, anything that can be iterated again, or a function that returns
        an iterator. A generator, which can be iterated once, serves first-order
        measures alone. In several processes a batch is made of global arrays, of
        `jax.make_array_from_process_local_data`, and each process yields as many;
        arrays of NumPy are taken to be the same in all.

    Raises:
        TypeError: if `loss_fn`, `weight` or `progress` is no function, `micro_batch` no
            whole number or `dtype` no floating dtype; at the call, for a weight that is
            no number, for a one-shot iterator where two passes are needed, for a single
            batch instead of an iterable of batches, for a loss that takes other
            arguments, or where `micro_batch` would change the measure (Fisher's
            batches).
        ValueError: if `micro_batch` is below 1, or `dtype` is float64 and JAX has not
            enabled it; at the call, if there is no batch, if the arrays of a batch have
            different lengths, or if the second pass saw other data than the first.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def loss_fn(params, x):
        ...     return jnp.mean((params["w"] * x) ** 2)
        >>> batches = [jnp.array([1.0, 2.0]), jnp.array([3.0])]
        >>> params = {"w": jnp.array(1.0)}
        >>> float(gf.over_batches(loss_fn)(params, batches))  # (1 + 4 + 9) / 3
        4.666...
        >>> grasp = gf.grasp(gf.over_batches(loss_fn))  # H = g = 28/3
        >>> round(float(grasp(params, batches)["w"]), 3)
        87.111
    """
    for what, function in {"weight": weight, "progress": progress}.items():
        if function is not None and not callable(function):
            raise TypeError(
                f"{what} is {quote(function)}: pass a function, as over_batches calls "
                "weight(batch) and progress(done, total)."
            )
    if micro_batch is not None:
        micro_batch = checked_whole_number(micro_batch, "micro_batch")
        if micro_batch < 1:
            raise ValueError(
                f"micro_batch is {micro_batch}: compute one example at a time or more."
            )
    if dtype is not None:
        try:
            # Of an array JAX would take the dtype, with a warning; NumPy takes none.
            if isinstance(dtype, jax.Array):
                raise TypeError
            dtype = jnp.dtype(dtype)
        except (TypeError, ValueError):
            raise TypeError(
                f"dtype is {quote(dtype)}, which is none: pass a floating dtype, such "
                "as jnp.float32."
            ) from None
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"dtype is {dtype.name}: sums of gradients need a floating dtype, such "
                "as jnp.float32."
            )
        if dtype.itemsize == 8 and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise ValueError(
                f"dtype is {dtype.name}, which JAX has only after "
                'jax.config.update("jax_enable_x64", True).'
            )
    return BatchedLoss(loss_fn, weight, micro_batch, dtype, progress)


def _pop_each(pieces: list[Any]) -> Iterator[Any]:
    """Yields the pieces and lets go of each, so that none outlives its step."""
    pieces.reverse()
    while pieces:
        yield pieces.pop()
