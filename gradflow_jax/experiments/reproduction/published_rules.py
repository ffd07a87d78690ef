"""The rules by which the authors' release chooses filters, quirks and all.

They are for comparing a run with the release line by line; `rounds` holds what we do.
The release differs from it as follows.

- A depthwise convolution's filters are ranked too, with the scores of the filters that
  feed them, so that these count twice in how many are removed.
- Of every layer 5 % and one more are protected: the last ones by number, not the best.
- In residual networks only the filters inside blocks are cut. What a block, a shortcut
  or the first convolution adds to the residual stream keeps its width; there, but for
  the first convolution, filters are mapped to zero with their norms. They are ranked
  anew in every round, with scores of zero, and can come back.
- There the percentage left is rounded down to an integer in each round, which removes
  more than was asked for, and no layer is protected but for its last filter.

In one thing we differ from the release: a layer that is down to a single filter is no
family of units, so it is not ranked any more, and the share is taken of one filter
fewer.

Of a ResNet's block, x the stream and 1×1 its shortcut:

    x ── first ── second ── + ── x        first: its filters are cut
    └──────── 1×1 ──────────┘             second, 1×1: their filters are mapped to zero
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.uses import first_uses
from gradflow_jax.structured import Units
from gradflow_jax.structured.units import program_of
from gradflow_jax.trees import Masks, Params, map_named

# The score that the release gives to filters it protects, so that they rank above all.
_PROTECTED = 1e7


class Layer(NamedTuple):
    """One convolution whose filters are ranked.

    Attributes:
        kernel: its path.
        family: what its filters belong to.
        producer: the convolution whose scores it is ranked by: its own, or for a
            depthwise one that which feeds it.
    """

    kernel: str
    family: str
    producer: str


class Choice(NamedTuple):
    """What a round removes.

    Attributes:
        keep: bool [units] of families that are cut, True keeps.
        zeroed: bool [filter] of kernels whose filters are mapped to zero, by path;
            True keeps. Of all kernels, not of this round alone.
    """

    keep: dict[str, np.ndarray]
    zeroed: dict[str, np.ndarray]


def by_layer(units: Units) -> Units:
    """Returns units with a family for each convolution, named by its kernel.

    Scores are taken of these: filters that are added to one residual stream are one
    unit to us, and are ranked apart here.
    """
    families = [
        replace(family, name=producer.path, slices=(producer,))
        for family in units
        for producer in family.producers
    ]
    return replace(units, families=tuple(families))


def layers(units: Units) -> list[Layer]:
    """Returns the convolutions in the network's order."""
    first = first_uses(program_of(units).frame.jaxpr, units.leaves)
    ranked = []
    for family in units:
        producers = [piece.path for piece in family.producers]
        ranked += [Layer(path, family.name, path) for path in producers]
        if len(producers) == 1:
            # A depthwise kernel acts on each channel by itself and has four axes, by
            # which it is told from a norm's scale.
            ranked += [
                Layer(piece.path, family.name, producers[0])
                for piece in family.slices
                if "elementwise" in piece.kinds
                and len(units.leaves[piece.path].shape) == 4
            ]
    return sorted(ranked, key=lambda layer: first[layer.kernel])


def is_residual(units: Units) -> bool:
    """Says whether several convolutions make the same channels."""
    return any(len(family.producers) > 1 for family in units)


def percent_left(shares: Sequence[float], round: int) -> int:
    """Returns what a residual network keeps of its filters after a round, in percent.

    The release rounds down in each round, and the rounding adds up: of 75 % in 25
    rounds 25 % should be left, and 18 % are.

    Example:
        >>> from gradflow_jax.experiments.reproduction.rounds import share
        >>> [percent_left([share(k, n, 0.75) for k in range(1, n + 1)], n)
        ...  for n in (1, 5, 25)]
        [25, 23, 18]
    """
    left = 100
    for fraction in shares[:round]:
        left = int(left * (1 - fraction))
    return left


def choose(
    scores: Mapping[str, np.ndarray],
    units: Units,
    shares: Sequence[float],
    round: int,
    base: Mapping[str, int],
) -> Choice:
    """Chooses filters as the release does.

    Args:
        scores: [filters] of each kernel, of units from `by_layer`.
        units: of the network as it is now.
        shares: what each round removes of what is left.
        round: which it is, from 1.
        base: how many filters each kernel had before pruning, by its path.
    """
    ranked = layers(units)
    residual = is_residual(units)
    layer_scores = [np.array(scores[layer.producer], np.float64) for layer in ranked]
    if residual:
        layer_scores[0][:] = _PROTECTED
        # Filters at zero are ranked again, so the share is one of all filters that are
        # there, such that what stays is so many percent of the original ones.
        now, original = sum(map(len, layer_scores)), sum(base.values())
        fraction = 1 - percent_left(shares, round) / 100 * (original / now)
    else:
        fraction = shares[round - 1]
        for layer, of_filters in zip(ranked, layer_scores, strict=True):
            of_filters[-(int(0.05 * base[layer.kernel]) + 1) :] = _PROTECTED
    # All filters are ranked in one row, and the flags are divided among layers again.
    flat = np.concatenate(layer_scores)
    stays = np.ones(len(flat), bool)
    stays[np.argsort(flat, kind="stable")[: max(int(fraction * len(flat)), 0)]] = False
    ends = np.cumsum([len(of_filters) for of_filters in layer_scores])[:-1]
    layer_flags = np.split(stays, ends)
    if residual:
        # The protecting score does not help where the fraction asks for all filters.
        layer_flags[0][:] = True
    keep: dict[str, np.ndarray] = {}
    zeroed: dict[str, np.ndarray] = {}
    for layer, of_filters, flags in zip(ranked, layer_scores, layer_flags, strict=True):
        if not flags.any():
            flags[np.argmax(of_filters)] = True
        if len(units[layer.family].producers) > 1:
            zeroed[layer.kernel] = flags
        elif layer.kernel == layer.producer:
            # A depthwise layer decides nothing: it loses what its producer loses.
            keep[layer.family] = flags
    return Choice(keep, zeroed)


def masks(params: Params, zeroed: Mapping[str, np.ndarray]) -> Masks:
    """Returns the masks that map filters to zero, with scale and shift of their norms.

    Args:
        params: what they mask.
        zeroed: bool [filter], by the path of the kernel; True keeps.
    """
    flags = dict(zeroed)
    for kernel, of_filters in zeroed.items():
        norm = kernel.removesuffix("conv/kernel") + "norm"
        flags |= {f"{norm}/scale": of_filters, f"{norm}/bias": of_filters}

    def mask(path: str, leaf: jnp.ndarray) -> jnp.ndarray:
        # Filters are the last axis of a kernel, along which flags are broadcast.
        return jnp.broadcast_to(jnp.asarray(flags.get(path, True)), leaf.shape)

    return map_named(mask, params)


def base_filters(units: Units) -> dict[str, int]:
    """Returns how many filters each ranked convolution has."""
    return {layer.kernel: units[layer.family].size for layer in layers(units)}


def widths(
    units: Units, left: Mapping[str, int], zeroed: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """Returns how many filters of each convolution are left, by its layer.

    Args:
        units: of the network before pruning.
        left: how many units of each family are.
        zeroed: of kernels that are mapped to zero, which filters are not.
    """
    by_layer_name = {}
    for layer in layers(units):
        mapped = zeroed.get(layer.kernel)
        count = left[layer.family] if mapped is None else int(mapped.sum())
        by_layer_name[layer.kernel.removesuffix("/conv/kernel")] = count
    return by_layer_name
