"""Models that run at the widths a cut leaves."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.programs import comparing
from gradflow_jax.programs.models import ModelLike, kind_of, unwrap_apply
from gradflow_jax.structured.coupling.tracing import Traced
from gradflow_jax.structured.cutting import cut
from gradflow_jax.structured.grouping import families_of
from gradflow_jax.structured.plans import group_numbers
from gradflow_jax.structured.running import linen_widths, nnx_widths
from gradflow_jax.structured.units import (
    Keep,
    Units,
    check_units,
    plan_cut,
    program_of,
    refuse_training_mode,
)
from gradflow_jax.trees import ArrayTree


class Shrunk:
    """A function or a linen module at cut widths: `shrunk(variables, *inputs)`.

    The recorded program is compiled, once for each shape of the inputs. The model's own
    code runs as the model's does: op by op, unless it is called under `jax.jit`, since
    only its owner knows which of its keyword arguments are numbers and which are
    choices.

    Attributes:
        native: whether the model's own code runs. Otherwise the recorded program does,
            with the numbers that its code had computed from the full widths; it is
            traced anew for inputs of other shapes.
        why: why its own code does not run.
        dropped: functions with derivatives of their own (`jax.custom_vjp`) that are
            differentiated as what they compute where the recorded program runs.
    """

    def __init__(self, units: Units, keep: Keep):
        self.units, self.keep = units, dict(units.check_keep(keep))
        self._cuts: dict[Any, Callable[..., Any]] = {}
        self._run = _runner_at_cut_widths(units, keep)
        # It is traced once, for the comparison and for `outputs`.
        self._own = jax.jit(self._run)
        self.why = self._unlike()
        self.native = self.why is None
        self.dropped = (
            frozenset() if self.native else program_of(units).coupling.dropped
        )

    def __call__(self, variables: ArrayTree, *inputs: Any, **options: Any) -> Any:
        """Runs the model on cut variables; takes and gives what the model does."""
        run = self._run if self.native else self.program
        return run(variables, *inputs, **options)

    def anew(self) -> Callable[..., Any]:
        """Returns the same model, whose recorded program is traced when it is called.

        What was traced before holds numbers of the layers' attributes, as they were.
        """
        if self.native:
            return self._run
        return lambda *args, **options: Shrunk(self.units, self.keep)(*args, **options)

    def program(self, variables: ArrayTree, *inputs: Any, **options: Any) -> Any:
        """Runs the recorded program at the cut widths, compiled.

        Options are part of the program, so they are hashable.
        """
        leaves = jax.tree.leaves(inputs)
        key = (
            jax.tree.structure(inputs),
            tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves),
            tuple(sorted((name, str(value)) for name, value in options.items())),
        )
        if key not in self._cuts:
            self._cuts[key] = jax.jit(self._trace(inputs, options))
        return self._cuts[key](variables, *inputs)

    def outputs(
        self, small: ArrayTree, full: ArrayTree, *inputs: Any
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns the arrays that it computes, and the full model's at cut widths.

        Args:
            small: variables, cut.
            full: what the masked full model returned.
            *inputs: a batch.
        """
        plan, program = plan_cut(self.units, self.keep), program_of(self.units)
        run = self._own if self.native else self.program
        wide = zip(jax.tree.leaves(full), program.frame.jaxpr.outvars, strict=True)
        return (
            jax.tree.leaves(run(small, *inputs)),
            [plan.take(leaf, program.frame.dims_of(atom)) for leaf, atom in wide],
        )

    def _trace(self, inputs: Any, options: Mapping[str, Any]) -> Callable[..., Any]:
        units = self.units
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)),
            inputs,
        )
        if not options and jax.tree.leaves(shapes) == jax.tree.leaves(units.inputs):
            plan, traced = plan_cut(units, self.keep), program_of(units)
        else:
            model = units.model
            apply = functools.partial(model.apply, **options)
            traced = Traced(apply, model.variables, shapes)
            families, _ = families_of(traced, model.is_parameter, "fold")
            again = Units(tuple(families), (), traced.leaves, shapes, model, traced)
            plan = plan_cut(again, self.keep)

        def run(variables: ArrayTree, *inputs: Any) -> Any:
            leaves = [*jax.tree.leaves(variables), *jax.tree.leaves(inputs)]
            return jax.tree.unflatten(traced.out_tree, plan.run(traced.frame, leaves))

        return run

    def _unlike(self) -> str | None:
        """Returns why the model's own code is not the cut program, or None."""
        small = cut(_shapes(self.units), self.units, self.keep)
        expected = comparing.trace(self.program, small, *self.units.inputs)
        try:
            traced = comparing.trace(self._own, small, *self.units.inputs)
        except Exception as error:  # A model may raise anything at other widths.
            line = str(error).strip().splitlines()[:1]
            return f"its code fails at these widths: {type(error).__name__}: {line}"
        return comparing.difference(expected, traced)


def _shapes(units: Units) -> Any:
    structure = jax.tree.structure(units.model.variables)
    return structure.unflatten(units.leaves.values())


def _runner_at_cut_widths(units: Units, keep: Keep) -> Callable[..., Any]:
    """Returns what runs a model's own code on cut variables."""
    model = units.model
    if model.kind in ("function", "equinox"):
        return model.apply
    if model.kind == "linen":
        return linen_widths.at_widths(
            model.source,
            groups=group_numbers(plan_cut(units, keep), program_of(units)),
            full=_shapes(units),
            **model.options,
        )
    return nnx_widths.at_widths(
        model.source,
        groups=group_numbers(plan_cut(units, keep), program_of(units)),
        full=model.variables,
        **model.options,
    )


def shrink(model: ModelLike, units: Units, keep: Keep) -> Any:
    """Returns a model that runs at the widths that a cut leaves.

    The model's own code is used where, traced at the new widths, it is the very
    program that the cut predicts, compared equation by equation and number by number.
    A Flax module's attributes (`features`, `num_heads`, …) are set from the cut arrays.

    Args:
        model: what `gf.find_units` was given.
        units: of the model.
        keep: bool [units] for families that are cut, by name, True keeps.

    Returns:
        For an NNX module a new one, with its variables cut and its attributes changed.
        For a function or a linen module a function `shrunk(variables, *inputs)` that
        takes variables cut by `gf.cut`, and the model's keyword arguments, such as
        `train=True`; `shrunk.native` says whether the model's own code runs, and
        `shrunk.why` why not: then the recorded program runs.

    Raises:
        TypeError: if the model is not what the units are of, or units are not what
            `gf.find_units` returned.
        ValueError: if an NNX module's code is not the cut program, as where its units
            were found in training mode.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 1))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 3)))
        >>> keep = {"in[1]": np.array([True, False, True])}
        >>> small = gf.shrink(apply, units, keep)
        >>> small(gf.cut(params, units, keep), jnp.array([[1.0, 2.0, 4.0]])).tolist()
        [[5.0]]
    """
    check_units(units)
    module = unwrap_apply(model)
    if kind_of(module) != units.model.kind:
        raise TypeError(
            f"the units are of a {units.model.kind} model, but shrink was given "
            f"{type(model).__name__}; pass what gf.find_units was given."
        )
    shrunk = Shrunk(units, keep)
    if units.model.kind != "nnx":
        if shrunk.dropped:
            warnings.warn(
                f"the recorded program runs, since {shrunk.why}; in it the derivatives "
                f"of {', '.join(sorted(shrunk.dropped))} are not their own rules but "
                "those of what they compute.",
                stacklevel=2,
            )
        return shrunk
    if not shrunk.native:
        refuse_training_mode(units)
        raise ValueError(
            f"{type(model).__name__} computes something else at these widths: "
            f"{shrunk.why}. Leave the families that cause it whole, or cut it as a "
            "function: graphdef, state = nnx.split(model), apply = lambda state, *x: "
            "nnx.merge(graphdef, state)(*x), find_units(apply, state, *inputs)."
        )
    return cut(module, units, keep)
