"""Records of runs in which one value is another: every kind that JSON has."""

import copy
import json
import math

from gradflow_jax.experiments.reproduction.record import to_json
from tests.experiments.report.made_runs import made_run

ODD_VALUES = (
    None, True, False, 0, -1, 2, 10**30, 10**5000, -0.5, 1e308, math.nan, math.inf, "",
    "x", "$\\frac$", "../../x", "a\nb\x1b[31m", "é" * 300, [], {}, [[]], {"a": {}},
    [None], ["x", 1], {"": 1}, [[[[1]]]],
)  # fmt: skip


def content(**options):
    """Returns what JSON makes of a small record of a run."""
    options = {"correlated": ("magnitude", "grasp"), **options}
    record = made_run(schedule=((5, 0.1), (1, 0.01)), **options)
    return json.loads(to_json(record))


def places(value, at=()):
    """Yields the place of each value in nested lists and dicts, the first of a list."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*at, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))


def changed(whole, place, value):
    """Returns a copy with another value in a place; without it if that is `...`."""
    copied = copy.deepcopy(whole)
    *parents, last = place
    holder = copied
    for key in parents:
        holder = holder[key]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return copied
