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
    new_part,
    new_pinned,
    pin,
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
        return [new_pinned(1, ONE) if size == 1 else next(inner) for size in sizes]
    axis = find(axis)
    if axis.form is None:
        if axis.reason is not None:
            return [new_pinned(size, axis.reason) for size in sizes]
        parts = [new(size) for size in sizes]
        axis.define("product", parts)
        return parts
    if axis.form == "product":
        factored = refine(factors(axis), sizes, blame)
        if factored is not None:
            return factored
    else:
        factored = _factor_sum(terms(axis), sizes, blame)
        if factored is not None:
            return factored
    text = f"an axis made as {axis} cannot be reshaped into {tuple(sizes)} and cut"
    give_up([axis], text, blame)
    return [new_pinned(size, blame(text)) for size in sizes]


def _factor_sum(
    parts: list[Axis], sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis] | None:
    """Factors a sum whose every part is a whole number of rows of the inner sizes."""
    inner = math.prod(sizes[1:])
    if any(part.size % inner for part in parts):
        return None
    outer, inner_axes = [], None
    for part in parts:
        first, *inner_of_part = factor(part, [part.size // inner, *sizes[1:]], blame)
        outer.append(first)
        if inner_axes is None:
            inner_axes = inner_of_part
        for axis, shared in zip(inner_of_part, inner_axes, strict=True):
            unite(axis, shared, blame)
    return [add(outer), *(inner_axes or [])]


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

    An array of shape (4, 6) has 24 indices in a row. Each list of sizes divides the row
    at the products of its minor sizes, (4, 6) at 6 and (8, 3) at 3:

        4·6   |------------|-----|
        8·3   |---------------|--|
              24           6  3  1

    Where each of these products divides the next, 1 | 3 | 6 | 24, the quotients 4·2·3
    are a list of factors that refines both: 4 · (2·3) and (4·2) · 3. The axes are
    factored into them, and the factors multiplied to the sizes asked for. For (3, 8)
    the products 6 and 8 are in conflict, and an index of one list is no block of the
    other's: no cut of one leaves a grid of the other.

    Returns:
        The axes of these sizes, or None where no common refinement exists.
    """
    sizes_before = [axis.size for axis in axes]
    boundaries = sorted({1, *_chain(sizes_before), *_chain(sizes)})
    if any(b % a for a, b in zip(boundaries, boundaries[1:], strict=False)):
        return None
    pieces = [b // a for a, b in zip(boundaries, boundaries[1:], strict=False)][::-1]
    # The quotients, minor last, multiply to the sizes of either list.
    small: list[Axis] = []
    position = 0
    for axis in axes:
        sizes_of_axis: list[int] = []
        while math.prod(sizes_of_axis) < axis.size:
            sizes_of_axis.append(pieces[position])
            position += 1
        if sizes_of_axis:
            small.extend(factor(axis, sizes_of_axis, blame))
        elif axis.reason is None:
            # A single index that may be removed is a factor of no size.
            small.append(axis)
    grouped: list[list[Axis]] = []
    remaining = iter(small)
    for size in sizes:
        group: list[Axis] = []
        while math.prod(part.size for part in group) < size:
            group.append(next(remaining))
        grouped.append(group)
    # Single indices that may be removed are left over: they go with the last group.
    grouped[-1].extend(remaining)
    return [multiply(group) for group in grouped]


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
            return [new_pinned(size, axis.reason) for size in sizes]
        parts = [new_part(size) for size in sizes]
        axis.define("sum", parts)
        return parts
    if axis.form == "sum":
        return _split_sum(terms(axis), sizes, blame)
    major, *minors = factors(axis)
    inner = math.prod(part.size for part in minors)
    if any(size % inner for size in sizes):
        text = f"a slice cuts across {axis}, which a reshape made"
        give_up([axis], text, blame)
        return [new_pinned(size, blame(text)) for size in sizes]
    majors = split(major, [size // inner for size in sizes], blame)
    for part in majors:
        if part.size == 1:
            pin(part, blame("it is one whole block of a fused axis"))
    return [multiply([part, *minors]) for part in majors]


def _split_sum(
    whole: list[Axis], sizes: Sequence[int], blame: Callable[[str], Reason]
) -> list[Axis]:
    todo, parts = list(whole), []
    for size in sizes:
        terms, total = [], 0
        while total < size:
            term = todo.pop(0)
            if total + term.size > size:
                left_of_part = size - total
                term, tail = split(
                    term, [left_of_part, term.size - left_of_part], blame
                )
                todo.insert(0, tail)
            terms.append(term)
            total += term.size
        parts.append(add(terms) if terms else new_part(0))
    return parts


def singles(axis: Axis, blame: Callable[[str], Reason]) -> list[Axis]:
    """Splits an axis into its indices, for what permutes or picks them."""
    axis = find(axis)
    if axis.form is None:
        return split(axis, [1] * axis.size, blame)
    if axis.form == "sum":
        return [index for term in terms(axis) for index in singles(term, blame)]
    result: list[list[Axis]] = [[]]
    for part in factors(axis):
        ones = singles(part, blame)
        result = [[*before, index] for before in result for index in ones]
    return [multiply(ones) for ones in result]


def unite(first: Axis, second: Axis, blame: Callable[[str], Reason]) -> None:
    """Makes two axes of one size the same: their indices are removed together."""
    first, second = find(first), find(second)
    if first is second:
        return
    if first.size != second.size:
        raise AssertionError(f"axes of sizes {first.size} and {second.size} united")
    if first.form is not None and second.form is None:
        first, second = second, first
    if first.form is None:
        if first.reason is not None:
            pin(second, first.reason)
        if any(root is first for root in roots(second)):
            # A single index can be united with an axis that contains it, and would
            # then stand for all of that axis's indices.
            pin(second, blame(f"{second} is laid over itself"))
            return
        first.define("same", (second,))
        return
    if first.form == second.form == "sum":
        _unite_sums(first, second, blame)
    elif first.form == second.form:
        _unite_products(first, second, blame)
    else:
        total, product = (first, second) if first.form == "sum" else (second, first)
        summands = terms(total)
        parts = split(product, [term.size for term in summands], blame)
        for term, part in zip(summands, parts, strict=True):
            unite(term, part, blame)


def _unite_sums(first: Axis, second: Axis, blame: Callable[[str], Reason]) -> None:
    ends = {0}
    for total in (first, second):
        end = 0
        for term in terms(total):
            end += term.size
            ends.add(end)
    # Both sums are split wherever a term of either ends; the pieces match one by one.
    cuts = sorted(ends)
    sizes = [b - a for a, b in zip(cuts, cuts[1:], strict=False)]
    first_parts, second_parts = (
        _split_sum(terms(total), sizes, blame) for total in (first, second)
    )
    for a, b in zip(first_parts, second_parts, strict=True):
        unite(a, b, blame)


def _unite_products(first: Axis, second: Axis, blame: Callable[[str], Reason]) -> None:
    first_factors, second_factors = factors(first), factors(second)
    # Two products are matched by the factors that refine both, as `refine` finds them.
    if [a.size for a in first_factors] != [b.size for b in second_factors]:
        boundaries = sorted(
            {
                1,
                *_chain(a.size for a in first_factors),
                *_chain(b.size for b in second_factors),
            }
        )
        if any(b % a for a, b in zip(boundaries, boundaries[1:], strict=False)):
            give_up(
                [first, second], f"{first} and {second} have no common factors", blame
            )
            return
        pieces = [b // a for a, b in zip(boundaries, boundaries[1:], strict=False)][
            ::-1
        ]
        first_factors = refine(first_factors, pieces, blame)
        second_factors = refine(second_factors, pieces, blame)
        if first_factors is None or second_factors is None:
            give_up([first, second], f"{first} and {second} cannot be matched", blame)
            return
    for a, b in zip(first_factors, second_factors, strict=True):
        unite(a, b, blame)
