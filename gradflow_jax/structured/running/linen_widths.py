"""Linen modules run, as they are, on cut variables.

A linen module is a recipe: its widths stand in fields (`features`, `num_heads`, …) and
Flax refuses parameters of other shapes. Here each call of one of Flax's own layers is
intercepted, and for its duration the layer's fields are those that the shapes of its
stored parameters say. What Flax's layers infer from their input needs nothing.

How many groups a convolution has follows from its input. How many a group norm has does
not: 4 channels out of 8 in 4 groups may be two whole groups or one channel of each.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gradflow_jax.structured.running.group_counts import group_count

if TYPE_CHECKING:
    import flax.linen as nn

Shape = tuple[int, ...]
Fields = dict[str, Any]


def at_widths(
    module: "nn.Module",
    *,
    groups: Mapping[str, int] | None = None,
    full: Mapping[str, Any] | None = None,
    **apply_kwargs: Any,
) -> Callable[..., Any]:
    """Returns a linen module's `apply` for variables that have been cut.

    Flax's own layers and their subclasses run at the widths of their parameters,
    under `jax.jit` and `jax.grad`, lifted by `nn.scan`, `nn.vmap` or `nn.remat`. Other
    classes are run as they are: a width that their code reshapes to, or declares a
    parameter with, stays. So does the width of a recurrent cell's first carry where
    code other than `nn.RNN` makes it.

    Args:
        module: the full model, which is left as it is.
        groups: the number of groups that a grouped convolution or a group norm has
            from now on, by the path of the module, `"Block_0/GroupNorm_0"`.
        full: the variables before the cut, or their shapes. Needed where a group norm
            of more than one group is not in `groups`.
        **apply_kwargs: for each call, `mutable=["batch_stats"]`, `method="encode"`.

    Returns:
        A function `apply(variables, *inputs, **kwargs)` that takes and gives what
        `module.apply` does; its own keyword arguments go before `apply_kwargs`.

    Raises:
        ValueError: by the function, if a number of groups is open or does not fit,
            if a batch norm's statistics are not cut like its input, or if a recurrent
            cell's carry is not cut like its kernels.

    Example:
        >>> import flax.linen as nn
        >>> import jax.numpy as jnp
        >>> small = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
        >>> at_widths(nn.Dense(4))({"params": small}, jnp.ones((1, 3))).tolist()
        [[4.0, 4.0]]
    """

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if layer.scope is None:
            return run(*args, **kwargs)
        x = None
        if context.method_name == "__call__":
            # Flax's layers call their first argument by one of these names.
            first_argument_names = "inputs", "x", "carry"
            named = [kwargs[name] for name in first_argument_names if name in kwargs]
            inputs = [*args, *named]
            x = inputs[0] if inputs else None
        changed, fields = _recurrent(layer, x)
        if x is not None:
            fields |= _of_input(layer, x, groups or {}, full)
        with _set(changed, fields | _of_kernel(layer)):
            return run(*args, **kwargs)

    def apply(variables: Any, *inputs: Any, **kwargs: Any) -> Any:
        from flax import linen as nn

        with nn.intercept_methods(intercept):
            return module.apply(variables, *inputs, **(apply_kwargs | kwargs))

    return apply


@contextlib.contextmanager
def _set(layer: Any, fields: Fields) -> Iterator[None]:
    """Sets fields of a frozen layer for a while: it may be shared with other calls."""
    before = {name: getattr(layer, name) for name in fields}
    try:
        for name, value in fields.items():
            object.__setattr__(layer, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(layer, name, value)


def _shape(layer: Any, *names: str, collection: str = "params") -> Any:
    """Returns the shape of a variable as it is stored for a layer, or None."""
    variable = layer.scope.get_variable(collection, names[0])
    for name in names[1:]:
        variable = variable.get(name) if isinstance(variable, Mapping) else None
    # Metadata such as `nn.Partitioned` may box the array, whose leaf is the array.
    leaves = jax.tree.leaves(variable)
    return tuple(jnp.shape(leaves[0])) if leaves else None


def _of_kernel(layer: Any) -> Fields:
    """Returns the fields of a layer that follow from its parameters alone."""
    from flax import linen as nn

    if isinstance(layer, nn.MultiHeadDotProductAttention):
        query, out = _shape(layer, "query", "kernel"), _shape(layer, "out", "kernel")
        if query is None or out is None:
            return {}
        heads, head_dim = query[-2:]
        widths = {"qkv_features": heads * head_dim, "out_features": out[-1]}
        return {"num_heads": heads} | widths
    if isinstance(layer, nn.Embed):
        table = _shape(layer, "embedding")
        return {"num_embeddings": table[0], "features": table[1]} if table else {}
    kernel = _shape(layer, "kernel")
    if kernel is None:
        return {}
    if isinstance(layer, nn.DenseGeneral) and not isinstance(layer.features, int):
        return {"features": kernel[len(kernel) - len(layer.features) :]}
    if isinstance(layer, nn.ConvTranspose) and layer.transpose_kernel:
        return {"features": kernel[-2]}
    if isinstance(layer, nn.Dense | nn.DenseGeneral | nn.Conv | nn.ConvTranspose):
        return {"features": kernel[-1]}
    return {"shape": kernel} if isinstance(layer, nn.Einsum) else {}


def _of_input(
    layer: Any, x: Any, groups: Mapping[str, int], full: Mapping[str, Any] | None
) -> Fields:
    """Returns the fields that follow from a layer's input too, and checks it."""
    from flax import linen as nn

    path = "/".join(layer.path)
    if isinstance(layer, nn.BatchNorm):
        _check_statistics(layer, x)
    elif isinstance(layer, nn.GroupNorm) and (layer.num_groups or 1) > 1:
        return {"num_groups": _norm_groups(path, layer, x, groups.get(path), full)}
    elif isinstance(layer, nn.Conv) and layer.feature_group_count > 1:
        if kernel := _shape(layer, "kernel"):
            count = groups.get(path, x.shape[-1] // kernel[-2])
            _check_groups(path, count, kernel, x)
            return {"feature_group_count": count}
    return {}


def _check_groups(path: str, count: int, kernel: Shape, x: Any) -> None:
    ins, outs = kernel[-2:]
    if count * ins != x.shape[-1] or outs % count:
        raise ValueError(
            f"the convolution {path!r} has a kernel of {ins} inputs a group and {outs} "
            f"outputs, and {x.shape[-1]} channels come in: these are not {count} equal "
            "groups. Cut the kernel and what comes before it alike, and groups="
            f"{{{path!r}: number}}, if given, must agree."
        )


def _norm_groups(
    path: str, layer: Any, x: Any, hint: int | None, full: Mapping[str, Any] | None
) -> int:
    before: Any = full
    for name in ("params", *layer.path):
        before = before.get(name) if isinstance(before, Mapping) else None
    leaves = jax.tree.leaves(before)
    if hint is None and not leaves:
        raise ValueError(
            f"the group norm {path!r} had {layer.num_groups} groups before the cut and "
            f"has {x.shape[-1]} channels now; whether whole groups were removed they "
            "do not tell. Pass full=variables from before the cut (shapes are enough) "
            f"or groups={{{path!r}: number}}."
        )
    width = x.shape[-1]
    width_before = jnp.shape(leaves[0])[-1] if leaves else width
    return group_count(path, layer.num_groups, width_before, width, hint)


def _check_statistics(layer: Any, x: Any) -> None:
    axes = (layer.axis,) if isinstance(layer.axis, int) else layer.axis
    expected = tuple(x.shape[axis] for axis in sorted(axis % x.ndim for axis in axes))
    for name in ("mean", "var"):
        # Flax compares the shapes of parameters but not those of statistics.
        shape = _shape(layer, name, collection="batch_stats")
        where = "/".join([*layer.path, name])
        if shape not in (None, expected):
            raise ValueError(
                f"batch_stats {where} has shape {shape}, but the batch norm's "
                f"input has features of shape {expected}; cut the statistics like its "
                "scale (of size 1 they would broadcast unseen)."
            )


def _recurrent(layer: Any, carry: Any) -> tuple[Any, Fields]:
    """Returns a recurrent cell and its width, of the cell itself or of its `nn.RNN`."""
    from flax import linen as nn

    cell = layer.cell if isinstance(layer, nn.RNN) else layer
    kinds = nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.SimpleCell
    if not isinstance(cell, (*kinds, nn.MGUCell, nn.ConvLSTMCell)):
        return layer, {}
    # Each kind of cell calls its first recurrent kernel otherwise.
    kernels = (_shape(cell, name, "kernel") for name in ("hi", "hr", "h", "hf", "hh"))
    features = next((kernel[-2] for kernel in kernels if kernel), None)
    if features is None:
        return layer, {}
    if cell is layer and carry is not None:
        width = jnp.shape(jax.tree.leaves(carry)[-1])[-1]
        if width != features:
            raise ValueError(
                f"the cell {'/'.join(cell.path)!r} has {features} features, but its "
                f"carry has {width}: let nn.RNN make it, or make it from the widths "
                "of the variables."
            )
    return cell, {"features": features}
