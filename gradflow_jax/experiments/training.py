"""Trains and evaluates a network with optax, its weights masked or not."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gradflow_jax.experiments.data import Dataset
from gradflow_jax.masks import apply
from gradflow_jax.models import SmallCNN
from gradflow_jax.transforms import apply_mask, replace_masks
from gradflow_jax.trees import PyTree

# As the paper trains: the softmax of logits / 5 saturates later.
TEMPERATURE = 5.0
BATCH_SIZE = 128
WEIGHT_DECAY = 1e-4
MOMENTUM = 0.9
LEARNING_RATE = 0.1
FINETUNE_LEARNING_RATE = 0.05


class Network(NamedTuple):
    """The weights of a network.

    Attributes:
        params: the `nnx.Param` of the model.
        stats: its other state, the running statistics of batch norm.
    """

    params: PyTree
    stats: PyTree


class Trainer:
    """Trains networks of one architecture on one data set.

    The steps are compiled once, whatever masks and numbers of epochs come.
    """

    def __init__(self, dataset: Dataset):
        """Puts the data on the device."""
        self.dataset = dataset
        self._x_train = jnp.asarray(scaled(dataset.x_train))
        self._y_train = jnp.asarray(dataset.y_train)
        self._batch_size = min(BATCH_SIZE, len(dataset.y_train))
        self.steps_per_epoch = len(dataset.y_train) // self._batch_size
        # Of shapes: making weights that nobody trains would take seconds.
        self._graph = nnx.graphdef(nnx.eval_shape(lambda: self._model(0)))
        self._transform = optax.chain(
            optax.add_decayed_weights(WEIGHT_DECAY),
            optax.trace(MOMENTUM),
            apply_learning_rate(),
            apply_mask(),
        )
        self._step = jax.jit(self._step_fn, donate_argnums=(0, 1, 2))
        self._evaluate = jax.jit(self._evaluate_fn)

    def init(self, seed: int) -> Network:
        """Returns a network with fresh weights."""
        _, params, stats = nnx.split(self._model(seed), nnx.Param, ...)
        return Network(params, stats)

    def logits(self, network: Network, images: Any, *, train: bool = False) -> Any:
        """Returns logits and, in training mode, the new running statistics."""
        # A copy, since batch norm writes its statistics in place.
        model = nnx.merge(self._graph, network.params, network.stats, copy=True)
        model.train() if train else model.eval()
        return model(images), nnx.split(model, nnx.Param, ...)[2]

    def loss(
        self,
        params: PyTree,
        batch: tuple[Any, Any],
        stats: PyTree,
        *,
        temperature: float | jax.Array = TEMPERATURE,
    ) -> jax.Array:
        """Returns the mean cross-entropy of logits / temperature, in eval mode."""
        logits, _ = self.logits(Network(params, stats), batch[0])
        return _cross_entropy(logits / temperature, batch[1])

    def fit(
        self,
        network: Network,
        *,
        epochs: int,
        seed: int,
        peak: float = LEARNING_RATE,
        masks: PyTree | None = None,
        progress: Callable[[int, int], None] = lambda step, steps: None,
    ) -> Network:
        """Trains by SGD with momentum, the learning rate falling by a cosine to zero.

        Args:
            network: where to start from; it is not changed.
            epochs: passes over the training images.
            seed: of the order of the images.
            peak: the learning rate at the start.
            masks: what the masked optimizer keeps; None keeps all.
            progress: called with (step, steps) after each.

        Returns:
            The trained network; pruned weights are exactly 0.0.
        """
        params = network.params if masks is None else apply(network.params, masks)
        # The step donates its arguments, and these are the caller's.
        params, stats = jax.tree.map(jnp.copy, (params, network.stats))
        state = self._transform.init(params)
        if masks is not None:
            state = replace_masks(self._transform, state, params, masks)
        rng = np.random.default_rng(seed)
        steps = epochs * self.steps_per_epoch
        order = np.array([], int)
        for step in range(steps):
            if len(order) < self._batch_size:
                order = rng.permutation(len(self._y_train))
            chosen, order = order[: self._batch_size], order[self._batch_size :]
            rate = peak * 0.5 * (1 + np.cos(np.pi * step / steps))
            params, stats, state = self._step(
                params, stats, state, self._x_train, self._y_train, chosen, rate
            )
            progress(step + 1, steps)
        return Network(params, stats)

    def evaluate(self, network: Network) -> tuple[float, float]:
        """Returns accuracy and loss, at the training temperature, on the test set."""
        right = total = 0.0
        count = len(self.dataset.y_test)
        for start in range(0, count, 1000):
            piece = slice(start, start + 1000)
            hits, loss = self._evaluate(
                network, scaled(self.dataset.x_test[piece]), self.dataset.y_test[piece]
            )
            right, total = right + float(hits), total + float(loss)
        return right / count, total / count

    def _model(self, seed: int) -> SmallCNN:
        shape = self.dataset.x_train.shape[1:]
        return SmallCNN(shape, self.dataset.classes, rngs=nnx.Rngs(seed))

    def _step_fn(self, params, stats, state, x_train, y_train, chosen, rate):
        def loss_fn(params):
            network = Network(params, stats)
            logits, new_stats = self.logits(network, x_train[chosen], train=True)
            return _cross_entropy(logits / TEMPERATURE, y_train[chosen]), new_stats

        gradient, stats = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = self._transform.update(gradient, state, params, rate=rate)
        return optax.apply_updates(params, updates), stats, state

    def _evaluate_fn(self, network, images, labels):
        logits, _ = self.logits(network, images)
        hits = jnp.sum(jnp.argmax(logits, -1) == labels)
        return hits, _cross_entropy(logits / TEMPERATURE, labels) * len(labels)


def scaled(images: np.ndarray) -> np.ndarray:
    """Returns uint8 images as float32 in [−1, 1]: mean and deviation of one half."""
    return (images.astype(np.float32) / 255 - 0.5) / 0.5


def apply_learning_rate() -> optax.GradientTransformationExtraArgs:
    """Scales updates by −`rate`, an extra argument of each update.

    So one compiled step serves schedules of every length.
    """

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        del params
        rate = extra_args["rate"]
        return jax.tree.map(lambda leaf: -rate * leaf, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _cross_entropy(logits: jax.Array, labels: Any) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()
