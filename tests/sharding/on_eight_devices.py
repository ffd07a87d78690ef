"""On a mesh of 4 × 2 devices: results, where they lie, and what is sent for them.

`sharding_test.py` runs this file in a process of its own, which has eight virtual
devices of the CPU. `python tests/sharding/sharding_test.py` does so by hand.
"""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from matplotlib.figure import Figure

import gradflow_jax as gf
from gradflow_jax.connectivity import effective_masks, effective_report
from gradflow_jax.trees import named_leaves

RNG = np.random.default_rng(11)
# Scores of one decimal tie, which tells whether devices agree on which come first.
pytestmark = pytest.mark.filterwarnings(
    "ignore::gradflow_jax.masks.ties.EqualScoresWarning"
)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


PARAMS = {
    "in": {"kernel": drawn(16, 64), "bias": drawn(64)},
    "out": {"kernel": drawn(64, 32), "bias": drawn(32)},
    "temperature": np.float32(1.5),
}
BATCH = drawn(16, 16), drawn(16, 32)
# Where each kernel and bias lies; what is not named is on every device.
FSDP = {
    "in/kernel": P(None, ("data", "model")),
    "in/bias": P("data"),
    "out/kernel": P(("data", "model"), None),
}
TENSOR = {
    "in/kernel": P(None, "model"),
    "in/bias": P("model"),
    "out/kernel": P("model", None),
}
BOTH = {
    "in/kernel": P("data", "model"),
    "in/bias": P("model"),
    "out/kernel": P("model", "data"),
    "out/bias": P("data"),
}
PLACES = {"fsdp": FSDP, "tensor": TENSOR, "both": BOTH}
KINDS = {
    "auto": (AxisType.Auto, AxisType.Auto),
    "explicit": (AxisType.Explicit, AxisType.Explicit),
}
# What scores, steps and cuts do where a user moves arrays along one axis alone is not
# promised; masks are made there too.
MIXED = {
    "auto and explicit": (AxisType.Auto, AxisType.Explicit),
    "explicit and auto": (AxisType.Explicit, AxisType.Auto),
}

placed_everywhere = pytest.mark.parametrize("places", PLACES)
both_kinds = pytest.mark.parametrize("kind", KINDS)
all_kinds = pytest.mark.parametrize("kind", KINDS | MIXED)


def mesh_of(kind, shape=(4, 2)):
    axis_types = (KINDS | MIXED)[kind]
    return jax.make_mesh(shape, ("data", "model"), axis_types=axis_types)


@contextlib.contextmanager
def on_mesh(kind):
    """A mesh; where its axes are explicit jitted functions must be told of it."""
    mesh = mesh_of(kind)
    with contextlib.nullcontext() if kind == "auto" else jax.set_mesh(mesh):
        yield mesh


def on_paths(tree, fn):
    paths = (path for path, _ in named_leaves(tree))
    return jax.tree.structure(tree).unflatten(map(fn, paths))


def shardings(tree, mesh, places):
    return on_paths(
        tree, lambda path: NamedSharding(mesh, PLACES[places].get(path, P()))
    )


def put(tree, mesh, places):
    return jax.device_put(tree, shardings(tree, mesh, places))


def loss_fn(params, batch, gathered=False):
    if gathered:
        # With explicit axes the user says where products of sharded arrays lie.
        params = jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, P()), params)
    x, y = batch
    hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    out = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    return jnp.mean((out * params["temperature"] - y) ** 2)


def assert_lies_like(tree, params):
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    for (path, leaf), like in zip(
        named_leaves(tree), jax.tree.leaves(params), strict=True
    ):
        same = leaf.sharding.is_equivalent_to(like.sharding, like.ndim)
        assert same, f"{path}: {leaf.sharding}, not {like.sharding}"


def assert_same(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_there_are_eight_devices():
    assert jax.device_count() == 8


# Scores


@functools.cache
def scores_on_one_device():
    return gf.gradient_norm_preservation(loss_fn)(PARAMS, BATCH)


@both_kinds
@placed_everywhere
def test_scores_lie_as_the_parameters_do(kind, places):
    expected = scores_on_one_device()
    with on_mesh(kind) as mesh:
        params = put(PARAMS, mesh, places)
        batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
        loss = functools.partial(loss_fn, gathered=kind == "explicit")
        whole = gf.gradient_norm_preservation(loss)(params, batch)
        halves = zip(*(np.split(array, 2) for array in BATCH), strict=True)
        split = [jax.device_put(b, NamedSharding(mesh, P("data"))) for b in halves]
        over_batches = gf.gradient_norm_preservation(gf.over_batches(loss))
        batched = over_batches(params, split)
    for scores in (whole, batched):
        assert_lies_like(scores, params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5 * np.abs(b).max()),
            scores,
            expected,
        )


# Selection

# Three decimals, so that many are equal, also across the cut.
SCORES = jax.tree.map(lambda leaf: np.round(np.abs(leaf), 1), PARAMS)
PREVIOUS = jax.tree.map(lambda leaf: leaf > 0.3, SCORES)
SEVERAL = jax.tree.map(
    lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 3 > 0, SCORES
)


def everything(path, leaf):
    return True


SELECTIONS = {
    "global": lambda scores: gf.global_masks(scores, sparsity=0.7),
    "global with floor and previous": lambda scores: gf.global_masks(
        scores, sparsity=0.8, floor=0.1, previous=PREVIOUS
    ),
    "layerwise": lambda scores: gf.layerwise_masks(scores, sparsity=0.6),
    "family": lambda scores: gf.group_masks(
        scores, {"*/kernel": 0.9, "*/bias": 0.5}, prunable=everything
    ),
    "2 of 4": lambda scores: gf.n_of_m_masks(scores, n=2, m=4),
    # A group of 16 lies on several devices, whichever axis is split.
    "3 of 16 across devices": lambda scores: gf.n_of_m_masks(
        scores, n=3, m=16, axis=-1, previous=SEVERAL
    ),
}


@functools.cache
def masks_on_one_device(selection):
    return jax.tree.map(np.asarray, SELECTIONS[selection](SCORES))


@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("selection", SELECTIONS)
@all_kinds
def test_masks_are_those_of_one_device(kind, selection, jitted):
    with on_mesh(kind) as mesh:
        scores = put(SCORES, mesh, "both")
        select = SELECTIONS[selection]
        masks = (jax.jit(select) if jitted else select)(scores)
    assert_same(masks, masks_on_one_device(selection))
    if jitted and kind != "explicit":
        return  # The partitioner's choice: users give `out_shardings`, as below.
    ranked = on_paths(SCORES, lambda path: selection == "family" or "kernel" in path)
    chosen = [
        (mask, score)
        for mask, score, flag in zip(
            *map(jax.tree.leaves, (masks, scores, ranked)), strict=True
        )
        if flag and score.ndim
    ]
    assert_lies_like(*zip(*chosen, strict=True))


SIZE = 16 * 64 + 64 * 32
NORMAL = RNG.normal(size=SIZE)
ADVERSARIAL = {
    "all equal": np.ones(SIZE),
    "mostly zeros of both signs": np.where(RNG.random(SIZE) < 0.9, -0.0, NORMAL),
    "denormal": np.float32(1e-45) * RNG.integers(-40, 40, SIZE),
    "huge range": np.sign(NORMAL) * 10 ** RNG.uniform(-37, 38, SIZE),
    "one leaf dominating": NORMAL * np.where(np.arange(SIZE) < 16 * 64, 1e12, 1e-12),
    "bfloat16": NORMAL.astype(jnp.bfloat16),
}


@placed_everywhere
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_masks_of_adversarial_scores_equal_a_sort(name, places):
    dtype = jnp.bfloat16 if name == "bfloat16" else np.float32
    values = ADVERSARIAL[name].astype(dtype)
    kernels = values[: 16 * 64].reshape(16, 64), values[16 * 64 :].reshape(64, 32)
    scores = put(
        {n: {"kernel": x} for n, x in zip(("in", "out"), kernels, strict=True)},
        mesh_of("auto"),
        places,
    )
    for sparsity in (0.05, 0.5, 0.99):
        masks = gf.global_masks(scores, sparsity=sparsity)
        found = np.concatenate([np.ravel(mask) for mask in jax.tree.leaves(masks)])
        # Stable, so that of equal scores the earlier stay; numpy compares denormals.
        order = np.argsort(-values.astype(np.float64), kind="stable")
        expected = np.zeros(SIZE, bool)
        expected[order[: SIZE - round(sparsity * SIZE)]] = True
        np.testing.assert_array_equal(found, expected)
        assert_lies_like(masks, scores)


COLLECTIVE = re.compile(
    r"= (.+?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)


def sent(text):
    """Returns the numbers of elements that each collective of a program yields."""
    found = []
    for line in text.splitlines():
        match = COLLECTIVE.search(line)
        if match:
            sizes = re.findall(r"\[([\d,]*)\]", match[1])
            numbers = [np.prod([int(n) for n in s.split(",") if n]) for s in sizes]
            found.append((match[2], int(sum(numbers))))
    return found


def test_the_search_for_collectives_finds_them():
    mesh = mesh_of("auto")
    x = jax.device_put(np.ones((64, 16)), NamedSharding(mesh, P("data", "model")))
    everywhere = NamedSharding(mesh, P())
    gathered = jax.jit(lambda x: x + 1, out_shardings=everywhere).lower(x).compile()
    assert max(size for _, size in sent(gathered.as_text())) >= 64 * 16 / 2


@pytest.mark.parametrize("selection", ["global", "layerwise", "family"])
@placed_everywhere
@both_kinds
def test_the_selection_sends_no_leaf(kind, places, selection):
    """In the compiled program: counts of a few leaves and pivots, and no scores."""
    with on_mesh(kind) as mesh:
        scores = put(SCORES, mesh, places)
        jitted = jax.jit(
            SELECTIONS[selection], out_shardings=shardings(SCORES, mesh, places)
        )
        compiled = jitted.lower(scores).compile()
        masks = jitted(scores)
    assert_same(masks, masks_on_one_device(selection))
    assert_lies_like(masks, scores)
    smallest_piece = 64 * 16 // 8
    found = sent(compiled.as_text())
    assert found, "eight devices have to agree"
    assert max(size for _, size in found) < smallest_piece, found


def test_a_leaf_that_is_not_finite_is_named():
    mesh = mesh_of("auto")
    bad = SCORES | {"in": {"kernel": np.full((16, 64), np.nan, np.float32)}}
    with pytest.raises(ValueError, match="leaf 'in/kernel' has 1024 of 1024 values"):
        gf.global_masks(put(bad, mesh, "fsdp"), sparsity=0.5)


# The masked step


def optimizer(packed=False, masks=None):
    return optax.chain(optax.adam(0.1), gf.apply_mask(masks, packed=packed))


@pytest.mark.parametrize("packed", [False, True], ids=["bools", "bits"])
@placed_everywhere
@both_kinds
def test_masked_steps_lie_as_the_parameters_do(kind, places, packed):
    masks = masks_on_one_device("global")
    with on_mesh(kind) as mesh:
        params = put(PARAMS, mesh, places)
        tx = optimizer(packed)
        state = tx.init(params)
        state = gf.replace_masks(tx, state, params, put(masks, mesh, places))

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state):
            # The gradient of ½θ²: what is asked here is the step.
            updates, state = tx.update(params, state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(2):
            params, state = step(params, state)
        kept = gf.unpack_masks(optax.tree.get(state, "masks"), params)
        lies = shardings(PARAMS, mesh, places)
    assert_same(kept, masks)
    for mask, leaf in zip(jax.tree.leaves(masks), jax.tree.leaves(params), strict=True):
        assert np.all(np.asarray(leaf)[~mask] == 0.0)
        assert np.all(np.asarray(leaf)[mask] != 0.0)
    for tree in (params, state[0][0].mu, kept):
        same = jax.tree.map(
            lambda a, s: a.sharding.is_equivalent_to(s, a.ndim), tree, lies
        )
        assert all(jax.tree.leaves(same)), same


@both_kinds
def test_bits_of_pieces_smaller_than_a_byte(kind):
    with on_mesh(kind) as mesh:
        sharding = NamedSharding(mesh, P("model", "data"))
        params = {"w": jax.device_put(drawn(4, 16), sharding)}
        masks = {"w": jax.device_put(drawn(4, 16) > 0, sharding)}
        tx = optax.chain(optax.sgd(0.5), gf.apply_mask(masks, packed=True))
        state = tx.init(params)
        assert state[1].masks["w"].shape == (4, 2)

        @jax.jit
        def step(params, state):
            updates, state = tx.update(params, state, params)
            return optax.apply_updates(params, updates), state

        stepped, state = step(params, state)
        assert_same(gf.unpack_masks(state[1].masks, params), masks)
    expected = np.where(masks["w"], np.asarray(params["w"]) * 0.5, 0)
    assert_same(stepped["w"], expected)
    assert_lies_like(stepped, params)


def test_masks_that_start_all_true_lie_as_the_parameters_do():
    params = put(PARAMS, mesh_of("auto"), "both")
    for packed in (False, True):
        masks = optimizer(packed).init(params)[1].masks
        assert_lies_like(gf.unpack_masks(masks, params), params)


@pytest.mark.parametrize("where", ["as params", "everywhere", "on the host"])
@all_kinds
def test_masks_are_used_wherever_they_lie(kind, where):
    masks = masks_on_one_device("layerwise")
    with on_mesh(kind) as mesh:
        params, scores = put(PARAMS, mesh, "both"), put(SCORES, mesh, "both")
        placed = {
            "as params": lambda: put(masks, mesh, "both"),
            "everywhere": lambda: jax.device_put(masks, NamedSharding(mesh, P())),
            "on the host": lambda: masks,
        }[where]()
        pruned = gf.prune(params, placed)
        assert_lies_like(pruned, params)
        assert_same(pruned, gf.prune(PARAMS, masks))
        assert_same(jax.jit(gf.prune)(params, placed), pruned)
        sharded = put(masks, mesh, "both")
        combined = gf.combine(sharded, placed)
        assert_lies_like(combined, sharded)
        assert_same(combined, masks)
        assert gf.overlap(sharded, placed) == 1.0
        report = gf.report(placed, pruned, scores=scores)
    assert report == gf.report(masks, gf.prune(PARAMS, masks), scores=SCORES)
    assert report.violations == 0 and report.by_position


def test_a_tie_is_warned_of_with_the_numbers_of_one_device():
    equal = jax.tree.map(np.zeros_like, SCORES)
    messages = []
    for scores in (equal, put(equal, mesh_of("auto"), "both")):
        with pytest.warns(gf.masks.EqualScoresWarning) as caught:
            gf.global_masks(scores, sparsity=0.5)
            gf.n_of_m_masks(scores, axis=0)
        messages.append([str(warning.message) for warning in caught])
    assert messages[0] == messages[1] and "1,536 kept weights" in messages[0][0]


# Cuts


def network(params, x):
    hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    return (hidden @ params["out"]["kernel"] + params["out"]["bias"]) / (
        params["temperature"]
    )


@placed_everywhere
@both_kinds
@pytest.mark.parametrize("left", [32, 61])
def test_a_cut_lies_like_the_whole(places, kind, left):
    units = gf.find_units(network, PARAMS, BATCH[0])
    keep = {"in/kernel[1]": np.random.default_rng(0).permutation(64) < left}
    expected = gf.cut(PARAMS, units, keep)
    with on_mesh(kind) as mesh:
        params = put(PARAMS, mesh, places)
        small = gf.cut(params, units, keep)
        state = gf.cut(optax.adam(1e-3).init(params), units, keep)
    assert_same(small, expected)
    assert_same(state[0].mu, jax.tree.map(jnp.zeros_like, expected))
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(small)) < 64 * 48
    if left == 32:
        assert_lies_like(small, params)
    else:
        # The mesh does not divide 61: that axis is on every device, the others as were.
        spec = small["out"]["kernel"].sharding.spec
        assert tuple(spec)[0] is None
        assert (tuple(spec) + (None,))[1] == PLACES[places]["out/kernel"][1]


# What training is seen to do

AXIS_TYPES = {
    "auto": (AxisType.Auto, AxisType.Auto),
    "explicit": (AxisType.Explicit, AxisType.Explicit),
    "mixed": (AxisType.Explicit, AxisType.Auto),
}


def see_training(params, batch, gathered):
    """Returns what the functions that look at training and at scores find."""
    loss = functools.partial(loss_fn, gathered=gathered)
    units = gf.find_units(network, PARAMS, BATCH[0])
    rate = 1e-5
    options = {"learning_rate": rate, "units": units}
    descend = gf.dynamics.gradient_descent(loss, rate, target=0.0)
    run = descend(params, [0, 1, 3], batch)
    tx = optax.chain(optax.sgd(rate), gf.dynamics.track(loss, **options))
    record = gf.dynamics.Recorder(loss, **options)

    @jax.jit
    def step(params, state, batch):
        grads = jax.grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params, loss_args=(batch,))
        return optax.apply_updates(params, updates), state

    stepped, state = params, tx.init(params)
    for _ in range(3):
        record(stepped, batch)
        stepped, state = step(stepped, state, batch)
    scores = gf.magnitude(params)
    masks = jax.tree.map(lambda leaf: leaf > 0.3, scores)
    others = jax.tree.map(lambda leaf: leaf**2, params)
    key = jax.random.key(0)
    shuffled = gf.masks.shuffle_masks(key, masks)
    assert_lies_like(shuffled, params)
    return {
        "evolution": gf.dynamics.follow(loss, units=units)(run, batch),
        "tracked": gf.dynamics.tracked(state, params, units=units),
        "recorded": record.evolution(),
        "effects": gf.dynamics.removal_effects(loss)(params, masks, batch),
        "spearman": gf.scores.spearman(scores, others),
        "overlap": gf.scores.top_overlap(scores, params, sparsity=0.5),
        "shuffled": shuffled,
        "over the network": gf.masks.shuffle_masks(key, masks, scope="network"),
        "inverted": gf.masks.invert_scores(scores),
        "labels": gf.masks.shuffle_labels(key, batch[1]),
        "pixels": gf.masks.shuffle_pixels(key, batch[0]),
        "picture": gf.plotting.mask_picture(
            Figure().subplots(), masks["in"]["kernel"]
        ).get_array(),
    }


@pytest.fixture(scope="module")
def seen_on_one_device():
    on_one = jax.device_put((PARAMS, BATCH), jax.devices()[0])
    return jax.device_get(see_training(*on_one, gathered=False))


@pytest.mark.parametrize("kind", AXIS_TYPES)
def test_what_training_does_is_seen_on_any_mesh(seen_on_one_device, kind):
    types = AXIS_TYPES[kind]
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    is_explicit = kind != "auto"
    with jax.set_mesh(mesh) if is_explicit else contextlib.nullcontext():
        params = put(PARAMS, mesh, "both")
        batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
        seen = jax.device_get(see_training(params, batch, gathered=is_explicit))
        if is_explicit:
            with pytest.raises(TypeError, match="params leaf .* lies on explicit axes"):
                gf.dynamics.gradient_flow(loss_fn)(params, [1.0], batch)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            np.asarray(x, float), np.asarray(y, float), 1e-3, 1e-4 * np.abs(y).max()
        ),
        seen,
        seen_on_one_device,
    )


ANY_AXES = {
    "explicit": (AxisType.Explicit, AxisType.Explicit),
    "automatic": (AxisType.Auto, AxisType.Auto),
    "first explicit": (AxisType.Explicit, AxisType.Auto),
    "second explicit": (AxisType.Auto, AxisType.Explicit),
}


@pytest.mark.parametrize("kinds", ANY_AXES)
def test_units_are_those_of_one_device_on_meshes_of_any_axes(kinds):
    """They are found, scored, masked, cut and compared where the parameters lie."""
    types = ANY_AXES[kinds]
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=types)
    rng = np.random.default_rng(0)
    shapes = {"first": (24, 16), "second": (16, 8)}
    plain = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    where = {"first": P(None, "x"), "second": P("x", None)}
    x = np.ones((2, 24), np.float32)

    def apply(params, x, gathered=types[0] == AxisType.Explicit):
        hidden = jnp.tanh(x @ params["first"])
        return jnp.dot(
            hidden, params["second"], **({"out_sharding": P()} if gathered else {})
        )

    on_one_device = functools.partial(apply, gathered=False)
    expected = gf.find_units(on_one_device, plain, x)
    keep = {"first[1]": np.arange(16) % 2 == 0}
    with jax.set_mesh(mesh):
        params = {
            name: jax.device_put(leaf, NamedSharding(mesh, where[name]))
            for name, leaf in plain.items()
        }
        units = gf.find_units(apply, params, x)
        assert [family.size for family in units] == [16]
        np.testing.assert_allclose(
            gf.score_units(params, units)["first[1]"],
            gf.score_units(plain, expected)["first[1]"],
            rtol=1e-6,
        )
        masks = units.masks(keep, params)
        assert_lies_like(masks, params)
        small = gf.cut(params, units, keep)
        assert gf.shrink(apply, units, keep)(small, x).shape == (2, 8)
        assert gf.cut_error(params, units, keep, x) < 1e-5
        effective = effective_masks(apply, params, masks, x)
        assert_lies_like(effective, params)

        def moves(params, x):
            hidden = jnp.tanh(x @ params["first"])
            if types[0] == AxisType.Explicit:
                hidden = jax.sharding.reshard(hidden, P())
                return hidden @ jax.sharding.reshard(params["second"], P())
            return hidden @ params["second"]

        units_of_moves = gf.find_units(moves, params, x)
        report = effective_report(moves, params, masks, x, units=units_of_moves)
    assert_same(small, gf.cut(plain, expected, keep))
    assert report == effective_report(
        on_one_device, plain, expected.masks(keep, plain), x, units=expected
    )
    assert_same(
        effective, effective_masks(on_one_device, plain, expected.masks(keep, plain), x)
    )


# Checkpoints


def on_all_devices(state, params):
    """Puts the count of steps, which is made on one device, where the rest is."""
    sharding = params["in"]["kernel"].sharding
    if not isinstance(sharding, NamedSharding):
        return state
    everywhere = NamedSharding(sharding.mesh, P())
    return jax.tree.map(
        lambda leaf: leaf if leaf.ndim else jax.device_put(leaf, everywhere), state
    )


@pytest.mark.parametrize("packed", [False, True], ids=["bools", "bits"])
@pytest.mark.parametrize("shape", [(2, 4), None], ids=str)
def test_a_checkpoint_is_restored_to_another_mesh(tmp_path, shape, packed):
    masks = masks_on_one_device("global")
    params = put(PARAMS, mesh_of("auto"), "both")
    tx = optimizer(packed, masks=put(masks, mesh_of("auto"), "both"))
    _, state = jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)
    saved = {"params": params, "state": state, "masks": masks}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step", saved)
    if shape is None:
        like = jax.device_put(PARAMS, jax.devices()[0])
    else:
        like = put(PARAMS, mesh_of("auto", shape), "both")
    fresh = optimizer(packed)
    wanted = {
        "params": like,
        "state": on_all_devices(fresh.init(like), like),
        "masks": jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), like),
    }
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "step", abstract)
    assert_same(restored, saved)
    for name in ("params", "masks"):
        assert_lies_like(restored[name], like)
    kept = gf.unpack_masks(optax.tree.get(restored["state"], "masks"), like)
    assert_lies_like(kept, like)
    params, state = restored["params"], restored["state"]

    @jax.jit
    def step(params, state):
        updates, _ = fresh.update(params, state, params)
        return optax.apply_updates(params, updates)

    stepped = step(params, state)
    assert_same(jax.tree.map(lambda leaf: np.asarray(leaf) != 0, stepped), masks)
