"""What find_units and shrink say of bad input, and of models from other packages."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import gradflow_jax as gf
from gradflow_jax.structured.units import program_of
from tests.structured.zoo.cases import case, keep_of, units_of

PARAMS = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
X = jnp.ones((1, 3))


def mlp(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def test_inputs_and_variables_may_be_shapes():
    shapes = jax.eval_shape(lambda tree: tree, (PARAMS, X))
    assert str(gf.find_units(mlp, *shapes)) == str(gf.find_units(mlp, PARAMS, X))


def test_an_impure_function():
    calls = []

    def counting(params, x):
        calls.append(0)
        return mlp(params, x) * len(calls)

    with pytest.raises(ValueError, match="not a pure function: traced twice"):
        gf.find_units(counting, PARAMS, X)

    def printing(params, x):
        jax.debug.print("{}", x[0, 0])
        return mlp(params, x)

    with pytest.raises(ValueError, match="has side effects .*: it prints or calls"):
        gf.find_units(printing, PARAMS, X)


def test_example_inputs_of_another_shape():
    with pytest.raises(ValueError) as error:
        gf.find_units(mlp, PARAMS, jnp.ones((1, 4)))
    assert "cannot be traced with these variables and inputs (float32[1,4])" in str(
        error.value
    )


def test_missing_arguments():
    with pytest.raises(TypeError, match="lacks the variables"):
        gf.find_units(mlp)
    with pytest.raises(TypeError, match="lacks example inputs"):
        gf.find_units(mlp, PARAMS)
    with pytest.raises(TypeError, match="not dict"):
        gf.find_units(PARAMS, X)
    with pytest.raises(TypeError, match="find_units lacks example inputs"):
        gf.find_units(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


def test_variables_beside_a_module_that_holds_them_are_an_error():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    everything = nnx.state(model)
    message = r"beside a module that holds its own: write find_units\(model, \*inputs\)"
    for variables in (everything, nnx.state(model, nnx.Param), model):
        with pytest.raises(TypeError, match=message):
            gf.find_units(model, variables, X)
    with pytest.raises(TypeError, match=r"write axis_roles\(model, \*inputs\)"):
        gf.structured.axis_roles(model, everything, X)


def test_an_unknown_primitive_is_named_with_what_to_do():
    def apply(params, x):
        hidden = x @ params["stem"]
        shape = jax.ShapeDtypeStruct(hidden.shape, hidden.dtype)
        return jax.pure_callback(np.tanh, shape, hidden) @ params["head"]

    params = {"stem": np.ones((2, 3), np.float32), "head": np.ones((3, 1), np.float32)}
    units = gf.find_units(apply, params, np.ones((1, 2), np.float32))
    assert len(units) == 0
    text = (
        "the primitive 'pure_callback' has no rule; "
        "gf.structured.register_rule('pure_callback', rule) adds one"
    )
    assert text in str(units) and text in units.explain("stem")
    with pytest.raises(ValueError, match="nothing to choose from"):
        gf.choose_units({}, units, sparsity=0.5)


def test_what_is_printed_and_explained():
    units = gf.find_units(mlp, PARAMS, X)
    assert str(units).splitlines() == [
        "family  units  made by  goes with",
        "in[1]       8  1 leaf   1 other",
        "8 units in 1 family",
    ]
    assert units["in[1]"].reads_input
    with pytest.raises(KeyError, match="there is no family 'out'; there are in"):
        units["out"]
    with pytest.raises(KeyError, match="the model has no leaf 'inn'"):
        units.explain("inn")


def test_an_nnx_model_is_returned_at_its_new_widths():
    model, _, _, inputs = case("nnx/vgg")
    units = units_of("nnx/vgg")
    keep = keep_of(units)
    small = gf.shrink(model, units, keep)
    assert type(small) is type(model)
    widths = units.widths(keep)
    convs = [m for _, m in nnx.iter_graph(small) if isinstance(m, nnx.Conv)]
    assert [conv.out_features for conv in convs] == [
        widths[name] for name in widths if name.endswith("[3]")
    ]
    masks = units.masks(keep, nnx.state(model))
    graph, state = nnx.split(model)
    masked = jax.tree.map(lambda leaf, mask: leaf * np.asarray(mask), state, masks)
    run = jax.jit(
        lambda graph, state: nnx.merge(graph, state)(*inputs), static_argnums=0
    )
    np.testing.assert_allclose(
        run(graph, masked), run(*nnx.split(small)), rtol=1e-4, atol=1e-5
    )


def test_an_nnx_model_that_computes_from_its_width_is_refused():
    model, *_ = case("nnx/transformer_block")
    units = units_of("nnx/transformer_block")
    keep = keep_of([units["layers/0/kernel[1]"]])
    with pytest.raises(ValueError, match="computes something else.*6 for 8.*function"):
        gf.shrink(model, units, keep)
    with pytest.raises(TypeError, match="the units are of a nnx model, but shrink"):
        gf.shrink(mlp, units, keep)


def test_a_linen_model_says_why_its_own_code_does_not_run():
    module, _, variables, inputs = case("linen/vit")
    units = units_of("linen/vit")
    (family,) = (f for f in units if f.name.endswith("Block_0/Dense_1/kernel[1]"))
    small = gf.shrink(module, units, keep_of([family]))
    assert not small.native and "6 for 8" in small.why
    other = gf.shrink(
        module, units, keep_of([units["params/Block_0/Dense_0/kernel[1]"]])
    )
    assert other.native and other.why is None


def test_the_apply_of_a_linen_module_is_the_module():
    module, _, variables, inputs = case("linen/mlp")
    units = gf.find_units(module.apply, variables, *inputs)
    assert gf.shrink(module.apply, units, keep_of(units)).native


def test_a_not_finite_output_is_not_passed_over():
    units = gf.find_units(mlp, PARAMS, X)
    broken = {**PARAMS, "out": PARAMS["out"].at[0, 0].set(jnp.nan)}
    keep = {"in[1]": np.arange(8) != 1}
    assert np.isnan(gf.structured.cut_error(broken, units, keep, X))


def test_a_branch_on_a_width_is_noticed():
    """Python that takes another way at another width traces without an error."""

    def apply(params, x):
        h = jax.nn.relu(x @ params["in"])
        h = h * 2 if h.shape[-1] == 8 else h
        return h @ params["out"]

    units = gf.find_units(apply, PARAMS, X)
    keep = {"in[1]": np.arange(8) != 1}
    small = gf.shrink(apply, units, keep)
    assert not small.native and "was expected" in small.why
    assert gf.structured.cut_error(PARAMS, units, keep, X) < 1e-6


def test_an_output_that_is_called_like_a_leaf_is_an_output():
    def apply(params, x):
        return {"out": mlp(params, x), "bias": params["bias"] * x.sum()}

    params = {**PARAMS, "bias": jnp.ones(2)}
    units = gf.find_units(apply, params, jnp.ones((8, 3)))
    assert [family.name for family in units] == ["in[1]"]
    for path in ("out", "bias"):
        assert "axis of the model's output" in units.explain(path)


def test_lost_rules_of_differentiation_are_named():
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (double(x), None), lambda _, g: (3 * g,))

    def apply(params, x):
        h = double(x @ params["in"])
        return (h / h.shape[-1]) @ params["out"]

    units = gf.find_units(apply, PARAMS, X)
    keep = {"in[1]": np.arange(8) != 1}
    with pytest.warns(
        UserWarning, match="7 for 8; in it the derivatives of custom_vjp"
    ):
        small = gf.shrink(apply, units, keep)
    assert not small.native and small.dropped
    assert gf.structured.cut_error(PARAMS, units, keep, X) < 1e-6


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def perturbed(tree):
    """Returns weights of which none is zero."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    rng = np.random.default_rng(0)
    return structure.unflatten(
        leaf + rng.uniform(0.05, 0.2, leaf.shape).astype(leaf.dtype) for leaf in leaves
    )


def initialized(module, *args, **options):
    """Returns variables that the initializers have not computed: small numbers."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **options))
    return perturbed(
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    )


def haiku_resnet():
    hk = pytest.importorskip("haiku", reason="pip install dm-haiku runs it")
    net = hk.transform_with_state(lambda x, train: hk.nets.ResNet18(5)(x, train))
    net = hk.without_apply_rng(net)
    x = normal(2, 16, 16, 3)
    params, state = jax.eval_shape(
        lambda key, x: net.init(key, x, True), jax.random.key(0), x
    )
    make = lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype)  # noqa: E731
    tree = perturbed(jax.tree.map(make, {"params": params, "state": state}))
    return lambda v, x: net.apply(v["params"], v["state"], x, False)[0], tree, x


def transformers_model(name, config, **options):
    reason = "pip install 'transformers<5' runs it"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers", reason=reason)
        kind = getattr(transformers, name, None)
        if kind is None:
            pytest.skip(reason)
        # Initialized as shapes, lest it draws each weight by a program of its own.
        model = kind(getattr(transformers, config)(**options), _do_init=False)
        shapes = jax.eval_shape(
            lambda: model.init_weights(jax.random.key(0), model.input_shape)
        )
    params = perturbed(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    return lambda params, *x: model(*x, params=params)[0], params


def vision_transformer():
    options = {"image_size": 16, "patch_size": 8, "num_labels": 5}
    options |= {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 16}
    apply, params = transformers_model(
        "FlaxViTForImageClassification", "ViTConfig", num_hidden_layers=2, **options
    )
    return apply, params, normal(2, 3, 16, 16)


def decoder():
    options = {"n_embd": 12, "n_head": 3, "vocab_size": 20, "n_positions": 8}
    apply, params = transformers_model(
        "FlaxGPT2LMHeadModel", "GPT2Config", n_layer=2, **options
    )
    return apply, params, jnp.arange(12).reshape(2, 6)


def equinox_attention():
    eqx = pytest.importorskip("equinox", reason="pip install equinox runs it")
    keys = jax.random.split(jax.random.key(0), 2)
    model = (
        eqx.nn.MultiheadAttention(2, 6, use_query_bias=True, key=keys[0]),
        eqx.nn.MLP(6, 3, 7, 2, jax.nn.gelu, key=keys[1]),
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(params, x):
        attention, feed = eqx.combine(params, static)
        return jax.vmap(feed)(attention(x, x, x))

    return apply, params, normal(5, 6)


@pytest.mark.models
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "families", "count"),
    [
        # Eight blocks' inner channels, four stages: the first has no projection.
        (haiku_resnet, 12, 8 + 4),
        # A stream; for each layer heads, two head dimensions and a hidden width.
        (vision_transformer, 9, 1 + 2 * 4),
        (decoder, 9, 1 + 2 * 4),
        (equinox_attention, 6, 3 + 1 + 2),
    ],
)
def test_models_from_packages(make, families, count):
    assert families == count
    apply, variables, x = make()
    units = gf.find_units(apply, variables, x)
    assert not program_of(units).coupling.unknown
    assert len(units) == families, str(units)
    assert gf.structured.cut_error(variables, units, keep_of(units), x) <= 1e-5


class Unused(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.param("spare", nn.initializers.ones, (4, 5))
        return nn.Dense(2)(nn.relu(nn.Dense(6)(x)))


def test_a_leaf_that_nothing_reads():
    variables = initialized(Unused(), X)
    units = gf.find_units(Unused(), variables, X)
    assert "no equation of the model reads the leaf" in units.explain("params/spare")
    assert len(units) == 1


class WithDropout(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x)))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def test_keyword_arguments_of_the_model():
    """Found in eval mode, trained with dropout and batch statistics."""
    module, x = WithDropout(), normal(5, 3)
    variables = initialized(module, x, train=False)
    units = gf.find_units(module, variables, x, train=False)
    (family,) = units
    keep = keep_of(units)
    assert gf.structured.cut_error(variables, units, keep, x) <= 1e-5
    small = gf.shrink(module, units, keep)
    assert small.native
    key = {"dropout": jax.random.key(2)}
    train = partial(small, train=True, rngs=key, mutable=["batch_stats"])
    logits, updated = jax.jit(train)(gf.cut(variables, units, keep), x)
    assert logits.shape == (5, 2)
    assert updated["batch_stats"]["BatchNorm_0"]["mean"].shape == (family.size - 2,)
    with pytest.raises(ValueError, match="cannot be traced"):
        gf.find_units(module, variables, x)
    # In training mode the mask is drawn at the layer's width.
    training = gf.find_units(
        module, variables, x, train=True, rngs=key, mutable=["batch_stats"]
    )
    assert "trace the model in eval mode" in training.explain("params/Dense_0/kernel")


def test_a_constant_is_folded_through_a_convolution_without_padding():
    class Net(nn.Module):
        padding: str

        @nn.compact
        def __call__(self, x):
            x = nn.sigmoid(nn.Conv(6, (3, 3))(x))
            return nn.Conv(2, (3, 3), padding=self.padding)(x).mean((1, 2))

    x = normal(2, 6, 6, 3)
    for padding, families in (("VALID", 1), ("SAME", 0)):
        module = Net(padding)
        variables = initialized(module, x)
        units = gf.find_units(module, variables, x, leaks="fold")
        assert len(units) == families
        for _ in units:
            assert gf.structured.cut_error(variables, units, keep_of(units), x) <= 1e-5
    with pytest.raises(ValueError, match="leaks is \"drop\"|leaks is 'drop'"):
        gf.find_units(module, variables, x, leaks="drop")


def test_a_budget_of_measured_time():
    """Measured once for each choice of widths; how long it takes is no matter here."""
    params = {"in": jnp.ones((16, 64)), "out": jnp.ones((64, 16))}
    x = jnp.ones((4, 16))
    units = gf.find_units(mlp, params, x)
    seconds = gf.structured.forward_time(params, units, x, calls=3)
    half = {"in[1]": np.arange(64) < 32}
    times = seconds({}), seconds(half)
    assert min(times) > 0
    other_half = {"in[1]": np.arange(64) >= 32}
    assert (seconds({}), seconds(other_half)) == times
