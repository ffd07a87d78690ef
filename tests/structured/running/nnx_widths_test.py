"""Hand-cut NNX layers against masked full layers and against layers built small."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradflow_jax.structured.running.group_counts import group_count
from gradflow_jax.structured.running.nnx_widths import resize
from gradflow_jax.trees import named_leaves

RNG = np.random.default_rng(0)
MODULES = nnx.List if hasattr(nnx, "List") else list


def rngs():
    return nnx.Rngs(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def drawn(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.abs(normal(*leaf.shape)) + 0.5
    return np.zeros(leaf.shape, leaf.dtype)


def built(kind):
    return lambda *sizes: kind(*sizes, rngs=rngs())


def shapes(make, *sizes):
    return nnx.eval_shape(lambda: make(*sizes))


def randomized(make, *sizes):
    """A model with other than initial biases, scales and statistics, made quickly."""
    graphdef, state = nnx.split(shapes(make, *sizes))
    return nnx.merge(graphdef, jax.tree.map(drawn, state))


def called(model, x):
    """The output, compiled in one piece: faster than operation by operation."""
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(x))(state)


def kept_along(old, new, kept):
    """For each axis that differs, which indices are kept."""
    return {
        axis: list(kept[sizes])
        for axis, sizes in enumerate(zip(old, new, strict=True))
        if sizes[0] != sizes[1]
    }


def taken(leaf, indices):
    for axis, kept in indices.items():
        leaf = np.take(leaf, kept, axis)
    return leaf


def masked(leaf, indices):
    for axis, kept in indices.items():
        gone = ~np.isin(np.arange(leaf.shape[axis]), kept)
        leaf = np.array(leaf)
        np.moveaxis(leaf, axis, 0)[gone] = 0
    return leaf


def cut_and_masked(full, small, kept):
    """States of `full`, cut to the shapes of `small`, and with zeros there instead."""
    shapes = {path: jnp.shape(leaf) for path, leaf in named_leaves(nnx.state(small))}
    cut, zeroed = {}, []
    for path, leaf in named_leaves(nnx.state(full)):
        indices = kept_along(jnp.shape(leaf), shapes[path], kept)
        cut[path] = taken(leaf, indices) if indices else leaf
        zeroed.append(masked(leaf, indices) if indices else leaf)
    return cut, jax.tree.unflatten(jax.tree.structure(nnx.state(full)), zeroed)


def nested(flat):
    """A dict of paths as the tree that has them."""
    tree = {}
    for path, leaf in flat.items():
        *keys, last = path.split("/")
        node = tree
        for key in keys:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def attributes(model):
    """Every attribute of every module that is a size, or sizes."""
    return {
        ("/".join(map(str, path)), name): value
        for path, module in nnx.iter_graph(model)
        if isinstance(module, nnx.Module)
        for name, value in vars(module).items()
        if isinstance(value, int | tuple) and not name.startswith("_")
    }


KEPT = {(4, 3): [0, 1, 3], (6, 4): [0, 2, 3, 5], (3, 2): [0, 2]}
GATES = {(16, 12): [4 * gate + i for gate in range(4) for i in KEPT[4, 3]]}
GATES[12, 9] = [4 * gate + i for gate in range(3) for i in KEPT[4, 3]]
SEQUENCE = normal(2, 5, 4)


linear = built(nnx.Linear)


def conv(i, o, groups=1):
    return nnx.Conv(i, o, (3,), feature_group_count=groups, rngs=rngs())


def transposed(flipped):
    return lambda i, o: nnx.ConvTranspose(
        i, o, (3,), transpose_kernel=flipped, rngs=rngs()
    )


def attention(i, o, heads, head_dim=2, **options):
    return nnx.MultiHeadAttention(
        num_heads=heads,
        in_features=i,
        qkv_features=heads * head_dim,
        out_features=o,
        decode=False,
        rngs=rngs(),
        **options,
    )


def recurrent(name):
    return lambda *sizes: nnx.RNN(built(getattr(nnx, name))(*sizes))


# How the layer is made from its sizes, those sizes, the smaller ones, and its input.
CASES = {
    "linear": (linear, (4, 6), (3, 4), SEQUENCE),
    "linear_general": (
        lambda i, o: nnx.LinearGeneral((2, i), (3, o), axis=(-2, -1), rngs=rngs()),
        (4, 6),
        (3, 4),
        normal(5, 2, 4),
    ),
    "linear_general_batched": (
        lambda i, o: nnx.LinearGeneral(i, o, batch_axis={0: 2}, rngs=rngs()),
        (4, 6),
        (3, 4),
        SEQUENCE,
    ),
    "einsum": (
        lambda i, o: nnx.Einsum("nta,ahb->nthb", (i, 3, o), (3, o), rngs=rngs()),
        (4, 6),
        (3, 4),
        SEQUENCE,
    ),
    "conv": (conv, (4, 6), (3, 4), SEQUENCE),
    "depthwise": (conv, (4, 4, 4), (3, 3, 3), SEQUENCE),
    "depthwise_multiplied": (conv, (4, 12, 4), (3, 9, 3), SEQUENCE),
    "whole_groups": (conv, (6, 6, 3), (4, 4, 2), normal(2, 5, 6)),
    "inputs_of_each_group": (conv, (6, 6, 2), (4, 6, 2), normal(2, 5, 6)),
    "outputs_of_each_group": (conv, (4, 6, 2), (4, 4, 2), SEQUENCE),
    "conv_transpose": (transposed(False), (4, 6), (3, 4), SEQUENCE),
    "conv_transpose_flipped": (transposed(True), (4, 6), (3, 4), SEQUENCE),
    "batch_norm": (
        lambda n: nnx.BatchNorm(n, use_running_average=True, rngs=rngs()),
        (4,),
        (3,),
        SEQUENCE,
    ),
    "instance_norm": (
        lambda n: built(nnx.InstanceNorm)(n),
        (4,),
        (3,),
        SEQUENCE,
    ),
    "group_norm": (
        built(nnx.GroupNorm),
        (6, 3),
        (4, 2),
        normal(2, 5, 6),
    ),
    "embed": (
        built(nnx.Embed),
        (4, 6),
        (4, 4),
        np.array([3, 0, 1]),
    ),
    "heads": (attention, (4, 6, 3), (4, 6, 2), SEQUENCE),
    "attention": (attention, (4, 6, 3), (3, 4, 2), SEQUENCE),
    "lora": (
        lambda i, o, rank: nnx.LoRA(i, rank, o, rngs=rngs()),
        (4, 6, 3),
        (3, 4, 2),
        SEQUENCE,
    ),
    "lora_linear": (
        lambda i, o, rank: nnx.LoRALinear(i, o, lora_rank=rank, rngs=rngs()),
        (4, 6, 3),
        (3, 4, 2),
        SEQUENCE,
    ),
    **{
        name: (recurrent(name), (3, 4), (2, 3), normal(2, 5, 3))
        for name in ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell")
    },
}
# Indices of other axes than the table of all says.
SPECIAL = {
    "depthwise_multiplied": {
        (12, 9): [3 * i + j for i in KEPT[4, 3] for j in range(3)]
    },
    "whole_groups": {(6, 4): [0, 1, 4, 5]},
    "group_norm": {(6, 4): [0, 1, 4, 5]},
    **{name: GATES for name in ("OptimizedLSTMCell", "GRUCell")},
}


if not hasattr(nnx, "InstanceNorm"):  # Flax before 0.12
    del CASES["instance_norm"]


@pytest.mark.parametrize("name", CASES)
def test_a_cut_layer_is_the_masked_layer_and_has_the_small_one_s_attributes(name):
    make, sizes, smaller, x = CASES[name]
    kept = KEPT | SPECIAL.get(name, {})
    full, like = randomized(make, *sizes), shapes(make, *smaller)
    before = attributes(full)
    cut, zeroed = cut_and_masked(full, like, kept)
    small = resize(full, nested(cut))
    assert attributes(small) == attributes(like)
    assert attributes(full) == before != attributes(small)

    graphdef = nnx.graphdef(full)
    expected = called(nnx.merge(graphdef, zeroed), x)
    if jnp.issubdtype(x.dtype, jnp.floating) and x.shape[-1] != smaller[0]:
        x = x[..., kept[x.shape[-1], smaller[0]]]
    found = called(small, x)
    indices = kept_along(expected.shape, found.shape, kept)
    np.testing.assert_allclose(found, taken(expected, indices), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make, sizes, smaller, x",
    (
        (built(nnx.LayerNorm), (4,), (3,), normal(2, 3)),
        (built(nnx.RMSNorm), (4,), (3,), normal(2, 3)),
        (
            lambda d: attention(4, 4, 2, d, normalize_qk=True),
            (6,),
            (4,),
            SEQUENCE,
        ),
    ),
    ids=("layer_norm", "rms_norm", "head_dimension"),
)
def test_what_divides_by_a_width_is_the_layer_built_small(make, sizes, smaller, x):
    full, like = randomized(make, *sizes), randomized(make, *smaller)
    cut, _ = cut_and_masked(full, like, KEPT)
    small = resize(full, nested(cut))
    nnx.update(like, nnx.state(small))
    assert attributes(small) == attributes(like)
    np.testing.assert_array_equal(called(small, x), called(like, x))


def test_an_embedding_attends_at_its_new_sizes():
    full = randomized(built(nnx.Embed), 4, 6)
    table = np.asarray(full.embedding[...])[np.ix_([0, 1, 3], [0, 2])]
    small = resize(full, {"embedding": table})
    assert (small.num_embeddings, small.features) == (3, 2)
    query = normal(5, 2)
    np.testing.assert_allclose(small.attend(query), query @ table.T, rtol=1e-5)


class Net(nnx.Module):
    """Residual blocks in a list, one of them used twice, then norm and dropout."""

    def __init__(self, width, rngs):
        self.stem = nnx.Linear(4, width, rngs=rngs)
        self.blocks = MODULES([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.again = self.blocks[0]
        self.norm = nnx.BatchNorm(width, use_running_average=True, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.head = nnx.Linear(width, 2, rngs=rngs)
        self.width = width

    def __call__(self, x):
        x = self.stem(x)
        for block in (*self.blocks, self.again):
            x = x + nnx.tanh(block(x))
        return self.head(self.dropout(self.norm(x)))


@pytest.fixture(scope="module")
def net():
    full, like = randomized(built(Net), 6), shapes(built(Net), 4)
    cut, zeroed = cut_and_masked(full, like, KEPT)
    expected = called(nnx.merge(nnx.graphdef(full), zeroed), SEQUENCE)
    return full, nested(cut), expected


def test_a_whole_model_keeps_what_it_shares_and_what_is_its_own(net):
    full, cut, expected = net
    small = resize(full, cut)
    assert small.again is small.blocks[0] and small.again.in_features == 4
    assert small.width == 6 and full.stem.out_features == 6
    np.testing.assert_allclose(called(small, SEQUENCE), expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_shapes_takes_cut_arrays_as_a_state(net):
    full, cut, expected = net
    state = nnx.state(resize(full, cut))
    abstract = shapes(built(Net), 6)
    small = resize(abstract, state)
    small.eval()
    np.testing.assert_allclose(called(small, SEQUENCE), expected, rtol=1e-4, atol=1e-5)
    _, untouched = named_leaves(nnx.state(abstract))[0]
    assert isinstance(untouched, jax.ShapeDtypeStruct)


def test_under_jit_and_grad(net):
    full, cut, expected = net

    @jax.jit
    def loss(state):
        return jnp.sum(resize(full, state)(SEQUENCE))

    state = nnx.state(resize(full, cut))
    value, gradients = jax.value_and_grad(loss, allow_int=True)(state)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-4)
    assert dict(named_leaves(gradients))["blocks/1/kernel"].shape == (4, 4)


def test_stacked_layers_have_an_axis_in_front():
    full = randomized(
        nnx.vmap(lambda key: conv(4, 4, 4)), jax.random.split(jax.random.key(0), 2)
    )
    kept = jnp.array(KEPT[4, 3])
    cut = {
        "kernel": full.kernel[...][..., kept],
        "bias": full.bias[...][..., kept],
    }
    small = resize(full, cut)
    assert (small.in_features, small.feature_group_count) == (3, 3)
    assert small.kernel_shape == (3, 1, 3)

    @nnx.jit
    @nnx.vmap(in_axes=(0, None))
    def run(layer, x):
        return layer(x)

    expected = run(full, SEQUENCE)[..., kept]
    found = run(small, SEQUENCE[..., kept])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


AMBIGUOUS = (
    "'' had 8 channels in 4 groups and has 4 left: they can be 2 or 4 groups. "
    "Say which by groups={'': number}."
)


@pytest.mark.parametrize("count, channels", ((2, [0, 1, 4, 5]), (4, [0, 2, 4, 6])))
def test_groups_left_open_are_asked_for(count, channels):
    kept = jnp.array(channels)
    full = randomized(built(nnx.GroupNorm), 8, 4)
    cut = jax.tree.map(lambda leaf: leaf[kept], nnx.state(full))
    with pytest.raises(ValueError, match=re.escape(AMBIGUOUS)):
        resize(full, cut)
    small = resize(full, cut, groups={"": count})
    assert (small.num_groups, small.group_size) == (count, 4 // count)
    assert called(small, normal(2, 5, 4)).shape == (2, 5, 4)

    full = randomized(conv, 8, 8, 4)
    cut = {"kernel": full.kernel[...][..., kept], "bias": full.bias[...][kept]}
    with pytest.raises(ValueError, match=re.escape(AMBIGUOUS)):
        resize(full, cut)
    small = resize(full, cut, groups={"": count})
    assert (small.feature_group_count, small.in_features) == (count, 2 * count)
    assert called(small, normal(2, 5, 2 * count)).shape == (2, 5, 4)


@pytest.mark.parametrize(
    "now, hint, message",
    (
        (7, None, "they can be no number of groups"),
        (6, 4, "groups['norm'] is 4, which does not divide the 6 channels"),
        (6, 0, "groups['norm'] is 0, which does not divide the 6 channels"),
    ),
)
def test_groups_that_cannot_be(now, hint, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        group_count("norm", 4, 8, now, hint)


@pytest.mark.parametrize(
    "cut, message",
    (
        ({"kernel": np.ones((4, 2))}, "variables lack: 'bias'; pass all of nnx.state"),
        (
            {"kernel": np.ones((4, 2)), "bias": np.ones(2), "mean": np.ones(2)},
            "variables have a leaf that the model lacks: 'mean'",
        ),
        (
            {"kernel": np.ones((4, 7)), "bias": np.ones(6)},
            "leaf 'kernel' has shape (4, 7), which is no cut of the model's (4, 6)",
        ),
        (
            {"kernel": np.ones(4), "bias": np.ones(6)},
            "leaf 'kernel' has shape (4,), which is no cut of the model's (4, 6)",
        ),
    ),
)
def test_variables_of_another_model_are_refused(cut, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        resize(shapes(linear, 4, 6), cut)


def test_statistics_of_size_one_do_not_broadcast():
    full = shapes(built(nnx.BatchNorm), 4)
    cut = {"scale": np.ones(3), "bias": np.ones(3), "mean": np.ones(1)}
    with pytest.raises(ValueError, match="the batch norm '' differ in shape: .*(1,)"):
        resize(full, cut | {"var": np.ones(1)})


def test_a_subclass_is_its_base_and_another_class_keeps_its_attributes():
    class Scaled(nnx.Linear):
        def __call__(self, x):
            return 2 * super().__call__(x)

    class Own(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(jnp.ones((4, 6)))
            self.out_features = 6

    class Bare(nnx.Linear):
        def __init__(self):
            self.weight = nnx.Param(jnp.ones((4, 6)))
            self.out_features = 6

    cut = {"kernel": np.ones((4, 2), np.float32), "bias": np.zeros(2, np.float32)}
    small = resize(shapes(built(Scaled), 4, 6), cut)
    assert isinstance(small, Scaled) and small.out_features == 2
    assert small(np.ones((1, 4))).tolist() == [[8.0, 8.0]]
    assert resize(Own(), {"kernel": np.ones((4, 2))}).out_features == 6
    assert resize(Bare(), {"weight": np.ones((4, 2))}).out_features == 6
