"""Passes over leaves that are at hand: one compiled piece a shape, driven from outside.

One program over all leaves has loops for each of them, and compiling these takes longer
than running them: 7 s for the 210 kernels of a small language model. Leaves of one
shape share their programs here, and counts alone come back after each pass. Small
leaves are counted by NumPy on the host, where nothing is compiled at all.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow_jax.masks.selection import counting
from gradflow_jax.masks.selection.bracketing import PIVOTS, Bracket
from gradflow_jax.masks.selection.counting import Totals
from gradflow_jax.masks.selection.device_leaf import DeviceLeaf
from gradflow_jax.masks.selection.host_leaves import HostLeaves
from gradflow_jax.masks.selection.ordering import Order
from gradflow_jax.masks.selection.parts import Operands
from gradflow_jax.masks.selection.pieces import (
    Flags,
    Scores,
    is_restricted,
    join_blocks,
    reaching,
)

# All small leaves together hold no more weights than this on the host.
_ON_HOST = 2**22
# So many ranks show where the threshold is to be expected.
_SAMPLE = 2**16


class Beginning(NamedTuple):
    """What a search begins with.

    Attributes:
        is_finite: whether no score is NaN or infinite.
        bracket: what holds all ranks of each group that may be chosen.
        counted: the pivots, [group, 4], and the counts, [block, 4], of a pass that was
            made already.
    """

    is_finite: bool
    bracket: Bracket
    counted: tuple[np.ndarray, np.ndarray]


class DrivenLeaves:
    """The leaves of a selection, whose values are known.

    Attributes:
        order: the integers by which scores are compared.
        block_groups: [block], the group of each block of all leaves.
        block_sizes: [block], how many weights the whole block has.
    """

    def __init__(self, scores: Scores, leaf_groups: tuple[int, ...]):
        scores = scores._replace(
            leaves=[_as_jax_has_it(leaf) for leaf in scores.leaves]
        )
        self.order = Order.of(scores.leaves)
        self._unrestricted = None
        if is_restricted(scores):
            self._unrestricted = DrivenLeaves(
                Scores(scores.leaves, None, None), leaf_groups
            )
        parts = _part(scores, leaf_groups, self.order)
        # Those on the devices stand first, so that they are at work while the host is.
        self._parts = [part for _, part in parts]
        self._members = [own for own, _ in parts]
        self._groups = [leaf_groups[own[0]] for own in self._members]
        sizes = self._in_order(part.blocks for part in self._parts)
        self.block_groups, self.block_sizes = join_blocks(sizes, leaf_groups)
        numbers = np.array([len(of_leaf) for of_leaf in sizes])
        starts = np.cumsum(numbers) - numbers
        self._blocks = [
            np.concatenate([starts[i] + np.arange(numbers[i]) for i in own])
            for own in self._members
        ]

    def count(
        self,
        flags: Flags,
        per_group: Sequence[np.ndarray],
        per_block: Sequence[np.ndarray],
        asked: np.ndarray | None = None,
    ) -> np.ndarray:
        """Counts in each block what the flags select: [block, flag].

        Args:
            flags: of which leaf what is counted.
            per_group: arrays [group, ...], handed on as the row of the leaf's group.
            per_block: arrays [block, ...], handed on as the rows of the leaf's blocks.
            asked: bool [block], of which blocks. None: of all. The others have 0.
        """
        if asked is None:
            asked = np.ones(len(self.block_groups), bool)
        asked_for = []
        for part, own, group in self._rows():
            if asked[own].any():
                operands = Operands(
                    [values[group] for values in per_group],
                    [values[own] for values in per_block],
                )
                asked_for.append((own, part.count(flags, operands, asked[own])))
        counts = np.zeros((len(self.block_groups), PIVOTS), np.int32)
        # All leaves are at work before the first is waited for.
        for own, of_part in asked_for:
            counts[own] = of_part()
        return counts

    def masks(
        self, low: np.ndarray, high: np.ndarray, cuts: np.ndarray
    ) -> list[jax.Array]:
        """Returns masks where the leaves lie: see `kept`."""
        masks = self._in_order(
            part.masks(low[group], high[group], cuts[own])
            for part, own, group in self._rows()
        )
        leaves = self._in_order(part.leaves for part in self._parts)
        return _where_leaves_lie(masks, leaves)

    def begin(self, keep: Totals) -> Beginning:
        """Returns what holds all ranks, and a pass where a sample shows them to be.

        The same pass counts what is not finite: the ranks of infinities and NaN lie
        beyond those of all finite numbers.
        """
        largest, kind = self.order.largest(), self.order.rank_kind()
        pivots = np.clip(self._sampled_pivots(keep), 1 - largest, largest)
        below, above = pivots.T
        # One beyond the upper one, so that scores that are all equal end the search.
        edges = [np.full_like(below, -largest), below, np.minimum(above + 1, largest)]
        edges = np.stack([*edges, np.full_like(below, largest + 1)], 1)
        counts = self.count(reaching, [edges], [])
        of_all = counts
        if self._unrestricted is not None:
            of_all = self._unrestricted.count(reaching, [edges], [])
        is_finite = (of_all[:, 0] == self.block_sizes).all() and not of_all[:, -1].any()
        bracket = Bracket(
            np.full(len(below), -largest, kind),
            np.full(len(below), largest, kind),
            reaching_low=counts[:, 0],
            above_high=counts[:, -1],
        )
        # The outer pivots are the bracket's ends, and the inner ones are told twice.
        twice = [1, 1, 2, 2]
        return Beginning(bool(is_finite), bracket, (edges[:, twice], counts[:, twice]))

    def _sampled_pivots(self, keep: Totals) -> np.ndarray:
        """Returns between which ranks the k-th highest of each group is: [group, 2].

        They lie three standard deviations of a sample's order statistic from where it
        is to be expected. Leaves that cannot be looked at without copying them tell
        nothing.
        """
        numbers, kind = keep.numbers(), self.order.rank_kind()
        sizes = np.zeros(len(numbers), np.int64)
        np.add.at(sizes, self.block_groups, self.block_sizes)
        steps = sizes // max(_SAMPLE // len(numbers), 1024)
        samples: list[list[np.ndarray]] = [[np.zeros(1, kind)] for _ in numbers]
        for part, _, group in self._rows():
            # An odd step meets all columns of a matrix whose width is even.
            samples[group].append(part.sample(int(steps[group]) | 1))
        pivots = []
        for number, size, parts in zip(numbers, sizes.tolist(), samples, strict=True):
            ranks = np.concatenate(parts)
            count, share = len(ranks), min(number / size, 1.0)
            spread = 3 * math.sqrt(count * share * (1 - share)) + 1
            places = np.array([-spread, spread]) + count * (1 - share)
            places = np.clip(places, 0, count - 1).astype(int)
            pivots.append(np.partition(ranks, places)[places])
        return np.stack(pivots)

    def _in_order(self, of_parts: Iterable[Sequence[Any]]) -> list[Any]:
        """Returns what each part has of each of its leaves, in the order of leaves."""
        of_leaves = dict(zip(chain(*self._members), chain(*of_parts), strict=True))
        return [of_leaves[i] for i in range(len(of_leaves))]

    def _rows(self) -> Iterable[tuple[DeviceLeaf | HostLeaves, np.ndarray, int]]:
        """Returns the parts, which blocks of all are theirs, and their groups."""
        return zip(self._parts, self._blocks, self._groups, strict=True)


def _part(
    scores: Scores, groups: Sequence[int], order: Order
) -> list[tuple[list[int], DeviceLeaf | HostLeaves]]:
    """Returns leaf by leaf what is on devices, and joined what is on the host.

    Each comes after the numbers of its leaves.
    """
    rows, on_host = scores.rows(), _small_enough(scores.leaves)
    parts: list[Any] = []
    together: dict[Any, list[int]] = {}
    for i, (leaf, *_) in enumerate(rows):
        if on_host[i]:
            together.setdefault((groups[i], leaf.dtype), []).append(i)
        else:
            parts.append(([i], DeviceLeaf(rows[i], order)))
    return parts + [
        (own, HostLeaves([rows[i] for i in own], order)) for own in together.values()
    ]


def _as_jax_has_it(leaf: Any) -> Any:
    """Returns a leaf of NumPy in the dtype that JAX gives it: float64 is float32."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    with np.errstate(over="ignore"):
        return leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)


def _small_enough(leaves: Sequence[Any]) -> list[bool]:
    """Says which leaves are computed on the host: the smallest, if they are whole."""
    left, small = _ON_HOST, [False] * len(leaves)
    for i in sorted(range(len(leaves)), key=lambda i: leaves[i].size):
        leaf = leaves[i]
        left -= leaf.size
        if leaf.size > counting.SMALL_LEAF or left < 0:
            break
        small[i] = isinstance(leaf, np.ndarray) or (
            leaf.is_fully_addressable and leaf.is_fully_replicated
        )
    return small


def _where_leaves_lie(masks: Sequence[Any], leaves: Sequence[Any]) -> list[jax.Array]:
    """Returns masks, those of NumPy on the devices of their leaves."""
    placed, free = [], []
    for i, mask in enumerate(masks):
        if isinstance(mask, np.ndarray):
            (placed if getattr(leaves[i], "committed", False) else free).append(i)
    places = [leaves[i].sharding for i in placed]
    # One call moves them all; a compiled one takes a third of the time of the other.
    moved = jax.device_put([masks[i] for i in placed], places)
    moved += _on_device([masks[i] for i in free])
    result = [*masks]
    for i, mask in zip(placed + free, moved, strict=True):
        result[i] = mask
    return result


@jax.jit
def _on_device(masks: list[Any]) -> list[jax.Array]:
    return masks
