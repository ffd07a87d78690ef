"""The rule of coupling for primitives that compute index by index."""

from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.program import Dims, Equation

IDENTITIES = """
    copy copy_p device_put mesh_cast name optimization_barrier pvary reshard
    sharding_constraint stop_gradient
""".split()
"""Primitives that leave every number what and where it is, for whatever use."""

ELEMENTWISE = [
    *IDENTITIES,
    *"""
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type cos cosh
    digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
    igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p log2
    logistic lt lt_to max min mul mulhi ne neg nextafter not one_minus_square or
    polygamma population_count pow real reduce_precision regularized_incomplete_beta rem
    round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin
    sinh sqrt square sub tan tanh xor zeta
""".split(),
]


def elementwise(eqn: Equation) -> list[Dims]:
    """Couples the axes of a primitive that computes index by index.

    A rule for `gf.structured.register_rule`. Indices meet those of the same position;
    sizes of 1 are broadcast.

    Args:
        eqn: the equation.

    Returns:
        The axes of each result.

    Example:
        >>> import gradflow_jax as gf
        >>> elementwise = gf.structured.elementwise
        >>> undo = gf.structured.register_rule("my_activation", elementwise)
        >>> undo()
    """
    if len(eqn.shapes) == len(eqn.operands) and len(eqn.shapes) > 1:
        return list(eqn.operands)
    (shape,) = eqn.shapes
    result: list[Axis] = []
    for dims, in_shape in zip(eqn.operands, eqn.in_shapes, strict=True):
        if in_shape and len(in_shape) != len(shape):
            # It is a bitcast to numbers of another width, which adds or drops an axis.
            text = "it is read as numbers of another width"
            eqn.pin(dims, text)
            return [eqn.new_pinned(shape, text)]
    for position, size in enumerate(shape):
        axis = None
        for dims, in_shape in zip(eqn.operands, eqn.in_shapes, strict=True):
            if not in_shape or in_shape[position] != size:
                continue
            if axis is None:
                axis = dims[position]
            else:
                eqn.unite(axis, dims[position])
        result.append(axes.new(size) if axis is None else axis)
    return [tuple(result)]


COUPLING_RULES.fill(dict.fromkeys(ELEMENTWISE, elementwise))
