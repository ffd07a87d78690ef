"""Searches for the k-th highest of many ranks by counts alone.

A pass counts how many ranks reach each of four pivots, and keeps the gap between two
of them (the room's page states the invariant). Pivots are placed in one of two ways:

    foretold   beside the place where the k-th highest would be, were the ranks of the
               bracket spread evenly over it: then some √n of its n ranks are left, or
               a few hundredths where their density slopes
    even       at the fifths of the bracket, so that a fifth of its width is left,
               however the ranks lie

A pass is foretold if the one before it left at most a third of the ranks. So 32 bits
take at most 14 even passes, and those that foretold in vain.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.counting import Totals, array_module

# Four pivots keep a pass at the speed of memory, and the compiled loops short.
PIVOTS = 4
# The pivots lie so many standard deviations from the foretold place, were the ranks
# spread evenly over the bracket, and further by so many times the doubt of it.
_SPREAD = np.array([-2.25, -0.75, 0.75, 2.25], np.float32)
_DOUBT = np.array([-8, -1.5, 1.5, 8], np.float32)
# The doubt, a part of the ranks, is as large as the part of all that the bracket holds
# still, since over so much the density slopes, and no larger than this.
_MOST_DOUBT = np.float32(0.01)
# Pivots are foretold after a pass that left at most this part of the ranks: 1 / 3.
_SMOOTH = 3


class Bracket(NamedTuple):
    """Where the k-th highest rank of each group lies.

    Attributes:
        low: [group], at most the k-th highest.
        high: [group], at least the k-th highest.
        reaching_low: [block], how many of its ranks are `low` or higher.
        above_high: [block], how many of its ranks are higher than `high`.
    """

    low: Any
    high: Any
    reaching_low: Any
    above_high: Any


def narrow(
    count_reaching: Callable[[jax.Array, jax.Array], jax.Array],
    keep: Totals,
    block_groups: Any,
    bracket: Bracket,
    counted: tuple[np.ndarray, np.ndarray] | None = None,
) -> Bracket:
    """Narrows brackets to one rank each, or to where exactly `keep` reach the low.

    Of NumPy's arrays it loops in Python, else in the program that is being traced.

    Args:
        count_reaching: how many of each block reach each of the ascending pivots of
            its group, [group, 4], and of which blocks that is asked, bool [block]: to
            [block, 4]. What it returns of the others does not matter.
        keep: [group], which highest is sought.
        block_groups: [block], the group of each block; NumPy's, or traced.
        bracket: what is known.
        counted: the pivots, [group, 4], and the counts, [block, 4], of a pass that was
            made already; of NumPy.
    """
    xp = array_module(bracket.low)
    group_count = len(bracket.low)
    kind = bracket.low.dtype
    unsigned = np.dtype(f"uint{8 * kind.itemsize}")

    def sum_groups(counts: jax.Array) -> Totals:
        return Totals.over(counts, block_groups, group_count)

    def is_unsettled(bracket: Bracket) -> jax.Array:
        reaching = sum_groups(bracket.reaching_low)
        return (bracket.low < bracket.high) & ~reaching.equal(keep)

    def count_inside(bracket: Bracket) -> jax.Array:
        reaching = sum_groups(bracket.reaching_low)
        return reaching.minus(sum_groups(bracket.above_high)).approximately()

    def step(
        state: tuple[Bracket, jax.Array], counted: Any = None
    ) -> tuple[Bracket, jax.Array]:
        bracket, smooth = state
        # The numbers are unsigned, since the distance of two int32 may need all 32
        # bits. Sums wrap around alike in both kinds, so that the edges, which are
        # signed again, are right.
        low = bracket.low.astype(unsigned)[:, None]
        high = bracket.high.astype(unsigned)[:, None]
        width = high - low
        even = _even_offsets(width)
        excess = sum_groups(bracket.reaching_low).minus(keep).approximately()
        inside = count_inside(bracket)
        foretold = _foretold_offsets(width, excess, inside, inside / all_inside)
        pivots = low + xp.where(smooth[:, None], foretold, even)
        if counted is not None:
            pivots = counted[0].astype(unsigned)
        # Gap i reaches from edge i to one below edge i + 1. What reaches the outer
        # edges was counted before.
        edges = xp.concatenate([low, pivots, high + np.array(1, unsigned)], 1)
        edges = edges.astype(kind)
        more = is_unsettled(bracket)
        # A block none of whose ranks lie in the bracket need not be counted.
        asked = more[block_groups] & (bracket.reaching_low > bracket.above_high)
        if counted is None:
            counts = count_reaching(edges[:, 1:-1], asked)
        else:
            counts = counted[1]
        counts = xp.where(asked[:, None], counts, bracket.above_high[:, None])
        # The higher the pivot, the fewer reach it: as many pivots as `keep` reach, so
        # many edges lie below the gap that holds the keep-th highest.
        is_reached = sum_groups(counts).reach(keep.at((slice(None), None)))
        gap = is_reached.sum(1, dtype=np.int32)[:, None]
        counts = xp.concatenate(
            [bracket.reaching_low[:, None], counts, bracket.above_high[:, None]], 1
        )
        narrower = Bracket(
            xp.take_along_axis(edges, gap, 1)[:, 0],
            xp.take_along_axis(edges, gap + 1, 1)[:, 0] - 1,
            xp.take_along_axis(counts, gap[block_groups], 1)[:, 0],
            xp.take_along_axis(counts, gap[block_groups] + 1, 1)[:, 0],
        )
        # A settled group stays as it is while the others go on.
        moves = Bracket(more, more, more[block_groups], more[block_groups])
        narrower = Bracket(*map(xp.where, moves, narrower, bracket))
        return narrower, count_inside(narrower) * _SMOOTH <= count_inside(bracket)

    all_inside = xp.maximum(count_inside(bracket), 1.0)

    def goes_on(state: tuple[Bracket, jax.Array]) -> jax.Array:
        return is_unsettled(state[0]).any()

    state = bracket, xp.zeros(group_count, bool)
    if counted is not None:
        state = step(state, counted)
    if xp is jnp:
        return lax.while_loop(goes_on, step, state)[0]
    while goes_on(state):
        state = step(state)
    return state[0]


def _even_offsets(width: jax.Array) -> jax.Array:
    """Returns how far above low the fifths lie: ⌈width · i / 5⌉ for i = 1, …, 4.

    They run from 1 to width, so that every pass narrows. Quotient and remainder are
    multiplied apart: width · 4 itself may need more bits than there are.
    """
    unsigned = width.dtype
    steps = np.arange(1, PIVOTS + 1, dtype=unsigned)[None]
    parts, last = np.array(PIVOTS + 1, unsigned), np.array(PIVOTS, unsigned)
    return width // parts * steps + (width % parts * steps + last) // parts


def _foretold_offsets(
    width: jax.Array, excess: jax.Array, inside: jax.Array, part: jax.Array
) -> jax.Array:
    """Returns how far above low the k-th highest is to be expected, and about it.

    Of n ranks in the bracket `excess` lie below the one that is sought. Were the n
    uniform over the width, it would lie at the part p = (excess + ½) / n of it, with
    the standard deviation √(n p (1 − p)) / n of an order statistic. One is added
    under the root, lest the pivots fall together where p is 0 or 1.

    Args:
        width: [group, 1], unsigned, high − low.
        excess: [group], how many more than keep reach low.
        inside: [group], n.
        part: [group], how many of the group's ranks that is, as a part of all.

    Returns:
        [group, 4], ascending, from 1 to width.
    """
    xp, unsigned = array_module(width), width.dtype
    most = xp.maximum(inside, 1.0)
    place = (excess + 0.5) / most
    deviation = xp.sqrt(xp.maximum(most * place * (1 - place), 0) + 1) / most
    doubt = xp.minimum(part, _MOST_DOUBT)
    places = place[:, None] + _SPREAD * deviation[:, None] + _DOUBT * doubt[:, None]
    # The places stay below 1, lest the product be rounded beyond what the integer
    # holds.
    places = xp.clip(places, 0, 1 - 2.0**-20)
    offsets = (width.astype(np.float32) * places).astype(unsigned)
    return xp.clip(offsets, np.array(1, unsigned), width)
