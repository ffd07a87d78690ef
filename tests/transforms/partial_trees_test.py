"""Masks where optax leaves out leaves, or makes another tree of the parameters."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradflow_jax as gf
from tests.transforms.masked_models import assert_same_leaves

PARAMS = {
    "layers": [{"w": np.ones((2, 3), "f")}, {"w": np.ones((2, 3), "f")}],
    "head": {"w": np.ones((2, 3), "f"), "bias": np.ones(3, "f")},
}
COLUMN = np.array([[True, False, True]] * 2)
MASKS = {
    "layers": [{"w": COLUMN}, {"w": ~COLUMN}],
    "head": {"w": COLUMN, "bias": np.ones(3, bool)},
}


def chained(**options):
    return optax.chain(optax.sgd(0.1, momentum=0.9), gf.apply_mask(MASKS, **options))


FROZEN_HEAD = {"layers": "train", "head": "freeze"}
# Of each: the optimizer, and the leaves that it masks.
PARTIAL = {
    "partition": (
        optax.partition(
            {"train": chained(), "freeze": optax.set_to_zero()}, FROZEN_HEAD
        ),
        "layers",
    ),
    "partition of packed masks": (
        optax.partition(
            {"train": chained(packed=True), "freeze": optax.sgd(0.1)}, FROZEN_HEAD
        ),
        "layers",
    ),
    "two masked groups": (
        optax.partition({"train": chained(), "freeze": chained()}, FROZEN_HEAD),
        "",
    ),
    "a group without leaves": (
        optax.partition(
            {"train": chained(), "freeze": chained(), "none": chained()}, FROZEN_HEAD
        ),
        "",
    ),
    "masked": (
        optax.chain(
            optax.sgd(0.1, momentum=0.9),
            optax.masked(gf.apply_mask(MASKS), {"layers": True, "head": False}),
        ),
        "layers",
    ),
    "masked, leaf by leaf": (
        optax.masked(
            chained(),
            {
                "layers": [{"w": False}, {"w": True}],
                "head": {"w": False, "bias": False},
            },
        ),
        "layers/1",
    ),
    "partition in multi-steps": (
        optax.MultiSteps(
            optax.partition({"train": chained(), "freeze": chained()}, FROZEN_HEAD), 1
        ).gradient_transformation(),
        "",
    ),
}


def step(tx, params, state, **extra):
    gradients = jax.tree.map(np.ones_like, params)
    updates, state = tx.update(gradients, state, params, **extra)
    return optax.apply_updates(params, updates), state


def by_path(tree):
    return {path: np.asarray(leaf) for path, leaf in gf.trees.named_leaves(tree)}


@pytest.mark.parametrize("name", PARTIAL)
def test_masks_of_the_leaves_that_are_there_hold(name):
    tx, masked = PARTIAL[name]
    params = gf.prune(PARAMS, MASKS)
    state = tx.init(params)
    for _ in range(2):
        params, state = step(tx, params, state)
    masks = by_path(MASKS)
    for path, leaf in by_path(params).items():
        if path.startswith(masked):
            assert (leaf[~masks[path]] == 0.0).all(), path
            assert (leaf[masks[path]] != 1.0).all(), path
    held = by_path(gf.masks_of(state, PARAMS))
    assert held.keys() == masks.keys()
    for path, mask in held.items():
        expected = masks[path] if path.startswith(masked) else True
        assert (mask == expected).all() and mask.dtype == bool, path


@pytest.mark.parametrize("name", PARTIAL)
def test_replaced_masks_reset_what_changed_sides_in_its_group(name):
    tx, masked = PARTIAL[name]
    params, state = step(tx, PARAMS, tx.init(PARAMS))
    new = jax.tree.structure(MASKS).unflatten(
        ~mask if path.startswith("layers/1") else np.ones_like(mask)
        for path, mask in by_path(MASKS).items()
    )
    state = gf.replace_masks(tx, state, params, new)
    turned = by_path(gf.masks_of(state, params))
    masks, moved = by_path(MASKS), by_path(new)
    for path, mask in turned.items():
        assert (mask == (moved[path] if path.startswith(masked) else True)).all()
    # The only leaves with the shape and the place of a momentum.
    traces = [
        node.trace
        for node in jax.tree.leaves(
            state, is_leaf=lambda node: isinstance(node, optax.TraceState)
        )
        if isinstance(node, optax.TraceState)
    ]
    assert traces
    for path, trace in by_path(traces).items():
        path = path.partition("/")[2]
        changed = masks[path] != moved[path]
        if path.startswith(masked):
            assert ((trace == 0.0) == changed).all(), path


def test_new_masks_of_the_whole_tree_reach_a_group_with_a_step():
    tx, _ = PARTIAL["partition"]
    new = jax.tree.map(np.logical_not, MASKS)
    params, state = step(tx, PARAMS, tx.init(PARAMS), masks=new)
    assert_same_leaves(gf.masks_of(state, PARAMS)["layers"], new["layers"])
    assert (params["layers"][0]["w"][COLUMN] == 0.0).all()
    state = optax.tree.set(tx.init(PARAMS), masks=MASKS)
    params, state = step(tx, PARAMS, state)
    assert (params["layers"][0]["w"][~COLUMN] == 0.0).all()


@pytest.mark.parametrize("labels", ("of subtrees", "of leaves"))
def test_masks_of_several_groups_are_one_tree(labels):
    groups = {"train": chained(), "freeze": chained(packed=True)}
    names = {"layers": "train", "head": "freeze"}
    if labels == "of leaves":
        names = {
            key: jax.tree.map(lambda _, name=name: name, PARAMS[key])
            for key, name in names.items()
        }
    state = optax.partition(groups, names).init(PARAMS)
    assert_same_leaves(gf.masks_of(state), MASKS)
    # Of one group alone the others are left out, as optax does it.
    tx, _ = PARTIAL["partition"]
    held = gf.masks_of(tx.init(PARAMS))
    assert_same_leaves(held["layers"], MASKS["layers"])
    assert jax.tree.leaves(held["head"]) == []


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


def test_a_leaf_that_is_there_and_has_no_mask_is_named():
    masks = {"layers": [MASKS["layers"][0]], "head": MASKS["head"]}
    tx = optax.masked(gf.apply_mask(masks), {"layers": True, "head": False})
    with raises("masks lacks the leaf 'layers/1/w'"):
        tx.init(PARAMS)


def test_new_masks_that_no_group_would_hold_are_refused():
    tx, _ = PARTIAL["partition"]
    with raises("holds no masks of the leaf 'head/w', which the new masks prune"):
        gf.replace_masks(tx, tx.init(PARAMS), PARAMS, MASKS)
    # Whether they prune it is not known while they are traced.
    replace = jax.eval_shape(
        lambda m: gf.replace_masks(tx, tx.init(PARAMS), PARAMS, m), MASKS
    )
    assert jax.tree.structure(replace) == jax.tree.structure(tx.init(PARAMS))


@pytest.mark.parametrize("tree", (PARAMS, jnp.ones((2, 3))), ids=("tree", "matrix"))
def test_one_vector_of_the_tree_is_refused_with_the_right_order(tree):
    masks = jax.tree.map(
        lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 2 == 0, tree
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(tree))
    tx = optax.flatten(optax.chain(optax.scale(-0.1), gf.apply_mask(masks)))
    with raises(f"params is one vector, float32[{size}], as optax.flatten makes of a"):
        tx.init(tree)
    tx = optax.flatten(optax.chain(optax.scale(-0.1), gf.apply_mask()))
    with raises("chain apply_mask after it, optax.chain(optax.flatten(...), gf."):
        tx.update(tree, tx.init(tree), tree, masks=masks)
    tx = optax.chain(optax.flatten(optax.scale(-0.1)), gf.apply_mask(masks))
    params, state = step(tx, tree, tx.init(tree))
    for leaf, mask in zip(*map(jax.tree.leaves, (params, masks)), strict=True):
        assert ((leaf == 0.0) == ~mask).all()
    with pytest.raises(ValueError, match="no masks for these params|different trees"):
        gf.replace_masks(
            optax.flatten(gf.apply_mask()),
            gf.apply_mask().init(jnp.ones(size)),
            tree,
            masks,
        )


def test_lookahead_leaves_slow_weights_and_is_masked_from_outside():
    weights, masks = {"w": jnp.ones(2)}, {"w": jnp.array([True, False])}
    both = optax.LookaheadParams.init_synced(weights)

    def train(tx, params, steps=4):
        state = tx.init(params)
        for _ in range(steps):
            updates, state = tx.update({"w": jnp.ones(2)}, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    inner = optax.chain(optax.sgd(0.01), gf.apply_mask(masks))
    inside, _ = train(optax.lookahead(inner, 2, 0.5), both)
    assert inside.slow["w"].tolist()[1] == 0.25
    tx = optax.chain(
        optax.lookahead(optax.sgd(0.01, momentum=0.9), 2, 0.5),
        gf.apply_mask(optax.LookaheadParams(masks, masks)),
    )
    outside, state = train(tx, both)
    assert outside.fast["w"][1] == outside.slow["w"][1] == 0.0
    assert outside.fast["w"][0] != 0.0 != outside.slow["w"][0]
    new = {"w": jnp.array([False, False])}
    state = gf.replace_masks(tx, state, outside, optax.LookaheadParams(new, new))
    trace = optax.tree.get(state, "trace")["w"]
    assert trace[0] == 0.0 and trace[1] != 0.0


def test_masks_are_read_through_wrappers_of_flax():
    masks = {"kernel": np.array([[True, False]])}
    model = nnx.Linear(1, 2, use_bias=False, rngs=nnx.Rngs(0))
    tx = optax.inject_hyperparams(
        lambda rate: optax.chain(optax.sgd(rate), gf.apply_mask(masks))
    )(rate=0.1)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    for held in (
        gf.masks_of(optimizer.opt_state),
        gf.masks_of(optimizer.opt_state, params),
    ):
        assert_same_leaves(held, masks)
        (pruned,) = by_path(gf.prune(params, held)).values()
        assert (pruned != 0.0).tolist() == [[True, False]]


def test_what_holds_no_masks_several_or_others_is_refused():
    w, mask = {"w": jnp.ones(2)}, {"w": jnp.array([True, False])}
    for state in (optax.adam(0.1).init(w), None, w, 3):
        with raises(
            "holds no masks: pass the state of an optimizer made by optax.chain"
        ):
            gf.masks_of(state)
    twice = optax.chain(gf.apply_mask(mask), gf.apply_mask())
    with raises("holds several masks of the leaf 'w', of 2 apply_mask"):
        gf.masks_of(twice.init(w))
    with raises("holds masks of the leaf 'w', which params lack"):
        gf.masks_of(gf.apply_mask(mask).init(w), {"v": jnp.ones(2)})
    # Both are replaced, and what either of them held at zero has grown again.
    new = gf.replace_masks(twice, twice.init(w), w, {"w": jnp.ones(2, bool)})
    assert all(node.masks["w"].all() for node in new)
