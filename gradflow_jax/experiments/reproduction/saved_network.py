"""Loads a network that a run saved, at the widths that are left, and tests it."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.regular_files import check_regular
from gradflow_jax.experiments.errors import reason_of
from gradflow_jax.experiments.networks.architecture import Forward, split
from gradflow_jax.experiments.reproduction.dense_network import (
    base_network,
    example_of,
)
from gradflow_jax.experiments.reproduction.record import RunSettings, Size
from gradflow_jax.experiments.reproduction.rounds import check_rounds
from gradflow_jax.experiments.reproduction.sizes import size_of
from gradflow_jax.structured import Units, find_units, load_cut, shrink
from gradflow_jax.trees import describe, named_leaves


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
    return _load(path, settings, dataset).model


def evaluate_saved(path: Path, settings: RunSettings, dataset: Dataset) -> Evaluation:
    """Tests the network in a file; the arguments are those of `load_network`.

    Raises:
        ValueError: if the file is not of such a network.
    """
    loaded = _load(path, settings, dataset)
    accuracy, loss = Forward.of(loaded.model).evaluate(split(loaded.model), dataset)
    return Evaluation(
        accuracy=accuracy,
        loss=loss,
        size=size_of(loaded.units, loaded.keep),
        dense=size_of(loaded.units, loaded.units.check_keep({})),
        bytes=_bytes(loaded.model),
        dense_bytes=_bytes(loaded.base),
    )


class _Loaded(NamedTuple):
    model: nnx.Module
    base: nnx.Module
    units: Units
    keep: dict[str, np.ndarray]


def _load(path: Path, settings: RunSettings, dataset: Dataset) -> _Loaded:
    check_rounds(settings)
    check_regular(path)
    base = base_network(settings, dataset)
    units = find_units(base, example_of(dataset))
    try:
        saved = load_cut(path, like=nnx.state(base))
        model = shrink(base, units, saved.keep)
        shapes = units.shapes(saved.keep)
        for name, leaf in named_leaves(saved.variables):
            if leaf.shape != shapes[name]:
                raise ValueError(
                    f"{name} is {describe(leaf)}, kept is {list(shapes[name])} of it"
                )
        nnx.update(model, saved.variables)
    # What a file says of its network may contradict the network in every way.
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(
            f"{path} does not hold the network of its run: {reason_of(error)}."
        ) from error
    return _Loaded(model, base, units, saved.keep)


def _bytes(model: nnx.Module) -> int:
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(nnx.state(model))
    )
