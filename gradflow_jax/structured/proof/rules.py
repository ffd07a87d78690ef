"""What each primitive makes of the constants that removed slices hold.

A rule gets a `Step`, an equation with what is known of its operands, and returns what
is known of its results. It refuses where a removed slice would be summed that is not
zero, or would be compared with what stays.
"""

import math
from collections.abc import Sequence
from typing import Any

from gradflow_jax.programs.rules import VALUE_RULES
from gradflow_jax.structured.coupling.pointwise import ELEMENTWISE
from gradflow_jax.structured.proof.folds import find_fold
from gradflow_jax.structured.proof.removed_values import (
    UNKNOWN,
    Entries,
    evaluate,
    join,
)
from gradflow_jax.structured.proof.step import Step


def _known(value: Any) -> bool:
    return value is not UNKNOWN and value is not None


def _combined(step: Step, operands: Sequence[Any]) -> Any:
    """Returns an elementwise primitive's value where some operands may be unknown."""
    name = step.eqn.primitive.name
    if name == "select_n":
        which, *cases = operands
        return cases[int(which)] if _known(which) else join(cases)
    known = [value for value in operands if _known(value)]
    if name in ("mul", "and") and 0 in known and all(map(math.isfinite, known)):
        return 0.0
    if name == "div" and operands[0] == 0 and operands[1] is UNKNOWN:
        return 0.0
    if len(known) < len(operands):
        return UNKNOWN
    value = evaluate(step.eqn, operands)
    if not math.isfinite(value):
        given = ", ".join(f"{operand:g}" for operand in operands)
        raise step.refuse(f"{name} of {given} is {value} on the removed slice")
    return value


def elementwise(step: Step) -> list[Entries]:
    """Evaluates the primitive on the constants of each dimension."""
    if len(step.eqn.outvars) > 1:
        return list(step.operands)
    result: list[Any] = []
    for position, lost in enumerate(step.lost(0)):
        if not lost:
            result.append(None)
            continue
        values = []
        for number, entries in enumerate(step.operands):
            entry = entries[position] if position < len(entries) else None
            values.append(step.uniform(number) if entry is None else entry)
        result.append(_combined(step, values))
    return [tuple(result)]


def moved(step: Step) -> list[Entries]:
    """For what only moves indices: constants along any losing dimension are joined."""
    found = [e for entries in step.operands for e in entries if e is not None]
    value = join(found) if found else step.uniform(0)
    return [
        tuple(value if lost else None for lost in step.lost(position))
        for position in range(len(step.eqn.outvars))
    ]


def carried(step: Step) -> list[Entries]:
    """For what keeps the positions of dimensions: each constant stays in its own."""
    results = []
    for position in range(len(step.eqn.outvars)):
        entries: list[Any] = []
        for i, lost in enumerate(step.lost(position)):
            own = [e[i] for e in step.operands if i < len(e) and e[i] is not None]
            entries.append((join(own) if own else UNKNOWN) if lost else None)
        results.append(tuple(entries))
    return results


def carried_zero(step: Step) -> list[Entries]:
    """The same for what keeps zeros, but not other constants."""
    return [
        tuple(e if e is None or e == 0 else UNKNOWN for e in entries)
        for entries in carried(step)
    ]


def broadcast_in_dim(step: Step) -> list[Entries]:
    """Constants follow their dimensions."""
    value = step.uniform(0)
    result = [value if lost else None for lost in step.lost(0)]
    for entry, target in zip(
        step.operands[0], step.params["broadcast_dimensions"], strict=True
    ):
        if entry is not None and result[target] is not None:
            result[target] = entry
    return [tuple(result)]


def transpose(step: Step) -> list[Entries]:
    """Constants are permuted."""
    return [tuple(step.operands[0][p] for p in step.params["permutation"])]


def squeeze(step: Step) -> list[Entries]:
    """Constants of dropped dimensions are dropped."""
    entries = step.operands[0]
    dropped = {d % len(entries) for d in step.params["dimensions"]}
    return [tuple(e for i, e in enumerate(entries) if i not in dropped)]


def unstack(step: Step) -> list[Entries]:
    """Constants of the other dimensions are carried."""
    along, entries = step.params["axis"], step.operands[0]
    return [(*entries[:along], *entries[along + 1 :])] * len(step.eqn.outvars)


def _sum_over(step: Step, left: Any, right: Any) -> None:
    """Checks a contraction over a removed slice: zero on one side at least.

    Raises:
        Refusal: if neither side is zero there, nor a constant that can be folded.
    """
    if left == 0 or right == 0:
        return
    for side, (value, other) in enumerate(((left, right), (right, left))):
        if _known(value) and other is UNKNOWN:
            fold = find_fold(step.frame, step.index, 1 - side, value)
            if fold is not None and step.slices.folds is not None:
                step.slices.folds.append(fold)
                return
            text = f"the constant {value:g} leaks through this contraction"
            if fold is not None:
                text += ' (leaks="fold" adds it to the bias behind it)'
            raise step.refuse(text, leaks=True)
    text = "a contraction sums over the removed slice, which is not zero"
    raise step.refuse(text)


def dot_general(step: Step) -> list[Entries]:
    """A product is zero where a factor is; contracted slices must be zero."""
    contracted, batch = step.params["dimension_numbers"]
    left, right = step.operands
    for i, j in zip(*contracted, strict=True):
        if left[i] is not None or right[j] is not None:
            _sum_over(step, left[i], right[j])

    def zero(*values: Any) -> Any:
        return 0.0 if any(value == 0 for value in values if _known(value)) else UNKNOWN

    result = [zero(left[i], right[j]) for i, j in zip(*batch, strict=True)]
    for side, entries in enumerate((left, right)):
        used = (*contracted[side], *batch[side])
        result += [zero(e) for i, e in enumerate(entries) if i not in used]
    return [tuple(result)]


def conv_general_dilated(step: Step) -> list[Entries]:
    """Features taken must be zero; features made are zero where the kernel is."""
    numbers = step.params["dimension_numbers"]
    left, right = step.operands
    features, taken = left[numbers.lhs_spec[1]], right[numbers.rhs_spec[1]]
    made = right[numbers.rhs_spec[0]]
    result: list[Any] = [None] * len(step.frame.dims[step.eqn.outvars[0]])
    groups = step.params["feature_group_count"]
    whole_groups = groups > 1 and made is not None and features is not None
    if whole_groups and taken is None:
        # Each group's features meet that group's kernels alone.
        value = 0.0 if features == 0 or made == 0 else UNKNOWN
    else:
        if features is not None or taken is not None:
            _sum_over(step, features, taken)
        value = 0.0 if made == 0 else UNKNOWN
    result[numbers.out_spec[1]] = value
    result[numbers.out_spec[0]] = 0.0 if left[numbers.lhs_spec[0]] == 0 else UNKNOWN
    return [tuple(result)]


def reduction(step: Step) -> list[Entries]:
    """Sums drop zeros; nothing else may meet a removed slice."""
    name = step.eqn.primitive.name
    dropped = step.params["axes"]
    entries = step.operands[0]
    neutral = {"reduce_sum": 0.0, "reduce_prod": 1.0, "reduce_or": 0.0}
    for i in dropped:
        if entries[i] is None or (
            _known(entries[i]) and entries[i] == neutral.get(name)
        ):
            continue
        held = f"{entries[i]:g}" if _known(entries[i]) else "not constant"
        raise step.refuse(f"{name} meets the removed slice, which is {held} there")
    count = math.prod(step.shape(0)[i] for i in dropped)

    def reduced(value: Any) -> Any:
        if not _known(value):
            return value
        if name == "reduce_sum":
            return value * count
        return value**count if name == "reduce_prod" else value

    rest = [reduced(e) for i, e in enumerate(entries) if i not in dropped]
    return [tuple(rest)] * len(step.eqn.outvars)


def gather(step: Step) -> list[Entries]:
    """Slices taken whole keep what they hold."""
    numbers = step.params["dimension_numbers"]
    entries = step.operands[0]
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = iter(e for i, e in enumerate(entries) if i not in dropped)
    others = [e for i, e in enumerate(entries) if i in dropped and e is not None]
    result = []
    for position, lost in enumerate(step.lost(0)):
        if position in numbers.offset_dims:
            result.append(next(windows))
        else:
            result.append((join(others) if others else UNKNOWN) if lost else None)
    return [tuple(result)]


def generic(step: Step) -> list[Entries]:
    """For primitives without a rule of values: nothing is known, nothing may be summed.

    Raises:
        Refusal: if an operand loses indices and no result does.
    """
    losing = any(e is not None for entries in step.operands for e in entries)
    results = [step.lost(position) for position in range(len(step.eqn.outvars))]
    if losing and not all(any(lost) for lost in results):
        name = step.eqn.primitive.name
        raise step.refuse(f"{name} meets the removed slice")
    return [tuple(UNKNOWN if lost else None for lost in result) for result in results]


VALUE_RULES.fill(
    {
        **dict.fromkeys(ELEMENTWISE, elementwise),
        **dict.fromkeys(("reshape", "expand_dims", "stack", "tile"), moved),
        **dict.fromkeys(
            """concatenate split slice rev pad dynamic_slice dynamic_update_slice sort
        reduce_window_max reduce_window_min""".split(),
            carried,
        ),
        **dict.fromkeys(
            "cumsum cummax cummin cumprod reduce_window_sum".split(), carried_zero
        ),
        **dict.fromkeys(
            """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or
        reduce_xor""".split(),
            reduction,
        ),
        "broadcast_in_dim": broadcast_in_dim,
        "transpose": transpose,
        "squeeze": squeeze,
        "unstack": unstack,
        "dot_general": dot_general,
        "conv_general_dilated": conv_general_dilated,
        "gather": gather,
    }
)
