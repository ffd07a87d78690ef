"""A network that is trained, and becomes smaller where units are cut."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gradflow_jax.experiments.data.augmentation import augmented
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.pixels import normalized
from gradflow_jax.experiments.networks.architecture import Forward, Network, split
from gradflow_jax.experiments.networks.measuring import Scorer
from gradflow_jax.experiments.networks.timing import Times, time_in_pairs
from gradflow_jax.experiments.networks.training import masked, remasked, sgd, untrained
from gradflow_jax.experiments.reproduction import published_rules
from gradflow_jax.experiments.reproduction.checkpoints import arranged
from gradflow_jax.experiments.reproduction.record import RunSettings, Size
from gradflow_jax.experiments.reproduction.sizes import Flags, size_of
from gradflow_jax.models import MODELS, normalized_kernels
from gradflow_jax.structured import Units, compose_keep, cut, find_units, shrink
from gradflow_jax.trees import PyTree

# Their logits check a cut; their forward pass is timed.
CHECKED_IMAGES = 256
# Relative to the largest logit; a cut that is right differs by rounding.
TOLERANCE = 1e-4
_TIMED_PAIRS = 10


class State(NamedTuple):
    """The arrays of a network in training.

    Attributes:
        network: weights and running statistics.
        optimizer: momentum and masks.
        origin: the initial weights of the filters that are left.
    """

    network: Network
    optimizer: Any
    origin: PyTree


class Maker(NamedTuple):
    """What makes the network of a run, of a key."""

    model: str
    image_shape: tuple[int, int, int]
    classes: int
    width: float
    fast: bool

    def __call__(self, key: Any) -> nnx.Module:
        """Makes a network with fresh weights."""
        options = {"width": self.width, "fast": self.fast, "rngs": nnx.Rngs(key)}
        return MODELS[self.model](self.image_shape, self.classes, **options)


def _maker(settings: RunSettings, dataset: Dataset) -> Maker:
    _, *shape = dataset.x_train.shape
    return Maker(
        settings.model, tuple(shape), dataset.classes, settings.width, settings.fast
    )


@functools.partial(jax.jit, static_argnums=0)
def _fresh(maker: Maker, key: Any) -> State:
    network = split(maker(key))
    # The step gives the first ones away, and these must survive it.
    origin = jax.tree.map(jnp.copy, network.params)
    return State(network, sgd().init(network.params), origin)


@jax.jit
def _difference(found: Any, expected: Any) -> tuple[Any, Any]:
    """Returns the largest difference, and the largest value to compare it with."""
    return jnp.max(jnp.abs(found - expected)), jnp.max(jnp.abs(expected))


@functools.lru_cache(maxsize=8)
def _scorer(forward: Forward, kernels: tuple[tuple[str, str], ...]) -> Scorer:
    return Scorer(forward.loss, dict(kernels))


def base_network(settings: RunSettings, dataset: Dataset) -> nnx.Module:
    """Returns the network before it is cut, of shapes, in eval mode."""
    maker = _maker(settings, dataset)
    model = nnx.eval_shape(lambda: maker(jax.random.key(0)))
    model.eval()
    return model


def example(dataset: Dataset) -> jax.ShapeDtypeStruct:
    """Returns the shape of a batch of one image."""
    return jax.ShapeDtypeStruct((1, *dataset.x_train.shape[1:]), np.float32)


class ShrinkingNetwork:
    """One of the paper's networks, with the optimizer that trains it.

    Attributes:
        units: of the network before it was cut.
        keep: which of them are left, by family.
        forward: what the network computes at its present widths.
        scorer: what scores it.
    """

    def __init__(self, settings: RunSettings, dataset: Dataset):
        """Finds the units; nothing is computed."""
        self._dataset, self._momentum = dataset, settings.momentum
        self._seed, self._maker = settings.seed, _maker(settings, dataset)
        self._base = base_network(settings, dataset)
        self._example = example(dataset)
        self._state: State | None = None
        self._dense = Forward.of(self._base)
        self._at(self._base, self._dense)
        self.units = self.find()
        self.keep: Flags = self.units.checked({})

    @property
    def state(self) -> State:
        """Its arrays: fresh weights until others come, as in a run that is resumed."""
        state = self._state
        if state is None:
            # The default generator compiles for ten seconds where there are 57 layers.
            key = jax.random.key(self._seed, impl="rbg")
            self._state = state = _fresh(self._maker, key)
        return state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state

    def _at(self, model: nnx.Module, forward: Forward) -> None:
        """Trains this model from now on."""
        self._model, self.forward, self._found = model, forward, None
        kernels = normalized_kernels(split(model).params)
        self.scorer = _scorer(forward, tuple(kernels.items()))

    def find(self) -> Units:
        """Returns the units of the network as it is now."""
        # Looked for once at each width: a round ranks them and cuts them.
        if self._found is None:
            self._found = find_units(self._model, self._example)
        return self._found

    def step(
        self, images: Any, labels: Any, counters: Any, rate: float
    ) -> tuple[Any, Any]:
        """Trains on one batch; returns loss and accuracy, see `training_step`."""
        network, optimizer, loss, accuracy = training_step(
            self.forward,
            sgd(),
            self.state.network,
            self.state.optimizer,
            images,
            labels,
            counters,
            rate,
        )
        self.state = self.state._replace(network=network, optimizer=optimizer)
        return loss, accuracy

    def cut(self, units: Units, keep: Flags) -> None:
        """Makes weights, statistics, optimizer and initial weights smaller.

        Args:
            units: of the network as it is now.
            keep: which of them stay.

        Raises:
            ValueError: if on real images the small network computes something else
                than the one before with zeros in place of what is gone.
        """
        network = self.state.network
        images = normalized(self._dataset.x_test[:CHECKED_IMAGES])
        whole = masked(network.params, units.masks(keep, network.params))
        expected = self.forward.predict(network._replace(params=whole), images)
        self.keep = compose_keep(self.units, self.keep, units, keep)
        # On the host, where slices of every shape are taken without compiling.
        state = jax.device_put(cut(jax.device_get(self.state), units, keep))
        if self._momentum == "reset":
            state = state._replace(optimizer=untrained(state.network.params))
        self.state = state
        model = shrink(self._base, self.units, self.keep)
        self._at(model, Forward.of(model))
        found = self.forward.predict(state.network, images)
        error, largest = map(float, _difference(found, expected))
        if not error <= TOLERANCE * largest:
            raise ValueError(
                f"the network cut to {self.size().widths} differs from the masked one "
                f"by {error:.2g} in its logits, more than rounding: no result of this "
                "cut can be trusted."
            )

    def map_to_zero(self, zeroed: Flags) -> None:
        """Keeps filters at zero that are not cut; see `published_rules.masks`."""
        network, optimizer, _ = self.state
        masks = published_rules.masks(network.params, zeroed)
        params = masked(network.params, masks)
        optimizer = remasked(optimizer, params, masks)
        self.state = self.state._replace(
            network=network._replace(params=params), optimizer=optimizer
        )

    def resume(self, keep: Flags, arrays: PyTree) -> None:
        """Goes on from the arrays of a `State` by path.

        Raises:
            ValueError: if they are not those of the network that `keep` leaves.
        """
        model = shrink(self._base, self.units, keep)
        network = split(model)
        optimizer = jax.eval_shape(sgd().init, network.params)
        like = State(network, optimizer, network.params)
        self.state = jax.device_put(arranged(arrays, like))
        self.keep = keep
        self._at(model, Forward.of(model))

    def variables(self) -> PyTree:
        """Returns weights and statistics in one tree, as `units` name them."""
        network = self.state.network
        return nnx.merge_state(network.params, network.stats)

    def size(self, zeroed: Flags | None = None) -> Size:
        """Returns how large the network is.

        Args:
            zeroed: of kernels whose filters are mapped to zero, which are not, maybe
                of none. Every convolution is counted for itself then, as the release
                does.
        """
        return size_of(self.units, self.keep, zeroed)

    def time(self) -> Times:
        """Times a forward pass beside that of the network before it was cut."""
        images = jax.device_put(normalized(self._dataset.x_test[:CHECKED_IMAGES]))
        # Zeros take as long as any numbers.
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), split(self._base))
        dense = jax.device_put(zeros)
        return time_in_pairs(
            lambda: self.forward.predict(self.state.network, images),
            lambda: self._dense.predict(dense, images),
            pairs=_TIMED_PAIRS,
        )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def training_step(
    forward: Forward,
    transform: optax.GradientTransformationExtraArgs,
    network: Network,
    optimizer: Any,
    images: Any,
    labels: Any,
    counters: Any,
    rate: Any,
) -> tuple[Network, Any, Any, Any]:
    """Trains on one batch; returns network, optimizer state, loss and accuracy.

    Args:
        forward: what the network computes.
        transform: takes `rate` as an extra argument.
        network: before the step.
        optimizer: its state.
        images: uint8 [batch, height, width, channel], as they are on disk.
        labels: integers [batch].
        counters: [3] of seed, epoch and step, which decide the augmentation.
        rate: the learning rate.
    """
    seed, *rest = counters
    key = functools.reduce(jax.random.fold_in, rest, jax.random.key(seed))
    prepared = normalized(augmented(images, key))
    gradient, stats, *result = forward.training_gradient(network, prepared, labels)
    updates, optimizer = transform.update(
        gradient, optimizer, network.params, rate=rate
    )
    params = optax.apply_updates(network.params, updates)
    return Network(params, stats), optimizer, *result
