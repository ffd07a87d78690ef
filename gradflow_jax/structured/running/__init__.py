"""Models at the widths that a cut leaves.

    cut_program        runs the recorded program
    rebinding          how primitives whose parameters hold shapes are bound anew
    linen_widths       linen modules, whose fields follow the cut variables
    nnx_widths         NNX modules, whose attributes do
    group_counts       into how many groups the channels that are left are divided
    recalibration      running statistics of batch norms, measured anew on data
    fold_into_biases   adds what removed units would leave to the biases behind them

`rebinding` fills `programs.rules.REBINDING_RULES`. `structured` imports this room. To
support a layer of Flax, add what follows from its variables to `linen_widths` or to the
table at the end of `nnx_widths`.
"""

# Importing it fills the table of rebinding.
from gradflow_jax.structured.running import rebinding as rebinding
