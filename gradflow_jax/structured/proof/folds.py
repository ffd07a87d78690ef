"""Folds the constant that a removed unit would leave into the next layer's bias.

A unit whose activation is not zero at zero, sigmoid(0) = ½, adds c · W_i to what the
next layer computes when its weights are masked. Where that layer is linear and has a
bias, the cut adds the same to the bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.program import Frame
from gradflow_jax.trees import PyTree, named_leaves


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
    taken = _contracted(eqn, side)
    if kernel is None or taken is None or frame.repeats != 1:
        return None
    (result,) = eqn.outvars
    users = [e for e in frame.jaxpr.eqns if any(v is result for v in e.invars)]
    if len(users) != 1 or users[0].primitive.name != "add":
        return None
    (other,) = (v for v in users[0].invars if v is not result)
    bias = _leaf(frame, other, through=("broadcast_in_dim", "reshape", "squeeze"))
    if bias is None:
        return None
    axis, summed = taken
    dims = frame.dims[eqn.invars[side]]
    free = [dim for i, dim in enumerate(dims) if i not in summed]
    made = frame.dims[result]
    # The kernel's own axes come last in the result, in the bias and in this order.
    top, variable = bias
    own = top.dims[variable]
    last = made[len(made) - len(free) :]
    same = len(own) == len(free) and all(
        axes.find(a) is axes.find(b) is axes.find(c)
        for a, b, c in zip(own, free, last, strict=True)
    )
    return Fold(constant, kernel[1], axis, summed, variable) if same else None


def _contracted(eqn: Any, side: int) -> tuple[int, tuple[int, ...]] | None:
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


def folded(
    folds: Sequence[tuple[str, str, Fold, np.ndarray]],
    tree: PyTree,
    owners: Sequence[str | None],
    leaves: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the leaves of a tree of weights that constants are folded into.

    An optimizer's state, masks and other mirrors get none: only a tree that has the
    kernel and the bias at its own top, in floating point.

    Args:
        folds: the kernel's path, the bias's path, what is folded and the removed
            indices of the kernel's axis.
        tree: being cut.
        owners: the path in the model of each of its leaves.
        leaves: the model's.
    """
    named = named_leaves(tree)
    where: dict[str, tuple[str, Any]] = {}
    for (path, leaf), owner in zip(named, owners, strict=True):
        if owner is not None and (owner == path or owner.endswith("/" + path)):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                where[owner] = (path, leaf)
    result: dict[str, Any] = {}
    for kernel, bias, fold, removed in folds:
        if kernel not in where or bias not in where:
            continue
        weight = where[kernel][1]
        path, leaf = where[bias]
        if isinstance(leaf, jax.ShapeDtypeStruct) or leaf.shape != leaves[bias].shape:
            continue
        # In float32 at least: a sum of many.
        rows = jnp.take(jnp.asarray(weight), removed, fold.axis).astype(
            jnp.promote_types(weight.dtype, jnp.float32)
        )
        added = fold.constant * jnp.sum(rows, fold.summed)
        result[path] = (result.get(path, leaf) + added).astype(leaf.dtype)
    return result
