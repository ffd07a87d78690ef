"""Takes the arguments of a loss as people write them: flags, arrays, batches."""

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees import describe, is_numeric, label, map_named, named_leaves
from gradflow_jax.trees.checks import check_has_values
from gradflow_jax.trees.names import flatten_with_routes

_FLAGS = (bool, np.bool_, str, enum.Enum)
_ARRAY_PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__")
_BIND = (
    "what is no array is bound to the loss before it is scored, "
    "functools.partial(loss_fn, name=...)"
)


@jax.tree_util.register_pytree_node_class
class Flag:
    """A bool, a text or a member of an enumeration, by which a loss is another one.

    It is a tree without leaves, so that it goes through every transformation of JAX and
    is static to each: a program is compiled for each value.

    Attributes:
        value: what the loss is called with.
    """

    def __init__(self, value: Any):
        self.value = value

    def tree_flatten(self) -> tuple[tuple[()], Any]:
        """Returns what is traced, nothing, and what is static."""
        # A text and a member of an enumeration of texts are equal; the types differ.
        return (), (type(self.value), self.value)

    @classmethod
    def tree_unflatten(cls, static: Any, children: tuple[()]) -> "Flag":
        """Returns the flag of its parts."""
        return cls(static[1])


def take_arguments(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    first: int = 0,
    or_shapes: bool = False,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns arguments as JAX takes them; `release_flags` undoes it for the loss.

    Args:
        args: what the loss takes after params, in whole or from `first` on.
        kwargs: what it takes by keyword.
        first: the place of the first of `args`, for errors.
        or_shapes: whether shapes stand for arrays, as where a program is lowered.

    Raises:
        TypeError: at what is neither an array nor a flag; it names the argument.
    """
    taken = tuple(
        _take(value, f"argument {place} after params", or_shapes)
        for place, value in enumerate(args, first + 1)
    )
    return taken, {
        name: _take(value, f"argument {name!r}", or_shapes)
        for name, value in kwargs.items()
    }


def release_flags(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns arguments with the values of flags in their places."""

    def release(value: Any) -> Any:
        return value.value if isinstance(value, Flag) else value

    released = {name: release(value) for name, value in kwargs.items()}
    return tuple(map(release, args)), released


def take_arrays(tree: Any, what: str, *, or_shapes: bool = False) -> Any:
    """Returns a tree whose leaves are arrays and numbers that JAX takes.

    What NumPy reads, such as the tensors of another library, is taken as NumPy takes
    it. A tree that needs no change is returned itself.

    Args:
        tree: any pytree.
        what: what an error calls it.
        or_shapes: whether shapes stand for arrays.

    Raises:
        TypeError: at a leaf that is no array of numbers.
    """
    # An iterator is named by its place, which JAX itself would warn of.
    routes_and_leaves, structure = flatten_with_routes(
        tree, is_leaf=lambda node: isinstance(node, Iterator)
    )
    leaves = [leaf for _, leaf in routes_and_leaves]
    # Names cost more than all else here, and are for errors alone.
    if all(map(_is_ready, leaves)):
        return tree
    places = named_leaves(structure.unflatten(range(len(leaves))))
    taken = [_as_array(path, leaves[place], what) for path, place in places]
    if not or_shapes:
        for (path, _), leaf in zip(places, taken, strict=True):
            check_has_values(path, leaf, what)
    is_same = all(new is old for new, old in zip(taken, leaves, strict=True))
    return tree if is_same else structure.unflatten(taken)


def batch_size(batch: Any) -> int:
    """Returns the number of examples of a batch: its arrays' leading axis.

    Raises:
        ValueError: if the arrays disagree about it or there is none.
    """
    sizes = {
        path: jnp.shape(leaf)[0] for path, leaf in named_leaves(batch) if jnp.ndim(leaf)
    }
    if len(set(sizes.values())) != 1:
        lengths = ", ".join(f"{path or 'batch'}: {n}" for path, n in sizes.items())
        raise ValueError(
            "the number of examples of a batch cannot be told from the leading axes "
            f"of its arrays ({lengths or 'there is no array'}). Pass "
            "weight=lambda batch: ... to over_batches, or move what is not data out "
            "of the batch."
        )
    return next(iter(sizes.values()))


def slice_batch(batch: Any, start: int, stop: int) -> Any:
    """Returns the examples from `start` to before `stop` of every array of a batch.

    Raises:
        ValueError: at a number, which belongs to no example.
    """

    def cut(path: str, leaf: Any) -> Any:
        if not jnp.ndim(leaf):
            raise ValueError(
                f"the batch's {label(path)} is a single number, which micro_batch "
                "cannot split: pass what is not data as a further argument of the loss."
            )
        return leaf[start:stop]

    return map_named(cut, batch)


def _is_one_batch(source: Any) -> bool:
    """Says whether arrays of as many examples are the parts of one batch.

    Batches of one array each may be a list of such arrays too, but then they are alike.
    """
    if not isinstance(source, (tuple, list)) or len(source) < 2:
        return False
    if not all(hasattr(part, "shape") and len(part.shape) for part in source):
        return False
    lengths = {part.shape[0] for part in source}
    kinds = {(str(part.dtype), len(part.shape)) for part in source}
    return len(lengths) == 1 and (isinstance(source, tuple) or len(kinds) > 1)


def check_batches(source: Any, passes: int) -> None:
    """Checks that batches can be iterated for so many passes.

    Raises:
        TypeError: at what cannot, and at a batch by itself.
    """
    if hasattr(source, "shape") or isinstance(source, Mapping):
        raise TypeError(
            f"batches is a single {type(source).__name__}, not an iterable of "
            "batches: pass a list such as [batch], or call the measure of the plain "
            "loss."
        )
    if _is_one_batch(source):
        parts = ", ".join(describe(part) for part in source)
        raise TypeError(
            f"batches is a {type(source).__name__} of {parts}, which is one batch: "
            "pass a list such as [(x, y)], or call the measure of the plain loss."
        )
    if not isinstance(source, Iterable) or isinstance(source, (str, bytes)):
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


def _take(value: Any, what: str, or_shapes: bool) -> Any:
    if isinstance(value, _FLAGS):
        return Flag(value)
    return take_arrays(value, what, or_shapes=or_shapes)


def _is_ready(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray)) and is_numeric(leaf)


def _as_array(path: str, leaf: Any, what: str) -> Any:
    place = f"{what}, {label(path)}," if path else what
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(
            f"{place} is a masked array of NumPy, whose mask JAX would not see: pass "
            "array.filled(value), and the mask as an array of its own."
        )
    if is_numeric(leaf) and (
        isinstance(leaf, (jax.Array, np.ndarray))
        or not any(hasattr(leaf, name) for name in _ARRAY_PROTOCOLS)
    ):
        return leaf
    if isinstance(leaf, str):
        raise TypeError(
            f"{place} is the text {leaf[:40]!r}: leave it out, or pass it as an "
            f"argument of its own; {_BIND}."
        )
    if any(hasattr(leaf, name) for name in _ARRAY_PROTOCOLS):
        return _read_by_numpy(leaf, place)
    remedy = f"pass arrays and numbers; {_BIND}."
    if isinstance(leaf, Iterable):
        remedy = (
            "pass one batch of arrays; many batches are what a loss made by "
            "gf.over_batches(loss_fn) takes."
        )
    raise TypeError(f"{place} is {describe(leaf)}, not an array: {remedy}")


def _read_by_numpy(leaf: Any, place: str) -> chex.Numeric:
    """Returns what NumPy makes of an array of another library, checked to be numbers.

    Raises:
        TypeError: where NumPy cannot read it, or finds no numbers in it.
    """
    try:
        array = np.asarray(leaf)
    # A library raises what it likes: PyTorch a RuntimeError, CuPy a TypeError.
    except Exception as error:
        raise TypeError(
            f"{place} is {describe(leaf)}, which numpy cannot read ({error}): convert "
            "it by its own library to an array of numpy."
        ) from error
    if not is_numeric(array):
        raise TypeError(
            f"{place} is {describe(leaf)}, to numpy {describe(array)}: JAX computes "
            "with numbers and bools. Encode it as numbers or leave it out."
        )
    return array
