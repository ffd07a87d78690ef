"""What a measure accepts as a loss: a function of one batch, or a mean over many."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.trees import PyTree, describe, is_real_floating, named_leaves

LossFn = Callable[..., Any]
Batches = Iterable[Any] | Callable[[], Iterable[Any]]
Progress = Callable[[int, int | None], None]


def scalar_loss(loss_fn: LossFn, has_aux: bool) -> LossFn:
    """Returns a loss that gives `(value, aux)` and checks that value is a scalar.

    Raises:
        TypeError: when called, if the loss is not one real floating-point number, or
            is not `(loss, aux)` exactly where `has_aux` says so.
    """

    def checked(params: PyTree, /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        value, aux = loss_fn(params, *args, **kwargs), None
        is_pair = isinstance(value, tuple) and len(value) == 2
        if has_aux:
            if not is_pair:
                raise TypeError(
                    "has_aux=True, but the loss returned a "
                    f"{type(value).__name__}: return (loss, aux)."
                )
            value, aux = value
        elif isinstance(value, tuple):
            raise TypeError(
                f"the loss returned a tuple of {len(value)}: return the loss alone, "
                "or (loss, aux) with has_aux=True."
            )
        if not is_real_floating(value) or jnp.shape(value) != ():
            raise TypeError(
                f"the loss returned {describe(value)}, not a scalar: return one real "
                "number, the mean over the batch (jnp.mean)."
            )
        return value, aux

    return checked


class BatchedLoss:
    """The mean of a loss over many batches, made by `over_batches`."""

    def __init__(
        self,
        loss_fn: LossFn,
        weight: Callable[[Any], float],
        progress: Progress | None,
    ):
        self.loss_fn = loss_fn
        self.weight = weight
        self.progress = progress
        self._value = jax.jit(scalar_loss(loss_fn, has_aux=False))

    def __call__(
        self, params: PyTree, batches: Batches, /, *args: Any, **kwargs: Any
    ) -> jax.Array:
        """Returns the mean loss over the batches."""
        total, weights = 0.0, 0.0
        for batch, weight in self.stream(batches, passes=1):
            value, _ = self._value(params, batch, *args, **kwargs)
            total, weights = total + weight * value, weights + weight
        return jnp.asarray(total / weights)

    def stream(
        self, batches: Batches, *, passes: int, done: int = 0
    ) -> Iterator[tuple[Any, float]]:
        """Yields `(batch, weight)` of one pass over the data.

        Args:
            batches: what the user handed over.
            passes: how many passes the caller makes in all.
            done: batches seen in earlier passes, for the progress callback.
        """
        source = batches() if callable(batches) else batches
        _check_batches(source, 1 if callable(batches) else passes)
        total = passes * len(source) if hasattr(source, "__len__") else None  # type: ignore[arg-type]
        seen = 0
        # Not `enumerate`: it would keep the last batch alive while the next is made.
        for batch in source:
            yield batch, self._checked_weight(batch)
            del batch
            seen += 1
            if self.progress is not None:
                self.progress(done + seen, total)
        if not seen:
            raise ValueError(
                "batches is empty: no batch came out of it. If it is an iterator, it "
                "may have been consumed before: pass a list or a data loader that can "
                "be iterated again."
            )

    def _checked_weight(self, batch: Any) -> float:
        weight = float(self.weight(batch))
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(
                f"a batch has weight {weight}; weights are positive and finite, "
                "such as the number of examples."
            )
        return weight


def over_batches(
    loss_fn: LossFn,
    *,
    weight: Callable[[Any], float] | None = None,
    progress: Progress | None = None,
) -> BatchedLoss:
    """Turns the loss of a batch into the mean loss over many batches.

    The importance measures are defined by the gradient ḡ of the mean loss over *all*
    scoring data and by Hḡ of that same mean. Every measure takes what this returns in
    place of a loss; the batch's place in the call is then taken by the batches:

        loss_preservation = gf.loss_preservation(gf.over_batches(loss_fn))
        scores = loss_preservation(params, batches)

    First-order measures pass over the data once, second-order ones twice (ḡ, then
    Hḡ = Σ w_b H_b ḡ / Σ w_b). One batch is held at a time, beside one accumulator the
    size of the parameters in the first pass and two in the second. Batches of one
    shape are compiled once; a last batch of another size is compiled once more.

    Args:
        loss_fn: `loss_fn(params, batch, *args, **kwargs) -> scalar`, the *mean* over
            the batch. Further arguments are the same for every batch.
        weight: what a batch counts for; by default its number of examples, the
            leading axis that all arrays of the batch share.
        progress: `progress(done, total)`, called after each batch of each pass;
            `total` is None where the number of batches is not known.

    Returns:
        A loss `(params, batches, *args, **kwargs) -> scalar`. `batches` is a list, a
        data loader, anything that can be iterated again, or a function that returns
        an iterator. A generator, which can be iterated once, serves first-order
        measures alone.

    Raises:
        TypeError: at the call, for a one-shot iterator where two passes are needed,
            or for a single array or dict instead of an iterable of batches.
        ValueError: at the call, if there is no batch, if the arrays of a batch have
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
    return BatchedLoss(loss_fn, weight or batch_size, progress)


def batch_size(batch: Any) -> int:
    """Returns the number of examples of a batch: its arrays' leading axis.

    Raises:
        ValueError: if the arrays disagree about it or there is none.
    """
    sizes = {
        path: jnp.shape(leaf)[0] for path, leaf in named_leaves(batch) if jnp.ndim(leaf)
    }
    if len(set(sizes.values())) != 1:
        found = ", ".join(f"{path or 'batch'}: {n}" for path, n in sizes.items())
        raise ValueError(
            "the number of examples of a batch cannot be told from the leading axes "
            f"of its arrays ({found or 'there is no array'}). Pass "
            "weight=lambda batch: ... to over_batches, or move what is not data out "
            "of the batch."
        )
    return next(iter(sizes.values()))


def _check_batches(source: Any, passes: int) -> None:
    """Raises TypeError unless `source` can be iterated for so many passes."""
    if hasattr(source, "shape") or isinstance(source, Mapping):
        raise TypeError(
            f"batches is a single {type(source).__name__}, not an iterable of "
            "batches: pass a list such as [batch], or call the measure of the plain "
            "loss."
        )
    if not isinstance(source, Iterable):
        raise TypeError(
            f"batches is a {type(source).__name__}, which cannot be iterated: pass a "
            "list of batches, a data loader, or a function that returns an iterator."
        )
    if passes > 1 and isinstance(source, Iterator):
        raise TypeError(
            f"batches is a {type(source).__name__}, which can be iterated only once, "
            f"but this measure passes over the data {passes} times (ḡ, then Hḡ). "
            "Pass a list, a data loader, or the function that makes the iterator."
        )
