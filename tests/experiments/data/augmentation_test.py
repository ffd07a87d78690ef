import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow_jax.experiments.data.augmentation import augment
from gradflow_jax.experiments.data.pixels import normalize_pixels


def possible(image):
    """Returns the crops and flips that there are, by offset and flip."""
    height, width, _ = image.shape
    black = np.zeros((height + 8, width + 8, image.shape[2]), image.dtype)
    black[4:-4, 4:-4] = image
    for row in range(9):
        for column in range(9):
            crop = black[row : row + height, column : column + width]
            yield (row, column, False), crop
            yield (row, column, True), np.fliplr(crop)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    # From 1 on: no pixel is as black as the padding.
    return rng.integers(1, 256, (64, 6, 10, 3)).astype(np.uint8)


def choices(images, key):
    """Returns row, column and flip of each image."""
    found = []
    for image, result in zip(
        images, np.asarray(augment(jnp.asarray(images), key)), strict=True
    ):
        equal = [how for how, each in possible(image) if np.array_equal(each, result)]
        assert len(equal) == 1, "it is one of the crops, and no two are the same"
        found.append(equal[0])
    return np.array(found)


def test_each_image_is_one_of_its_crops(images, strict_ranks):
    chosen = choices(images, jax.random.key(0))
    assert len(np.unique(chosen, axis=0)) > 30, "each has an offset of its own"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shape_and_dtype_stay(images, dtype):
    result = augment(jnp.asarray(images.astype(dtype)), jax.random.key(0))
    assert result.shape == images.shape and result.dtype == dtype


def test_the_key_decides(images):
    first = augment(jnp.asarray(images), jax.random.key(0))
    again = jax.jit(augment)(jnp.asarray(images), jax.random.key(0))
    other = augment(jnp.asarray(images), jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_offsets_and_flips_are_uniform():
    count = 9 * 9 * 40
    # The pixel that is left says which it was.
    image = np.arange(1, 9 * 9 + 1, dtype=np.uint8).reshape(1, 9, 9, 1)
    image = np.concatenate([image, np.zeros_like(image)], -1)
    image[0, :, 4:, 1] = 1
    batch = jnp.asarray(np.repeat(image, count, 0))
    result = np.asarray(augment(batch, jax.random.key(2)))
    middle = result[:, 4, 4, 0]
    # Chance differs from 40 of each by √40 ≈ 6.3.
    seen = np.bincount(middle, minlength=82)[1:]
    assert seen.sum() == count and np.abs(seen - 40).max() < 4 * 6.3
    # Only a flip puts the marked half to the left of the other.
    marks = result[..., 1].sum(1)
    flipped = marks[:, 0] > marks[:, -1]
    assert abs(flipped[marks[:, 0] != marks[:, -1]].mean() - 0.5) < 0.05


def test_normalize_pixels_is_what_training_scales(images, strict_ranks):
    every = np.arange(256, dtype=np.uint8)
    for result in (
        normalize_pixels(jnp.asarray(every)),
        jax.jit(normalize_pixels)(every),
    ):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, normalize_pixels(every), atol=2e-7)
        np.testing.assert_allclose(result, (every - 127.5) / 127.5, atol=2e-7)


def test_one_compilation_serves_all_keys(images):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def prepared(batch, key):
        return normalize_pixels(augment(batch, key))

    for seed in range(3):
        prepared(jnp.asarray(images), jax.random.key(seed))
