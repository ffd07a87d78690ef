"""The search for the k-th highest of many ranks, by counts alone.

A pass counts how many reach each of three pivots. Where the ranks lie smoothly, pivots
beside the place that the counts foretell leave some √n of the n in the bracket; else
three even ones leave a quarter of its width, so that 32 bits take at most 16 passes
and those that foretold in vain.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.masks.selection.counting import Totals

# Three keep a pass at the speed of memory, and the compiled loops short.
PIVOTS = 3
# How far from the foretold place the outer pivots lie, in standard deviations.
_SPREAD = np.array([-2.0, 0.0, 2.0], np.float32)
# Pivots are foretold after a pass that left at most this part of the ranks.
_SMOOTH = 3


class Bracket(NamedTuple):
    """Where the k-th highest rank of each group lies.

    Attributes:
        low: [group], at most the k-th highest.
        high: [group], at least the k-th highest.
        at_low: [block], how many of it are `low` or higher.
        above: [block], how many are higher than `high`.
    """

    low: jax.Array
    high: jax.Array
    at_low: jax.Array
    above: jax.Array


def narrowed(
    count: Callable[[jax.Array], jax.Array],
    keep: Totals,
    group: np.ndarray,
    bracket: Bracket,
) -> Bracket:
    """Narrows brackets to one rank each, or to where exactly `keep` reach the low.

    Args:
        count: how many of each block reach each pivot: [group, 3] to [block, 3].
        keep: [group], which highest is sought.
        group: the group of each block.
        bracket: what is known.
    """
    groups = len(bracket.low)
    kind = bracket.low.dtype
    unsigned = np.dtype(f"uint{8 * kind.itemsize}")

    def total(counts: jax.Array) -> Totals:
        return Totals.over(counts, group, groups)

    def unsettled(bracket: Bracket) -> jax.Array:
        reached = total(bracket.at_low)
        return (bracket.low < bracket.high) & ~reached.equal(keep)

    def inside(bracket: Bracket) -> jax.Array:
        return total(bracket.at_low).minus(total(bracket.above)).approximately()

    def offsets(bracket: Bracket, width: jax.Array, smooth: jax.Array) -> jax.Array:
        """Returns how far above low the pivots lie, ascending, from 1 to width."""
        steps = np.arange(1, PIVOTS + 1, dtype=unsigned)
        parts = np.array(PIVOTS + 1, unsigned)
        even = width // parts * steps + (width % parts * steps + steps[-1]) // parts
        excess = total(bracket.at_low).minus(keep).approximately()
        most = jnp.maximum(inside(bracket), 1.0)
        place = (excess + 0.5) / most
        deviation = jnp.sqrt(jnp.maximum(most * place * (1 - place), 0) + 1) / most
        places = place[:, None] + _SPREAD * deviation[:, None]
        # Below 1, lest the product be rounded beyond what the integer holds.
        places = jnp.clip(places, 0, 1 - 2.0**-20)
        foretold = (width.astype(jnp.float32) * places).astype(unsigned)
        foretold = jnp.clip(foretold, steps[0], width)
        return jnp.where(smooth[:, None], foretold, even)

    def step(state: tuple[Bracket, jax.Array]) -> tuple[Bracket, jax.Array]:
        bracket, smooth = state
        # Unsigned, since the distance of two int32 may need all 32 bits.
        low = bracket.low.astype(unsigned)[:, None]
        high = bracket.high.astype(unsigned)[:, None]
        pivots = low + offsets(bracket, high - low, smooth)
        edges = jnp.concatenate([low, pivots, high + np.array(1, unsigned)], 1)
        edges = edges.astype(kind)
        counts = count(edges[:, 1:-1])
        reached = total(counts).reach(keep.at((slice(None), None)))
        at = jnp.sum(reached, 1, dtype=jnp.int32)[:, None]
        padded = jnp.concatenate(
            [bracket.at_low[:, None], counts, bracket.above[:, None]], 1
        )
        narrower = Bracket(
            jnp.take_along_axis(edges, at, 1)[:, 0],
            jnp.take_along_axis(edges, at + 1, 1)[:, 0] - 1,
            jnp.take_along_axis(padded, at[group], 1)[:, 0],
            jnp.take_along_axis(padded, at[group] + 1, 1)[:, 0],
        )
        more = unsettled(bracket)
        which = Bracket(more, more, more[group], more[group])
        narrower = jax.tree.map(jnp.where, which, narrower, bracket)
        return narrower, inside(narrower) * _SMOOTH <= inside(bracket)

    start = bracket, jnp.zeros(groups, bool)
    return lax.while_loop(lambda s: jnp.any(unsettled(s[0])), step, start)[0]
