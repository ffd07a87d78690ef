"""Loads a network that a run saved, at the widths that are left, and tests it."""

from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.networks.architecture import Forward, split
from gradflow_jax.experiments.reproduction.dense_network import (
    base_network,
    example_of,
)
from gradflow_jax.experiments.reproduction.record import RunSettings, Size
from gradflow_jax.experiments.reproduction.sizes import size_of
from gradflow_jax.structured import find_units, load_cut, shrink


class Evaluation(NamedTuple):
    """What a saved network is worth.

    Attributes:
        accuracy: on the test images.
        loss: likewise, at the training temperature.
        size: of the network.
        dense: of the network that it was cut from.
        bytes: of its arrays.
        dense_bytes: of those of the network that it was cut from.
    """

    accuracy: float
    loss: float
    size: Size
    dense: Size
    bytes: int
    dense_bytes: int


def load_network(path: Path, settings: RunSettings, dataset: Dataset) -> nnx.Module:
    """Returns the network in a file, at the widths that are left.

    Args:
        path: of the file that the run wrote.
        settings: of the run.
        dataset: with the images and classes that it was trained for.

    Raises:
        ValueError: if the file is not of such a network.
    """
    base = base_network(settings, dataset)
    saved = load_cut(path, like=nnx.state(base))
    units = find_units(base, example_of(dataset))
    model = shrink(base, units, saved.keep)
    nnx.update(model, saved.variables)
    return model


def evaluate_saved(path: Path, settings: RunSettings, dataset: Dataset) -> Evaluation:
    """Tests the network in a file; the arguments are those of `load_network`."""
    base = base_network(settings, dataset)
    units = find_units(base, example_of(dataset))
    model = load_network(path, settings, dataset)
    keep = load_cut(path).keep
    accuracy, loss = Forward.of(model).evaluate(split(model), dataset)
    return Evaluation(
        accuracy=accuracy,
        loss=loss,
        size=size_of(units, keep),
        dense=size_of(units, units.check_keep({})),
        bytes=_bytes(model),
        dense_bytes=_bytes(base),
    )


def _bytes(model: nnx.Module) -> int:
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(nnx.state(model))
    )
