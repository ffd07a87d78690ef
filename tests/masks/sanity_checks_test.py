"""What pruning methods are checked against: what is shuffled and what stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow_jax as gf

checked = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SHAPES = {"a": (3, 4), "b": (2, 2, 3), "bias": (5,), "empty": (0, 3)}


@st.composite
def mask_trees(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    return {
        name: jnp.asarray(rng.random(shape) < density) for name, shape in SHAPES.items()
    }


def kept(masks, *names):
    return sum(int(masks[name].sum()) for name in names)


@checked
@given(mask_trees(), st.integers(0, 1000))
def test_within_layers_each_keeps_its_number(masks, seed):
    shuffled = gf.masks.shuffle_masks(jax.random.key(seed), masks)
    for name, mask in masks.items():
        assert shuffled[name].shape == mask.shape and shuffled[name].dtype == bool
        assert kept(shuffled, name) == kept(masks, name)
    np.testing.assert_array_equal(shuffled["bias"], masks["bias"])


@checked
@given(mask_trees(), st.integers(0, 1000))
def test_over_the_network_the_sum_stays(masks, seed):
    shuffled = gf.masks.shuffle_masks(jax.random.key(seed), masks, scope="network")
    assert kept(shuffled, "a", "b") == kept(masks, "a", "b")
    assert {n: m.shape for n, m in shuffled.items()} == SHAPES
    np.testing.assert_array_equal(shuffled["bias"], masks["bias"])


def test_every_mask_of_the_quotas_is_as_likely():
    masks = {"kernel": jnp.array([[True, True], [False, False]])}
    keys = jax.random.split(jax.random.key(0), 600)
    drawn = jax.vmap(lambda key: gf.masks.shuffle_masks(key, masks)["kernel"])(keys)
    _, counts = np.unique(drawn.reshape(600, 4), axis=0, return_counts=True)
    assert len(counts) == 6 and counts.min() > 60  # 100 each, deviation 9


def test_layers_are_shuffled_independently_and_by_key():
    masks = {name: jnp.arange(64).reshape(8, 8) < 32 for name in "ab"}
    shuffled = gf.masks.shuffle_masks(jax.random.key(0), masks)
    assert not jnp.array_equal(shuffled["a"], shuffled["b"])
    again = gf.masks.shuffle_masks(jax.random.key(0), masks)
    assert all(jnp.array_equal(shuffled[name], again[name]) for name in "ab")
    with_another_key = gf.masks.shuffle_masks(jax.random.key(1), masks)
    assert not jnp.array_equal(shuffled["a"], with_another_key["a"])


def test_over_the_network_weights_change_layers():
    masks = {"a": jnp.ones((8, 8), bool), "b": jnp.zeros((8, 8), bool)}
    shuffled = gf.masks.shuffle_masks(jax.random.key(0), masks, scope="network")
    assert 16 < kept(shuffled, "b") < 48


def test_prunable_chooses_what_is_shuffled():
    masks = {"a": jnp.eye(8, dtype=bool), "b": jnp.eye(8, dtype=bool)}
    shuffled = gf.masks.shuffle_masks(
        jax.random.key(0), masks, prunable=lambda path, leaf: path == "b"
    )
    np.testing.assert_array_equal(shuffled["a"], masks["a"])
    assert not jnp.array_equal(shuffled["b"], masks["b"])


def test_inverted_scores_keep_the_other_end():
    scores = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(2)}
    inverted = gf.masks.invert_scores(scores)
    np.testing.assert_array_equal(inverted["bias"], scores["bias"])
    masks = gf.global_masks(scores, sparsity=0.5)
    inverted_masks = gf.global_masks(inverted, sparsity=0.5)
    np.testing.assert_array_equal(masks["kernel"], ~inverted_masks["kernel"])


def test_labels_change_places_and_images_do_not():
    labels = jnp.repeat(jnp.arange(4), 25)
    shuffled = gf.masks.shuffle_labels(jax.random.key(0), labels)
    np.testing.assert_array_equal(jnp.bincount(shuffled), jnp.bincount(labels))
    assert 0.1 < float((shuffled == labels).mean()) < 0.4
    one_hot = gf.masks.shuffle_labels(jax.random.key(0), jax.nn.one_hot(labels, 4))
    np.testing.assert_array_equal(one_hot.argmax(1), shuffled)


def test_each_image_keeps_its_numbers_in_an_order_of_its_own():
    image = jnp.arange(48.0).reshape(4, 4, 3)
    images = jnp.stack([image, image])
    shuffled = gf.masks.shuffle_pixels(jax.random.key(0), images)
    assert shuffled.shape == images.shape
    flat = shuffled.reshape(2, -1)
    np.testing.assert_array_equal(jnp.sort(flat), images.reshape(2, -1))
    assert not jnp.array_equal(flat[0], flat[1])
    assert not jnp.array_equal(shuffled[0], image)


def test_what_cannot_be_shuffled_is_an_error():
    key, mask = jax.random.key(0), jnp.ones((2, 2), bool)
    with pytest.raises(ValueError, match="scope is 'block'; it is one of"):
        gf.masks.shuffle_masks(key, mask, scope="block")
    with pytest.raises(TypeError, match="not bool"):
        gf.masks.shuffle_masks(key, jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="no leaf is prunable"):
        gf.masks.shuffle_masks(key, jnp.ones(2, bool))
    with pytest.raises(ValueError, match="no leaf is prunable"):
        gf.masks.invert_scores(jnp.ones(2))
    with pytest.raises(TypeError, match="scores"):
        gf.masks.invert_scores(mask)
    with pytest.raises(ValueError, match=r"labels are int32\[\]"):
        gf.masks.shuffle_labels(key, jnp.asarray(1))
    with pytest.raises(ValueError, match=r"images are float32\[3\]"):
        gf.masks.shuffle_pixels(key, jnp.ones(3))


def test_arrays_that_hold_no_numbers_are_refused():
    key = jax.random.key(0)
    for labels in (None, "0123", np.array(["a", "b"]), [[0], [0, 1]], {"a": 0}):
        with pytest.raises(TypeError, match="labels are .*; pass an array of numbers"):
            gf.masks.shuffle_labels(key, labels)
    with pytest.raises(TypeError, match="images are <U1; pass an array of numbers"):
        gf.masks.shuffle_pixels(key, np.array([["a"]]))
    with pytest.raises(ValueError, match=r"images are float32\[0,3\]; pass a batch"):
        gf.masks.shuffle_pixels(key, np.ones((0, 3)))
    assert sorted(gf.masks.shuffle_labels(key, [2, 0, 1]).tolist()) == [0, 1, 2]


def test_seeds_are_no_keys():
    masks = {"kernel": np.ones((2, 2), bool)}
    for shuffle, value in (
        (gf.masks.shuffle_masks, masks),
        (gf.masks.shuffle_labels, np.arange(3)),
        (gf.masks.shuffle_pixels, np.ones((2, 3))),
    ):
        with pytest.raises(TypeError, match="key is a int: pass one key, jax.random.k"):
            shuffle(0, value)
    with pytest.raises(TypeError, match="key is a int: pass one key, jax.random.key"):
        gf.random(0)
