"""Rules of coupling for primitives that need all indices of an axis together."""

from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling.axes import Axis
from gradflow_jax.structured.coupling.program import Dims, Equation, Rule

_ONE_AXIS = "it works along this axis as a whole"
_KEYS = """
    random_bits random_clone random_fold_in random_gamma random_seed random_split
    random_unwrap random_wrap threefry2x32 rng_bit_generator
""".split()


def pinning(*positions: str, text: str) -> Rule:
    """Makes a rule that carries all axes but those a parameter names, which it pins.

    Args:
        *positions: the names of parameters that hold an axis or several.
        text: the reason.
    """

    def rule(eqn: Equation) -> list[Dims]:
        numbers: set[int] = set()
        for name in positions:
            value = eqn.params[name]
            numbers |= set(value) if isinstance(value, (tuple, list)) else {value}
        first = eqn.operands[0]
        for dims in eqn.operands:
            for position, axis in enumerate(dims):
                if position in {n % len(dims) for n in numbers}:
                    eqn.pin([axis], text)
                elif axis is not first[position]:
                    eqn.unite(first[position], axis)
        results = []
        for shape in eqn.shapes:
            results.append(
                tuple(
                    first[i] if i < len(first) and first[i].size == size else pinned
                    for i, (size, pinned) in enumerate(
                        zip(shape, eqn.new_pinned(shape, text), strict=True)
                    )
                )
            )
        return results

    return rule


def top_k(eqn: Equation) -> list[Dims]:
    """The largest are chosen along one axis, which must stay whole.

    Which parameter holds the axis differs between versions of JAX and from `top_k` to
    `approx_top_k`; older ones know the last axis alone.
    """
    dims = eqn.operands[0]
    axis = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1)) % len(dims)
    text = "its largest indices are chosen"
    eqn.pin([dims[axis]], text)
    results = []
    for shape in eqn.shapes:
        (chosen,) = eqn.new_pinned([shape[axis]], text)
        results.append((*dims[:axis], chosen, *dims[axis + 1 :]))
    return results


def fft(eqn: Equation) -> list[Dims]:
    """The last axes are transformed as a whole, the others are carried."""
    dims = eqn.operands[0]
    count = len(dims) - len(eqn.params["fft_lengths"])
    text = "a Fourier transform runs along it"
    eqn.pin(dims[count:], text)
    return [(*dims[:count], *eqn.new_pinned(eqn.shapes[0][count:], text))]


def window(eqn: Equation) -> list[Dims]:
    """Axes with a window of one index are carried, pooled ones pinned."""
    sizes = eqn.params["window_dimensions"]
    ones = [1] * len(sizes)
    strides = eqn.params.get("window_strides") or ones
    base = eqn.params.get("base_dilation") or ones
    text = "a window slides along it"
    count = len(eqn.shapes)
    result: list[Axis] = []
    for position, size in enumerate(eqn.shapes[0]):
        dims = [dims_of_operand[position] for dims_of_operand in eqn.operands[:count]]
        if sizes[position] == strides[position] == base[position] == 1 and (
            dims[0].size == size
        ):
            for axis in dims[1:]:
                eqn.unite(dims[0], axis)
            result.append(dims[0])
        else:
            eqn.pin(dims, text)
            result += eqn.new_pinned([size], text)
    return [tuple(result)] * count


def random_bits(eqn: Equation) -> list[Dims]:
    """Random numbers: drawn at another shape they would be others."""
    text = "random numbers are drawn at this width; trace the model in eval mode"
    for dims in eqn.operands:
        eqn.pin(dims, text)
    return [eqn.new_pinned(shape, text) for shape in eqn.shapes]


COUPLING_RULES.fill(
    {
        **dict.fromkeys(_KEYS, random_bits),
        **{
            name: pinning("axis", text=_ONE_AXIS)
            for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
        },
        "sort": pinning("dimension", text=_ONE_AXIS),
        "top_k": top_k,
        "approx_top_k": top_k,
        "fft": fft,
        **dict.fromkeys(
            (
                "reduce_window",
                "reduce_window_sum",
                "reduce_window_max",
                "reduce_window_min",
            ),
            window,
        ),
    }
)
