"""Finds which of the weights that masks keep are on a path from input to output."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gradflow_jax.connectivity.arguments import check_arguments, parameters_in
from gradflow_jax.connectivity.reader import Reader
from gradflow_jax.connectivity.signals import Signal
from gradflow_jax.masks.selection.placement import explicit_sharding, place_like
from gradflow_jax.programs.models import (
    HOLDS_VARIABLES,
    ModelLike,
    as_function,
    kind_of,
    unwrap_apply,
)
from gradflow_jax.programs.rules import COUPLING_RULES, SIGNAL_RULES
from gradflow_jax.trees import (
    Masks,
    Params,
    Patterns,
    Prunable,
    default_prunable,
    mask_leaves,
    prunable_flags,
)
from gradflow_jax.trees.checks import check_numbers


def effective_masks(
    model: ModelLike,
    params: Params,
    masks: Masks,
    *inputs: Any,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
    **options: Any,
) -> Masks:
    """Drops from masks the weights that no path from input to output passes through.

    A weight whose unit has lost all incoming or all outgoing weights does nothing, kept
    or not: at high sparsity many do, and a measure that leaves many is credited with a
    density that its network does not have. Dropping them changes the model by constants
    at most, those that a dead unit's bias makes: see
    `gf.connectivity.effective_report`.

    The model's program is read, not its layers: a weight counts where a signal is
    multiplied by it, or by what is computed from it, and the signal comes from the
    input and goes on to an output. Additions let a signal through from any side, maxima
    and activations too, products where the other factor is not always zero; so biases
    are on no path. What looks along a whole axis, such as a softmax or a layer norm,
    lets every number of it depend on every other. Loops of unknown length, writes
    at places that are computed, and primitives without a rule
    (`gf.connectivity.effective_report` lists them) count as if every result depended on
    every operand, which can only keep too much.

    The program is compiled once for each set of shapes and kept for the last models
    asked for; of a module that holds its variables it is compiled at each call.

    Args:
        model: a pure function `apply(params, *inputs)`, or a linen, an NNX or an
            Equinox module, that returns the model's outputs and nothing else, as it is
            evaluated: statistics of batch norm fixed, dropout off.
        params: what the model is called with: of a linen module its variables, of an
            NNX module its `nnx.Param`s or all of its state, or the module itself. Only
            the shapes matter.
        masks: the same tree of bool, True keeps.
        *inputs: a batch as the model is called with. Only the shapes matter; a batch of
            one is cheapest.
        prunable: `prunable(path, leaf) -> bool`; other leaves stay as the masks say.
        ignore: a path or shell pattern, or several: leaves that stay so too.
        **options: keyword arguments of the call of the model, `train=False`.

    Returns:
        A tree like params of bool, True where a weight is kept and on a path.

    Raises:
        TypeError: if a mask is not bool, a parameter or an input no array, params are a
            model that holds none, or the model returns anything but arrays of numbers.
        ValueError: if params and masks are different trees or no leaf is prunable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def apply(params, x):
        ...     return jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> params = {"in": jnp.ones((2, 2)), "out": jnp.ones((2, 1))}
        >>> masks = {"in": jnp.array([[True, False], [True, False]]),
        ...          "out": jnp.array([[True], [True]])}
        >>> x = jnp.ones((1, 2))
        >>> gf.connectivity.effective_masks(apply, params, masks, x)["out"].tolist()
        [[True], [False]]

    Reference:
        Vysogorets & Kempe, Connectivity Matters: Neural Network Pruning Through the
        Lens of Effective Sparsity, JMLR 2023.
    """
    params = parameters_in(params)
    finder = path_finder(model, options)
    check_arguments(params, masks, inputs)
    on_path = finder.on_paths(params, masks, inputs, constants=False)
    return replace_prunable(on_path.signals, params, masks, prunable, ignore)


class PathFinder:
    """Finds the weights of one model that are on a path.

    Attributes:
        reader: notes the primitives without a rule.
        on_paths: the function `on_paths` of this model, compiled.
    """

    def __init__(self, apply: Callable[..., Any]):
        self.reader = Reader()
        self.on_paths = jax.jit(
            functools.partial(on_paths, self.reader, apply),
            static_argnames="constants",
        )


def path_finder(model: ModelLike, options: Mapping[str, Any]) -> PathFinder:
    """Returns the path finder of a model, the same for the same model and options."""
    model = unwrap_apply(model)
    if kind_of(model) in HOLDS_VARIABLES:
        # The module's variables may have changed since the last call.
        return PathFinder(as_function(model, options))
    try:
        return _finder_of_hashable(
            model, tuple(sorted(options.items())), _changes_of_rules()
        )
    except TypeError:
        # An option, such as an array, cannot be hashed.
        return PathFinder(as_function(model, options))


def _changes_of_rules() -> tuple[int, int]:
    """Returns how often users changed the tables that a reading depends on."""
    return COUPLING_RULES.changes, SIGNAL_RULES.changes


# The cache keeps its models alive, so it is small.
@functools.lru_cache(maxsize=8)
def _finder_of_hashable(
    model: ModelLike, options: tuple[tuple[str, Any], ...], changes: tuple[int, int]
) -> PathFinder:
    # The changes are a part of the cache's key: a finder compiled before a rule was
    # registered did not ask it.
    del changes
    return PathFinder(as_function(model, dict(options)))


def replace_prunable(
    effective: Sequence[Any],
    params: Params,
    masks: Masks,
    prunable: Prunable,
    ignore: Patterns,
) -> Masks:
    """Returns masks whose prunable leaves are replaced by the effective ones."""
    kept = mask_leaves(masks, params)
    flags = prunable_flags(params, prunable, ignore)
    return jax.tree.structure(masks).unflatten(
        effective_mask if flag else mask
        for effective_mask, mask, flag in zip(effective, kept, flags, strict=True)
    )


class OnPaths(NamedTuple):
    """Whether something passes through each kept weight, a bool array for each leaf.

    Attributes:
        signals: whether a signal from the input does, on its way to an output.
        constants: whether a signal or a constant other than zero does; empty if it was
            not asked for.
    """

    signals: list[jax.Array]
    constants: list[jax.Array]


def on_paths(
    reader: Reader,
    apply: Callable[..., Any],
    params: Params,
    masks: Masks,
    inputs: Sequence[Any],
    *,
    constants: bool,
) -> OnPaths:
    """Finds the weights that signals pass through.

    The masks are made numbers, and what reaches the outputs a function of them. Its
    vector-Jacobian product at the outputs counts for each weight the paths through it
    (see `signals`): all weights at the price of one reading and its transpose.

    Args:
        reader: notes the primitives without a rule.
        apply: the model.
        params: its parameters.
        masks: a tree like params of bool, True keeps.
        inputs: a batch as the model is called with.
        constants: whether constants are asked for, too. Then the numbers of params and
            inputs matter.
    """
    asked = mask_leaves(masks, params)
    # What is read of a program is multiplied without a word on where it lies.
    kept, leaves = _on_all_devices(asked), _on_all_devices(jax.tree.leaves(params))

    def return_numbers(params: Params, *inputs: Any) -> Any:
        outputs = apply(params, *inputs)
        check_numbers(outputs, "what the model returns,")
        return outputs

    closed = jax.make_jaxpr(return_numbers)(params, *inputs)
    reader.begin()
    numbers = [
        jnp.where(mask, leaf, jnp.zeros_like(leaf)) if constants else None
        for leaf, mask in zip(leaves, kept, strict=True)
    ]
    input_signals = []
    for leaf in jax.tree.leaves(inputs):
        ones = jnp.ones(jnp.shape(leaf), jnp.float32)
        with_number = Signal(ones, ones, number=jnp.asarray(leaf), carried=ones)
        input_signals.append(with_number if constants else Signal(ones, ones))

    def read_outputs(indicators: list[jax.Array]) -> tuple[list, list]:
        weights = [
            Signal(indicator, number=number)
            for indicator, number in zip(indicators, numbers, strict=True)
        ]
        outputs = reader.read(closed.jaxpr, closed.consts, [*weights, *input_signals])
        return (
            [output.reached for output in outputs if output.reached is not None],
            [output.carried for output in outputs if output.carried is not None],
        )

    indicators = [jnp.asarray(mask, jnp.float32) for mask in kept]
    (reached, carried), pull_back = jax.vjp(read_outputs, indicators)

    def find_passed(signals: float, constants: float) -> list[jax.Array]:
        """Finds the weights on the way of signals, of constants or of both."""
        cotangents = (
            [jnp.full_like(array, signals) for array in reached],
            [jnp.full_like(array, constants) for array in carried],
        )
        (counts,) = pull_back(cotangents)
        return [
            # Counts are whole numbers, here 0 or 1.
            place_like(mask & (count > 0.5), like)
            for mask, count, like in zip(kept, counts, asked, strict=True)
        ]

    return OnPaths(find_passed(1.0, 0.0), find_passed(0.0, 1.0) if constants else [])


def _on_all_devices(leaves: Sequence[Any]) -> list[Any]:
    """Returns leaves that lie on explicit axes of a mesh whole on each device."""
    return [
        leaf
        if (sharding := explicit_sharding(leaf)) is None
        else jax.sharding.reshard(leaf, NamedSharding(sharding.mesh, PartitionSpec()))
        for leaf in leaves
    ]
