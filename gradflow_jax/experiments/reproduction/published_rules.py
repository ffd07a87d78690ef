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

One thing is not as there: a layer of a single filter is no family of units, so it is
not ranked any more, and the share is taken of one filter fewer than in the release.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.uses import first_uses
from gradflow_jax.structured import Units
from gradflow_jax.structured.units import program_of
from gradflow_jax.trees import PyTree, map_named

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

    For scoring: what is added to one residual stream is ranked apart.
    """
    families = [
        replace(family, name=own.path, slices=(own,))
        for family in units
        for own in family.producers
    ]
    return replace(units, families=tuple(families))


def layers(units: Units) -> list[Layer]:
    """Returns the convolutions in the network's order."""
    first = first_uses(program_of(units).frame.jaxpr, units.leaves)
    found = []
    for family in units:
        own = [s.path for s in family.producers]
        found += [Layer(path, family.name, path) for path in own]
        if len(own) == 1:
            found += [
                Layer(s.path, family.name, own[0])
                for s in family.slices
                if "elementwise" in s.kinds and len(units.leaves[s.path].shape) == 4
            ]
    return sorted(found, key=lambda layer: first[layer.kernel])


def is_residual(units: Units) -> bool:
    """Says whether several convolutions make the same channels."""
    return any(len(family.producers) > 1 for family in units)


def percent_left(shares: Sequence[float], round: int) -> int:
    """Returns what a residual network keeps of its filters after a round, in percent.

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
    rows = [np.array(scores[layer.producer], np.float64) for layer in ranked]
    if residual:
        rows[0][:] = _PROTECTED
        now, whole = sum(map(len, rows)), sum(base.values())
        fraction = 1 - percent_left(shares, round) / 100 * (whole / now)
    else:
        fraction = shares[round - 1]
        for layer, row in zip(ranked, rows, strict=True):
            row[-(int(0.05 * base[layer.kernel]) + 1) :] = _PROTECTED
    flat = np.concatenate(rows)
    stays = np.ones(len(flat), bool)
    stays[np.argsort(flat, kind="stable")[: max(int(fraction * len(flat)), 0)]] = False
    keep: dict[str, np.ndarray] = {}
    zeroed: dict[str, np.ndarray] = {}
    ends = np.cumsum([len(row) for row in rows])[:-1]
    split = np.split(stays, ends)
    if residual:
        # Also where nothing shall be left.
        split[0][:] = True
    for layer, row, flags in zip(ranked, rows, split, strict=True):
        if not flags.any():
            flags[np.argmax(row)] = True
        if len(units[layer.family].producers) > 1:
            zeroed[layer.kernel] = flags
        elif layer.kernel == layer.producer:
            keep[layer.family] = flags
    return Choice(keep, zeroed)


def masks(params: PyTree, zeroed: Mapping[str, np.ndarray]) -> PyTree:
    """Returns the masks that map filters to zero, with scale and shift of their norms.

    Args:
        params: what they mask.
        zeroed: bool [filter], by the path of the kernel; True keeps.
    """
    flags = dict(zeroed)
    for kernel, own in zeroed.items():
        norm = kernel.removesuffix("conv/kernel") + "norm"
        flags |= {f"{norm}/scale": own, f"{norm}/bias": own}

    def mask(path: str, leaf: jnp.ndarray) -> jnp.ndarray:
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
    found = {}
    for layer in layers(units):
        mapped = zeroed.get(layer.kernel)
        count = left[layer.family] if mapped is None else int(mapped.sum())
        found[layer.kernel.removesuffix("/conv/kernel")] = count
    return found
