"""What contractions and reductions make of the constants that removed slices hold.

Here removing and masking may differ: a removed slice that is summed must hold zeros.
"""

import math
from typing import Any

from gradflow_jax.programs.rules import VALUE_RULES
from gradflow_jax.structured.proof.folds import find_fold
from gradflow_jax.structured.proof.removed_values import UNKNOWN, Entries
from gradflow_jax.structured.proof.step import Step, is_known


def _sum_over(step: Step, left: Any, right: Any) -> None:
    """Checks a contraction over a removed slice: zero on one side at least.

    Raises:
        Refusal: if neither side is zero there, nor a constant that can be folded.
    """
    if left == 0 or right == 0:
        return
    for side, (value, other) in enumerate(((left, right), (right, left))):
        if is_known(value) and other is UNKNOWN:
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
        return 0.0 if 0 in filter(is_known, values) else UNKNOWN

    result = [zero(left[i], right[j]) for i, j in zip(*batch, strict=True)]
    for side, entries in enumerate((left, right)):
        used = (*contracted[side], *batch[side])
        result += [zero(e) for i, e in enumerate(entries) if i not in used]
    return [tuple(result)]


def ragged_dot_general(step: Step) -> list[Entries]:
    """Contracted slices must be zero; a product is zero where its kernel is."""
    numbers = step.params["ragged_dot_dimension_numbers"]
    contracted, _ = numbers.dot_dimension_numbers
    left, right, _ = step.operands
    for i, j in zip(*contracted, strict=True):
        if left[i] is not None or right[j] is not None:
            _sum_over(step, left[i], right[j])
    dropped = (*contracted[1], *numbers.rhs_group_dimensions)
    entries = [e for i, e in enumerate(left) if i not in contracted[0]]
    entries += [e for i, e in enumerate(right) if i not in dropped]
    return [tuple(e if e is None or e == 0 else UNKNOWN for e in entries)]


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
            is_known(entries[i]) and entries[i] == neutral.get(name)
        ):
            continue
        held = f"{entries[i]:g}" if is_known(entries[i]) else "not constant"
        raise step.refuse(f"{name} meets the removed slice, which is {held} there")
    count = math.prod(step.shape(0)[i] for i in dropped)

    def reduced(value: Any) -> Any:
        if not is_known(value):
            return value
        if name == "reduce_sum":
            return value * count
        return value**count if name == "reduce_prod" else value

    rest = [reduced(e) for i, e in enumerate(entries) if i not in dropped]
    return [tuple(rest)] * len(step.eqn.outvars)


VALUE_RULES.fill(
    {
        "dot_general": dot_general,
        "ragged_dot_general": ragged_dot_general,
        "conv_general_dilated": conv_general_dilated,
        **dict.fromkeys(
            """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or
        reduce_xor""".split(),
            reduction,
        ),
    }
)
