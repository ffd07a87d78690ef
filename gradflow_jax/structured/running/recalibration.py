"""Running statistics of batch norms, measured anew on data."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.programs.models import ModelLike, kind_of, unwrap_apply
from gradflow_jax.trees import (
    ArrayTree,
    describe,
    is_linen_module,
    is_nnx_module,
    named_leaves,
)
from gradflow_jax.trees.checks import check_numbers

# A variance that a batch cannot have: it stays where a layer does not measure.
_UNMEASURED = -1.0


@runtime_checkable
class Recorded(Protocol):
    """What `gf.shrink` returns: a model at cut widths, as its own code or recorded."""

    def anew(self) -> Callable[..., Any]:
        """Returns the same, with its program to be traced again."""
        ...


def recalibrate(model: ModelLike, *args: Any, **options: Any) -> Any:
    """Measures the running statistics of batch norms anew, on data.

    After a mask or a cut, activations are others, and running statistics lag behind
    them: at momentum 0.99 by hundreds of steps. Here they become the mean and the
    variance over all examples of the batches, whatever the momentum. Do it before a
    pruned network is evaluated, and before it is fine-tuned; weights stay as they are,
    and so does all that is no batch norm, dropout too.

    Each layer sees what it sees in training: what comes before it is normalized by the
    statistics of the batch. So use batches as large as in training.

    Args:
        model: a linen module, what `gf.shrink` returned for one, or an NNX module.
        *args: the variables (not of an NNX module, which holds them), then the batches:
            an iterable whose every item is what the model is called with, an array
            [batch, ...], or a tuple of its inputs.
        **options: keyword arguments of every call of the model, such as `train=False`.

    Returns:
        The variables with new statistics, float of the same dtypes; of an NNX module a
        new module with them.

    Raises:
        TypeError: if the model is another, if the variables or the batches are missing,
            or if the batches are one array.
        ValueError: if there is no batch, no batch norm, or one that does not measure:
            that the model does not call, or that it calls in eval mode by name.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> import gradflow_jax as gf
        >>> net = nn.BatchNorm(use_running_average=True)
        >>> batches = [jnp.array([[1.0], [3.0]]), jnp.array([[5.0], [7.0]])]
        >>> variables = net.init(jax.random.key(0), batches[0])
        >>> statistics = gf.recalibrate(net, variables, batches)["batch_stats"]
        >>> statistics["mean"].tolist(), statistics["var"].tolist()
        ([4.0], [5.0])

    Reference:
        Ioffe & Szegedy, Batch Normalization, ICML 2015, who take the population's
        statistics for inference; Li et al., EagleEye, ECCV 2020, who measure them anew
        after pruning. The variance is that of all examples, not the mean of batches'.
    """
    module = unwrap_apply(model)
    if is_nnx_module(module):
        batches = _checked_batches(args, "model, batches")
        return _recalibrate_nnx(module, batches, options)
    if not (is_linen_module(module) or _is_recorded_linen(module)):
        raise TypeError(
            "recalibrate finds the batch norms of Flax: it takes a linen or an NNX "
            f"module, or what gf.shrink returned for one, not {_name(module)}."
        )
    batches = _checked_batches(args[1:], "model, variables, batches")
    _check_collections(args[0])
    return _recalibrate_linen(module, args[0], batches, options)


def _check_collections(variables: Any) -> None:
    """Raises TypeError at what are not the variables of a linen module."""
    check_numbers(variables, "variables", or_shapes=False)
    parts = [variables]
    if isinstance(variables, Mapping):
        parts += variables.values()
    if not all(isinstance(part, Mapping) and _is_named(part) for part in parts):
        raise TypeError(
            f"variables is {describe(variables)}, not the collections of a linen "
            "module: pass {'params': ..., 'batch_stats': ...}, as init returned them "
            "or training left them."
        )


def _is_named(part: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) for name in part)


def _is_recorded_linen(model: Any) -> bool:
    units: Any = getattr(model, "units", None)
    return isinstance(model, Recorded) and units.model.kind == "linen"


def _name(model: Any) -> str:
    return kind_of(model) if callable(model) else type(model).__name__


def _checked_batches(args: tuple, usage: str) -> Iterable[Any]:
    if len(args) != 1:
        raise TypeError(
            f"recalibrate({usage}) was given {len(args)} arguments in place of the "
            "batches: an iterable of what the model is called with."
        )
    (batches,) = args
    if hasattr(batches, "shape") or isinstance(batches, (str, Mapping)):
        raise TypeError(
            f"batches is {type(batches).__name__}, which is one batch or none: pass an "
            "iterable of batches, [x] for one."
        )
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"batches is {type(batches).__name__}, not an iterable of batches."
        )
    return batches


def _recalibrate_linen(
    model: Any, variables: ArrayTree, batches: Iterable, options: dict[str, Any]
) -> ArrayTree:
    layers: set[str] = set()
    anew = model.anew() if isinstance(model, Recorded) else model.apply
    options = {"mutable": ["batch_stats"], **options}

    @jax.jit
    def measure(variables: ArrayTree, *inputs: Any) -> dict[str, jax.Array]:
        with _measuring(layers):
            _, updated = anew(variables, *inputs, **options)
        return dict(named_leaves({"batch_stats": updated.get("batch_stats", {})}))

    marked = _replace(variables, _mark)
    measured = _average(lambda inputs: measure(marked, *inputs), batches, layers)
    return _replace(variables, lambda path, leaf: _filled(path, leaf, measured))


@contextlib.contextmanager
def _measuring(layers: set[str]) -> Iterator[None]:
    """Lets batch norms of linen write a batch's own statistics down, and notes them."""
    from flax import linen as nn

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if not isinstance(layer, nn.BatchNorm) or context.method_name != "__call__":
            return run(*args, **kwargs)
        layers.add("/".join(["batch_stats", *layer.path]))
        before = layer.momentum, layer.use_running_average
        # A frozen layer may be shared with other calls, so its fields are set back.
        try:
            object.__setattr__(layer, "momentum", 0.0)
            object.__setattr__(layer, "use_running_average", None)
            inputs = args[:1] or (kwargs.pop("x"),)
            return run(*inputs, **{**kwargs, "use_running_average": False})
        finally:
            object.__setattr__(layer, "momentum", before[0])
            object.__setattr__(layer, "use_running_average", before[1])

    with nn.intercept_methods(intercept):
        yield


def _recalibrate_nnx(module: Any, batches: Iterable, options: dict[str, Any]) -> Any:
    from flax import nnx

    graphdef, state = nnx.split(module)
    copy = nnx.merge(graphdef, state, copy=True)
    layers: set[str] = set()
    for keys, layer in nnx.iter_graph(copy):
        if isinstance(layer, nnx.BatchNorm):
            layers.add("/".join(map(str, keys)))
            layer.momentum, layer.use_running_average = 0.0, False
    measuring_graph, _ = nnx.split(copy)

    @jax.jit
    def measure(state: ArrayTree, *inputs: Any) -> dict[str, jax.Array]:
        called = nnx.merge(measuring_graph, state, copy=True)
        called(*inputs, **options)
        return dict(named_leaves(nnx.state(called, nnx.BatchStat)))

    def of_layer(path: str) -> bool:
        return path.rpartition("/")[0] in layers

    marked = _replace(
        state, lambda path, leaf: _mark(path, leaf) if of_layer(path) else leaf
    )
    measured = _average(lambda inputs: measure(marked, *inputs), batches, layers)
    filled = _replace(state, lambda path, leaf: _filled(path, leaf, measured))
    return nnx.merge(graphdef, filled, copy=True)


def _replace(tree: ArrayTree, change: Callable[[str, Any], Any]) -> ArrayTree:
    return jax.tree.structure(tree).unflatten(
        change(path, leaf) for path, leaf in named_leaves(tree)
    )


def _mark(path: str, leaf: Any) -> Any:
    """Returns a variance that no batch has, and any other leaf as it is.

    A layer multiplies it by a momentum of 0, and so needs it to be finite.
    """
    is_variance = path.rpartition("/")[2] == "var"
    return jnp.full_like(leaf, _UNMEASURED) if is_variance else leaf


def _filled(path: str, leaf: Any, measured: Mapping[str, np.ndarray]) -> Any:
    if path not in measured:
        return leaf
    return jnp.asarray(measured[path], leaf.dtype)


def _average(
    measure: Callable[[tuple], Mapping[str, jax.Array]],
    batches: Iterable,
    layers: set[str],
) -> dict[str, np.ndarray]:
    """Returns the mean and the variance over all examples, by leaf.

    The variance of all is the mean of the batches' variances and the variance of their
    means: Var x = E[σ² + μ²] − E[μ]². They are summed in float64.
    """
    count, sums = 0, dict[str, tuple[Any, Any]]()
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        check_numbers(inputs, "batches")
        size = _size(inputs)
        statistics = measure(inputs)
        for layer in layers:
            mean, var = (
                np.asarray(statistics[f"{layer}/{name}".lstrip("/")], np.float64)
                for name in ("mean", "var")
            )
            if np.any(var == _UNMEASURED):
                raise ValueError(
                    f"the batch norm {layer.removeprefix('batch_stats/')!r} does not "
                    "measure: the model does not call it on these inputs, or calls it "
                    "with use_running_average=True. Pass the option that trains it, "
                    "such as train=True."
                )
            first, second = sums.get(layer, (0.0, 0.0))
            sums[layer] = first + size * mean, second + size * (var + mean**2)
        count += size
    if not count:
        raise ValueError("there is no batch: the iterable of batches is empty.")
    if not layers:
        raise ValueError("the model calls no batch norm of Flax: nothing is measured.")
    result = {}
    for layer, (first, second) in sums.items():
        mean = first / count
        result[f"{layer}/mean".lstrip("/")] = mean
        result[f"{layer}/var".lstrip("/")] = np.maximum(second / count - mean**2, 0)
    return result


def _size(inputs: tuple) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    if not shapes or not shapes[0]:
        raise ValueError("a batch has no first axis, along which its examples stand.")
    return shapes[0][0]
