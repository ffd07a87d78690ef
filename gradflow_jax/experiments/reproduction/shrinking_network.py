"""A network in training that becomes smaller: units are cut, and it trains on.

The units that it had at first are found once, and what is left of them is noted by
their names (`keep`). A cut finds the units of the network as it is, cuts weights,
statistics, optimizer and initial weights alike, and composes what stays with what
stayed before. The module is then made anew from the first one at the widths left, so
that a resumed run, which cuts once, has the same one.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradflow_jax.experiments.data.augmentation import augment
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.pixels import normalize_pixels
from gradflow_jax.experiments.networks.architecture import Forward, Network, split
from gradflow_jax.experiments.networks.measuring import Scorer
from gradflow_jax.experiments.networks.timing import Times, time_in_pairs
from gradflow_jax.experiments.networks.training import (
    initial_optimizer_state,
    mask_params,
    replace_optimizer_masks,
    sgd,
    take_step,
)
from gradflow_jax.experiments.reproduction import published_rules
from gradflow_jax.experiments.reproduction.checkpoints import arrange_like
from gradflow_jax.experiments.reproduction.dense_network import (
    Maker,
    base_network,
    example_of,
    maker_of,
)
from gradflow_jax.experiments.reproduction.record import RunSettings, Size
from gradflow_jax.experiments.reproduction.sizes import Flags, size_of
from gradflow_jax.models import normalized_kernels
from gradflow_jax.observations.fitting import Step, fit
from gradflow_jax.structured import (
    Units,
    check_cut,
    compose_keep,
    cut,
    find_units,
    shrink,
)
from gradflow_jax.trees import ArrayTree, Params

CHECKED_IMAGES = 256
"""Test images whose logits check a cut and whose forward pass is timed."""


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
    origin: Params


@functools.partial(jax.jit, static_argnums=0)
def _initial_state(maker: Maker, key: Any) -> State:
    network = split(maker(key))
    # A training step donates the weights it is given: the initial ones, which measures
    # need later, have buffers of their own.
    origin = jax.tree.map(jnp.copy, network.params)
    return State(network, sgd().init(network.params), origin)


# Networks of equal widths share a scorer and with it what it compiled: runs of several
# seeds meet the dense network again.
@functools.lru_cache(maxsize=8)
def _scorer(forward: Forward, kernels: tuple[tuple[str, str], ...]) -> Scorer:
    return Scorer(forward.loss, dict(kernels))


class ShrinkingNetwork:
    """One of the paper's networks, with the optimizer that trains it.

    Attributes:
        units: of the network before it was cut.
        keep: which of them are left, by family.
        forward: the functions of the network at its present widths.
        scorer: the measures of them.
    """

    def __init__(self, settings: RunSettings, dataset: Dataset):
        """Finds the units; nothing is computed."""
        self._dataset, self._momentum = dataset, settings.momentum
        self._seed, self._maker = settings.seed, maker_of(settings, dataset)
        self._base = base_network(settings, dataset)
        self._example = example_of(dataset)
        self._state: State | None = None
        self._dense = Forward.of(self._base)
        self._train_from_now_on(self._base, self._dense)
        self.units = self.find()
        self.keep: Flags = self.units.check_keep({})

    @property
    def state(self) -> State:
        """Its arrays: fresh weights, made when first asked for, unless it resumed."""
        state = self._state
        if state is None:
            # Under the default generator 57 layers take ten seconds to compile.
            key = jax.random.key(self._seed, impl="rbg")
            self._state = state = _initial_state(self._maker, key)
        return state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state

    def _train_from_now_on(self, model: nnx.Module, forward: Forward) -> None:
        """Makes this model, of shapes, the one that is trained and scored."""
        self._model, self.forward = model, forward
        self._units_now: Units | None = None
        kernels = normalized_kernels(split(model).params)
        self.scorer = _scorer(forward, tuple(kernels.items()))

    def find(self) -> Units:
        """Returns the units of the network as it is now."""
        # They are kept until the next cut: a round asks for them to rank and to cut.
        if self._units_now is None:
            self._units_now = find_units(self._model, self._example)
        return self._units_now

    def fit(
        self,
        batches: Iterable[Any],
        *,
        after: Callable[[Step], None] = lambda step: None,
    ) -> list[Any]:
        """Trains by one step a batch; the state is the network's after each.

        Args:
            batches: the last four arguments of `training_step`, for each step.
            after: called after each step.

        Returns:
            The figures, loss and accuracy, of each batch before its step.
        """

        def take(state: State, batch: Any) -> tuple[State, Any]:
            network, optimizer, *figures = training_step(
                self.forward, state.network, state.optimizer, *batch
            )
            return state._replace(network=network, optimizer=optimizer), figures

        def note(step: Step) -> None:
            # The buffers of the state before are gone: the step donated them.
            self.state = step.state
            after(step)

        _, figures = fit(take, self.state, batches, after=note)
        return figures

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
        images = normalize_pixels(self._dataset.x_test[:CHECKED_IMAGES])
        masked_params = mask_params(network.params, units.masks(keep, network.params))
        masked = network._replace(params=masked_params)
        expected = self.forward.predict(masked, images)
        self.keep = compose_keep(self.units, self.keep, units, keep)
        # The host takes slices of every shape without compiling a program for each.
        state = jax.device_put(cut(jax.device_get(self.state), units, keep))
        if self._momentum == "reset":
            state = state._replace(
                optimizer=initial_optimizer_state(state.network.params)
            )
        self.state = state
        model = shrink(self._base, self.units, self.keep)
        self._train_from_now_on(model, Forward.of(model))
        logits = self.forward.predict(state.network, images)
        check_cut(logits, expected, what=f"the network cut to {self.size().widths}")

    def map_to_zero(self, zeroed: Flags) -> None:
        """Keeps filters at zero that are not cut; see `published_rules.masks`."""
        network, optimizer, _ = self.state
        masks = published_rules.masks(network.params, zeroed)
        params = mask_params(network.params, masks)
        optimizer = replace_optimizer_masks(optimizer, params, masks)
        self.state = self.state._replace(
            network=network._replace(params=params), optimizer=optimizer
        )

    def resume(self, keep: Flags, arrays: ArrayTree) -> None:
        """Goes on from the arrays of a `State` by path.

        Raises:
            ValueError: if they are not those of the network that `keep` leaves.
        """
        model = shrink(self._base, self.units, keep)
        network = split(model)
        optimizer = jax.eval_shape(sgd().init, network.params)
        like = State(network, optimizer, network.params)
        self.state = jax.device_put(arrange_like(arrays, like))
        self.keep = keep
        self._train_from_now_on(model, Forward.of(model))

    def variables(self) -> ArrayTree:
        """Returns weights and statistics in one tree, as `units` name them."""
        # Both are states of nnx, which neither optax nor chex says in types.
        network: Any = self.state.network
        return nnx.merge_state(network.params, network.stats)

    def size(self, zeroed: Flags | None = None) -> Size:
        """Returns how large the network is.

        Args:
            zeroed: bool [filter] of kernels whose filters are mapped to zero, by path:
                True keeps. With it, even if it is empty, each convolution is counted
                for itself, as the release does; without it, filters that are added to
                one stream count once.
        """
        return size_of(self.units, self.keep, zeroed)

    def time(self) -> Times:
        """Times a forward pass beside that of the network before it was cut."""
        images = jax.device_put(normalize_pixels(self._dataset.x_test[:CHECKED_IMAGES]))
        # The dense network's weights are gone; zeros take as long as any numbers.
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), split(self._base))
        dense = jax.device_put(zeros)
        return time_in_pairs(
            lambda: self.forward.predict(self.state.network, images),
            lambda: self._dense.predict(dense, images),
            pairs=_TIMED_PAIRS,
        )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def training_step(
    forward: Forward,
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
        network: before the step.
        optimizer: its state.
        images: uint8 [batch, height, width, channel], as they are on disk.
        labels: integers [batch].
        counters: [3] of seed, epoch and step, which decide the augmentation.
        rate: the learning rate.
    """
    # A key follows from the counters alone, so a resumed run augments as one that was
    # never stopped. It is made inside of the program, which saves three dispatches.
    seed, epoch, number = counters
    key = jax.random.fold_in(jax.random.key(seed), epoch)
    key = jax.random.fold_in(key, number)
    prepared = normalize_pixels(augment(images, key))
    return take_step(forward, network, optimizer, prepared, labels, rate)
