"""Which primitives have no rule: the list is known, and a user can add to it."""

from collections import defaultdict
from functools import partial
from pathlib import Path

import jax
import jax.extend.core.primitives
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, nn
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.scipy import special

import gradflow_jax as gf
from gradflow_jax.connectivity import effective_masks
from gradflow_jax.programs.rules import (
    COUPLING_RULES,
    REBINDING_RULES,
    SIGNAL_RULES,
    VALUE_RULES,
    RuleTable,
)
from gradflow_jax.structured.coupling.tracing import Traced
from tests.structured.zoo import linen as zoo_linen

# Why no table holds a primitive. A model with one of these is refused, in words that
# name the primitive.
REASONS = {
    "It mixes a matrix as a whole, and stands in no layer that is known.": """
        cholesky custom_lin custom_linear_solve eig eigh hessenberg householder_product
        lu qr schur svd triangular_solve tridiagonal tridiagonal_solve
    """,
    "It stands in derivatives, and models are traced forwards.": """
        select_and_gather_add select_and_scatter select_and_scatter_add
    """,
    "It is of programs divided by hand, whose axes are those of one device.": """
        all_gather all_to_all axis_index pmax pmin ppermute psum ragged_all_to_all
        shard_map xla_pmap
    """,
    "It reads or writes outside of the program, or orders such effects.": """
        after_all create_token get pure_callback swap
    """,
    "It calls a program that is not a jaxpr of JAX's own transformations.": """
        call call_hi_primitive eval_jaxpr platform_index stage
    """,
    "It reduces by a function of the program's own.": "reduce",
    "It evaluates coefficients along an axis, in one version.": "polynomial",
    "It is of JAX's own use, and in no program.": "dce_sink empty2 rng_uniform",
}
WITHOUT_RULE = {name for names in REASONS.values() for name in names.split()}

ACTIVATIONS = """
    celu elu gelu glu hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    log_sigmoid log_softmax logsumexp mish relu relu6 selu sigmoid silu soft_sign
    softmax softplus sparse_plus sparse_sigmoid squareplus standardize swish tanh
""".split()
FUNCTIONS = """
    abs all amax amin any arccos arccosh arcsin arctan arctanh argmax argmin argsort
    average cbrt ceil conj cos cosh count_nonzero cov cumprod cumsum diagonal diff
    exp exp2 expm1 flip fliplr flipud floor isfinite isinf isnan log log10 log1p
    log2 max mean median min nanmax nanmean nansum negative prod ptp ravel real
    reciprocal rint round sign sin sinc sinh sort sqrt square std sum tan tanh trace
    transpose tril triu trunc unwrap var
""".split()


def windowed(x):
    return lax.reduce_window(x, -np.inf, lax.max, (1, 2), (1, 2), "VALID").sum()


def split_in_two(x):
    one, other = x.reshape(3, 2, 2).swapaxes(0, 1)
    return one * other


def heads(x):
    return [x.reshape(1, 3, 2, 2)] * 3


def sharded(x):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), "d")
    spec = jax.sharding.PartitionSpec()
    return jax.shard_map(jnp.sin, mesh=mesh, in_specs=spec, out_specs=spec)(x)


# fmt: off
OTHERS = {
    "attention": lambda x: nn.dot_product_attention(*heads(x)),
    "causal attention": lambda x: nn.dot_product_attention(*heads(x), is_causal=True),
    "one_hot": lambda x: nn.one_hot(x.argmax(1), 4),
    "unpacked": split_in_two,
    "clip": lambda x: jnp.clip(x, 0.2, 0.5),
    "where": lambda x: jnp.where(x > 0.5, x, 0),
    "take": lambda x: jnp.take(x, jnp.array([1, 2]), axis=1),
    "constant indices": lambda x: x[:, np.array([2, 0])],
    "take_along_axis": lambda x: jnp.take_along_axis(x, x.argsort(1), axis=1),
    "repeat": lambda x: jnp.repeat(x, 2, axis=1),
    "tile": lambda x: jnp.tile(x, (1, 2)),
    "stack": lambda x: jnp.stack([x, x]),
    "concatenate": lambda x: jnp.concatenate([x, x], axis=1),
    "split": lambda x: jnp.split(x, 2, axis=1),
    "pad": lambda x: [jnp.pad(x, 1, mode=mode) for mode in (
        "constant", "reflect", "edge", "wrap")],
    "einsum": lambda x: jnp.einsum("ij,kj->ik", x, x),
    "outer": lambda x: jnp.outer(x[0], x[1]),
    "kron": lambda x: jnp.kron(x, x),
    "norm": lambda x: jnp.linalg.norm(x, axis=1),
    "matrix_power": lambda x: jnp.linalg.matrix_power(x @ x.T, 3),
    "resize": lambda x: [jax.image.resize(x, (6, 8), method) for method in (
        "nearest", "bilinear", "lanczos3")],
    "pooling": windowed,
    "associative_scan": lambda x: lax.associative_scan(jnp.add, x, axis=1),
    "map": lambda x: lax.map(jnp.sin, x),
    "while in vmap": jax.vmap(lambda r: lax.while_loop(
        lambda r: r.sum() > 1, lambda r: r / 2, r)),
    "cond in vmap": jax.vmap(lambda r: lax.cond(r[0] > 0, jnp.sin, jnp.cos, r)),
    "slices in vmap": lambda x: jax.vmap(
        lambda r, i: lax.dynamic_slice(r, (i,), (2,)))(x, jnp.arange(3)),
    "conv_transpose": lambda x: lax.conv_transpose(
        x[None], jnp.ones((2, 4, 5)), (2,), "SAME"),
    "patches": lambda x: lax.conv_general_dilated_patches(x[None], (2,), (1,), "SAME"),
    "logaddexp": lambda x: jnp.logaddexp(x, 2 * x),
    "hypot": lambda x: jnp.hypot(x, x),
    "mod": lambda x: [jnp.mod(x, 0.3), x // 0.3, x**x],
    "narrow": lambda x: [x.astype(jnp.bfloat16), x.astype(jnp.float8_e4m3fn)],
    "whole": lambda x: lax.dot(x.astype(jnp.int8), x.T.astype(jnp.int8)),
    "special": lambda x: [special.gammaln(x), special.gammainc(x, x), special.erf(x),
                          special.i0e(x), special.i1e(x), special.xlogy(x, x)],
    "scaled_dot": lambda x: lax.dot(x, x.T, precision="highest"),
    "logcumsumexp": lambda x: lax.cumlogsumexp(x, 1),
    "rules that call others": lambda x: [
        special.i0(x), special.i1(x), special.zeta(x + 2, 1.0)],
    "shuffled": lambda x: jax.random.permutation(jax.random.key(0), x, axis=1),
    "named": lambda x: jax.named_call(jnp.sin)(x),
    "remat": jax.checkpoint(lambda x: jnp.sin(x)),
    # Refused.
    "random": lambda x: x * jax.random.normal(jax.random.key(0), x.shape),
    "old keys": lambda x: x * jax.random.uniform(jax.random.PRNGKey(0), x.shape),
    "copysign": lambda x: jnp.copysign(x, -x),
    "scatter": lambda x: [x.at[0].set(0.0), x.at[0].add(1.0), x.at[0].multiply(2.0),
                          x.at[0].max(2.0), x.at[0].min(2.0)],
    "segments": lambda x: jax.ops.segment_sum(x, np.array([0, 1, 0]), 2),
    "top_k": lambda x: [lax.top_k(x, 2), lax.approx_max_k(x, 2)],
    "fft": lambda x: jnp.fft.rfft(x).real,
    "complex": lambda x: jnp.abs(lax.complex(x, x)),
    "gradient of pooling": jax.grad(windowed),
    "gradient of gammainc": jax.grad(lambda x: special.gammainc(x, x).sum()),
    "more special": lambda x: [special.betainc(x, x, x), special.polygamma(1, x)],
    "linear algebra": lambda x: [
        jnp.linalg.inv(x @ x.T), jnp.linalg.cholesky(x @ x.T), jnp.linalg.eigh(x @ x.T),
        jnp.linalg.svd(x), jnp.linalg.qr(x)],
    "reduce": lambda x: lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (1,)),
    "ragged_dot": lambda x: lax.ragged_dot(x, jnp.ones((2, 4, 5)), jnp.array([1, 2])),
    "callback": lambda x: jax.pure_callback(np.sin, jax.typeof(x), x),
    "searchsorted": lambda x: jnp.searchsorted(x[0], x[1]),
    "corrcoef": jnp.corrcoef,
    "shard_map": sharded,
}
# fmt: on


def test_the_primitives_without_a_rule_are_known():
    functions = {name: getattr(nn, name) for name in ACTIVATIONS}
    functions |= {name: getattr(jnp, name) for name in FUNCTIONS} | OTHERS
    x = np.random.default_rng(0).uniform(0.1, 0.9, (3, 4)).astype(np.float32)
    unknown, failed = defaultdict(list), {}
    for name, function in functions.items():
        try:
            found = Traced(function, x, ()).coupling.unknown
        except Exception as error:
            failed[name] = repr(error)
            continue
        for own in found:
            unknown[own].append(name)
    new = {name: unknown[name] for name in unknown.keys() - WITHOUT_RULE}
    assert not new, f"JAX {jax.__version__} has primitives without a rule: {new}"
    assert len(unknown) > 5, "the functions meet some"
    assert not failed


TABLES = {
    "coupling": COUPLING_RULES,
    "values": VALUE_RULES,
    "rebinding": REBINDING_RULES,
    "signals": SIGNAL_RULES,
}
MATRIX = Path(__file__).with_name("primitives.md")


def matrix():
    """Returns the tables as one: a row for each primitive, x where it has a rule."""
    primitives = sorted({name for table in TABLES.values() for name in table.built_in})
    lines = [
        "# Primitives and their rules",
        "",
        f"| primitive | {' | '.join(TABLES)} |",
        "| --- " * (1 + len(TABLES)) + "|",
        *(
            f"| {name} | "
            + " | ".join("x" if name in t.built_in else "" for t in TABLES.values())
            + " |"
            for name in primitives
        ),
        "",
        "Calls, loops and branches need no rule of signals: what they call is read.",
        "",
        "Without a rule:",
        "",
        *(f"- {' '.join(names.split())}: {why}" for why, names in REASONS.items()),
    ]
    return "\n".join(lines) + "\n"


def test_the_matrix_of_primitives_and_tables_is_the_one_that_is_committed():
    """To change it on purpose, write what this test prints to the file."""
    today = matrix()
    print(today)
    assert today == MATRIX.read_text()
    assert not WITHOUT_RULE & set(COUPLING_RULES.built_in)


def test_each_primitive_of_jax_has_a_rule_or_a_reason():
    modules = (lax, jax.extend.core.primitives)
    primitives = {
        value.name
        for module in modules
        for name, value in vars(module).items()
        if name.endswith("_p") and isinstance(value, Primitive)
    }
    assert len(primitives) > 150
    neither = primitives - set(COUPLING_RULES.built_in) - WITHOUT_RULE
    assert not neither, f"JAX {jax.__version__} has primitives of which nothing is said"


def test_networks_of_flax_meet_none_of_them():
    for case in zoo_linen.ZOO.values():
        apply, variables, inputs = case()
        assert not Traced(apply, variables, inputs).coupling.unknown


def primitive(name, function):
    """Returns a primitive of this test's own, which keeps shapes."""
    own = Primitive(name)
    own.def_impl(function)
    own.def_abstract_eval(lambda x: x)
    mlir.register_lowering(own, mlir.lower_fun(function, multiple_results=False))
    return own.bind


half = primitive("half_of_the_test", lambda x: x / 2)
centered = primitive("centered_of_the_test", lambda x: x - x.mean(0))
A, B, X = (
    np.random.default_rng(1).normal(size=shape).astype(np.float32)
    for shape in ((4, 6), (6, 2), (5, 4))
)
PARAMS = {"a": A, "b": B}


def mix(equation):
    (dims,) = equation.operands
    equation.pin(dims[:1], "it is centered along this axis")
    return [dims]


@pytest.mark.parametrize(
    "function, name, rule",
    [
        (half, "half_of_the_test", gf.structured.elementwise),
        (centered, "centered_of_the_test", mix),
        (jax.jit(half), "half_of_the_test", gf.structured.elementwise),
    ],
)
def test_a_rule_of_ones_own_makes_the_family_appear(function, name, rule):
    def apply(params, x):
        return function(x @ params["a"]) @ params["b"]

    units = gf.find_units(apply, PARAMS, X)
    assert not units.families
    (reason,) = (r.reason for r in units.refused if ("a", 1) in r.places)
    assert f"{name!r}" in str(reason) and "gf.structured.register_rule" in str(reason)

    undo = gf.structured.register_rule(name, rule)
    units = gf.find_units(apply, PARAMS, X)
    undo()
    assert name not in COUPLING_RULES
    assert [(family.name, family.size) for family in units] == [("a[1]", 6)]
    keep = {"a[1]": np.arange(6) % 3 != 1}
    assert gf.structured.cut_error(PARAMS, units, keep, X) < 1e-6


def test_what_an_elementwise_primitive_makes_of_zero_is_evaluated():
    def units(name, change):
        function = primitive(name, change)
        undo = gf.structured.register_rule(name, gf.structured.elementwise)
        found = gf.find_units(lambda p, x: function(x @ p["a"]) @ p["b"], PARAMS, X)
        undo()
        return found

    assert units("third_of_the_test", lambda x: x / 3)["a[1]"].zeroed == {("a", 1)}
    (refused,) = (
        r for r in units("cos_of_the_test", jnp.cos).refused if len(r.places) > 1
    )
    assert "the constant 1 leaks" in str(refused)


def test_a_rule_of_values_says_what_removed_slices_hold():
    """Of cos it is known that it makes 1 of 0, which would leak; the rule denies it."""
    cosine = primitive("cosine_of_the_test", jnp.cos)
    rule = gf.structured.elementwise

    def units():
        return gf.find_units(lambda p, x: cosine(x @ p["a"]) @ p["b"], PARAMS, X)

    undo = gf.structured.register_rule("cosine_of_the_test", rule)
    assert not units().families
    undo()
    undo = gf.structured.register_rule(
        "cosine_of_the_test", rule, values=lambda equation: list(equation.operands)
    )
    assert [family.name for family in units()] == ["a[1]"]
    undo()


def test_a_rule_of_rebinding_is_bound_at_the_widths_of_the_cut():
    """A primitive that holds a shape in its parameters, as `reshape` does."""
    doubled = Primitive("doubled_of_the_test")
    doubled.def_impl(lambda x, shape: x + jnp.ones(shape, x.dtype))
    doubled.def_abstract_eval(lambda x, shape: x)
    lowered = mlir.lower_fun(doubled.impl, multiple_results=False)
    mlir.register_lowering(doubled, lowered)

    def apply(params, x):
        hidden = x @ params["a"]
        return (jnp.abs(doubled.bind(hidden, shape=hidden.shape)) * hidden) @ params[
            "b"
        ]

    def rebind(equation, operands):
        return equation.bind(operands, shape=equation.cut.shape(equation.result()))

    keep = {"a[1]": np.arange(6) % 3 != 1}
    for how in ({}, {"rebind": rebind}):
        undo = gf.structured.register_rule(
            "doubled_of_the_test", gf.structured.elementwise, values=zeros_held, **how
        )
        units = gf.find_units(apply, PARAMS, X)
        if how:
            assert gf.structured.cut_error(PARAMS, units, keep, X) < 1e-6
        else:
            with pytest.raises(Exception, match="[Ss]hape|shapes"):
                gf.structured.cut_error(PARAMS, units, keep, X)
        undo()


def zeros_held(equation):
    """Of a product with what is removed everything is zero; here nothing is claimed."""
    return [tuple(None if e is None else 1.0 for e in equation.operands[0])]


def test_a_rule_of_signals_is_asked_by_connectivity():
    swapped = primitive("swapped_of_the_test", lambda x: x[:, ::-1])

    def carries(equation):
        (dims,) = equation.operands
        equation.pin(dims, "it is swapped")
        return [dims]

    def apply(params, x):
        return swapped(x @ params["a"]) @ params["b"]

    masks = {"a": np.ones((4, 6), bool), "b": np.zeros((6, 2), bool)}
    masks["b"][0] = True
    find = partial(effective_masks, apply)
    # Without a rule all that goes in may come out.
    assert find(PARAMS, masks, X)["a"].all()
    undo = gf.structured.register_rule(
        "swapped_of_the_test",
        carries,
        signals=lambda eqn, operands: [
            (
                own.nonzero[:, ::-1],
                None if own.reached is None else own.reached[:, ::-1],
            )
            for own in operands
        ],
    )
    found = effective_masks(apply, PARAMS, masks, X)["a"]
    assert found[:, 5].all() and not found[:, :5].any()
    undo()


def test_undoing_brings_back_what_was_there():
    before = COUPLING_RULES["cos"]
    undo = gf.structured.register_rule("cos", mix)
    assert COUPLING_RULES["cos"] is mix
    undo()
    assert COUPLING_RULES["cos"] is before


def test_a_rule_registered_before_its_room_is_loaded_stays():
    table = RuleTable()
    undo = table.register("cos", mix)
    table.fill({"cos": half, "sin": half})
    assert table["cos"] is mix and table["sin"] is half
    undo()
    assert table["cos"] is half


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((gf.structured.elementwise, "my_fft"), {}, "the name of a primitive, a str"),
        (("my_fft", None), {}, "'my_fft'\\): coupling is None, not a function"),
        (("my_fft", mix), {"values": 1}, "values is 1, not a function"),
        (("my_fft", mix), {"signals": 10**5000}, "signals is a number of more than 64"),
        ((10**5000, mix), {}, "a str such as 'my_norm', not a number of more than 64"),
    ],
)
def test_what_is_no_rule_is_refused(arguments, options, message):
    with pytest.raises(TypeError, match=message):
        gf.structured.register_rule(*arguments, **options)
    assert "my_fft" not in COUPLING_RULES
