"""Makes batches of training images ready on background threads, by grain."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.errors import SettingsError

ImageBatch = tuple[np.ndarray, np.ndarray]


def training_batches(
    dataset: Dataset, *, epoch: int, seed: int, batch_size: int
) -> Iterator[ImageBatch]:
    """Yields the training images once, in an order that seed and epoch decide.

    The last batch is dropped where it would be incomplete, so that a compiled step sees
    one shape. The iterator may be left before its end; its threads end with it.

    Args:
        dataset: whose training images to take.
        epoch: from 0; each has an order of its own.
        seed: non-negative, of the orders of all epochs.
        batch_size: images in a batch.

    Returns:
        An iterator of images, uint8 [batch, height, width, channel], and labels, int32
        [batch].

    Raises:
        SettingsError: see `check_batch_size`.

    Example:
        >>> from gradflow_jax.experiments.data.dataset import load
        >>> batches = training_batches(load(), epoch=0, seed=1, batch_size=128)
        >>> images, labels = next(batches)
        >>> images.shape, labels.shape, len(list(batches))
        ((128, 28, 28, 1), (128,), 38)
    """
    check_batch_size(dataset, batch_size)
    count = len(dataset.y_train)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return _read_ahead(_EpochBatches(dataset, order, batch_size))


def check_batch_size(dataset: Dataset, batch_size: int) -> None:
    """Checks that there are images for a batch.

    Raises:
        SettingsError: if a batch would be empty or need more images than there are.
    """
    count = len(dataset.y_train)
    if not 1 <= batch_size <= count:
        raise SettingsError(
            f"batch_size is {batch_size}: {dataset} allows from 1 to {count:,}."
        )


class _EpochBatches:
    """The batches of one epoch by number, as grain reads any source.

    grain would shuffle and stack image by image; a batch gathered at once costs less
    than a tenth of that.
    """

    def __init__(self, dataset: Dataset, order: np.ndarray, batch_size: int):
        self._images, self._labels = dataset.x_train, dataset.y_train
        self._order, self._batch_size = order, batch_size

    def __len__(self) -> int:
        return len(self._order) // self._batch_size

    def __getitem__(self, index: int) -> ImageBatch:
        start = index * self._batch_size
        chosen = self._order[start : start + self._batch_size]
        return self._images[chosen], self._labels[chosen].astype(np.int32)


def _read_ahead(source: _EpochBatches) -> Iterator[ImageBatch]:
    grain = _import_grain_quietly()
    # Two threads copy faster than a device computes; eight batches of CIFAR are 3 MB.
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    batches = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()


def _import_grain_quietly() -> Any:
    """Imports grain, with its log off, when the first batch is read.

    With older jaxlibs it logs that worker processes cannot be profiled; there are none.
    """
    logger = logging.get_absl_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        import grain
    finally:
        logger.setLevel(level)
    return grain
