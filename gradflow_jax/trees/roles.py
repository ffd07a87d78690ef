"""Which axes of a leaf are summed over and which are outputs: by roles, or by name.

`gf.structured.axis_roles` reads roles from a model; a tree of tuples of words that is
written by hand will do. Where there are none, the convention of Flax's dense and
convolution kernels holds, for leaves that look like them. A shape alone tells little:
of [16, 4, 4] and [4, 4, 16] each is a kernel of attention, with other inputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradflow_jax.trees.names import flatten_with_routes, label, named_leaves
from gradflow_jax.trees.numbers import checked_whole_number, quote
from gradflow_jax.trees.prunable import match_paths
from gradflow_jax.trees.types import ArrayTree, Axes, Roles

WORDS = ("in", "out", "head", "window", "stack", "group", "unknown")
SUMMED = frozenset(("in", "window"))
BY_ROLES = "roles=gf.structured.axis_roles(model, params, x)"
# Flax gives these names to the projections of attention, whose kernels have three axes
# and under scan four.
_ATTENTION = frozenset(("query", "key", "value", "out"))


class LinearMap(NamedTuple):
    """A leaf as a linear map: its axes, by number.

    Attributes:
        inputs: those that are summed over.
        outputs: those that are not, heads among them.
        window: those along which a convolution slides.
        layers: those whose every index is a map of its own.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    window: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()


def linear_maps(
    tree: ArrayTree,
    flags: Sequence[bool],
    *,
    what: str,
    roles: Roles | None = None,
    axis: Axes | None = None,
) -> list[LinearMap | None]:
    """Returns each flagged leaf as a linear map, and None of the others.

    Args:
        tree: any pytree of arrays.
        flags: a bool for each leaf.
        what: what an error calls the tree: "scores".
        roles: the words of each leaf's axes; None for Flax's convention.
        axis: the axes that are summed over, which then need no roles.

    Raises:
        TypeError: if an axis is no whole number, or roles are no tuples of words.
        ValueError: at a flagged leaf whose inputs are not known, or that lacks an axis.
    """
    named = named_leaves(tree)
    shapes = {path: tuple(jnp.shape(leaf)) for path, leaf in named}
    words = words_of_leaves(roles, shapes, what=what)
    axes = axes_of_leaves(axis, shapes, what=what, flags=flags)

    def linear_map(path: str, shape: tuple[int, ...]) -> LinearMap:
        inputs = axes[path]
        if inputs is not None:
            others = (i for i in range(len(shape)) if i not in inputs)
            return LinearMap(inputs, tuple(others))
        if roles is None:
            return _by_convention(path, shapes, what)
        return _by_words(known_words(words, path, shape, what), path, what)

    return [
        linear_map(path, shape) if flag else None
        for (path, shape), flag in zip(shapes.items(), flags, strict=True)
    ]


def words_of_leaves(
    roles: Roles | None, shapes: Mapping[str, tuple[int, ...]], *, what: str
) -> dict[str, tuple[str, ...] | None]:
    """Returns the words of each leaf by its path, or None where there are none.

    The roles of all variables of a Flax model, which stand under "params", are those of
    its parameters too, and the other way round.

    Raises:
        TypeError: at a leaf of roles that is no tuple of words.
        ValueError: at another word, or another number of words than axes.
    """
    if roles is None:
        return dict.fromkeys(shapes)
    leaves, structure = flatten_with_routes(roles, _is_words)
    boxed = structure.unflatten(_Words(words) for _, words in leaves)
    by_path = {}
    for path, box in named_leaves(boxed):
        if not _is_words(box.words):
            raise TypeError(
                f"roles {label(path)} is {quote(box.words)}, not a tuple with a word "
                f"for each axis, such as ('in', 'out'): pass {BY_ROLES}."
            )
        by_path[path] = tuple(box.words)
    result = dict.fromkeys(shapes)
    for path, shape in shapes.items():
        names = (path, f"params/{path}", path.removeprefix("params/"))
        words = next((by_path[name] for name in names if name in by_path), None)
        if words is None:
            continue
        strange = [word for word in words if word not in WORDS]
        if strange:
            raise ValueError(
                f"roles {label(path)} has the word {strange[0]!r}; the words are "
                f"{', '.join(WORDS)}."
            )
        if len(words) != len(shape):
            raise ValueError(
                f"roles {label(path)} is {words}, but {what} has the shape {shape} "
                f"there: make them of this very model, {BY_ROLES}."
            )
        result[path] = words
    return result


def known_words(
    words: Mapping[str, tuple[str, ...] | None],
    path: str,
    shape: tuple[int, ...],
    what: str,
) -> tuple[str, ...]:
    """Returns the words of a leaf.

    Raises:
        ValueError: if there are none, or one is "unknown".
    """
    words_of_leaf = words[path]
    # What is allotted from params takes no axis: its outputs and window count too.
    by_axis = f"name its axes, axis={{{path!r}: ...}}, or " if what == "scores" else ""
    if words_of_leaf is None:
        raise ValueError(
            f"roles lacks {what} {label(path)} of shape {shape}: {by_axis}make roles "
            f"of the model that has these parameters, {BY_ROLES}."
        )
    if "unknown" in words_of_leaf:
        raise ValueError(
            f"the roles of {what} {label(path)} of shape {shape} are {words_of_leaf}: "
            "two uses of it disagree, or the model does not use it in a way that says. "
            f"To say it, {by_axis}write its words into the roles."
        )
    return words_of_leaf


def axes_of_leaves(
    axis: Axes | None,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    what: str,
    flags: Sequence[bool],
) -> dict[str, tuple[int, ...] | None]:
    """Returns the axes that are named for each leaf, from 0; None where none are.

    Raises:
        TypeError: if an axis is no whole number.
        ValueError: if a flagged leaf lacks its axis, one is named twice, or a pattern
            matches no leaf.
    """
    paths = [*shapes]
    by_path: dict[str, Any] = dict.fromkeys(paths, axis)
    if isinstance(axis, Mapping):
        by_path = dict.fromkeys(paths)
        items: list[tuple[Any, Any]] = [*axis.items()]
        # Of several patterns that match a leaf the first decides, as in `quotas`.
        for pattern, axes_of_pattern in reversed(items):
            matches = match_paths(pattern, paths, what="axis")
            for path, is_match in zip(paths, matches, strict=True):
                if is_match:
                    by_path[path] = axes_of_pattern
    result = dict.fromkeys(paths)
    for path, flag in zip(paths, flags, strict=True):
        if flag and by_path[path] is not None:
            result[path] = _checked_axes(by_path[path], path, shapes[path], what)
    return result


def _checked_axes(
    axis: Any, path: str, shape: tuple[int, ...], what: str
) -> tuple[int, ...]:
    several = isinstance(axis, (tuple, list))
    axes = [
        checked_whole_number(number, f"axis of {what} {label(path)}")
        for number in (axis if several else (axis,))
    ]
    for number in axes:
        if not -len(shape) <= number < len(shape):
            raise ValueError(
                f"{what} {label(path)} of shape {shape} has no axis {quote(number)}: "
                "name the axes of some leaves alone, axis={'*/kernel': ...}."
            )
    counted = tuple(number % len(shape) for number in axes)
    if len(set(counted)) != len(counted) or not counted:
        raise ValueError(
            f"axis of {what} {label(path)} is {axes}: name one axis or more, each once."
        )
    return counted


class _Words:
    """A tuple of words as one leaf, whose path is that of the words."""

    def __init__(self, words: Any):
        self.words = words


def _is_words(value: Any) -> bool:
    """Says whether a part of a tree of roles is the words of one leaf."""
    if isinstance(value, list) and not value:
        return False
    return isinstance(value, (tuple, list)) and all(
        isinstance(word, str) for word in value
    )


def _by_words(words: Sequence[str], path: str, what: str) -> LinearMap:
    """Returns a leaf as the map that its words say.

    Raises:
        ValueError: if no axis is summed over.
    """
    if "in" not in words:
        raise ValueError(
            f"{what} {label(path)} has the roles {tuple(words)}: no axis of it is "
            "summed over. Exclude it by ignore= or prunable=."
        )

    def where(*kinds: str) -> tuple[int, ...]:
        return tuple(i for i, word in enumerate(words) if word in kinds)

    return LinearMap(
        where("in"), where("out", "head"), where("window"), where("stack", "group")
    )


def _own_bias(
    folders: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Returns the shape of a layer's bias, () where it has none or several kernels."""
    beside = {
        path.split("/")[-1]: shape
        for path, shape in shapes.items()
        if path.split("/")[:-1] == [*folders]
    }
    bias = beside.pop("bias", ())
    return bias if sum(len(shape) > 1 for shape in beside.values()) == 1 else ()


def _by_convention(
    path: str, shapes: Mapping[str, tuple[int, ...]], what: str
) -> LinearMap:
    """Returns a kernel of Flax, [in, out] or [height, width, in, out], as a map.

    Raises:
        ValueError: at another shape or name, or where the leaf's bias contradicts.
    """
    shape = shapes[path]
    *folders, name = path.split("/")
    bias = _own_bias(folders, shapes)
    if len(shape) not in (2, 4):
        reason = "leaves of two and four dimensions alone"
    elif "weight" in name.split("_"):
        # Equinox and torch say `weight`, and `weight_ih` of recurrent cells.
        reason = "its kernels, and a weight is (out, in) in Equinox and torch"
    elif len(shape) == 4 and (len(bias) > 1 or _ATTENTION & {*folders[-1:]}):
        reason = "its convolutions, and this may be a stack of other layers"
    elif len(shape) == 2 and bias == shape[:1] != shape[1:]:
        reason = f"its kernels, and the bias beside it has {shape[0]} outputs"
    else:
        last = len(shape) - 1
        return LinearMap((last - 1,), (last,), tuple(range(last - 1)))
    by_axis = " or axis=" if what == "scores" else ""
    raise ValueError(
        f"{what} {label(path)} of shape {shape} does not say which axis is summed "
        f"over: Flax's convention, (..., in, out), is of {reason}. To say it, pass "
        f"{BY_ROLES}{by_axis}, or exclude the leaf by ignore= or prunable=."
    )
