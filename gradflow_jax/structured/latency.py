"""What a forward pass takes, as a budget for `choose_units`."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from gradflow_jax.programs.variables import variables_in
from gradflow_jax.structured.cutting import cut
from gradflow_jax.structured.shrinking import Shrunk
from gradflow_jax.structured.units import Keep, Units, check_units
from gradflow_jax.trees import ArrayTree
from gradflow_jax.trees.checks import check_numbers
from gradflow_jax.trees.numbers import checked_count


def forward_time(
    variables: ArrayTree, units: Units, *inputs: Any, calls: int = 20
) -> Callable[[Keep], float]:
    """Returns a function that measures how long a cut model's forward pass takes.

    For `gf.choose_units(..., budget=time)` with `time = gf.structured.forward_time(
    variables, units, x)`: the sparsity is then the fraction of the time to save, on
    this machine and for this batch. Each choice of widths is compiled once; a choice
    tries some ten of them.

    Args:
        variables: the full model's.
        units: of the model.
        *inputs: a batch.
        calls: how many calls the median is of.

    Returns:
        A function from a keep set to seconds.

    Raises:
        TypeError: if units are not what `gf.find_units` returned, if a leaf of the
            variables or the inputs is no array of numbers, or calls are no number.
        ValueError: if calls are below 1.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.ones((8, 64)), "out": jnp.ones((64, 8))}
        >>> x = jnp.ones((4, 8))
        >>> units = gf.find_units(apply, params, x)
        >>> seconds = gf.structured.forward_time(params, units, x)
        >>> seconds({"in[1]": np.arange(64) < 8}) > 0
        True
    """
    check_units(units)
    variables = variables_in(variables, what="variables")
    check_numbers(variables, "variables", or_shapes=False)
    check_numbers(inputs, "inputs", or_shapes=False)
    calls = checked_count(calls, "calls")
    known: dict[tuple[int, ...], float] = {}

    def seconds(keep: Keep) -> float:
        widths = tuple(units.widths(keep).values())
        if widths not in known:
            small = cut(variables, units, keep)
            run = jax.jit(Shrunk(units, keep))
            jax.block_until_ready(run(small, *inputs))
            times = []
            for _ in range(calls):
                start = time.perf_counter()
                jax.block_until_ready(run(small, *inputs))
                times.append(time.perf_counter() - start)
            known[widths] = statistics.median(times)
        return known[widths]

    return seconds
