"""A network's variables, and the functions of them that are trained and evaluated."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.pixels import normalize_pixels
from gradflow_jax.trees import ArrayTree, Params

TEMPERATURE = 5.0
"""What logits are divided by in training, as in the paper: the softmax of logits / 5
saturates later."""

_EVALUATION_BATCH = 256


class Network(NamedTuple):
    """The weights of a network.

    Attributes:
        params: the `nnx.Param` of the model.
        stats: its other state, the running statistics of batch norm.
    """

    params: Params
    stats: ArrayTree


def split(model: nnx.Module) -> Network:
    """Returns the variables of a model, arrays or shapes."""
    _, params, stats = nnx.split(model, nnx.Param, ...)
    return Network(params, stats)


@dataclass(frozen=True)
class Forward:
    """An architecture at given widths: what its networks compute.

    Equal architectures are equal, and compiled once.

    Attributes:
        graph: the architecture, `nnx.graphdef(model)`.
    """

    graph: Any

    @classmethod
    def of(cls, model: nnx.Module) -> "Forward":
        """Takes the architecture of a model, whose variables may be shapes."""
        return cls(nnx.graphdef(model))

    def predict(self, network: Network, images: Any) -> jax.Array:
        """Returns logits [image, class] in eval mode, compiled."""
        return _predict(self, network, images)

    def logits(self, network: Network, images: Any, *, train: bool = False) -> Any:
        """Returns logits and, in training mode, the new running statistics."""
        # The model is a copy, since batch norm writes its statistics in place.
        model = nnx.merge(self.graph, network.params, network.stats, copy=True)
        model.train() if train else model.eval()
        return model(images), nnx.split(model, nnx.Param, ...)[2]

    def loss(
        self,
        params: Params,
        batch: tuple[Any, Any],
        stats: ArrayTree,
        *,
        temperature: float | jax.Array = TEMPERATURE,
    ) -> jax.Array:
        """Returns the mean cross-entropy of logits / temperature, in eval mode."""
        logits, _ = self.logits(Network(params, stats), batch[0])
        return cross_entropy(logits / temperature, batch[1])

    def training_gradient(
        self, network: Network, images: Any, labels: Any
    ) -> tuple[ArrayTree, ArrayTree, jax.Array, jax.Array]:
        """Returns gradient, new statistics, loss and share of right answers."""

        def loss_fn(params: Params) -> tuple[Any, Any]:
            at_params = Network(params, network.stats)
            logits, stats = self.logits(at_params, images, train=True)
            right = jnp.mean(jnp.argmax(logits, -1) == labels)
            return cross_entropy(logits / TEMPERATURE, labels), (stats, right)

        evaluate = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (stats, right)), gradient = evaluate(network.params)
        return gradient, stats, loss, right

    def evaluate(self, network: Network, dataset: Dataset) -> tuple[float, float]:
        """Returns accuracy and loss, at the training temperature, on the test set."""
        count = len(dataset.y_test)
        size = min(count, _EVALUATION_BATCH)
        batches = []
        for start in range(0, count, size):
            # The last batch is filled up from the first images, so that one shape is
            # compiled; their second logits are cut off below.
            images = dataset.x_test[np.arange(start, start + size) % count]
            batches.append(self.predict(network, normalize_pixels(images)))
        logits = np.concatenate([np.asarray(batch) for batch in batches])[:count]
        accuracy = np.mean(np.argmax(logits, -1) == dataset.y_test)
        return float(accuracy), float(_loss(logits / TEMPERATURE, dataset.y_test))


@functools.partial(jax.jit, static_argnums=0)
def _predict(forward: Forward, network: Network, images: Any) -> jax.Array:
    return forward.logits(network, images)[0]


def cross_entropy(logits: Any, labels: Any) -> jax.Array:
    """Returns the cross-entropy of logits, the mean over examples."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


_loss = jax.jit(cross_entropy)
