"""Reports a mask's effective sparsity: layers, collapsed layers, dead units."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gradflow_jax.connectivity.arguments import check_arguments, parameters_in
from gradflow_jax.connectivity.effective import path_finder, replace_prunable
from gradflow_jax.masks.reports import Report, report
from gradflow_jax.masks.tables import (
    html_table,
    percent_removed,
    shape_cell,
    text_table,
)
from gradflow_jax.programs.models import ModelLike
from gradflow_jax.structured.alignment import align
from gradflow_jax.structured.families import Family
from gradflow_jax.structured.units import Units, check_units
from gradflow_jax.trees import (
    Masks,
    Params,
    Patterns,
    Prunable,
    default_prunable,
    fetch,
)

_HEADER = ("leaf", "shape", "kept", "effective", "of", "sparsity", "effective sparsity")


class DeadUnits(NamedTuple):
    """The units of one family that no path passes through.

    Attributes:
        family: its name, as in `units[family]`.
        size: how many units it has.
        silent: the numbers of those whose removal changes nothing.
        leaking: the numbers of those that hold a constant other than zero, made by a
            bias or a batch norm's shift, which a kept weight carries on towards the
            output: remove them and fold the constant into the next bias, or lose it.
    """

    family: str
    size: int
    silent: tuple[int, ...]
    leaking: tuple[int, ...]


@dataclass(frozen=True)
class EffectiveReport:
    """What masks keep, and what of it does anything: prints as a table.

    Attributes:
        direct: the report of the masks.
        effective: that of the effective masks.
        units: the dead units of each family, where units were given.
        guessed: the primitives of the model's program that have no rule. Every number
            that they make counts as depending on every number they take, so that too
            many weights may count as effective.
    """

    direct: Report
    effective: Report
    units: tuple[DeadUnits, ...] = ()
    guessed: tuple[str, ...] = ()

    @property
    def collapsed(self) -> tuple[str, ...]:
        """The paths of the prunable leaves of which no weight does anything."""
        return tuple(
            layer.path
            for layer in self.effective.layers
            if layer.prunable and layer.size and not layer.kept
        )

    def __str__(self) -> str:
        return "\n".join([text_table(_HEADER, *self._cells()), *self._remarks()])

    def _repr_html_(self) -> str:
        remarks = (f"<p>{line}</p>" for line in self._remarks())
        return "".join([html_table(_HEADER, *self._cells()), *remarks])

    def _cells(self) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        def row(name: str, shape: str, kept: int, on_path: int, size: int) -> Any:
            percents = (percent_removed(kept, size), percent_removed(on_path, size))
            return name, shape, f"{kept:,}", f"{on_path:,}", f"{size:,}", *percents

        rows = []
        for layer, effective_layer in zip(
            self.direct.layers, self.effective.layers, strict=True
        ):
            cells = row(
                layer.path or "(the array)",
                shape_cell(layer.shape),
                layer.kept,
                effective_layer.kept,
                layer.size,
            )
            rows.append(
                cells if layer.prunable else (*cells[:5], "not pruned", "not pruned")
            )
        direct, effective = self.direct, self.effective
        totals = [
            row("prunable weights", "", direct.kept, effective.kept, direct.size),
            row(
                "all weights",
                "",
                direct.total_kept,
                effective.total_kept,
                direct.total_size,
            ),
        ]
        return rows, totals

    def _remarks(self) -> Iterable[str]:
        if self.collapsed:
            yield f"collapsed: {', '.join(self.collapsed)}"
        for dead_of_family in self.units:
            leaking = len(dead_of_family.leaking)
            dead = len(dead_of_family.silent) + leaking
            if dead:
                yield (
                    f"{dead_of_family.family}: {dead} of {dead_of_family.size} units "
                    f"dead, {leaking} of them with a constant that goes on"
                )
        if self.guessed:
            yield f"without a rule: {', '.join(self.guessed)}"


def effective_report(
    model: ModelLike,
    params: Params,
    masks: Masks,
    *inputs: Any,
    units: Units | None = None,
    prunable: Prunable = default_prunable,
    ignore: Patterns = (),
    **options: Any,
) -> EffectiveReport:
    """Reports direct and effective sparsity, collapsed layers and dead units.

    A dead unit has lost all incoming or all outgoing weights, but its bias stays: one
    with only outgoing weights holds a constant, relu(bias), which it hands on. Whether
    that is zero is not guessed from the layers' names: the model is run, and what no
    input reaches is read off.

    Args:
        model: a pure function `apply(params, *inputs)`, or a linen, an NNX or an
            Equinox module, as `gf.connectivity.effective_masks` takes it.
        params: what the model is called with: of a linen module its variables, of an
            NNX module its `nnx.Param`s or all of its state, or the module itself.
        masks: the same tree of bool, True keeps.
        *inputs: a batch as the model is called with. Without units only the shapes
            matter.
        units: of the same model, from `gf.find_units`; None looks for no dead units.
        prunable: `prunable(path, leaf) -> bool`; other leaves stay as the masks say.
        ignore: a path or shell pattern, or several: leaves that stay so too.
        **options: keyword arguments of the call of the model, `train=False`.

    Returns:
        The report: `print` it, or read `.direct.sparsity`, `.effective.sparsity`,
        `.collapsed`, `.units` and `.guessed`. Masks alone say what is effective and
        what is dead; whether a constant goes on is also up to the numbers in params.

    Raises:
        TypeError: if a mask is not bool, a parameter or an input no array, or with
            units a shape alone, units are none, params are a model that holds none, or
            the model returns anything but arrays of numbers.
        ValueError: if params and masks are different trees, if no leaf is prunable, or
            if the units are another model's.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def apply(params, x):
        ...     return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]
        >>> params = {"in": jnp.ones((2, 3)), "bias": jnp.array([0.0, 1.0, -1.0]),
        ...           "out": jnp.ones((3, 1))}
        >>> masks = {"in": jnp.ones((2, 3), bool).at[:, 1:].set(False),
        ...          "bias": jnp.ones(3, bool), "out": jnp.ones((3, 1), bool)}
        >>> x = jnp.ones((1, 2))
        >>> units = gf.find_units(apply, params, x)
        >>> report = gf.connectivity.effective_report(
        ...     apply, params, masks, x, units=units
        ... )
        >>> print(report)
        leaf              shape  kept  effective  of    sparsity  effective sparsity
        ----------------------------------------------------------------------------
        bias                  3     3          3   3  not pruned          not pruned
        in                  2×3     2          2   6      66.67%              66.67%
        out                 3×1     3          1   3       0.00%              66.67%
        ----------------------------------------------------------------------------
        prunable weights            5          3   9      44.44%              66.67%
        all weights                 8          6  12      33.33%              50.00%
        in[1]: 2 of 3 units dead, 1 of them with a constant that goes on
        >>> report.units[0].silent, report.units[0].leaking
        ((2,), (1,))

    Reference:
        Vysogorets & Kempe, Connectivity Matters: Neural Network Pruning Through the
        Lens of Effective Sparsity, JMLR 2023.
    """
    check_units(units, optional=True)
    params = parameters_in(params)
    finder = path_finder(model, options)
    constants_matter = units is not None
    check_arguments(params, masks, inputs, or_shapes=not constants_matter)
    on_path = finder.on_paths(params, masks, inputs, constants=constants_matter)
    dead: tuple[DeadUnits, ...] = ()
    if units is not None:
        paths = align(params, units.model.variables, what="params")
        fetched = fetch(on_path, "masks")
        pairs = zip(fetched.signals, fetched.constants, strict=True)
        by_path = dict(zip(paths, pairs, strict=True))
        dead = tuple(_find_dead_units(family, by_path) for family in units)
    effective = replace_prunable(on_path.signals, params, masks, prunable, ignore)
    return EffectiveReport(
        report(masks, prunable=prunable, ignore=ignore),
        report(effective, prunable=prunable, ignore=ignore),
        dead,
        tuple(sorted(finder.reader.guessed)),
    )


def _find_dead_units(
    family: Family, by_path: Mapping[Any, tuple[Any, Any]]
) -> DeadUnits:
    """Finds the units without a weight on a path, and those whose constant goes on.

    A unit is alive if a signal passes any weight that makes it or that reads it. It
    leaks if it is dead and a weight that reads it carries a constant on.

    Args:
        family: the units, and the slices of leaves that belong to each.
        by_path: for each leaf, which of its weights signals pass and which constants.
    """
    alive, carries = np.zeros(family.size, bool), np.zeros(family.size, bool)
    for part in family.slices:
        # What goes with a unit index by index, as its bias does, neither makes the
        # unit nor reads it.
        if part.path not in by_path or part.kinds == {"elementwise"}:
            continue
        passed_by_signals, passed_by_constants = by_path[part.path]
        for marked, passed, kinds in (
            (alive, passed_by_signals, {"producing", "consuming"}),
            (carries, passed_by_constants, {"consuming"}),
        ):
            if not part.kinds & kinds:
                continue
            other_axes = tuple(i for i in range(np.ndim(passed)) if i != part.axis)
            index_is_passed = passed.any(other_axes)
            # Labels are the number of each index's unit, −1 of an index without one.
            for labels in part.units:
                marked[labels[index_is_passed & (labels >= 0)]] = True
    numbers = np.arange(family.size)
    return DeadUnits(
        family.name,
        family.size,
        tuple(numbers[~alive & ~carries].tolist()),
        tuple(numbers[~alive & carries].tolist()),
    )
