"""Which kept weights are on a path from a model's input to its output.

    effective   the masks of those that are
    report      effective sparsity by layer, collapsed layers, dead units
    arguments   parameters, masks and inputs, checked
    reader      reads a program with signals in place of numbers
    signals     what is known of a value: where it can be nonzero, where it is reached
    rules       where signals pass each primitive
    products    where they pass those that multiply
    indexing    where they pass those that read or write at indices

`rules` fills `programs.rules.SIGNAL_RULES`. Imports `trees`, `programs`, `masks` and
`structured`. To add a primitive, write a function of an equation and its operands'
signals in `rules` and a row at the file's end.

## Is what is kept connected?

At high sparsity many kept weights hang on units that lost all their inputs or outputs.
`effective_masks(model, params, masks, x)` drops what is on no path from the input to an
output, read from the jaxpr of a function or a module; `effective_report` says direct and
effective sparsity by layer, which layers collapsed, and which dead units still hand on a
constant that their bias makes.

Here the second hidden unit loses its only output, so its inputs are of no use:

>>> import jax.numpy as jnp
>>> import gradflow_jax as gf
>>> params = {"in": {"kernel": jnp.ones((3, 2))}, "out": {"kernel": jnp.ones((2, 1))}}
>>> def model(params, x):
...     return jnp.tanh(x @ params["in"]["kernel"]) @ params["out"]["kernel"]
>>> masks = {"in": {"kernel": jnp.ones((3, 2), bool)},
...          "out": {"kernel": jnp.array([[True], [False]])}}
>>> effective = gf.connectivity.effective_masks(model, params, masks, jnp.ones((1, 3)))
>>> effective["in"]["kernel"].tolist()
[[True, False], [True, False], [True, False]]
"""

from gradflow_jax.connectivity.effective import effective_masks as effective_masks
from gradflow_jax.connectivity.report import DeadUnits as DeadUnits
from gradflow_jax.connectivity.report import EffectiveReport as EffectiveReport
from gradflow_jax.connectivity.report import effective_report as effective_report
from gradflow_jax.exports import exported_names as _exported_names

__all__ = _exported_names(globals())
