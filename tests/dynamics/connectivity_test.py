"""Effective masks, against paths walked one by one and against what removal does."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import gradflow_jax as gf

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


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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
mlp_masks = gf.effective_masks(mlp)


@checked
@given(seeds, densities)
def test_of_an_mlp_the_weights_on_a_path_from_input_to_output_stay(seed, density):
    masks = drawn(MLP, seed, density)
    kernels = [np.asarray(layer["kernel"]) for layer in masks]
    expected = [np.zeros_like(kernel) for kernel in kernels]
    for path in itertools.product(*map(range, WIDTHS)):
        steps = list(itertools.pairwise(path))
        if all(kernel[step] for kernel, step in zip(kernels, steps, strict=True)):
            for own, step in zip(expected, steps, strict=True):
                own[step] = True
    found = mlp_masks(MLP, masks, jnp.ones((1, WIDTHS[0])))
    assert_same([layer["kernel"] for layer in found], expected)
    assert_same([layer["bias"] for layer in found], [m["bias"] for m in masks])


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
convolution_masks = gf.effective_masks(convolutions)


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
    found = convolution_masks(CONVOLUTIONS, masks, jnp.ones((1, SIZE, SIZE, 1)))
    assert_same(found, expected)


# Any program: a weight is effective where its removal changes how the output varies.


def D(*shape):
    return jnp.zeros(shape)


def normalised(v, x):
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


def normalised_weights(v, x):
    norm = jnp.sqrt((v["v"] ** 2).sum(0) + 1e-6)
    return jnp.arctan(x @ (v["g"] * v["v"] / norm)) @ v["head"]


def looked_up(v, x):
    tokens = jnp.clip(jnp.round(2 + x), 0, 4).astype(int)
    return jnp.tanh(v["table"][tokens].mean(1)) @ v["head"]


ROWS = (64, 4)
IN, OUT = D(4, 5), D(5, 2)
PROGRAMS = {
    normalised: (ROWS, {"mean": D(5), "var": D(5), "scale": D(5), "a": IN, "b": OUT}),
    residual: (ROWS, {"stem": D(4, 3), "up": D(3, 4), "down": D(4, 3), "head": IN[:3]}),
    attention: ((64, 3, 4), {**dict.fromkeys("qkv", D(4, 3)), "o": D(3, 2)}),
    gated: (ROWS, {"stem": D(4, 4), "gate": IN, "up": IN, "down": OUT}),
    recurrent: ((64, 3, 4), {"in": IN, "again": D(5, 5), "head": OUT}),
    low_rank: (ROWS, {"base": IN, "down": D(4, 2), "up": D(2, 5), "head": OUT}),
    pooled: ((64, 4, 4, 2), {"kernel": D(2, 2, 2, 4), "head": D(4, 2)}),
    branching: (ROWS, {"stem": IN, "head": OUT}),
    joined: (ROWS, {"a": D(4, 3), "b": D(4, 3), "c": D(3, 2), "d": D(2, 2)}),
    normalised_weights: (ROWS, {"v": IN, "g": D(5), "head": OUT}),
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
        found = []
        for i, leaf in enumerate(leaves):
            without = leaf.reshape(1, -1) * (1 - jnp.eye(leaf.size))

            def change(flat, i=i, leaf=leaf):
                changed = [*leaves[:i], flat.reshape(leaf.shape), *leaves[i + 1 :]]
                return jnp.abs(varies(structure.unflatten(changed)) - before).max()

            found.append(jax.vmap(change)(without).reshape(leaf.shape) > 1e-9)
        return found

    return lambda params: structure.unflatten(changes(jax.tree.leaves(params)))


@pytest.mark.parametrize("apply", PROGRAMS, ids=lambda apply: apply.__name__)
def test_exactly_the_weights_whose_removal_matters_are_effective(apply, float64):
    shape, shapes = PROGRAMS[apply]
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    params = random_weights(shapes)
    matters, find = removals(apply, params, x), gf.effective_masks(apply)
    dropped = 0
    for seed, density in itertools.product(range(4), (0.3, 0.5, 0.8)):
        masks = drawn(params, seed, density)
        found = find(params, masks, x)
        expected = matters(gf.apply(params, masks))
        kernels = [name for name, leaf in params.items() if leaf.ndim > 1]
        assert_same(*({n: tree[n] for n in kernels} for tree in (found, expected)))
        dropped += sum(int((masks[n] & ~found[n]).sum()) for n in kernels)
    assert dropped > 0
