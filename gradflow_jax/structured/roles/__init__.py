"""What each axis of each leaf is: summed over, an output, a window, a head, a layer.

    pieces     the factors of a dimension, and which axes of leaves they come from
    uses       what a program does to the axes of leaves, and the words for it
    products   rules of products, convolutions and lookups, which read leaves
    moves      rules of primitives that move or join indices
    reader     walks through a program
    of_model   `axis_roles`: the words as a tree like the model's variables

Imports the tracing of `coupling`. `coupling` unites axes that are cut together, as the
inputs and outputs of a residual block are; here they stay apart. To add the rule of a
primitive, put a function of (equation, operands, uses) in the file of its kind and a
row at that file's end.
"""

from gradflow_jax.exports import exported_names as _exported_names
from gradflow_jax.structured.roles.of_model import axis_roles as axis_roles

__all__ = _exported_names(globals())
