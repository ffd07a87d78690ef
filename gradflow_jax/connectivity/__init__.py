"""Which kept weights are on a path from a model's input to its output.

    effective   the masks of those that are
    report      effective sparsity by layer, collapsed layers, dead units
    reader      reads a program with signals in place of numbers
    signals     what is known of a value: where it can be nonzero, where it is reached
    rules       where signals pass each primitive
    products    where they pass those that multiply

`rules` fills `programs.rules.SIGNAL_RULES`. Imports `trees`, `programs`, `masks` and
`structured`. To add a primitive, write a function of an equation and its operands'
signals in `rules` and a row at the file's end.
"""

from gradflow_jax.connectivity.effective import effective_masks as effective_masks
from gradflow_jax.connectivity.report import DeadUnits as DeadUnits
from gradflow_jax.connectivity.report import EffectiveReport as EffectiveReport
from gradflow_jax.connectivity.report import effective_report as effective_report
