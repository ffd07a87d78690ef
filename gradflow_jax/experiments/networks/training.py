"""Trains and evaluates a network with optax, its weights masked or not."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.pixels import normalize_pixels
from gradflow_jax.experiments.networks.architecture import Forward, Network, split
from gradflow_jax.masks import prune
from gradflow_jax.models import SmallCNN
from gradflow_jax.observations.fitting import draw_batches, fit
from gradflow_jax.transforms import apply_mask, replace_masks
from gradflow_jax.trees import Masks, Params

BATCH_SIZE = 128
WEIGHT_DECAY = 1e-4
MOMENTUM = 0.9
LEARNING_RATE = 0.1
FINETUNE_LEARNING_RATE = 0.05


class Trainer:
    """Trains networks of one architecture on one data set.

    The steps are compiled once, whatever masks and numbers of epochs come; trainers of
    equal architectures and data sets of one shape share them.
    """

    def __init__(self, dataset: Dataset):
        """Puts the data on the device."""
        self.dataset = dataset
        self._x_train = jnp.asarray(normalize_pixels(dataset.x_train))
        self._y_train = jnp.asarray(dataset.y_train)
        self._batch_size = min(BATCH_SIZE, len(dataset.y_train))
        self.steps_per_epoch = len(dataset.y_train) // self._batch_size
        # Shapes do: making weights that nobody trains would take seconds.
        self.forward = Forward.of(nnx.eval_shape(lambda: self._model(0)))

    def init(self, seed: int) -> Network:
        """Returns a network with fresh weights."""
        return split(self._model(seed))

    def fit(
        self,
        network: Network,
        *,
        epochs: int,
        seed: int,
        peak: float = LEARNING_RATE,
        masks: Masks | None = None,
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
        params = network.params if masks is None else mask_params(network.params, masks)
        # A step donates its arguments, whose buffers are gone then: the caller's stay.
        network = copy_tree(Network(params, network.stats))
        state = initial_optimizer_state(network.params)
        if masks is not None:
            state = replace_optimizer_masks(state, network.params, masks)
        steps = epochs * self.steps_per_epoch
        # All are fetched at once: one by one they would be further dispatches a step.
        schedule = optax.cosine_decay_schedule(peak, max(steps, 1))
        rates = np.asarray(jax.jit(schedule)(np.arange(steps)))
        orders = draw_batches(len(self._y_train), self._batch_size, seed)
        data = self._x_train, self._y_train
        (network, _), _ = fit(
            functools.partial(_step, self.forward, data),
            (network, state),
            # The rates end first, lest an order be drawn that no step takes.
            zip(rates, orders, strict=False),
            after=lambda step: progress(step.number, steps),
        )
        return network

    def evaluate(self, network: Network) -> tuple[float, float]:
        """Returns accuracy and loss, at the training temperature, on the test set."""
        return self.forward.evaluate(network, self.dataset)

    def _model(self, seed: int) -> SmallCNN:
        shape = self.dataset.x_train.shape[1:]
        return SmallCNN(shape, self.dataset.classes, rngs=nnx.Rngs(seed))


@functools.cache
def sgd() -> optax.GradientTransformationExtraArgs:
    """Returns the paper's optimizer, masked.

    The learning rate is a number of its state, which `take_step` sets, so that one
    compiled step serves schedules of every length.
    """
    scale = optax.inject_hyperparams(optax.scale_by_learning_rate)
    return optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY),
        optax.trace(MOMENTUM),
        scale(learning_rate=LEARNING_RATE),
        apply_mask(),
    )


@jax.jit
def initial_optimizer_state(params: Params) -> Any:
    """Returns the state of `sgd` before its first step."""
    return sgd().init(params)


@jax.jit
def replace_optimizer_masks(state: Any, params: Params, masks: Masks) -> Any:
    """Returns the state of `sgd` with other masks."""
    return replace_masks(sgd(), state, params, masks)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(
    forward: Forward, data: tuple[Any, Any], state: tuple[Network, Any], batch: Any
) -> tuple[tuple[Network, Any], None]:
    """Trains on the images chosen; returns network and optimizer state."""
    rate, chosen = batch
    images, labels = (leaf[chosen] for leaf in data)
    network, optimizer, *_ = take_step(forward, *state, images, labels, rate)
    return (network, optimizer), None


def take_step(
    forward: Forward,
    network: Network,
    optimizer: Any,
    images: Any,
    labels: Any,
    rate: Any,
) -> tuple[Network, Any, jax.Array, jax.Array]:
    """Takes a step of `sgd`, inside of a program that its caller compiles.

    Args:
        forward: what the network computes.
        network: before the step.
        optimizer: its state.
        images: [batch, height, width, channel], as the network is given them.
        labels: integers [batch].
        rate: the learning rate.

    Returns:
        Network, optimizer state, and the batch's loss and share of right answers before
        the step.
    """
    gradient, stats, loss, accuracy = forward.training_gradient(network, images, labels)
    # The dtype is explicit: a weakly typed rate would have the step compiled again.
    rate = jnp.asarray(rate, jnp.float32)
    optimizer = optax.tree.set(optimizer, learning_rate=rate)
    updates, optimizer = sgd().update(gradient, optimizer, network.params)
    params = optax.apply_updates(network.params, updates)
    return Network(params, stats), optimizer, loss, accuracy


# A whole tree is one program: leaf by leaf, every shape that a cut leaves would be one.
copy_tree = jax.jit(functools.partial(jax.tree.map, jnp.copy))
mask_params = jax.jit(prune)
