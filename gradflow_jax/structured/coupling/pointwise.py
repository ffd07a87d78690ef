"""The rule of coupling for primitives that compute index by index."""

from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.program import Dims, Equation

ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy
    copy_p cos cosh device_put digamma div eq eq_to erf erf_inv erfc exp exp2 expm1
    floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma
    log log1p log2 logistic lt lt_to max mesh_cast min mul mulhi name ne neg nextafter
    not one_minus_square optimization_barrier or polygamma population_count pow pvary
    real reduce_precision regularized_incomplete_beta rem round rsqrt select_n
    sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin
    sinh sqrt square stop_gradient sub tan tanh xor zeta
""".split()


def elementwise(at: Equation) -> list[Dims]:
    """Couples the axes of a primitive that computes index by index.

    A rule for `gf.structured.register_rule`. Indices meet those of the same position;
    sizes of 1 are broadcast.

    Args:
        at: the equation.

    Returns:
        The axes of each result.

    Example:
        >>> import gradflow_jax as gf
        >>> elementwise = gf.structured.elementwise
        >>> undo = gf.structured.register_rule("my_activation", elementwise)
        >>> undo()
    """
    if len(at.shapes) == len(at.operands) and len(at.shapes) > 1:
        return list(at.operands)
    (shape,) = at.shapes
    result: list[Axis] = []
    for dims, own in zip(at.operands, at.in_shapes, strict=True):
        if own and len(own) != len(shape):  # a bitcast to numbers of another width
            text = "it is read as numbers of another width"
            at.pin(dims, text)
            return [at.pinned(shape, text)]
    for position, size in enumerate(shape):
        found = None
        for dims, own in zip(at.operands, at.in_shapes, strict=True):
            if not own or own[position] != size:
                continue
            if found is None:
                found = dims[position]
            else:
                at.unite(found, dims[position])
        result.append(axes.new(size) if found is None else found)
    return [tuple(result)]


COUPLING_RULES.fill(dict.fromkeys(ELEMENTWISE, elementwise))
