"""Unification of symbolic axes: splitting, factoring and uniting them.

Each function refines axes in place where they are still free, and gives up where two
refinements cannot be reconciled: it pins all that is involved, with a reason made by
`blame`, which is always sound.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from gradflow_jax.structured.coupling.axes import (
    ONE,
    Axis,
    Reason,
    add,
    factors,
    find,
    multiply,
    new,
    pin,
    pinned,
    roots,
    terms,
)


def give_up(axes: Iterable[Axis], text: str, blame: Callable[[str], Reason]) -> None:
    """Pins axes, for this reason."""
    for axis in axes:
        pin(axis, blame(text))


def factor(
    axis: Axis, sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis]:
    """Splits an axis into a row-major product of axes of these sizes.

    Args:
        axis: whose size is the product of `sizes`.
        sizes: of the factors, major first.
        blame: makes a reason of its text.
    """
    sizes = list(sizes)
    if math.prod(sizes) != axis.size:
        raise AssertionError(f"{axis.size} is not the product of {sizes}")
    if len(sizes) == 1:
        return [axis]
    if 1 in sizes:
        inner = iter(factor(axis, [s for s in sizes if s != 1] or [1], blame))
        return [pinned(1, ONE) if size == 1 else next(inner) for size in sizes]
    axis = find(axis)
    if axis.form is None:
        if axis.reason is not None:
            return [pinned(size, axis.reason) for size in sizes]
        parts = [new(size) for size in sizes]
        axis.define("product", parts)
        return parts
    if axis.form == "product":
        found = refine(factors(axis), sizes, blame)
        if found is not None:
            return found
    else:
        found = _factor_sum(terms(axis), sizes, blame)
        if found is not None:
            return found
    text = f"an axis made as {axis} cannot be reshaped into {tuple(sizes)} and cut"
    give_up([axis], text, blame)
    return [pinned(size, blame(text)) for size in sizes]


def _factor_sum(
    parts: list[Axis], sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis] | None:
    """Factors a sum whose every part is a whole number of rows of the inner sizes."""
    inner = math.prod(sizes[1:])
    if any(part.size % inner for part in parts):
        return None
    outer, rest = [], None
    for part in parts:
        first, *others = factor(part, [part.size // inner, *sizes[1:]], blame)
        outer.append(first)
        if rest is None:
            rest = others
        for mine, shared in zip(others, rest, strict=True):
            unite(mine, shared, blame)
    return [add(outer), *(rest or [])]


def _chain(sizes: Iterable[int]) -> list[int]:
    """Returns the products of the last size, the last two, and so on."""
    total, products = 1, []
    for size in reversed(list(sizes)):
        total *= size
        products.append(total)
    return products


def refine(
    axes: Sequence[Axis], sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis] | None:
    """Regroups row-major axes to sizes of the same product, splitting where needed.

    Returns:
        The axes of these sizes, or None where no common refinement exists.
    """
    mine = [axis.size for axis in axes]
    both = sorted({1, *_chain(mine), *_chain(sizes)})
    if any(b % a for a, b in zip(both, both[1:], strict=False)):
        return None
    pieces = [b // a for a, b in zip(both, both[1:], strict=False)][::-1]
    # The pieces, minor last, are a refinement of both lists.
    small: list[Axis] = []
    position = 0
    for axis in axes:
        taken: list[int] = []
        while math.prod(taken) < axis.size:
            taken.append(pieces[position])
            position += 1
        if taken:
            small.extend(factor(axis, taken, blame))
        elif axis.reason is None:  # a single index that may be removed
            small.append(axis)
    grouped: list[list[Axis]] = []
    rest = iter(small)
    for size in sizes:
        group: list[Axis] = []
        while math.prod(part.size for part in group) < size:
            group.append(next(rest))
        grouped.append(group)
    # What is left are single indices that may be removed: they go with the last.
    grouped[-1].extend(rest)
    return [multiply(taken) for taken in grouped]


def split(
    axis: Axis, sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis]:
    """Splits an axis into consecutive parts of these sizes, which add up to it."""
    sizes = list(sizes)
    if sum(sizes) != axis.size:
        raise AssertionError(f"{axis.size} is not the sum of {sizes}")
    if len(sizes) == 1:
        return [find(axis)]
    axis = find(axis)
    if axis.form is None:
        if axis.reason is not None:
            return [pinned(size, axis.reason) for size in sizes]
        parts = [Axis(size) for size in sizes]
        axis.define("sum", parts)
        return parts
    if axis.form == "sum":
        return _split_sum(terms(axis), sizes, blame)
    major, *rest = factors(axis)
    inner = math.prod(part.size for part in rest)
    if any(size % inner for size in sizes):
        text = f"a slice cuts across {axis}, which a reshape made"
        give_up([axis], text, blame)
        return [pinned(size, blame(text)) for size in sizes]
    majors = split(major, [size // inner for size in sizes], blame)
    for part in majors:
        if part.size == 1:
            pin(part, blame("it is one whole block of a fused axis"))
    return [multiply([part, *rest]) for part in majors]


def _split_sum(
    whole: list[Axis], sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis]:
    todo, parts = list(whole), []
    for size in sizes:
        taken, total = [], 0
        while total < size:
            term = todo.pop(0)
            if total + term.size > size:
                here = size - total
                term, rest = split(term, [here, term.size - here], blame)
                todo.insert(0, rest)
            taken.append(term)
            total += term.size
        parts.append(add(taken) if taken else pinned(0, ONE))
    return parts


def singles(axis: Axis, blame: Callable[[str], Reason]) -> list[Axis]:
    """Splits an axis into its indices, for what permutes or picks them."""
    axis = find(axis)
    if axis.form is None:
        return split(axis, [1] * axis.size, blame)
    if axis.form == "sum":
        return [one for term in terms(axis) for one in singles(term, blame)]
    result: list[list[Axis]] = [[]]
    for part in factors(axis):
        ones = singles(part, blame)
        result = [[*before, one] for before in result for one in ones]
    return [multiply(ones) for ones in result]


def unite(one: Axis, other: Axis, blame: Callable[[str], Reason]) -> None:
    """Makes two axes of one size the same: their indices are removed together."""
    one, other = find(one), find(other)
    if one is other:
        return
    if one.size != other.size:
        raise AssertionError(f"axes of sizes {one.size} and {other.size} united")
    if one.form is not None and other.form is None:
        one, other = other, one
    if one.form is None:
        if one.reason is not None:
            pin(other, one.reason)
        if any(root is one for root in roots(other)):
            # Only by way of single indices: it then stands for all of them.
            pin(other, blame(f"{other} is laid over itself"))
            return
        one.define("same", (other,))
        return
    if one.form == other.form == "sum":
        _unite_sums(one, other, blame)
    elif one.form == other.form:
        _unite_products(one, other, blame)
    else:
        total, product = (one, other) if one.form == "sum" else (other, one)
        mine = terms(total)
        parts = split(product, [term.size for term in mine], blame)
        for term, part in zip(mine, parts, strict=True):
            unite(term, part, blame)


def _unite_sums(one: Axis, other: Axis, blame: Callable[[str], Reason]) -> None:
    ends = {0}
    for total in (one, other):
        end = 0
        for term in terms(total):
            end += term.size
            ends.add(end)
    cuts = sorted(ends)
    sizes = [b - a for a, b in zip(cuts, cuts[1:], strict=False)]
    mine, others = (_split_sum(terms(total), sizes, blame) for total in (one, other))
    for a, b in zip(mine, others, strict=True):
        unite(a, b, blame)


def _unite_products(one: Axis, other: Axis, blame: Callable[[str], Reason]) -> None:
    mine, others = factors(one), factors(other)
    if [a.size for a in mine] != [b.size for b in others]:
        both = sorted(
            {1, *_chain(a.size for a in mine), *_chain(b.size for b in others)}
        )
        if any(b % a for a, b in zip(both, both[1:], strict=False)):
            give_up([one, other], f"{one} and {other} have no common factors", blame)
            return
        pieces = [b // a for a, b in zip(both, both[1:], strict=False)][::-1]
        mine = refine(mine, pieces, blame)
        others = refine(others, pieces, blame)
        if mine is None or others is None:
            give_up([one, other], f"{one} and {other} cannot be matched", blame)
            return
    for a, b in zip(mine, others, strict=True):
        unite(a, b, blame)
