"""Symbolic axes: what an array's dimension is made of, by unification.

A dimension of an array is an `Axis`. At first it stands for itself. What a program
does to it refines it: a reshape makes it a *product* of axes (heads × head dimension),
a concatenation or a slice a *sum* of axes (this layer's channels, then that one's),
and an addition of two arrays makes their axes one. The rules of a program say only
that; `removed together` follows:

    an index of a product is removed when any of its factors' indices is,
    an index of a sum when its part's is.

So a cut of the free axes always leaves a grid behind, every reshape stays legal, and
the work does not grow with the widths. Where two refinements cannot be reconciled the
axes are *pinned*, with a reason: none of their indices is ever removed. Uniting or
pinning more than needed is always sound.

Size-1 axes are dropped from products: they are pinned from the start.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

_numbers = count()


@dataclass(frozen=True)
class Reason:
    """Why an axis cannot be cut.

    Attributes:
        text: in words.
        equation: the equation of the program that caused it, with its source line, or
            "" where none did.
    """

    text: str
    equation: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.equation})" if self.equation else self.text


class Axis:
    """One dimension, or a factor or a part of one; compare by `find`, not by `==`."""

    __slots__ = ("form", "number", "parts", "reason", "size")

    def __init__(self, size: int, reason: Reason | None = None):
        # Sizes in the parameters of some equations are numbers of NumPy.
        self.size = int(size)
        self.reason = reason
        # The form is "same", "sum" or "product"; an axis without one is undefined.
        self.form: str | None = None
        self.parts: tuple[Axis, ...] = ()
        self.number = next(_numbers)

    def define(self, form: str, parts: Sequence["Axis"]) -> None:
        """Makes this free axis a sum or a product, or another name of an axis."""
        self.form, self.parts = form, tuple(parts)

    def __repr__(self) -> str:
        root = find(self)
        if root.form is None:
            return f"{root.size}{'!' if root.reason else ''}#{root.number}"
        sign = " + " if root.form == "sum" else "·"
        return "(" + sign.join(map(repr, root.parts)) + ")"


ONE = Reason("it has a single index")
NONE = Reason("it has no index")


def new_pinned(size: int, reason: Reason) -> Axis:
    """Returns a new axis of which no index may be removed."""
    return Axis(size, reason)


def new(size: int) -> Axis:
    """Returns a new free axis; of one index, or of none, nothing can be removed."""
    return Axis(size, {0: NONE, 1: ONE}.get(size))


def new_part(size: int) -> Axis:
    """Returns a new part of an axis, free but for one of no width.

    A part of one index may go: others are left of the axis.
    """
    return Axis(size, NONE if size == 0 else None)


def find(axis: Axis) -> Axis:
    """Returns the axis that this one is another name of."""
    root = axis
    while root.form == "same":
        root = root.parts[0]
    while axis is not root:
        axis.parts, axis = (root,), axis.parts[0]
    return root


def roots(axis: Axis) -> Iterator[Axis]:
    """Yields the undefined axes an axis is made of, in order, with repetitions."""
    # A stack holds what is to come, since a program may nest sums by the thousand.
    waiting = [axis]
    while waiting:
        axis = find(waiting.pop())
        if axis.form is None:
            yield axis
        waiting += reversed(axis.parts)


def is_pinned(axis: Axis) -> bool:
    """Says whether no index of the axis can be removed."""
    return all(root.reason is not None for root in roots(axis))


def pin(axis: Axis, reason: Reason) -> None:
    """Forbids to remove any index of an axis; the first reason stays."""
    for root in roots(axis):
        if root.reason is None:
            root.reason = reason


def terms(axis: Axis) -> list[Axis]:
    """Returns the parts of a sum, with the sums among them flattened."""
    return _flatten(axis, "sum")


def factors(axis: Axis) -> list[Axis]:
    """Returns the factors of a product, with the products among them flattened."""
    return _flatten(axis, "product")


def _flatten(axis: Axis, form: str) -> list[Axis]:
    flat, waiting = [], [axis]
    while waiting:
        axis = find(waiting.pop())
        if axis.form == form:
            waiting += reversed(axis.parts)
        else:
            flat.append(axis)
    return flat


def _parts(axis: Axis) -> list[Axis]:
    """Returns the terms of a sum, or the factors of a product."""
    return terms(axis) if axis.form == "sum" else factors(axis)


def add(parts: Iterable[Axis]) -> Axis:
    """Returns the sum of axes: a concatenation."""
    parts = [find(part) for part in parts]
    # What has no index has no part in a sum, and is not why it cannot be cut.
    parts = [part for part in parts if part.size] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    total = Axis(sum(part.size for part in parts))
    if parts and all(part.form is None and part.reason for part in parts):
        total.reason = parts[0].reason
    else:
        total.define("sum", parts)
    return total


def multiply(parts: Iterable[Axis]) -> Axis:
    """Returns the row-major product of axes: several dimensions merged into one."""
    merged: list[Axis] = []
    for part in parts:
        for factor in factors(part):
            if factor.size == 1 and factor.reason is not None:
                continue
            if merged and _is_plain(factor) and _is_plain(merged[-1]):
                last = merged.pop()
                factor = new_pinned(last.size * factor.size, last.reason or ONE)
            merged.append(factor)
    if not merged:
        return new_pinned(1, ONE)
    if len(merged) == 1:
        return merged[0]
    product = Axis(math.prod(part.size for part in merged))
    product.define("product", merged)
    return product


def _is_plain(axis: Axis) -> bool:
    return axis.form is None and axis.reason is not None


def kept(axis: Axis, keep: dict[Axis, np.ndarray]) -> np.ndarray:
    """Returns which indices of an axis stay: bool [size], True keeps.

    Args:
        axis: any axis.
        keep: for undefined axes that are cut, which indices stay.
    """
    axis = find(axis)
    if axis.form is None:
        flags = keep.get(axis)
        return np.ones(axis.size, bool) if flags is None else flags
    parts = [kept(part, keep) for part in _parts(axis)]
    if axis.form == "sum":
        return np.concatenate(parts)
    flags = parts[0]
    for part in parts[1:]:
        flags = np.logical_and.outer(flags, part).reshape(-1)
    return flags


def kept_size(axis: Axis, keep: dict[Axis, np.ndarray]) -> int:
    """Returns how many indices of an axis stay."""
    axis = find(axis)
    if axis.form is None:
        flags = keep.get(axis)
        return axis.size if flags is None else int(flags.sum())
    sizes = [kept_size(part, keep) for part in _parts(axis)]
    if axis.form == "sum":
        return sum(sizes)
    # A factor that occurs twice removes an index once.
    if len(set(map(id, roots(axis)))) < len(list(roots(axis))):
        return int(kept(axis, keep).sum())
    return math.prod(sizes)


def places(axis: Axis, root: Axis) -> list[np.ndarray]:
    """Returns which index of `root` each index of `axis` goes with.

    Returns:
        Arrays of int [size of axis], −1 where an index goes with none: one array, or
        more where an index goes with several.
    """
    axis, root = find(axis), find(root)
    if axis is root:
        return [np.arange(axis.size)]
    if axis.form is None:
        return []
    parts = _parts(axis)
    below = [places(part, root) for part in parts]
    if axis.form == "sum":
        layers = max(map(len, below), default=0)
        return [
            np.concatenate(
                [
                    arrays[layer] if layer < len(arrays) else np.full(part.size, -1)
                    for arrays, part in zip(below, parts, strict=True)
                ]
            )
            for layer in range(layers)
        ]
    result = []
    for position, (arrays, part) in enumerate(zip(below, parts, strict=True)):
        before = math.prod(p.size for p in parts[:position])
        after = axis.size // (before * part.size)
        for labels in arrays:
            result.append(np.tile(np.repeat(labels, after), before))
    return result
