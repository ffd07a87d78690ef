"""Whether removing units is masking them: constants pushed through a program.

    walk             follows a family through the equations that it touches
    equation         an equation as rules see it
    contractions     what sums make of removed slices: where a proof can fail
    rules            what each other primitive makes of them
    removed_values   what is known of a removed slice
    folds            where a constant that would be left fits into a bias

`rules`, `contractions` and `walk` fill `programs.rules.VALUE_RULES`. `structured`
imports this room. To add a rule, write a function of a `ProofEquation` in `rules` and a
row at the file's end.
"""

# Importing these fills the table of values.
from gradflow_jax.structured.proof import contractions as contractions
from gradflow_jax.structured.proof import rules as rules
from gradflow_jax.structured.proof import walk as walk
