"""What every reader of a model's program needs: a jaxpr, its calls, its words.

    rules       the tables of what is known of each primitive, empty until rooms fill
                them, and `register_rule` for primitives of one's own
    calls       the programs that an equation calls
    equations   an equation in words, with the line of the user's code
    constants   evaluates what is made of numbers alone, within bounds
    comparing   whether two programs compute the same
    uses        at which equation each leaf meets the model's inputs first
    forward_mode  derivatives by forward mode, where every function has a rule for it
    models      functions, linen and NNX modules as pure functions of variables
    variables   the variables that a function is given, or a module that holds them
    parameters  an NNX module's parameters, apart from what else it holds

Imports `trees` alone; `scores`, `structured` and `connectivity` import it. To teach the package
a primitive, add it to the rows of `structured/coupling`, `structured/proof`,
`structured/running` and `connectivity/rules`: `tests/programs/rules_test.py` prints
which tables lack it. To take models of another framework, open `models`.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.programs.rules import register_rule as register_rule

__all__ = _exported_names(globals())
