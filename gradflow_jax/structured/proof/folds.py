"""Finds where the constant that a removed unit would leave fits into a bias.

A unit whose activation is not zero at zero, sigmoid(0) = ½, adds c · W_i to what the
next layer computes when its weights are masked. Where that layer is linear and has a
bias, the cut adds the same to the bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import Literal

from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.frames import Frame


@dataclass(frozen=True)
class Fold:
    """A constant on its way into a bias.

    Attributes:
        constant: what a removed unit holds.
        weight: the variable of the next layer's kernel.
        axis: the kernel's axis that loses indices.
        summed: the kernel's axes that the constant is summed over, this one among them.
        bias: the variable of the next layer's bias.
    """

    constant: float
    weight: Any
    axis: int
    summed: tuple[int, ...]
    bias: Any


def find_fold(frame: Frame, index: int, side: int, constant: float) -> Fold | None:
    """Returns how a contraction's constant can be folded, or None if it cannot.

    Args:
        frame: where the contraction stands.
        index: its number.
        side: which operand is the kernel.
        constant: what the other operand holds on the removed slice.
    """
    eqn = frame.jaxpr.eqns[index]
    kernel = _leaf(frame, eqn.invars[side])
    contracted = _contracted_axes(eqn, side)
    if kernel is None or contracted is None or frame.repeats != 1:
        return None
    (result,) = eqn.outvars
    users = [e for e in frame.jaxpr.eqns if any(v is result for v in e.invars)]
    if len(users) != 1 or users[0].primitive.name != "add":
        return None
    (addend,) = (v for v in users[0].invars if v is not result)
    bias = _leaf(frame, addend, through=("broadcast_in_dim", "reshape", "squeeze"))
    if bias is None:
        return None
    axis, summed = contracted
    dims = frame.dims[eqn.invars[side]]
    free = [dim for i, dim in enumerate(dims) if i not in summed]
    dims_of_result = frame.dims[result]
    # The kernel's own axes come last in the result, in the bias and in this order.
    top, variable = bias
    dims_of_bias = top.dims[variable]
    last = dims_of_result[len(dims_of_result) - len(free) :]
    axes_agree = len(dims_of_bias) == len(free) and all(
        axes.find(a) is axes.find(b) is axes.find(c)
        for a, b, c in zip(dims_of_bias, free, last, strict=True)
    )
    return Fold(constant, kernel[1], axis, summed, variable) if axes_agree else None


def _contracted_axes(eqn: Any, side: int) -> tuple[int, tuple[int, ...]] | None:
    """Returns a kernel's contracted axis, and all that a constant is summed over.

    Of a convolution without padding each output sees the constant under the whole
    window; at a padded border it would not.
    """
    if eqn.primitive.name == "dot_general":
        contracted, batch = eqn.params["dimension_numbers"]
        if batch[side] or len(contracted[side]) != 1:
            return None
        return contracted[side][0], tuple(contracted[side])
    if eqn.primitive.name != "conv_general_dilated" or side != 1:
        return None
    padded = any(low or high for low, high in eqn.params["padding"])
    if padded or max(eqn.params["lhs_dilation"]) > 1:
        return None
    if eqn.params["feature_group_count"] != 1:
        return None
    _, taken, *window = eqn.params["dimension_numbers"].rhs_spec
    return taken, (taken, *window)


def _leaf(
    frame: Frame, atom: Any, through: Sequence[str] = ()
) -> tuple[Frame, Any] | None:
    """Returns the input of the whole program that a value is, or None."""
    while not isinstance(atom, Literal):
        if atom in frame.outer:
            frame, atom = frame.outer[atom]
            continue
        index = frame.made_by.get(atom)
        if index is None:
            return (frame, atom) if atom in frame.jaxpr.invars else None
        eqn = frame.jaxpr.eqns[index]
        if eqn.primitive.name not in (*through, "convert_element_type"):
            return None
        (atom,) = eqn.invars
    return None
