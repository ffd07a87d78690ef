"""The k highest of many scores: exact on ties, without a sort, where they lie.

    exact_threshold   finds the threshold, and cuts what ties with it by index
    bracketing        narrows an interval of ranks by counting what reaches its pivots
    counting          counts in numbers that int32 could not hold
    ordering          scores as integers that order alike
    placement         the pieces of sharded leaves, counted where they lie

`masks` imports it, and so does what moves leaves between devices. To change the order
in which scores are kept, open `ordering`.
"""
