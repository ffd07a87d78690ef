"""Effective masks, against paths walked one by one and against what removal does."""

import itertools
from functools import partial

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import gradflow_jax as gf
from gradflow_jax.connectivity import effective_masks

checked = settings(max_examples=40, deadline=None, derandomize=True, database=None)
densities = st.sampled_from((0.0, 0.2, 0.4, 0.7, 1.0))
seeds = st.integers(0, 2**32 - 1)


def drawn(tree, seed, density):
    """Masks that keep about this share of each kernel and all of the rest."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.random(leaf.shape) < (density if leaf.ndim > 1 else 1)
        ),
        tree,
    )


def random_weights(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), tree)


# A multi-layer perceptron, path by path.

WIDTHS = (2, 3, 4, 3, 2)


def mlp(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


MLP = [
    {"kernel": jnp.ones((before, after)), "bias": jnp.ones(after)}
    for before, after in itertools.pairwise(WIDTHS)
]
mlp_masks = partial(effective_masks, mlp)


@checked
@given(seeds, densities)
def test_of_an_mlp_the_weights_on_a_path_from_input_to_output_stay(seed, density):
    masks = drawn(MLP, seed, density)
    kernels = [np.asarray(layer["kernel"]) for layer in masks]
    expected = [np.zeros_like(kernel) for kernel in kernels]
    for path in itertools.product(*map(range, WIDTHS)):
        steps = list(itertools.pairwise(path))
        if all(kernel[step] for kernel, step in zip(kernels, steps, strict=True)):
            for on_path, step in zip(expected, steps, strict=True):
                on_path[step] = True
    effective = mlp_masks(MLP, masks, jnp.ones((1, WIDTHS[0])))
    chex.assert_trees_all_equal([layer["kernel"] for layer in effective], expected)
    chex.assert_trees_all_equal(
        [layer["bias"] for layer in effective], [m["bias"] for m in masks]
    )


# Two convolutions, one with stride and one grouped, and a dense layer, path by path.

SIZE = 4
HOW = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def convolutions(params, x):
    h = lax.conv_general_dilated(x, params["first"], (2, 2), "SAME", **HOW)
    h = jax.nn.relu(h + params["bias"])
    h = lax.conv_general_dilated(
        h, params["second"], (1, 1), [(0, 0)] * 2, feature_group_count=2, **HOW
    )
    return h.reshape(len(x), -1) @ params["dense"]


CONVOLUTIONS = {
    "first": jnp.ones((3, 3, 1, 4)),
    "bias": jnp.ones(4),
    "second": jnp.ones((2, 2, 2, 2)),
    "dense": jnp.ones((2, 2)),
}
convolution_masks = partial(effective_masks, convolutions)


def paths_of_convolutions():
    """The weights of each path: of 4×4 to 2×2 by stride 2, to 1×1 by a 2×2 window."""
    for y, x, mid, out, last in itertools.product(
        range(SIZE), range(SIZE), range(4), range(2), range(2)
    ):
        for row, column in itertools.product(range(2), range(2)):
            # "SAME" at stride 2 pads one row behind and none before.
            window = (y - 2 * row, x - 2 * column)
            if not all(0 <= place < 3 for place in window) or mid // 2 != out:
                continue
            yield {
                "first": (*window, 0, mid),
                "second": (row, column, mid % 2, out),
                "dense": (out, last),
            }


PATHS = list(paths_of_convolutions())


@checked
@given(seeds, densities)
def test_of_convolutions_too(seed, density):
    masks = drawn(CONVOLUTIONS, seed, density)
    flags = {name: np.asarray(mask) for name, mask in masks.items()}
    expected = {name: np.zeros_like(mask) for name, mask in flags.items()}
    expected["bias"] = flags["bias"]
    for path in PATHS:
        if all(flags[name][place] for name, place in path.items()):
            for name, place in path.items():
                expected[name][place] = True
    effective = convolution_masks(CONVOLUTIONS, masks, jnp.ones((1, SIZE, SIZE, 1)))
    chex.assert_trees_all_equal(effective, expected)


# Any program: a weight is effective where its removal changes how the output varies.


def D(*shape):
    return jnp.zeros(shape)


def normalized(v, x):
    h = (x @ v["a"] - v["mean"]) * lax.rsqrt(v["var"] ** 2 + 0.1) * v["scale"]
    return jnp.tanh(h) @ v["b"]


def residual(v, x):
    h = x @ v["stem"]
    h = h + jnp.tanh(h @ v["up"]) @ v["down"]
    return h @ v["head"]


def attention(v, x):
    q, k, values = (x @ v[name] for name in "qkv")
    weights = jax.nn.softmax(q @ k.swapaxes(1, 2))
    return weights @ values @ v["o"]


def gated(v, x):
    h = x @ v["stem"]
    return (jax.nn.silu(h @ v["gate"]) * (h @ v["up"])) @ v["down"]


def recurrent(v, x):
    def step(h, x):
        h = jnp.tanh(x @ v["in"] + h @ v["again"])
        return h, None

    h, _ = lax.scan(step, jnp.zeros((len(x), 5)), x.swapaxes(0, 1))
    return h @ v["head"]


def low_rank(v, x):
    return jnp.sin(x @ (v["base"] + v["down"] @ v["up"])) @ v["head"]


def pooled(v, x):
    h = lax.conv_general_dilated(x, v["kernel"], (1, 1), "SAME", **HOW)
    h = nn.avg_pool(nn.max_pool(jnp.tanh(h), (2, 2), (2, 2)), (2, 2), (1, 1))
    return h.mean((1, 2)) @ v["head"]


def branching(v, x):
    h = x @ v["stem"]
    h = lax.cond(x[0, 0] > 0, jnp.sin, lambda h: jax.jit(jnp.tanh)(2 * h), h)
    return jax.checkpoint(lambda h: jnp.where(h > 0, h, 0.1 * h))(h) @ v["head"]


def joined(v, x):
    h = jnp.concatenate([x @ v["a"], jnp.pad(x @ v["b"], [(0, 0), (1, 0)])], axis=1)
    left, right = jnp.split(jnp.tanh(h)[:, ::-1], [3], axis=1)
    return left @ v["c"] + right.reshape(len(x), -1, 2).sum(2) @ v["d"]


def normalized_weights(v, x):
    norm = jnp.sqrt((v["v"] ** 2).sum(0) + 1e-6)
    return jnp.arctan(x @ (v["g"] * v["v"] / norm)) @ v["head"]


def looked_up(v, x):
    tokens = jnp.clip(jnp.round(2 + x), 0, 4).astype(int)
    return jnp.tanh(v["table"][tokens].mean(1)) @ v["head"]


ROWS = (64, 4)
IN, OUT = D(4, 5), D(5, 2)
PROGRAMS = {
    normalized: (ROWS, {"mean": D(5), "var": D(5), "scale": D(5), "a": IN, "b": OUT}),
    residual: (ROWS, {"stem": D(4, 3), "up": D(3, 4), "down": D(4, 3), "head": IN[:3]}),
    attention: ((64, 3, 4), {**dict.fromkeys("qkv", D(4, 3)), "o": D(3, 2)}),
    gated: (ROWS, {"stem": D(4, 4), "gate": IN, "up": IN, "down": OUT}),
    recurrent: ((64, 3, 4), {"in": IN, "again": D(5, 5), "head": OUT}),
    low_rank: (ROWS, {"base": IN, "down": D(4, 2), "up": D(2, 5), "head": OUT}),
    pooled: ((64, 4, 4, 2), {"kernel": D(2, 2, 2, 4), "head": D(4, 2)}),
    branching: (ROWS, {"stem": IN, "head": OUT}),
    joined: (ROWS, {"a": D(4, 3), "b": D(4, 3), "c": D(3, 2), "d": D(2, 2)}),
    normalized_weights: (ROWS, {"v": IN, "g": D(5), "head": OUT}),
    looked_up: (ROWS, {"table": D(5, 6), "head": D(6, 2)}),
}


def removals(apply, params, x):
    """Returns, for each weight, whether its removal changes how the output varies."""

    def varies(params):
        out = apply(params, x)
        return out - out[:1]

    leaves, structure = jax.tree.flatten(params)

    @jax.jit
    def changes(leaves):
        before = varies(structure.unflatten(leaves))
        matters = []
        for i, leaf in enumerate(leaves):
            without = leaf.reshape(1, -1) * (1 - jnp.eye(leaf.size))

            def change(flat, i=i, leaf=leaf):
                changed = [*leaves[:i], flat.reshape(leaf.shape), *leaves[i + 1 :]]
                return jnp.abs(varies(structure.unflatten(changed)) - before).max()

            matters.append(jax.vmap(change)(without).reshape(leaf.shape) > 1e-9)
        return matters

    return lambda params: structure.unflatten(changes(jax.tree.leaves(params)))


@pytest.mark.parametrize("apply", PROGRAMS, ids=lambda apply: apply.__name__)
def test_exactly_the_weights_whose_removal_matters_are_effective(apply, float64):
    shape, shapes = PROGRAMS[apply]
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    params = random_weights(shapes)
    matters, find = (
        removals(apply, params, x),
        partial(effective_masks, apply),
    )
    dropped = 0
    for seed, density in itertools.product(range(4), (0.3, 0.5, 0.8)):
        masks = drawn(params, seed, density)
        effective = find(params, masks, x)
        expected = matters(gf.prune(params, masks))
        kernels = [name for name, leaf in params.items() if leaf.ndim > 1]
        chex.assert_trees_all_equal(
            *({n: tree[n] for n in kernels} for tree in (effective, expected))
        )
        dropped += sum(int((masks[n] & ~effective[n]).sum()) for n in kernels)
    assert dropped > 0


# What follows from it, and other frameworks.


class Residual(nn.Module):
    """A small residual network with batch norm, in eval mode."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(self.norm(nn.Conv(4, (3, 3), use_bias=False)(x)))
        inner = nn.relu(self.norm(nn.Conv(3, (3, 3), use_bias=False)(h)))
        h = nn.relu(h + self.norm(nn.Conv(4, (3, 3), use_bias=False)(inner)))
        return nn.Dense(2)(h.mean((1, 2)))

    def norm(self, x):
        return nn.BatchNorm(use_running_average=True)(x)


def test_dropping_weights_that_are_not_effective_changes_nothing():
    x = jax.random.normal(jax.random.key(0), (8, 4, 4, 2))
    model = Residual()
    variables = jax.jit(model.init)(jax.random.key(1), x)
    stats = variables["batch_stats"]

    def apply(params, x):
        return model.apply({"params": params, "batch_stats": stats}, x)

    params, find, run = (
        variables["params"],
        partial(effective_masks, apply),
        jax.jit(apply),
    )
    dropped = 0
    for seed in range(6):
        masks = drawn(params, seed, 0.1)
        effective = find(params, masks, x[:1])
        # Biases and shifts are zero at first: dead units make no constant.
        np.testing.assert_array_equal(
            run(gf.prune(params, masks), x), run(gf.prune(params, effective), x)
        )
        dropped += gf.report(effective).sparsity - gf.report(masks).sparsity
    assert dropped > 0.1


def test_what_a_bias_makes_of_a_dead_unit_is_a_constant():
    params = random_weights(MLP[:2])
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    masks[0]["kernel"] = masks[0]["kernel"].at[:, 0].set(False)
    params[0]["bias"] = jnp.ones(3)
    effective = effective_masks(mlp, params, masks, jnp.ones((1, 2)))
    assert not effective[1]["kernel"][0].any() and effective[1]["kernel"][1:].all()
    x = jax.random.normal(jax.random.key(0), (16, 2))
    change = mlp(gf.prune(params, effective), x) - mlp(gf.prune(params, masks), x)
    np.testing.assert_allclose(change, jnp.tile(change[:1], (16, 1)), atol=1e-6)
    assert jnp.abs(change).min() > 0.01


def perceptrons():
    """One perceptron as a linen, an NNX and an Equinox model: apply, params, input."""
    x = jnp.ones((1, WIDTHS[0]))
    linen = nn.Sequential([nn.Dense(WIDTHS[1]), nn.relu, nn.Dense(WIDTHS[2])])
    params = linen.init(jax.random.key(0), x)["params"]
    yield lambda p, x: linen.apply({"params": p}, x), params, x

    flax = nnx.Sequential(
        nnx.Linear(WIDTHS[0], WIDTHS[1], rngs=nnx.Rngs(0)),
        nnx.relu,
        nnx.Linear(WIDTHS[1], WIDTHS[2], rngs=nnx.Rngs(0)),
    )
    graphdef, state = nnx.split(flax)
    yield lambda p, x: nnx.merge(graphdef, p)(x), state, x

    keys = jax.random.split(jax.random.key(0))
    layers = [
        eqx.nn.Linear(*size, key=key)
        for size, key in zip(itertools.pairwise(WIDTHS[:3]), keys, strict=True)
    ]
    arrays, static = eqx.partition(layers, eqx.is_inexact_array)

    def apply(params, x):
        first, last = eqx.combine(params, static)
        return jax.vmap(lambda x: last(jax.nn.relu(first(x))))(x)

    yield apply, arrays, x


def test_linen_nnx_and_equinox_models_have_the_same_effective_weights():
    first = jnp.asarray([[True, False, True], [False, False, True]])
    last = jnp.asarray([[False] * 4, [True] * 4, [True, False, False, True]])
    for apply, params, x in perceptrons():
        transposed = any("weight" in path for path, _ in gf.trees.named_leaves(params))
        mask_of_size = {first.size: first, last.size: last}

        def mask(leaf, mask_of_size=mask_of_size, transposed=transposed):
            if leaf.ndim < 2:
                return jnp.ones(leaf.shape, bool)
            return mask_of_size[leaf.size].T if transposed else mask_of_size[leaf.size]

        effective = effective_masks(apply, params, jax.tree.map(mask, params), x)
        kernels = [leaf for leaf in jax.tree.leaves(effective) if leaf.ndim == 2]
        kernels = [leaf.T if transposed else leaf for leaf in kernels]
        expected = [
            first & jnp.asarray([False, False, True]),
            last & jnp.asarray([[False], [False], [True]]),
        ]
        chex.assert_trees_all_equal(kernels, expected)


@pytest.mark.parametrize(
    "spread",
    [
        lambda h: jnp.fft.fft(h).real,
        lambda h: lax.while_loop(lambda h: h.sum() < 9, lambda h: h[::-1] + 1, h),
        lambda h: h[::-1].at[jnp.argmax(h)].set(1.0),
        lambda h: lax.dynamic_update_slice(h, h[:1], (jnp.argmax(h),)),
    ],
    ids=["fft", "while", "scatter", "update"],
)
def test_what_has_no_rule_lets_everything_depend_on_everything(spread):
    def apply(v, x):
        return spread(v["a"] * x) * v["b"]

    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    masks = {"a": jnp.array([True, True, False]), "b": jnp.array([False, False, True])}
    find = partial(effective_masks, apply, prunable=lambda path, leaf: True)
    chex.assert_trees_all_equal(find(params, masks, jnp.ones(3)), masks)


def test_indices_that_are_constants_are_looked_up_exactly():
    def apply(v, x):
        h = v["a"] * x
        h = jnp.concatenate([h[jnp.array([2, 0])], lax.dynamic_slice(h, (1,), (1,))])
        return lax.dynamic_update_slice(h, jnp.zeros(1), (0,)) * v["b"]

    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    masks = jax.tree.map(lambda leaf: jnp.ones(3, bool), params)
    find = partial(effective_masks, apply, prunable=lambda path, leaf: True)
    expected = {"a": [True, True, False], "b": [False, True, True]}
    chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf: leaf.tolist(), find(params, masks, jnp.ones(3))),
        expected,
    )


def test_without_a_path_nothing_is_effective():
    def apply(v, x):
        return (v["kernel"] * 2).sum()  # the input goes nowhere

    params = {"kernel": jnp.ones((2, 2))}
    masks = {"kernel": jnp.ones((2, 2), bool)}
    assert not effective_masks(apply, params, masks, jnp.ones(2))["kernel"].any()


def test_a_number_of_paths_beyond_all_floats_is_no_matter():
    # 64 layers of 128: 10^135 paths, and with one layer of a single weight still many.
    params = {"layers": jnp.ones((64, 128, 128)), "narrow": jnp.ones((128, 128))}

    def apply(v, x):
        h, _ = lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, v["layers"])
        return h @ v["narrow"]

    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    masks["narrow"] = masks["narrow"] & (jnp.arange(128)[:, None] == 5)
    effective = effective_masks(apply, params, masks, jnp.ones((1, 128)))
    chex.assert_trees_all_equal(effective["narrow"], masks["narrow"])
    assert effective["layers"][:-1].all()
    chex.assert_trees_all_equal(
        effective["layers"][-1], jnp.ones((128, 1), bool) & masks["narrow"][:, 0]
    )


def test_new_masks_compile_nothing():
    @chex.assert_max_traces(n=1)
    def apply(v, x):
        return x @ v

    find, params = (
        partial(effective_masks, apply),
        jnp.ones((2, 2)),
    )
    for value in (True, False):
        masks = jnp.full((2, 2), value)
        chex.assert_trees_all_equal(find(params, masks, jnp.ones((1, 2))), masks)


def test_elementwise_primitives_of_ones_own_pass_signals():
    gf.structured.register_rule(
        "sign", gf.structured.elementwise
    )  # has a rule; says the same again
    find = partial(effective_masks, lambda v, x: jnp.sign(x @ v))
    masks = jnp.eye(2, dtype=bool)
    chex.assert_trees_all_equal(find(jnp.ones((2, 2)), masks, jnp.ones((1, 2))), masks)


def test_masks_of_another_tree_are_an_error():
    find = partial(effective_masks, mlp)
    with pytest.raises(ValueError, match="masks and params are different trees"):
        find(MLP, drawn(MLP, 0, 1)[:1], jnp.ones((1, 2)))
    with pytest.raises(TypeError, match="not bool"):
        find(MLP, MLP, jnp.ones((1, 2)))


def _cholesky(w):
    return jnp.linalg.cholesky(w)


def _solved(w):
    return jax.lax.linalg.triangular_solve(w, jnp.eye(2), left_side=True)


def _of_eigenvalues(w):
    return jnp.linalg.eigvalsh(w)[:, None] * jnp.ones((2, 2))


@pytest.mark.parametrize("change", [_cholesky, _solved, _of_eigenvalues])
def test_weights_that_pass_a_primitive_without_a_rule_are_not_dropped(change):
    """Before a signal is multiplied by what is made of them."""

    def apply(params, x):
        return x @ change(params["w"])

    params = {"w": jnp.array([[2.0, 1.0], [1.0, 2.0]])}
    masks = {"w": jnp.ones((2, 2), bool)}
    effective = gf.connectivity.effective_masks(apply, params, masks, jnp.ones((1, 2)))
    assert effective["w"].all()
    # Where nothing is multiplied by them they are on no path.
    unused = gf.connectivity.effective_masks(
        lambda params, x: x + 0 * change(params["w"]).sum(), params, masks, jnp.ones(2)
    )
    assert not unused["w"].any()
