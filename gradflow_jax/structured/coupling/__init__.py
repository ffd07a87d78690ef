"""Which axes of a program go together: symbolic axes, united by rules of primitives.

    axes           an axis: free, pinned, or made of others by sums and products
    unification    splits, factors and unites axes
    reshaping      which dimensions of a reshape merge and split into which
    frames         a program where it is called, and what it makes of numbers alone
    program        equations with the axes of their values; applies the rules
    pointwise      the rule of primitives that compute index by index
    shapes         rules of primitives that move indices
    whole_axes     rules of primitives that need an axis whole: sorts, windows, keys
    contractions   rules of products, convolutions, reductions and gathers
    calls          rules of primitives that call other programs
    normalizations which leaves scale and shift a normalized value
    tracing        a model as such a program, its inputs and outputs pinned

The files of rules fill `programs.rules.COUPLING_RULES`. `structured` imports this room.
To add a rule, put a function of an `Equation` in the file of its kind and a row at that
file's end.
"""

# Importing these fills the table of coupling.
from gradflow_jax.structured.coupling import calls as calls
from gradflow_jax.structured.coupling import contractions as contractions
from gradflow_jax.structured.coupling import pointwise as pointwise
from gradflow_jax.structured.coupling import shapes as shapes
from gradflow_jax.structured.coupling import whole_axes as whole_axes
