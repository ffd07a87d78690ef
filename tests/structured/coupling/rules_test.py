"""The rules of primitives against numbers: perturbed operands and cut operands.

A rule says which indices of a primitive's results go with which of its operands. So
what else changes when an index is changed, and what the primitive computes of the
operands that are left, are tests of it that know nothing of it.
"""

from collections import namedtuple
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from gradflow_jax.programs.rules import COUPLING_RULES
from gradflow_jax.structured.coupling import axes
from gradflow_jax.structured.coupling.program import Coupling, Frame, Source
from gradflow_jax.structured.running.cut_program import Plan

pytestmark = pytest.mark.usefixtures("float64")
# An operand that is not real: whole numbers, flags or complex numbers.
Drawn = namedtuple("Drawn", "shape below dtype", defaults=(4, int))
A, B, IMAGE, KERNEL = (3, 4), (2, 3, 4), (2, 3, 3, 4), (2, 2, 4, 5)


class Case(NamedTuple):
    """A tiny program, and how many indices of its operands are free.

    `carried` are in the results too, `dropped` are not: removing one is as if `neutral`
    stood there. `made` are in the results alone.
    """

    function: Any
    carried: int
    operands: tuple = (A,)
    dropped: int = 0
    made: int = 0
    neutral: float = 0


def several(names, change=lambda x: x):
    return lambda *xs: [getattr(lax, name)(*map(change, xs)) for name in names.split()]


def conv(numbers="NHWC HWIO NHWC", stride=(1, 1), padding="SAME", **how):
    how["dimension_numbers"] = tuple(numbers.split())
    return lambda x, w: lax.conv_general_dilated(x, w, stride, padding, **how)


def window(sizes, reduce=lax.add, start=0.0, steps=(1, 1), padding="VALID", **how):
    return lambda x: lax.reduce_window(x, start, reduce, sizes, steps, padding, **how)


def scanned(body, **how):
    return lambda carry, xs, *fixed: lax.scan(partial(body, *fixed), carry, xs, **how)


cubic = jax.custom_jvp(lambda x: x**3)
cubic.defjvp(lambda p, t: (cubic(*p), 3 * p[0] ** 2 * t[0]))
straight = jax.custom_vjp(lambda x: jnp.exp(x))
straight.defvjp(lambda x: (jnp.exp(x), x), lambda x, g: (g,))
ONE_REAL = """abs acos asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh
    digamma erf erf_inv erfc exp exp2 expm1 floor is_finite lgamma log log1p logistic
    neg round rsqrt sign sin sinh sqrt square stop_gradient tan tanh"""
TWO_REAL = """add sub mul div rem pow atan2 max min nextafter eq ne lt le gt ge igamma
    igammac"""
TWO_WHOLE = """bitwise_and bitwise_or bitwise_xor shift_left shift_right_arithmetic
    shift_right_logical"""
# A primitive of its own in later versions, which pins the number of repetitions.
TILED = 0 if hasattr(lax, "tile") else 3
WINDOW = lax.GatherDimensionNumbers((0, 1), (), (1,))
IDS, FLAG, WHOLE = np.array([3, 0, 0, 2]), Drawn((), dtype=bool), Drawn(())
INTS, FLAGS, COMPLEX = Drawn(A), Drawn(A, dtype=bool), Drawn(A, dtype=complex)

# fmt: off
CASES = {
    # Index by index.
    "one real": Case(several(ONE_REAL), 7),
    "more than one": Case(several("acosh", lambda x: 1 + x), 7),
    "one whole": Case(several("bitwise_not population_count clz"), 7, (INTS,)),
    "one complex": Case(several("real imag conj"), 7, (COMPLEX,)),
    "of two reals": Case(lambda x, y: [
        lax.complex(x, y), lax.zeta(1 + x, y), lax.polygamma(x, y)], 7, (A, A)),
    "with parameters": Case(lambda x: [
        lax.integer_pow(x, 3), lax.convert_element_type(x, jnp.float32), jnp.copy(x),
        lax.reduce_precision(x, 5, 10), checkpoint_name(x, "x"), jax.device_put(x),
        lax.bitcast_convert_type(x, int), jnp.log2(x)], 7),
    "of another width": Case(lambda x: lax.bitcast_convert_type(x, jnp.int32), 0),
    "two real": Case(several(TWO_REAL), 7, (A, A)),
    "two whole": Case(several(TWO_WHOLE), 7, (INTS, INTS)),
    "gradient of two uses": Case(jax.grad(lambda x: (x * jnp.sin(x)).sum()), 7),
    "size one": Case(lambda x, y: x + y, 7, (A, (1, 4))),
    "scalar bounds": Case(lambda x, y: lax.clamp(0.3, x, y), 7, (A, ())),
    "bounds": Case(lax.clamp, 7, (A, A, A)),
    "scalar choice": Case(lambda p, x, y: lax.select_n(p, x, y), 7, (FLAG, A, A)),
    "choice": Case(lambda p, x, y: lax.select_n(p, x, y), 7, (FLAGS, A, A)),
    "barrier": Case(lambda x, y: lax.optimization_barrier((x, y)), 16, (A, B)),
    # Moved.
    "broadcast": Case(
        lambda x: lax.broadcast_in_dim(x, B, (1, 2)), 3, ((3, 1),), made=6),
    "merged": Case(lambda x: x.reshape(6, 4), 9, (B,)),
    "factored": Case(lambda x: x.reshape(2, 3, 4), 9, ((6, 4),)),
    "regrouped": Case(lambda x: x.reshape(8, 3), 9, ((4, 6),)),
    "not to be regrouped": Case(lambda x: x.reshape(3, 8), 0, ((4, 6),)),
    "with ones": Case(lambda x: x.reshape(1, 3, 1, 4), 7),
    "in another order": Case(lambda x: lax.reshape(x, (12,), (1, 0)), 7),
    "shuffled": Case(lambda x: x.reshape(3, 2, 2).swapaxes(1, 2).reshape(3, 4), 7),
    "transposed": Case(lambda x: lax.transpose(x, (2, 0, 1)), 9, (B,)),
    "squeezed": Case(lambda x: lax.squeeze(x, (1,))[None], 7, ((3, 1, 4),)),
    "joined": Case(lambda x, y: jnp.hstack([x, y]), 9, (A, (3, 2))),
    "joined to itself": Case(lambda x: jnp.hstack([x, x * x]), 7),
    "joined, merged": Case(lambda x, y: jnp.hstack([x, y]).ravel(), 9, (A, (3, 2))),
    "joined, factored": Case(
        lambda x, y: jnp.hstack([x, y]).reshape(5, 2), 7, ((4,), (6,))),
    "stacked": Case(lambda x, y: jnp.stack([x, y], 1), 7, (A, A)),
    "unstacked": Case(lambda x: list(x), 4),
    "parted": Case(lambda x: jnp.split(x, [3], 1), 8, ((3, 5),)),
    "parted across": Case(
        lambda x, y: jnp.split(jnp.hstack([x, y]), 3, 1), 9, (A, (3, 2))),
    "heads parted": Case(lambda x: x.reshape(6, 2)[:4].ravel(), 6, ((12,),), 2),
    "sliced": Case(lambda x: x[:, 1:3], 5, ((3, 5),), 3),
    "sliced by steps": Case(lambda x: x[:, 1::2], 6, ((3, 6),), 3),
    "sliced to one": Case(lambda x: x[:, 2:3], 3, ((3, 6),), 5),
    "sliced across": Case(lambda x: x.reshape(-1)[1:7], 0, ((4, 2),)),
    "product by steps": Case(lambda x: x.reshape(-1)[::2], 5, ((4, 2),), 1),
    "product reversed": Case(lambda x: x.reshape(-1)[::-1], 7),
    "padded": Case(lambda x: jnp.pad(x, ((0, 0), (2, 1))), 7),
    "padded between": Case(lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1)]), 3),
    "cropped": Case(lambda x: lax.pad(x, 0.0, [(0, 0, 0), (-1, 0, 0)]), 3),
    "tiled": Case(lambda x: jnp.tile(x, (1, 3)), 7, made=TILED),
    "repeated": Case(lambda x: jnp.repeat(x, 3, 1), 7, made=3),
    "counts": Case(lambda x: lax.broadcasted_iota(int, (2, 5), 1), 0, (A,), 7, 7),
    "along an axis": Case(lambda x: [lax.cummin(x, 1, reverse=True), *(
        f(x, 1) for f in (lax.cumsum, lax.cumprod, lax.cummax, lax.cumlogsumexp))], 3),
    "sorted": Case(lambda *xs: lax.sort(xs, dimension=1), 3, (A, A)),
    "largest": Case(lambda x: [*lax.top_k(x, 2), *lax.approx_max_k(x, 2)], 3),
    "transformed": Case(lambda x: jnp.fft.rfft(x).real, 3),
    "sums in windows": Case(window((1, 2), steps=(1, 2)), 3),
    "maxima in windows": Case(window((2, 1), lax.max, -np.inf), 4),
    "minima in windows": Case(window((1, 2), lax.min, np.inf, padding="SAME"), 3),
    "products in windows": Case(window((1, 2), lax.mul, 1.0), 3),
    "windows of one": Case(window((1, 1), steps=(2, 1), base_dilation=(1, 2)), 0),
    "bits": Case(lambda k, x: x * jax.random.bits(jax.random.key(k), A), 0, (WHOLE, A)),
    # Contracted, reduced, looked up.
    "product": Case(partial(jnp.einsum, "ji,kj"), 6, (A, (2, 3)), 3),
    "products in batches": Case(
        partial(jnp.einsum, "abcd,dcea->cbe"), 9, ((2, 3, 4, 5), (5, 4, 2, 2)), 7),
    "outer product": Case(partial(jnp.einsum, "i,j"), 7, ((3,), (4,))),
    "convolution": Case(conv(), 7, (IMAGE, KERNEL), 4),
    "strides, dilation": Case(
        conv(stride=(2, 1), padding=((1, 0), (0, 2)), lhs_dilation=(1, 2),
             rhs_dilation=(2, 1)), 7, (IMAGE, KERNEL), 4),
    "channels elsewhere": Case(
        conv("HCWN IWOH CHWN"), 7, ((3, 4, 3, 2), (4, 2, 5, 2)), 4),
    "groups": Case(conv(feature_group_count=2), 2 + 2 + 3, (IMAGE, (2, 2, 2, 6)), 2),
    "three groups": Case(conv("NCHW OIHW NHWC", feature_group_count=3),
                         2 + 3 + 4, ((2, 6, 3, 3), (12, 2, 2, 2)), 2),
    "depthwise": Case(conv(feature_group_count=4), 2 + 4, (IMAGE, (2, 2, 1, 4))),
    "depthwise, more": Case(conv(feature_group_count=4), 9, (IMAGE, (2, 2, 1, 12))),
    "batch in groups": Case(
        conv(batch_group_count=2), 0, ((4, 3, 3, 4), (2, 2, 4, 6)), 4),
    "sums": Case(lambda x: x.sum((0, 2)), 3, (B,), 6),
    "products": Case(lambda x: x.prod(1), 6, (B,), 3, neutral=1),
    "maxima": Case(lambda x: x.max(1), 6, (B,), 3, neutral=-np.inf),
    "minima": Case(lambda x: x.min(1), 6, (B,), 3, neutral=np.inf),
    "all": Case(lambda x: x.all(1), 3, (FLAGS,), 4, neutral=True),
    "any": Case(lambda x: x.any(1), 3, (FLAGS,), 4),
    "parity": Case(lambda x: lax.reduce(x, 0, lax.bitwise_xor, (1,)), 3, (INTS,), 4),
    "extremes": Case(lambda x: [x.argmax(1), x.argmin(1)], 6, (B,)),
    "embedding": Case(lambda t, i: t[i], 4 + 7, (A, Drawn((2, 5), 3))),
    "constant columns": Case(lambda x: jnp.take(x, IDS - 4, 1), 3 + 3, (A,), 1),
    "constants of a product": Case(lambda x: x.ravel()[2 * IDS], 4, ((4, 2),), 2),
    "constant places": Case(lambda x: x[IDS[1:3], IDS[2:]], 0, made=2),
    "by rows": Case(lambda x, i: jnp.take_along_axis(x, i, 1), 5, (A, Drawn((3, 2)))),
    "windows looked up": Case(
        lambda x, i: lax.gather(x, i, WINDOW, (3, 2)), 8, (A, Drawn((5, 1), 3))),
    "some": Case(lambda x, i: lax.dynamic_slice(x, (0, i), (3, 2)), 3, (A, WHOLE)),
    "some overwritten": Case(lambda x, y, i: lax.dynamic_update_slice(
        x, y, (0, i)), 3, (A, (3, 2), WHOLE)),
    "written at indices": Case(lambda x, y, i: [getattr(x.at[i], how)(y) for how in (
        "set", "add", "multiply", "min", "max")], 4, (A, (2, 4), Drawn((2,), 3))),
    "in groups of rows": Case(
        lambda x, w: lax.ragged_dot(x, w, np.array([1, 2])), 5, (A, (2, 4, 5)), 4),
    # Called.
    "jit": Case(jax.jit(lambda x, y: (y.T, jnp.sin(x))), 13, (A, (4, 2))),
    "remat": Case(jax.checkpoint(lambda x: jnp.sin(x)[:, ::-1]), 7),
    "custom jvp": Case(cubic, 7), "custom vjp": Case(straight, 7),
    "scan": Case(scanned(lambda b, h, x: (h * x + b, x + b)), 4, ((4,), A, (4,))),
    "scan of outer products": Case(scanned(
        lambda h, x: (h + 1, h[:, None] * x), reverse=True), 7, ((3,), (2, 4))),
    "scan that turns": Case(scanned(lambda h, x: (h[::-1] + x, h)), 2, ((4,), A)),
    "scan that swaps": Case(
        scanned(lambda h, x: (h[::-1], x * h[0])), 4, (((4,), (4,)), A)),
    "while": Case(lambda *c: lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1][::-1]), c), 2, (WHOLE, (4,))),
    "cond": Case(lambda p, *xs: lax.cond(p, jnp.add, lax.rem, *xs), 7, (FLAG, A, A)),
    "switch": Case(lambda i, x: lax.switch(i, [
        jnp.sin, lambda x: x[:, ::-1], lambda x: jnp.roll(x, 2, 1)], x), 4, (WHOLE, A)),
}
# fmt: on
# Rules that no case tries: of other versions of JAX, of keys, of several devices, and
# of series that are summed until all of their elements converge.
UNTRIED = set(
    """checkpoint closed_call copy_p igamma_grad_a regularized_incomplete_beta core_call
    custom_vjp_call_jaxpr eq_to expand_dims le_to log2 lt_to mesh_cast mulhi
    one_minus_square pjit pvary random_clone random_fold_in random_gamma
    random_split random_unwrap random_wrap remat reshard rng_bit_generator scatter-sub
    sharding_constraint stack stop_gradient threefry2x32 tile unstack""".split()
)


def traced(case):
    """Returns operands, others, the program as a function and as a frame, its axes."""
    rng = np.random.default_rng(0)

    def one(own):
        if not isinstance(own, Drawn):
            return rng.uniform(0.1, 0.9, own)
        found = rng.integers(0, own.below, own.shape)
        return np.asarray(found % 2 if own.dtype is bool else found, own.dtype)

    def is_leaf(own):
        return isinstance(own, Drawn) or all(isinstance(n, int) for n in own)

    others, given = (jax.tree.map(one, case.operands, is_leaf=is_leaf) for _ in "ab")
    given, structure = jax.tree.flatten(given)

    def flat(*leaves):
        return jax.tree.leaves(case.function(*structure.unflatten(leaves)))

    compiled = jax.jit(flat)

    def run(*leaves):
        # As arrays of numpy, of which it compiles nothing to take parts.
        return list(map(np.asarray, compiled(*leaves)))

    closed = jax.make_jaxpr(flat)(*given)
    frame = Frame(closed.jaxpr, closed.consts)
    dims = [tuple(map(axes.new, x.shape)) for x in given]
    sources = [Source(frozenset([str(i)])) for i in range(len(dims))]
    coupling = Coupling(COUPLING_RULES)
    results = coupling.run(frame, dims, sources)
    assert not coupling.unknown
    return given, jax.tree.leaves(others), run, frame, dims, results


def free(values):
    roots = [root for dims in values for axis in dims for root in axes.roots(axis)]
    return list(dict.fromkeys(root for root in roots if root.reason is None))


def lost(dims, root, indices):
    """Returns where an array of these axes loses indices of a root."""
    found = np.zeros([axis.size for axis in dims], bool)
    for position, axis in enumerate(dims):
        others = [i for i in range(len(dims)) if i != position]
        for places in axes.places(axis, root):
            found |= np.expand_dims(np.isin(places, indices), others)
    return found


def drawn(roots, values):
    """Returns a cut at random that leaves something of every array."""
    rng = np.random.default_rng(1)
    while True:
        plan = Plan({root: rng.random(root.size) < 0.6 for root in roots})
        if all(plan.size(axis) for dims in values for axis in dims):
            return plan


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_indices_change_what_goes_with_them_and_are_cut_with_it(case):
    given, others, run, frame, dims, results = traced(case)
    before, after = free(dims), free(results)
    dropped = [root for root in before if root not in after]
    made = [root for root in after if root not in before]
    counts = [sum(root.size for root in roots) for roots in (before, dropped, made)]
    assert counts == [case.carried + case.dropped, case.dropped, case.made]

    full = run(*given)
    for root in before:
        for index in range(root.size) if root in after else ():
            changed = [
                np.where(lost(own, root, index), other, x)
                for x, other, own in zip(given, others, dims, strict=True)
            ]
            for one, other, own in zip(full, run(*changed), results, strict=True):
                differs = (one != other) & ((one == one) | (other == other))
                assert not np.any(differs & ~lost(own, root, index))

    plan = drawn(before + made, [*dims, *results, *frame.dims.values()])
    for root in dropped:
        gone = [lost(own, root, np.flatnonzero(~plan.flags(root))) for own in dims]
        given = [
            np.where(there, case.neutral, x).astype(x.dtype) if there.any() else x
            for x, there in zip(given, gone, strict=True)
        ]
    small = [plan.take(x, own) for x, own in zip(given, dims, strict=True)]
    found = jax.jit(partial(plan.run, frame))(small)
    for one, full, own in zip(found, run(*given), results, strict=True):
        np.testing.assert_allclose(one, plan.take(full, own), rtol=1e-12, atol=1e-13)


# Examples in docstrings register rules of their own, and may have run before.
BUILT_IN = frozenset(COUPLING_RULES)


def test_every_rule_is_tried(monkeypatch):
    tried = set()
    for name in BUILT_IN:
        rule = COUPLING_RULES[name]
        noted = partial(lambda name, rule, at: tried.add(name) or rule(at), name, rule)
        monkeypatch.setitem(COUPLING_RULES, name, noted)
    for case in CASES.values():
        traced(case)
    assert BUILT_IN - tried <= UNTRIED
