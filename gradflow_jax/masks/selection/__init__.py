"""The k highest of many scores: exact on ties, without a sort, where they lie.

    exact_threshold   chooses the highest of groups of leaves
    searching         finds a threshold, and cuts what ties with it by index
    bracketing        narrows an interval of ranks by counting what reaches its pivots
    counting          counts in numbers that int32 could not hold
    ordering          scores as integers that order alike
    pieces            a pass over all leaves, in one program that is being traced
    joining           small leaves as one, in such a program
    driving           a pass over leaves at hand
    device_leaf       one of them, by the programs of its shape
    host_leaves       small ones, by NumPy on the host
    parts             what these two have in common
    gaps              what a search on the host has not ruled out yet
    placement         how leaves are sharded, and which piece each device sees

`masks` imports it, and so does what moves leaves between devices. To change the order
in which scores are kept, open `ordering`.

## What is computed

Leaves are dealt into groups: all into one for `global_masks`, one into each for
`layerwise_masks`. Of group g the `keep[g]` highest scores are chosen; among equal
scores the earlier leaf, then the lower index. A sort would write an index beside every
score and gather sharded leaves on one device. Here a pass reads each leaf where it
lies, compares every score with four pivots, and four counts are all that leaves it.

Scores are compared as integers of the same order, their ranks (`ordering`).

Inside of a caller's `jax.jit` all passes over all leaves are one program (`pieces`). It
has two loops over each leaf, since loops are what takes long to compile: one counts, and
one writes the mask. The first bracket holds all integers, so that nothing has to be read
before; and the loop that counts ranks counts indices later, for what ties. Leaves of one
shape share the compiled loops, since none holds a number of its own as a constant.

Outside of it one program would have loops for each leaf, and to compile them takes far
longer than to run them: 7 s for the 210 kernels of a small language model, whose masks
take 0.13 s. There the passes are driven from outside (`driving`): a leaf is counted by
the program of its shape, small leaves by NumPy on the host. What a search has not ruled
out, of small leaves and of large ones in the host's memory, is soon so little that the
host compares it alone (`gaps`). The search is the same code, in NumPy's arrays or in
traced ones, and so are the masks.

## The invariant

A `Bracket` says where the keep-th highest rank of a group lies, between `low` and
`high`, and how many ranks of each block are at least `low` and above `high`. Summed
over the blocks of the group,

    above_high ≤ keep ≤ reaching_low.

A pass counts how many ranks reach each of four ascending pivots in (low, high]. Fewer
reach a higher pivot; so the last one that `keep` or more reach is the next `low`, and
the next `high` is one below the pivot after it. Both counts of the new bracket are
known then, and the inequality holds again. The search of a group ends when

    reaching_low = keep   and all from low on are chosen: no tie is to be cut; or
    low = high            and all that is left in the bracket ties.

Only where fewer than `keep` ranks may be chosen at all (`among`) does keep exceed
`reaching_low`: then `low` stays the lowest rank, and all of them are chosen. Where
fewer are finite, `low` is the rank of −inf, which is not chosen all the same.

## Eight scores by hand

Two leaves of one group, of which two scores are kept; ranks are the scores themselves:

    a = [3 9 5]   b = [9 1 9 7 2]   keep = 2

    bracket  reaching_low  above_high   pivots    how many reach them, of a + of b
    [1, 9]       3 + 5        0 + 0     3 5 6 8   3+3  2+3  1+3  1+2: all four ≥ 2
    [8, 9]       1 + 2        0 + 0     9 9 9 9   1+2, all four ≥ 2
    [9, 9]       1 + 2        0 + 0     the threshold is 9, and three scores tie there

The earlier leaf comes first: of its share of the two, a gives its one 9 and b one of
its two. Which one is found by the same search, now in each block by itself and among
indices counted backwards, so that the lower index is the higher number:

    a = [3 9 5]        at -1 -2 -3           its share is all that ties: no search
    b = [9 1 9 7 2]    at -1 -2 -3 -4 -5     its 9s stand at -1 and -3

    bracket   reaching_low  above_high   pivots        how many 9s of b reach them
    [-5, -1]       2            0        -4 -3 -2 -1   2 2 1 1: all four ≥ 1
    [-1, -1]       1            0        one is the share of b: the cut is -1

Kept is what is above the bracket of ranks, and what lies in it at the cut or before:

>>> import jax.numpy as jnp
>>> from gradflow_jax.masks.selection.exact_threshold import Outcome, highest
>>> scores = [jnp.array([3.0, 9, 5]), jnp.array([9.0, 1, 9, 7, 2])]
>>> (a, b), outcome = highest(scores, keep=[2], groups=[0, 0])
>>> a.tolist(), b.tolist()
([False, True, False], [True, False, False, False, False])

Two of three that tie are kept: this is what a warning and a report say.

>>> Outcome.read(outcome)
Outcome(rankable=True, tied=[3], needed=[2])

## Why the barriers stand

In one program ranks and indices are cheap to compute and dear to store: without a
barrier XLA sees that each pass computes the same ones and writes them to memory before
the loop, 8 bytes a weight (measured on the CPU, where the search then takes 1.6 times
as long). With `optimization_barrier` around the operands of each pass it stores none.

- The pivots stand inside of it too. A barrier whose operands are the same in every
  pass is itself moved out of the loop, and the ranks behind it with it.
- So does a zero that is added to the indices: an index made of constants alone would
  be stored, 4 bytes a weight, although the scores stand behind the barrier.

## Counts beyond int32

JAX has no int64 unless it is enabled for the whole program. A leaf of more than
2³¹ − 1 weights is counted as several blocks of rows, each by an int32, and sums over
blocks are `Totals`: a pair of int32, high · 2¹⁶ + low with 0 ≤ low < 2¹⁶. Summing the halves
of at most 2¹⁵ counts below 2³¹ gives at most 2³¹ − 2¹⁵ for the low ones; then its
upper bits are carried over to the high one.
"""
