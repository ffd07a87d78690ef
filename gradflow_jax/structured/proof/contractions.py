"""What contractions and reductions make of the constants that removed slices hold.

Here removing and masking may differ: a removed slice that is summed must hold zeros.
"""

import math
from typing import Any

from gradflow_jax.programs.rules import VALUE_RULES
from gradflow_jax.structured.proof.equation import ProofEquation, is_known
from gradflow_jax.structured.proof.folds import find_fold
from gradflow_jax.structured.proof.removed_values import UNKNOWN, Entries


def _sum_over(eqn: ProofEquation, left: Any, right: Any) -> None:
    """Checks a contraction over a removed slice: zero on one side at least.

    Raises:
        Refusal: if neither side is zero there, nor a constant that can be folded.
    """
    if left == 0 or right == 0:
        return
    for side, (value, opposite) in enumerate(((left, right), (right, left))):
        if is_known(value) and opposite is UNKNOWN:
            fold = find_fold(eqn.frame, eqn.index, 1 - side, value)
            if fold is not None and eqn.slices.folds is not None:
                eqn.slices.folds.append(fold)
                return
            text = f"the constant {value:g} leaks through this contraction"
            if fold is not None:
                text += ' (leaks="fold" adds it to the bias behind it)'
            raise eqn.refuse(text, leaks=True)
    text = "a contraction sums over the removed slice, which is not zero"
    raise eqn.refuse(text)


def dot_general(eqn: ProofEquation) -> list[Entries]:
    """A product is zero where a factor is; contracted slices must be zero."""
    contracted, batch = eqn.params["dimension_numbers"]
    left, right = eqn.operands
    for i, j in zip(*contracted, strict=True):
        if left[i] is not None or right[j] is not None:
            _sum_over(eqn, left[i], right[j])

    def zero(*values: Any) -> Any:
        return 0.0 if 0 in filter(is_known, values) else UNKNOWN

    result = [zero(left[i], right[j]) for i, j in zip(*batch, strict=True)]
    for side, entries in enumerate((left, right)):
        used = (*contracted[side], *batch[side])
        result += [zero(e) for i, e in enumerate(entries) if i not in used]
    return [tuple(result)]


def ragged_dot_general(eqn: ProofEquation) -> list[Entries]:
    """Contracted slices must be zero; a product is zero where its kernel is."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    contracted, _ = numbers.dot_dimension_numbers
    left, right, _ = eqn.operands
    for i, j in zip(*contracted, strict=True):
        if left[i] is not None or right[j] is not None:
            _sum_over(eqn, left[i], right[j])
    dropped = (*contracted[1], *numbers.rhs_group_dimensions)
    entries = [e for i, e in enumerate(left) if i not in contracted[0]]
    entries += [e for i, e in enumerate(right) if i not in dropped]
    return [tuple(e if e is None or e == 0 else UNKNOWN for e in entries)]


def conv_general_dilated(eqn: ProofEquation) -> list[Entries]:
    """Input features must be zero; output features are zero where the kernel is."""
    numbers = eqn.params["dimension_numbers"]
    left, right = eqn.operands
    features, kernel_features = left[numbers.lhs_spec[1]], right[numbers.rhs_spec[1]]
    outputs = right[numbers.rhs_spec[0]]
    result: list[Any] = [None] * len(eqn.frame.dims[eqn.source.outvars[0]])
    groups = eqn.params["feature_group_count"]
    whole_groups = groups > 1 and outputs is not None and features is not None
    if whole_groups and kernel_features is None:
        # A group's features meet that group's kernels alone, and both go together.
        value = 0.0 if features == 0 or outputs == 0 else UNKNOWN
    else:
        if features is not None or kernel_features is not None:
            _sum_over(eqn, features, kernel_features)
        value = 0.0 if outputs == 0 else UNKNOWN
    result[numbers.out_spec[1]] = value
    result[numbers.out_spec[0]] = 0.0 if left[numbers.lhs_spec[0]] == 0 else UNKNOWN
    return [tuple(result)]


def reduction(eqn: ProofEquation) -> list[Entries]:
    """Sums drop zeros; nothing else may meet a removed slice."""
    name = eqn.source.primitive.name
    dropped = eqn.params["axes"]
    entries = eqn.operands[0]
    neutral = {"reduce_sum": 0.0, "reduce_prod": 1.0, "reduce_or": 0.0}
    for i in dropped:
        if entries[i] is None or (
            is_known(entries[i]) and entries[i] == neutral.get(name)
        ):
            continue
        held = f"{entries[i]:g}" if is_known(entries[i]) else "not constant"
        raise eqn.refuse(f"{name} meets the removed slice, which is {held} there")
    count = math.prod(eqn.shape(0)[i] for i in dropped)

    def reduced(value: Any) -> Any:
        if not is_known(value):
            return value
        if name == "reduce_sum":
            return value * count
        return value**count if name == "reduce_prod" else value

    remaining = [reduced(e) for i, e in enumerate(entries) if i not in dropped]
    return [tuple(remaining)] * len(eqn.source.outvars)


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
