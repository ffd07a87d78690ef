"""The network of a run before anything is cut."""

from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.reproduction.record import RunSettings
from gradflow_jax.models import MODELS


class Maker(NamedTuple):
    """Makes the network of a run from a key.

    It is a tuple of plain values, so that it can be a static argument of `jax.jit`.
    """

    model: str
    image_shape: tuple[int, int, int]
    classes: int
    width: float
    fast: bool

    def __call__(self, key: Any) -> nnx.Module:
        """Makes a network with fresh weights."""
        options = {"width": self.width, "fast": self.fast, "rngs": nnx.Rngs(key)}
        return MODELS[self.model](self.image_shape, self.classes, **options)


def maker_of(settings: RunSettings, dataset: Dataset) -> Maker:
    """Returns what makes the network that settings ask for, for such images."""
    _, *shape = dataset.x_train.shape
    return Maker(
        model=settings.model,
        image_shape=tuple(shape),
        classes=dataset.classes,
        width=settings.width,
        fast=settings.fast,
    )


def base_network(settings: RunSettings, dataset: Dataset) -> nnx.Module:
    """Returns the network before it is cut, of shapes, in eval mode."""
    maker = maker_of(settings, dataset)
    model = nnx.eval_shape(lambda: maker(jax.random.key(0)))
    model.eval()
    return model


def example_of(dataset: Dataset) -> jax.ShapeDtypeStruct:
    """Returns the shape of a batch of one image."""
    return jax.ShapeDtypeStruct((1, *dataset.x_train.shape[1:]), np.float32)
