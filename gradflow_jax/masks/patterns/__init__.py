"""Masks of a regular pattern, as hardware wants them.

    n_of_m          N of every M weights along what is summed over
    neighbors       the same of one leaf, where it lies

Imported by `masks` alone. A pattern takes scores, `previous`, `floor`, `prunable` and
`ignore`, as every selection, and says where equal scores decided.
"""
