"""What each primitive makes of the constants that removed slices hold.

A rule gets a `ProofEquation`, an equation with what is known of its operands, and
returns what is known of its results. It refuses where a removed slice would be summed
that is not zero, or would be compared with what stays.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradflow_jax.programs.rules import VALUE_RULES
from gradflow_jax.structured.coupling.contractions import SCATTERS
from gradflow_jax.structured.coupling.pointwise import ELEMENTWISE
from gradflow_jax.structured.proof.equation import ProofEquation, is_known
from gradflow_jax.structured.proof.removed_values import (
    UNKNOWN,
    Entries,
    evaluate,
    join,
)


def _combine(eqn: ProofEquation, operands: Sequence[Any]) -> Any:
    """Returns an elementwise primitive's value where some operands may be unknown."""
    name = eqn.source.primitive.name
    if name == "select_n":
        which, *cases = operands
        return cases[int(which)] if is_known(which) else join(cases)
    known = [value for value in operands if is_known(value)]
    if name in ("mul", "and") and 0 in known and all(map(math.isfinite, known)):
        return 0.0
    if name == "div" and operands[0] == 0 and operands[1] is UNKNOWN:
        return 0.0
    if len(known) < len(operands):
        return UNKNOWN
    value = evaluate(eqn.source, operands)
    if value is not UNKNOWN and not math.isfinite(value):
        printed = ", ".join(f"{operand:g}" for operand in operands)
        raise eqn.refuse(f"{name} of {printed} is {value} on the removed slice")
    return value


def elementwise(eqn: ProofEquation) -> list[Entries]:
    """Evaluates the primitive on the constants of each dimension."""
    if len(eqn.source.outvars) > 1:
        return list(eqn.operands)
    result: list[Any] = []
    for position, lost in enumerate(eqn.lost(0)):
        if not lost:
            result.append(None)
            continue
        values = []
        for number, entries in enumerate(eqn.operands):
            entry = entries[position] if position < len(entries) else None
            values.append(eqn.uniform(number) if entry is None else entry)
        result.append(_combine(eqn, values))
    return [tuple(result)]


def move(eqn: ProofEquation) -> list[Entries]:
    """For what only moves indices: constants along any losing dimension are joined."""
    constants = [e for entries in eqn.operands for e in entries if e is not None]
    value = join(constants) if constants else eqn.uniform(0)
    return [
        tuple(value if lost else None for lost in eqn.lost(position))
        for position in range(len(eqn.source.outvars))
    ]


def carry(eqn: ProofEquation) -> list[Entries]:
    """For what keeps the positions of dimensions: each constant stays in its own."""
    results = []
    for position in range(len(eqn.source.outvars)):
        entries: list[Any] = []
        for i, lost in enumerate(eqn.lost(position)):
            constants = [e[i] for e in eqn.operands if i < len(e) and e[i] is not None]
            entries.append(
                (join(constants) if constants else UNKNOWN) if lost else None
            )
        results.append(tuple(entries))
    return results


def carried_zero(eqn: ProofEquation) -> list[Entries]:
    """The same for what keeps zeros, but not other constants."""
    return [
        tuple(e if e is None or e == 0 else UNKNOWN for e in entries)
        for entries in carry(eqn)
    ]


def broadcast_in_dim(eqn: ProofEquation) -> list[Entries]:
    """Constants follow their dimensions."""
    value = eqn.uniform(0)
    result = [value if lost else None for lost in eqn.lost(0)]
    for entry, target in zip(
        eqn.operands[0], eqn.params["broadcast_dimensions"], strict=True
    ):
        if entry is not None and result[target] is not None:
            result[target] = entry
    return [tuple(result)]


def transpose(eqn: ProofEquation) -> list[Entries]:
    """Constants are permuted."""
    return [tuple(eqn.operands[0][p] for p in eqn.params["permutation"])]


def squeeze(eqn: ProofEquation) -> list[Entries]:
    """Constants of dropped dimensions are dropped."""
    entries = eqn.operands[0]
    dropped = {d % len(entries) for d in eqn.params["dimensions"]}
    return [tuple(e for i, e in enumerate(entries) if i not in dropped)]


def unstack(eqn: ProofEquation) -> list[Entries]:
    """Constants of the other dimensions are carried."""
    along, entries = eqn.params["axis"], eqn.operands[0]
    return [(*entries[:along], *entries[along + 1 :])] * len(eqn.source.outvars)


def gather(eqn: ProofEquation) -> list[Entries]:
    """Slices taken whole keep what they hold."""
    numbers = eqn.params["dimension_numbers"]
    entries = eqn.operands[0]
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = iter(e for i, e in enumerate(entries) if i not in dropped)
    dropped_constants = [
        e for i, e in enumerate(entries) if i in dropped and e is not None
    ]
    result = []
    for position, lost in enumerate(eqn.lost(0)):
        if position in numbers.offset_dims:
            result.append(next(windows))
        else:
            result.append(
                (join(dropped_constants) if dropped_constants else UNKNOWN)
                if lost
                else None
            )
    return [tuple(result)]


def scatter(eqn: ProofEquation) -> list[Entries]:
    """Says what a slice holds where as many updates as there are meet what it held."""
    numbers = eqn.params["dimension_numbers"]
    old, _, new = eqn.operands
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = [i for i in range(len(old)) if i not in dropped]
    written = dict(zip(windows, numbers.update_window_dims, strict=True))
    merge = _MERGES[eqn.source.primitive.name]
    result: list[Any] = []
    for i, entry in enumerate(old):
        if entry is None:
            result.append(None)
            continue
        update = new[written[i]] if i in written else UNKNOWN
        once = merge(entry, update)
        twice = merge(once, update)
        # Any number of updates leaves it as it was, or any number but none as one does.
        if (
            once is not UNKNOWN
            and once == twice
            and (once == entry or _writes_everywhere(eqn))
        ):
            result.append(once)
        else:
            result.append(UNKNOWN)
    return [tuple(result)]


def _merge_by(function: Callable[[Any, Any], Any], *absorbing: float) -> Callable:
    """Makes what a slice and an update that may be unknown make together.

    Args:
        function: of two numbers.
        *absorbing: numbers that stay, whatever finite number they meet.
    """

    def merge(entry: Any, update: Any) -> Any:
        if UNKNOWN not in (entry, update):
            return function(entry, update)
        known = update if entry is UNKNOWN else entry
        return known if known in absorbing else UNKNOWN

    return merge


_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "scatter": lambda entry, update: update,
    "scatter-add": _merge_by(operator.add),
    "scatter-sub": _merge_by(operator.sub),
    "scatter-mul": _merge_by(operator.mul, 0.0),
    "scatter-min": _merge_by(min, -math.inf),
    "scatter-max": _merge_by(max, math.inf),
}


def _writes_everywhere(eqn: ProofEquation) -> bool:
    """Says whether an update surely reaches each place that one could be written to."""
    numbers = eqn.params["dimension_numbers"]
    axes = tuple(numbers.scatter_dims_to_operand_dims)
    indices = eqn.frame.constant(eqn.source.invars[1])
    if indices is None or axes != tuple(numbers.inserted_window_dims):
        return False
    if numbers.operand_batching_dims:
        return False
    sizes = [eqn.shape(0)[axis] for axis in axes]
    rows = np.asarray(indices).reshape(-1, len(axes))
    inside = rows[np.all((rows >= 0) & (rows < sizes), axis=1)]
    return len(np.unique(inside, axis=0)) == math.prod(sizes)


def top_k(eqn: ProofEquation) -> list[Entries]:
    """The largest of equal numbers is that number; which ones they are is not known."""
    values, indices = carry(eqn)
    return [values, tuple(None if e is None else UNKNOWN for e in indices)]


def generic(eqn: ProofEquation) -> list[Entries]:
    """For primitives without a rule of values: nothing is known, nothing may be summed.

    Raises:
        Refusal: if an operand loses indices and no result does.
    """
    operand_loses = any(e is not None for entries in eqn.operands for e in entries)
    results = [eqn.lost(position) for position in range(len(eqn.source.outvars))]
    if operand_loses and not all(any(lost) for lost in results):
        name = eqn.source.primitive.name
        raise eqn.refuse(f"{name} meets the removed slice")
    return [tuple(UNKNOWN if lost else None for lost in result) for result in results]


VALUE_RULES.fill(
    {
        **dict.fromkeys(ELEMENTWISE, elementwise),
        **dict.fromkeys(("reshape", "expand_dims", "stack", "tile"), move),
        **dict.fromkeys(
            """concatenate split slice rev pad dynamic_slice dynamic_update_slice sort
        reduce_window_max reduce_window_min""".split(),
            carry,
        ),
        **dict.fromkeys(
            "cumsum cummax cummin cumprod reduce_window_sum".split(), carried_zero
        ),
        "broadcast_in_dim": broadcast_in_dim,
        "transpose": transpose,
        "squeeze": squeeze,
        "unstack": unstack,
        **dict.fromkeys(SCATTERS, scatter),
        "top_k": top_k,
        "approx_top_k": top_k,
        "fft": carried_zero,
        "gather": gather,
    }
)
