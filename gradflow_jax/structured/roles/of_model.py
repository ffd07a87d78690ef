"""Reads what each axis of each of a model's leaves is."""

from collections.abc import Sequence
from typing import Any

import jax

from gradflow_jax.programs.models import ModelLike, as_model, nest_like_state
from gradflow_jax.structured.coupling.tracing import trace_program
from gradflow_jax.structured.roles.pieces import Origin, Piece, Value, plain
from gradflow_jax.structured.roles.reader import read
from gradflow_jax.structured.roles.uses import Uses
from gradflow_jax.trees import Roles, is_nnx_state, named_leaves


def axis_roles(model: ModelLike, *args: Any, **options: Any) -> Roles:
    """Reads what each axis of each leaf is from the program that the model is.

    A kernel's shape does not say which of its axes are summed over: Flax keeps a dense
    kernel as (in, out) and one of attention as (in, head, out) or (in, in, out),
    Equinox and torch as (out, in), and layers under scan have one more axis. The
    program says it. The model is traced once, without computing anything. What takes
    `roles=` reads a kernel of any layout as the linear map that it is.

    The words, one for each axis:

        "in"       summed over by the contraction that reads the leaf; of a table that
                   is looked up by indices, the axis that they count
        "out"      not summed over: outputs; also an axis that is added or multiplied
                   index by index, as those of biases and scales
        "head"     such an axis that later is a batch axis of a product of two
                   activations, as attention heads are; it counts as an output
        "window"   of a convolution, what slides
        "stack"    layers one after the other: taken apart by scan, or one by one
        "group"    maps side by side: a batch axis of the contraction (an ensemble under
                   vmap, experts), groups of a convolution. An axis that holds the
                   outputs of all groups is "out"
        "unknown"  not read by the program, by two uses that disagree (an embedding
                   that is the head too), or by something that is not understood (a
                   product of two leaves)

    Args:
        model: a pure function `apply(variables, *inputs)`, a linen module, or an NNX or
            Equinox module, which holds its variables itself.
        *args: the variables (not of a module that holds them), then example inputs:
            arrays or `jax.ShapeDtypeStruct`s. The numbers in them do not matter. Trace
            the model as it is evaluated: dropout off.
        **options: keyword arguments of every call of the model, `train=False`.

    Returns:
        A tree like the variables, of an NNX module nested dicts: each leaf is a tuple
        of words, one for each axis. It may be written by hand as well.

    Raises:
        TypeError: if the variables or the example inputs are missing.
        ValueError: if the model is not a pure function of its arguments, or fails on
            these inputs.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def apply(params, x):  # x: [batch, in]
        ...     return jnp.einsum("bi,ohi->bho", x, params["kernel"]) + params["bias"]
        >>> params = {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((3, 2))}
        >>> gf.structured.axis_roles(apply, params, jnp.ones((1, 4)))
        {'bias': ('out', 'out'), 'kernel': ('out', 'out', 'in')}
    """
    known = as_model(model, args, options, caller="axis_roles")
    jaxpr, consts, _ = trace_program(known.apply, known.variables, known.inputs)
    shapes = {path: tuple(leaf.shape) for path, leaf in named_leaves(known.variables)}
    values = [_leaf_value(path, shape) for path, shape in shapes.items()]
    values += [plain(leaf.shape, True) for leaf in jax.tree.leaves(known.inputs)]
    uses = Uses()
    read(jaxpr, consts, values, uses)
    words = [uses.of_leaf(path, shape) for path, shape in shapes.items()]
    if is_nnx_state(known.variables):
        return nest_like_state(known.variables, words)
    return jax.tree.structure(known.variables).unflatten(words)


def _leaf_value(path: str, shape: Sequence[int]) -> Value:
    """Returns a leaf as a value: each of its axes is its own origin."""
    return Value(
        tuple(
            (Piece(size, frozenset([Origin(path, axis, True)])),)
            for axis, size in enumerate(shape)
        ),
        False,
    )
