"""NNX models at the widths of their cut variables.

An NNX layer holds its widths twice: as the shapes of its variables and as attributes
(`out_features`, `num_heads`, …), some of which its code reads. After a cut the shapes
are the truth and the attributes follow from them. Axes count from the last, since
layers stacked by `nnx.vmap` have a further one in front.

One attribute does not follow from the new shapes alone: into how many groups channels
are divided. Of 8 channels in 4 groups, 4 are left by removing two whole groups and by
removing one channel of each.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gradflow_jax.structured.running.group_counts import group_count
from gradflow_jax.trees import ArrayTree, label, named_leaves

if TYPE_CHECKING:
    from flax import nnx

Shape = tuple[int, ...]
Attributes = dict[str, Any]


def at_widths(
    model: "nnx.Module",
    *,
    groups: Mapping[str, int],
    full: ArrayTree,
    **options: Any,
) -> Callable[..., Any]:
    """Makes a model a function of its cut variables, `apply(variables, *inputs)`.

    Args:
        model: the full model.
        groups: of convolutions and norms after the cut, by the module's path.
        full: the shapes of the full model's variables.
        **options: keyword arguments of every call, unless a call gives its own.

    Returns:
        The function.
    """
    from flax import nnx

    graphdef = nnx.graphdef(model)

    def apply(variables: ArrayTree, *inputs: Any, **changed: Any) -> Any:
        small = _merge_cut(graphdef, full, variables, groups)
        return small(*inputs, **{**options, **changed})

    return apply


def resize(
    model: "nnx.Module",
    variables: ArrayTree,
    *,
    groups: Mapping[str, int] | None = None,
) -> "nnx.Module":
    """Returns an NNX model that holds cut variables and runs at their widths.

    Flax's own layers and their subclasses get new attributes; a module of any other
    class keeps its own, such as a width that its code reshapes to.

    Args:
        model: the full model, of arrays or, from `nnx.eval_shape`, of shapes. It is
            left as it is.
        variables: all of its state, `nnx.state(model)` or a tree with the same paths,
            with leaves cut to smaller shapes, each variable of a layer alike.
        groups: the number of groups that a grouped convolution or a group norm has
            from now on, by the path of the module, `"blocks/0/conv"`. Only needed
            where shapes leave it open.

    Returns:
        A new model of the same class.

    Raises:
        ValueError: if a leaf is missing, unknown or no cut of the model's, if a batch
            norm's statistics are not cut like its scale, or if a number of groups is
            open or does not divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        >>> small = resize(model, {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)})
        >>> small.out_features, model.out_features
        (2, 4)
        >>> small(jnp.ones((1, 3))).tolist()
        [[4.0, 4.0]]
    """
    from flax import nnx

    return _merge_cut(*nnx.split(model), variables, groups or {})


def _merge_cut(
    graphdef: Any, full: ArrayTree, variables: ArrayTree, groups: Mapping[str, int]
) -> "nnx.Module":
    """Returns the module of a graph and of cut variables, with its attributes changed.

    The variables are merged as they come: a module may hold arrays outside of any
    variable, as the scales of a weight norm, which merged as shapes would be none.

    Args:
        graphdef: the model's.
        full: the shapes of all of its state.
        variables: cut.
        groups: numbers of groups by the module's path.
    """
    from flax import nnx

    leaves = _cut_leaves(full, variables)
    state = jax.tree.unflatten(jax.tree.structure(full), leaves)
    small = nnx.merge(graphdef, state, copy=True)
    for keys, layer in nnx.iter_graph(small):
        path = "/".join(map(str, keys))
        for name, value in _attributes(path, layer, groups.get(path)).items():
            # Not every version of Flax has every attribute.
            if hasattr(layer, name):
                setattr(layer, name, value)
    return small


def _cut_leaves(state: ArrayTree, variables: ArrayTree) -> list[Any]:
    """Returns the leaves of `variables` in the order of `state`, checked."""
    leaf_of = dict(named_leaves(variables))
    expected = dict(named_leaves(state))
    for path in [*expected, *leaf_of]:
        if (path in expected) != (path in leaf_of):
            wrong = "have a leaf that the model lacks" if path in leaf_of else "lack"
            raise ValueError(
                f"variables {wrong}: {path!r}; pass all of nnx.state(model) with some "
                "leaves cut, not only its nnx.Param."
            )
    for path, leaf in expected.items():
        old, new = jnp.shape(leaf), jnp.shape(leaf_of[path])
        if len(new) != len(old) or any(n > o for n, o in zip(new, old, strict=True)):
            raise ValueError(
                f"variables {label(path)} has shape {new}, which is no cut of the "
                f"model's {old}: keep its axes and take indices of them, "
                "jnp.take(leaf, kept, axis)."
            )
    return [leaf_of[path] for path in expected]


def _attributes(path: str, layer: Any, hint: int | None) -> Attributes:
    """Returns the attributes of a layer that follow from its shapes.

    Its attributes are still those from before the cut.
    """
    # Classes are compared by name, since not every version of Flax has every class.
    bases = (b for b in type(layer).__mro__ if b.__module__.startswith("flax.nnx."))
    kinds = {base.__name__ for base in bases}
    for name, variables, rule in _RULES:
        if name in kinds:
            shapes = [_shape(layer, variable) for variable in variables]
            # A subclass may lack one of these variables; its attributes are left alone.
            return {} if None in shapes else rule(layer, *shapes)
    if "Conv" in kinds and (kernel := _shape(layer, "kernel")):
        return _conv(path, layer, kernel, hint)
    if "BatchNorm" in kinds:
        _check_statistics(path, layer)
    shape = _shape(layer, "scale") or _shape(layer, "bias") or _shape(layer, "mean")
    if "GroupNorm" in kinds and shape:
        before = layer.num_groups * layer.group_size
        count = group_count(path, layer.num_groups, before, shape[-1], hint)
        return {"num_groups": count, "group_size": shape[-1] // count}
    norms = {"BatchNorm", "LayerNorm", "RMSNorm", "InstanceNorm"}
    return {"num_features": shape[-1]} if kinds & norms and shape else {}


def _shape(layer: Any, variable: str) -> Any:
    """Returns the shape of `"kernel"` or of a child's `"query.kernel"`, or None."""
    for name in variable.split("."):
        layer = getattr(layer, name, None)
    # An attribute of that name may be no variable: an array has a method `mean`.
    shape = getattr(layer, "shape", None)
    return shape if isinstance(shape, tuple) else None


def _check_statistics(path: str, layer: Any) -> None:
    names = "mean", "var", "scale", "bias"
    shapes = {n: shape for n in names if (shape := _shape(layer, n)) is not None}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"the variables of the batch norm {path!r} differ in shape: {shapes}; cut "
            "them alike, the statistics too (of size 1 they would broadcast unseen)."
        )


def _conv(path: str, layer: Any, kernel: Shape, hint: int | None) -> Attributes:
    old = layer.feature_group_count
    count = group_count(path, old, layer.out_features, kernel[-1], hint)
    return {
        "in_features": kernel[-2] * count,
        "out_features": kernel[-1],
        "feature_group_count": count,
        "kernel_shape": kernel[-len(layer.kernel_shape) :],
    }


def _linear_general(layer: Any, kernel: Shape) -> Attributes:
    ins, outs = len(layer.in_features), len(layer.out_features)
    axes = kernel[-ins - outs :]
    return {"in_features": axes[:ins], "out_features": axes[ins:]}


def _conv_transpose(layer: Any, kernel: Shape) -> Attributes:
    inputs, outputs = kernel[-2:][:: -1 if layer.transpose_kernel else 1]
    shape = kernel[-len(layer.kernel_shape) :]
    return {"in_features": inputs, "out_features": outputs, "kernel_shape": shape}


def _einsum(layer: Any, kernel: Shape) -> Attributes:
    shape, bias = kernel[-len(layer.kernel_shape) :], _shape(layer, "bias")
    bias = bias and bias[-len(layer.bias_shape) :]
    return {"kernel_shape": shape, "bias_shape": bias}


def _attention(layer: Any, query: Shape, key: Shape, out: Shape) -> Attributes:
    inputs = {"in_features": query[-3], "in_kv_features": key[-3]}
    heads = {"num_heads": query[-2], "num_kv_heads": key[-2], "head_dim": query[-1]}
    outputs = {"qkv_features": query[-2] * query[-1], "out_features": out[-1]}
    return inputs | heads | outputs


def _ends(inputs: str, outputs: str) -> Callable[..., Attributes]:
    """Returns the rule for rows of the first matrix and columns of the last."""
    return lambda _, *shapes: {inputs: shapes[0][-2], outputs: shapes[-1][-1]}


def _cell(layer: Any, inputs: Shape, recurrent: Shape) -> Attributes:
    # The rows tell the width: the columns may be those of all gates.
    return {"in_features": inputs[-2], "hidden_features": recurrent[-2]}


_FEATURES = _ends("in_features", "out_features")
_GATES = "dense_i.kernel", "dense_h.kernel"

# Each row has a class of Flax, the variables that tell its widths, and a function of
# their shapes.
_RULES: tuple[tuple[str, tuple[str, ...], Callable[..., Attributes]], ...] = (
    ("Linear", ("kernel",), _FEATURES),
    ("LinearGeneral", ("kernel",), _linear_general),
    ("ConvTranspose", ("kernel",), _conv_transpose),
    ("Einsum", ("kernel",), _einsum),
    ("Embed", ("embedding",), _ends("num_embeddings", "features")),
    ("LoRA", ("lora_a", "lora_b"), _FEATURES),
    ("MultiHeadAttention", ("query.kernel", "key.kernel", "out.kernel"), _attention),
    ("LSTMCell", ("ii.kernel", "hi.kernel"), _cell),
    ("OptimizedLSTMCell", _GATES, _cell),
    ("GRUCell", _GATES, _cell),
    ("SimpleCell", _GATES, _cell),
)
