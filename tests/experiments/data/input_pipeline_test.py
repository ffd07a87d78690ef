import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.input_pipeline import training_batches

COUNT = 103


@pytest.fixture(scope="module")
def dataset():
    """Images whose every pixel is their number; labels are its remainder by 10."""
    x = np.broadcast_to(
        np.arange(COUNT, dtype=np.uint8)[:, None, None, None], (COUNT, 4, 5, 3)
    )
    y = np.arange(COUNT) % 10
    return Dataset("numbers", x, y, x[:2], y[:2], 10)


def order(dataset, **options):
    """Returns the numbers of the images in the order they come."""
    options = {"epoch": 0, "seed": 0, "batch_size": 10, **options}
    batches = [images for images, _ in training_batches(dataset, **options)]
    return np.concatenate(batches)[:, 0, 0, 0].tolist()


def test_batches_are_whole_and_labels_belong(dataset):
    batches = list(training_batches(dataset, epoch=0, seed=0, batch_size=10))
    assert len(batches) == 10, "three images are left over"
    for images, labels in batches:
        assert images.shape == (10, 4, 5, 3) and images.dtype == np.uint8
        assert labels.shape == (10,) and labels.dtype == np.int32
        assert (images == images[:, :1, :1, :1]).all(), "images come whole"
        np.testing.assert_array_equal(images[:, 0, 0, 0] % 10, labels)
        images[:] = 0  # Batches are copies: the next epoch sees none of this.


def test_each_image_comes_once(dataset):
    assert len(set(order(dataset))) == 100
    assert sorted(order(dataset, batch_size=COUNT)) == list(range(COUNT))
    assert sorted(order(dataset, batch_size=1)) == list(range(COUNT))


def test_seed_and_epoch_decide_the_order(dataset):
    orders = [order(dataset, seed=s, epoch=e) for s in range(3) for e in range(3)]
    again = [order(dataset, seed=s, epoch=e) for s in range(3) for e in range(3)]
    assert orders == again
    # Also epoch 0 of seed 1 is none of the epochs of seed 0.
    assert len({tuple(each) for each in orders}) == 9
    assert order(dataset, batch_size=20) == orders[0], "whatever the batches"


def test_a_leftover_image_comes_in_other_epochs(dataset):
    seen = {i for epoch in range(5) for i in order(dataset, epoch=epoch)}
    assert seen == set(range(COUNT))


@pytest.mark.parametrize("batch_size", [0, -1, COUNT + 1])
def test_sizes_that_cannot_be(dataset, batch_size):
    # At the call, not when the first batch is asked for.
    with pytest.raises(ValueError, match=rf"is {batch_size}: numbers .* from 1 to 103"):
        training_batches(dataset, epoch=0, seed=0, batch_size=batch_size)


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def test_threads_end_with_the_iterator(dataset):
    for _ in range(20):
        dropped = training_batches(dataset, epoch=0, seed=0, batch_size=2)
        next(dropped)
    never_started = training_batches(dataset, epoch=0, seed=0, batch_size=2)
    assert readers(), "batches are read ahead"
    del dropped, never_started
    # A thread needs a moment to end.
    for _ in range(200):
        if not readers():
            break
        time.sleep(0.01)
    assert not readers()


@pytest.mark.runs
def test_a_program_that_leaves_an_iterator_ends():
    program = """
from gradflow_jax.experiments.data.dataset import load
from gradflow_jax.experiments.data.input_pipeline import training_batches
left = training_batches(load(), epoch=0, seed=0, batch_size=8)
print(next(left)[0].shape)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "(8, 28, 28, 1)\n"), ran.stderr
