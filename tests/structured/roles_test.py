"""Roles of axes, of models in which they are known from what the layers are.

Models are traced with shapes in place of parameters, so that nothing is computed.
"""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow_jax as gf

KEY = jax.random.key(0)
KERNEL, BIAS = ("in", "out"), ("out",)
QUERY = {"kernel": ("in", "head", "out"), "bias": ("head", "out")}
ATTENTION = {
    **dict.fromkeys(("query", "key", "value"), QUERY),
    "out": {"kernel": ("in", "in", "out"), "bias": BIAS},
}


def ones(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


TOKENS = ones(2, 5, dtype=jnp.int32)


def roles_of_linen(model, *inputs):
    variables = jax.eval_shape(model.init, KEY, *inputs)
    return gf.structured.axis_roles(model, variables, *inputs)["params"]


def roles_of(apply, params, *inputs):
    params = {name: ones(*shape) for name, shape in params.items()}
    return gf.structured.axis_roles(apply, params, *inputs)


def in_front(word, tree):
    """The roles of a model whose leaves have one more axis."""
    return jax.tree.map(
        lambda words: (word, *words), tree, is_leaf=lambda x: isinstance(x, tuple)
    )


class TestLinen:
    def test_attention(self):
        attention = nn.MultiHeadDotProductAttention(num_heads=4)
        assert roles_of_linen(attention, ones(1, 3, 8), ones(1, 3, 8)) == ATTENTION

    @pytest.mark.parametrize("remat", [False, True])
    def test_layers_under_scan_are_a_stack(self, remat):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                h = nn.LayerNorm(name="norm")(x)
                x += nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(h)
                return x + nn.Dense(8, name="up")(nn.gelu(x)), None

        layer = nn.remat(Layer) if remat else Layer
        layers = nn.scan(
            layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        roles = roles_of_linen(layers(), ones(2, 5, 8), None)
        assert roles == in_front(
            "stack",
            {
                "norm": {"scale": BIAS, "bias": BIAS},
                "attention": ATTENTION,
                "up": {"kernel": KERNEL, "bias": BIAS},
            },
        )

    def test_convolutions(self):
        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.Conv(4, (3, 3), name="first")(x)
                x = nn.BatchNorm(use_running_average=True, name="norm")(x)
                x = nn.Conv(4, (3, 3), feature_group_count=4, name="depthwise")(x)
                x = nn.Conv(8, (1, 1), name="pointwise")(x)
                x = nn.Conv(8, (3, 3), feature_group_count=2, name="grouped")(x)
                x = nn.ConvTranspose(4, (2, 2), strides=2, name="up")(x)
                return nn.Dense(3, name="head")(x.reshape(len(x), -1))

        roles = roles_of_linen(Net(), ones(2, 4, 4, 3))
        kernels = {layer: words.get("kernel") for layer, words in roles.items()}
        assert kernels == {
            "first": ("window", "window", "in", "out"),
            "norm": None,
            "depthwise": ("window", "window", "in", "group"),
            # What a depthwise convolution reads one by one is an output all the same.
            "pointwise": ("window", "window", "in", "out"),
            "grouped": ("window", "window", "in", "out"),
            "up": ("window", "window", "in", "out"),
            "head": KERNEL,
        }
        assert roles["norm"] == {"scale": BIAS, "bias": BIAS}

    def test_a_convolution_in_one_dimension_and_a_transposed_kernel(self):
        assert roles_of_linen(nn.Conv(5, (3,)), ones(1, 6, 2)) == {
            "kernel": ("window", "in", "out"),
            "bias": BIAS,
        }
        up = nn.ConvTranspose(5, (3,), transpose_kernel=True)
        assert roles_of_linen(up, ones(1, 6, 2))["kernel"] == ("window", "out", "in")

    @pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell, nn.GRUCell, nn.SimpleCell])
    def test_recurrent_cells(self, cell):
        roles = roles_of_linen(nn.RNN(cell(6, name="cell")), ones(2, 5, 3))["cell"]
        for layer in roles.values():
            assert layer["kernel"] == KERNEL and layer.get("bias", BIAS) == BIAS

    def test_embeddings_that_are_looked_up_count_their_vocabulary_as_inputs(self):
        class Model(nn.Module):
            tied: bool

            @nn.compact
            def __call__(self, tokens):
                embed = nn.Embed(11, 8, name="tokens")
                places = nn.Embed(7, 8, name="places")(jnp.arange(5))
                shifts = self.param("shifts", nn.initializers.zeros, (5, 8))
                x = nn.Dense(8, name="dense")(embed(tokens) + places + shifts)
                return embed.attend(x) if self.tied else x

        roles = roles_of_linen(Model(False), TOKENS)
        assert roles["tokens"] == roles["places"] == {"embedding": KERNEL}
        assert roles["shifts"] == ("out", "out")
        tied = roles_of_linen(Model(True), TOKENS)
        assert tied.pop("tokens") == {"embedding": ("unknown", "unknown")}
        assert tied == {name: roles[name] for name in tied}

    @pytest.mark.parametrize("shared", [True, False])
    def test_members_of_an_ensemble_are_groups(self, shared):
        class Mlp(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(2)(nn.relu(nn.Conv(6, (2,))(x)))

        x = ones(4, 3, 2) if shared else ones(5, 4, 3, 2)
        axes = (0, None if shared else 0)
        member = jax.eval_shape(Mlp().init, KEY, ones(4, 3, 2))
        variables = jax.tree.map(lambda leaf: ones(5, *leaf.shape), member)
        apply = jax.vmap(Mlp().apply, axes)
        assert gf.structured.axis_roles(apply, variables, x)["params"] == in_front(
            "group",
            {
                "Conv_0": {"kernel": ("window", "in", "out"), "bias": BIAS},
                "Dense_0": {"kernel": KERNEL, "bias": BIAS},
            },
        )


class TestModulesThatHoldTheirVariables:
    def test_nnx_attention_is_a_plain_tree(self):
        module = nnx.eval_shape(
            lambda: nnx.MultiHeadAttention(4, 8, 16, decode=False, rngs=nnx.Rngs(0))
        )
        assert gf.structured.axis_roles(module, ones(1, 3, 8)) == ATTENTION

    def test_nnx_layers_in_a_list(self):
        class Net(nnx.Module):
            def __init__(self, rngs):
                for i, width in enumerate((3, 6)):
                    setattr(self, f"layer{i}", nnx.Linear(width, 6, rngs=rngs))
                self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)

            def __call__(self, x):
                return self.norm(self.layer1(nnx.relu(self.layer0(x))))

        module = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
        roles = gf.structured.axis_roles(module, ones(4, 3))
        assert roles["layer0"] == roles["layer1"] == {"kernel": KERNEL, "bias": BIAS}
        assert roles["norm"]["scale"] == roles["norm"]["mean"] == BIAS

    @pytest.mark.parametrize(
        "make, shapes, words",
        [
            (lambda: eqx.nn.Linear(8, 4, key=KEY), [(8,)], ("out", "in")),
            (
                lambda: eqx.nn.Conv2d(4, 6, 3, key=KEY),
                [(4, 5, 5)],
                ("out", "in", "window", "window"),
            ),
            (
                lambda: eqx.nn.Conv1d(4, 4, 3, groups=4, key=KEY),
                [(4, 5)],
                ("group", "in", "window"),
            ),
            (
                lambda: eqx.nn.ConvTranspose1d(4, 6, 3, key=KEY),
                [(4, 5)],
                ("out", "in", "window"),
            ),
            (lambda: eqx.nn.Embedding(7, 4, key=KEY), [()], KERNEL),
        ],
    )
    def test_equinox(self, make, shapes, words):
        module = eqx.filter_eval_shape(make)
        dtype = jnp.int32 if shapes == [()] else jnp.float32
        inputs = [ones(*shape, dtype=dtype) for shape in shapes]
        assert gf.structured.axis_roles(module, *inputs).weight == words

    def test_cells_and_attention_of_equinox(self):
        cell = eqx.filter_eval_shape(lambda: eqx.nn.GRUCell(3, 5, key=KEY))
        roles = gf.structured.axis_roles(cell, ones(3), ones(5))
        assert roles.weight_ih == roles.weight_hh == ("out", "in")
        attention = eqx.filter_eval_shape(
            lambda: eqx.nn.MultiheadAttention(2, 8, key=KEY)
        )
        roles = gf.structured.axis_roles(attention, *[ones(3, 8)] * 3)
        # Heads are a part of the axis.
        assert roles.query_proj.weight == roles.output_proj.weight == ("out", "in")


def attend(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k))
    return jnp.einsum("hts,shd->thd", weights, v)


def fused_attention(p, x):
    return attend(*jnp.split((x @ p["w"]).reshape(3, 2, 12), 3, -1))


def fused_by_an_axis(p, x):
    return attend(*jnp.moveaxis(jnp.einsum("td,dchf->tchf", x, p["w"]), 1, 0))


def experts(p, x):
    gates = jax.nn.softmax(x @ p["g"])
    hidden = jax.nn.relu(jnp.einsum("bd,edf->bef", x, p["u"]) + p["c"])
    outputs = jnp.einsum("bef,efd->bed", hidden, p["v"]) + p["d"]
    return jnp.einsum("bed,be->bd", outputs, gates)


def loop_in_python(p, x):
    for i in range(3):
        x = jnp.tanh(x @ p["w"][i] + p["b"][i])
    return x


def counted_loop(p, x):
    return jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ p["w"][i] + p["b"][i]), x)


def branches(p, x):
    return jax.lax.cond(x.sum() > 0, lambda: x @ p["a"], lambda: x @ p["b"].T)


def weight_normalized(p, x):
    return x @ (p["w"] / jnp.linalg.norm(p["w"], axis=0) * p["g"])


def cell_without_scan(p, x):
    state = jnp.zeros((2, 4))
    for i in range(2):
        state = jnp.tanh(x[i] @ p["w"] + state @ p["u"])
    return state


def ragged(p, x):
    return jax.lax.ragged_dot(x, p["w"], jnp.array([1, 2], jnp.int32))


U = "unknown"
PROGRAMS = {
    "an einsum in another order": (
        lambda p, x: jnp.einsum("bi,ohi->bho", x, p["w"]),
        {"w": (2, 3, 4)},
        [(3, 4)],
        {"w": ("out", "out", "in")},
    ),
    "inputs over two axes": (
        lambda p, x: x @ p["w"].reshape(4, 6),
        {"w": (2, 2, 6)},
        [(3, 4)],
        {"w": ("in", "in", "out")},
    ),
    "in half precision, transposed": (
        lambda p, x: x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16).T,
        {"w": (6, 4)},
        [(3, 4)],
        {"w": ("out", "in")},
    ),
    "kernels laid end to end": (
        lambda p, x: jnp.concatenate([x, x], -1) @ jnp.concatenate([p["a"], p["b"]]),
        {"a": (4, 6), "b": (4, 6)},
        [(3, 4)],
        {"a": KERNEL, "b": KERNEL},
    ),
    "a residual block, whose inputs and outputs are cut together": (
        lambda p, x: x + jax.nn.relu(x @ p["a"]) @ p["b"].T,
        {"a": (4, 4), "b": (4, 4)},
        [(3, 4)],
        {"a": KERNEL, "b": ("out", "in")},
    ),
    "attention in one kernel": (
        fused_attention,
        {"w": (8, 24)},
        [(3, 8)],
        {"w": KERNEL},
    ),
    "attention along an axis": (
        fused_by_an_axis,
        {"w": (8, 3, 2, 4)},
        [(3, 8)],
        {"w": ("in", "out", "head", "out")},
    ),
    "experts": (
        experts,
        {"u": (3, 4, 5), "v": (3, 5, 4), "g": (4, 3), "c": (3, 5), "d": (3, 4)},
        [(2, 4)],
        {
            **dict.fromkeys("uv", ("group", *KERNEL)),
            **dict.fromkeys("cd", ("group", "out")),
            "g": KERNEL,
        },
    ),
    "experts of rows in groups": (
        ragged,
        {"w": (2, 4, 5)},
        [(3, 4)],
        {"w": ("group", *KERNEL)},
    ),
    "layers taken one by one": (
        loop_in_python,
        {"w": (3, 4, 4), "b": (3, 4)},
        [(2, 4)],
        {"w": ("stack", *KERNEL), "b": ("stack", "out")},
    ),
    "by a counter": (
        counted_loop,
        {"w": (3, 4, 4), "b": (3, 4)},
        [(2, 4)],
        {"w": ("stack", *KERNEL), "b": ("stack", "out")},
    ),
    "branches": (
        branches,
        {"a": (4, 6), "b": (6, 4)},
        [(3, 4)],
        {"a": KERNEL, "b": ("out", "in")},
    ),
    "normalized weights": (
        weight_normalized,
        {"w": (4, 6), "g": (6,)},
        [(3, 4)],
        {"w": KERNEL, "g": BIAS},
    ),
    "a state that starts at zero": (
        cell_without_scan,
        {"w": (3, 4), "u": (4, 4)},
        [(2, 2, 3)],
        {"w": KERNEL, "u": KERNEL},
    ),
    "a table met by indicators": (
        lambda p, x: jax.nn.one_hot(x.argmax(-1), 4) @ p["e"],
        {"e": (4, 2)},
        [(3, 4)],
        {"e": KERNEL},
    ),
    "adapters, one after the other": (
        lambda p, x: x @ p["w"] + (x @ p["a"]) @ p["b"],
        {"w": (4, 6), "a": (4, 2), "b": (2, 6)},
        [(3, 4)],
        {"w": KERNEL, "a": KERNEL, "b": KERNEL},
    ),
    # What is not understood, or has two meanings, is unknown and never guessed.
    "adapters that are multiplied first": (
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]),
        {"w": (4, 6), "a": (4, 2), "b": (2, 6)},
        [(3, 4)],
        {"w": KERNEL, "a": (U, U), "b": (U, U)},
    ),
    "queries that are parameters": (
        lambda p, x: (p["l"] @ p["q"]) @ x.T,
        {"l": (5, 3), "q": (3, 4)},
        [(3, 4)],
        {"l": (U, U), "q": (U, U)},
    ),
    "a kernel added to its transpose": (
        lambda p, x: x @ (p["w"] + p["w"].T),
        {"w": (4, 4)},
        [(3, 4)],
        {"w": (U, U)},
    ),
    "both ways": (
        lambda p, x: jax.nn.relu(x @ p["w"]) @ p["w"].T,
        {"w": (4, 6)},
        [(3, 4)],
        {"w": (U, U)},
    ),
    "a kernel in a flat vector": (
        lambda p, x: x @ p["w"][:24].reshape(4, 6),
        {"w": (30,)},
        [(3, 4)],
        {"w": (U,)},
    ),
    "a kernel that the data scale": (
        lambda p, x: jnp.einsum("bi,bio->bo", x, p["w"] * x[:, :, None]),
        {"w": (4, 5)},
        [(3, 4)],
        {"w": (U, U)},
    ),
    "a product that is multiplied and summed": (
        lambda p, x: (x[:, :, None] * p["w"]).sum(1),
        {"w": (4, 5)},
        [(3, 4)],
        {"w": (U, U)},
    ),
    "an expert that the data choose": (
        lambda p, x: x @ p["w"][jnp.argmax(x)],
        {"w": (4, 4, 5)},
        [(4,)],
        {"w": (U, U, U)},
    ),
    "a primitive that no rule knows": (
        lambda p, x: x @ jnp.linalg.inv(p["w"]),
        {"w": (4, 4)},
        [(3, 4)],
        {"w": (U, U)},
    ),
    "what is not read": (
        lambda p, x: x @ p["w"],
        {"w": (4, 6), "unread": (4, 4), "scalar": ()},
        [(3, 4)],
        {"w": KERNEL, "unread": (U, U), "scalar": ()},
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    apply, params, inputs, words = PROGRAMS[name]
    assert roles_of(apply, params, *[ones(*shape) for shape in inputs]) == words


def test_a_registered_primitive_that_computes_index_by_index_carries_axes():
    primitive = jax.extend.core.Primitive("halved")
    primitive.def_abstract_eval(lambda x: x)

    def apply(params, x):
        return x @ primitive.bind(params["w"])

    assert roles_of(apply, {"w": (4, 6)}, ones(3, 4)) == {"w": (U, U)}
    undo = gf.structured.register_rule("halved", gf.structured.elementwise)
    try:
        assert roles_of(apply, {"w": (4, 6)}, ones(3, 4)) == {"w": KERNEL}
    finally:
        undo()


def test_what_is_no_model_or_lacks_inputs_is_an_error():
    with pytest.raises(TypeError, match=r"axis_roles\(model, variables, \*inputs\)"):
        gf.structured.axis_roles(lambda params, x: x)
    with pytest.raises(TypeError, match="axis_roles lacks example inputs"):
        gf.structured.axis_roles(lambda params, x: x, {"w": ones(2, 2)})
    with pytest.raises(ValueError, match="the model cannot be traced"):
        roles_of(lambda params, x: x @ params["w"], {"w": (2, 2)}, ones(3, 3))


def test_patterns_of_a_model_go_along_what_it_sums_over():
    model = nn.MultiHeadDotProductAttention(num_heads=2)
    x = ones(1, 3, 8)
    variables = jax.eval_shape(model.init, KEY, x, x)
    rng = np.random.default_rng(0)
    scores = jax.tree.map(
        lambda leaf: rng.random(leaf.shape, np.float32), variables["params"]
    )
    roles = gf.structured.axis_roles(model, variables, x, x)
    masks = jax.jit(lambda scores: gf.n_of_m_masks(scores, roles=roles))(scores)
    query = np.asarray(masks["query"]["kernel"]).reshape(2, 4, 8)
    out = np.asarray(masks["out"]["kernel"]).reshape(2, 4, 8)
    assert (query.sum(1) == 2).all() and (out.sum(1) == 2).all()
    assert all(layer["bias"].all() for layer in masks.values())
