"""Tells parameters from what frameworks keep beside them: statistics, caches, counts.

All of these may be floats, so that no dtype tells them apart, and a gradient or a
Hessian taken by them too is that of another problem.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.tree_util import DictKey

from gradflow_jax.trees.flax_objects import is_nnx_state
from gradflow_jax.trees.names import flatten_with_routes
from gradflow_jax.trees.types import Params

_PARAMS = "params"
# Under this name Flax keeps running means and variances; no layer is called so.
_STATISTICS = "batch_stats"


def check_trained(params: Params) -> None:
    """Checks that a tree holds parameters alone, and nothing that is kept beside them.

    Args:
        params: any pytree.

    Raises:
        TypeError: at a collection of Flax beside `params`, such as `batch_stats`, and
            at a variable of an `nnx.State` that is not trained beside such as are.

    Example:
        >>> check_trained({"params": {"kernel": 1.0}, "batch_stats": {"mean": 0.0}})
        Traceback (most recent call last):
        TypeError: params holds 'batch_stats' beside 'params': ...
    """
    if is_nnx_state(params):
        return _check_state(params)
    routes = [route for route, _ in flatten_with_routes(params)[0]]
    # A measure comes by here at each call, and most trees have neither name.
    keys = {key for route in routes for key in route}
    if {_PARAMS, _STATISTICS}.isdisjoint(map(_name_of, keys)):
        return
    for where, names in _nodes(routes):
        has_params = _PARAMS in names
        for name in names if len(names) > 1 else ():
            is_kept = has_params and name != _PARAMS and names[name]
            if is_kept or name == _STATISTICS:
                _refuse_collection(where, name, has_params)


def _nodes(routes: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, dict[str, bool]]]:
    """Yields each inner node's path, and its children by name.

    Of a child it says whether it is a collection: a tree by a key of a dict.
    """
    children: dict[str, dict[str, bool]] = {}
    for route in routes:
        for depth, key in enumerate(route):
            parent = jax.tree_util.keystr(route[:depth], simple=True, separator="/")
            is_collection = isinstance(key, DictKey) and depth + 1 < len(route)
            children.setdefault(parent, {})[_name_of(key)] = is_collection
    yield from children.items()


def _name_of(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def _refuse_collection(where: str, name: str, has_params: bool) -> None:
    place = f"params {where!r}" if where else "params"
    beside = "'params'" if has_params else "parameters"
    raise TypeError(
        f"{place} holds {name!r} beside {beside}: gradient and Hessian would range "
        "over both, but what is not trained is no weight. Pass variables['params'] "
        f"and hand {name!r} over as a further argument of the loss, "
        f"loss_fn(params, batch, {name}), which calls "
        f"model.apply({{'params': params, {name!r}: {name}}}, x). "
        "If it is trained, name the tree of parameters otherwise."
    )


def _check_state(state: Any) -> None:
    """Checks an `nnx.State` that holds parameters for what is none.

    Raises:
        TypeError: at a variable that is neither an `nnx.Param` nor one of LoRA.
    """
    from flax import nnx

    kinds = {
        "/".join(map(str, path)): _kind_of(variable)
        for path, variable in nnx.to_flat_state(state)
    }
    trained = (nnx.Param, nnx.LoRAParam)
    if not any(issubclass(kind, trained) for kind in kinds.values()):
        return
    for path, kind in kinds.items():
        if issubclass(kind, nnx.Variable) and not issubclass(kind, trained):
            raise TypeError(
                f"params leaf {path!r} is a {kind.__name__} beside parameters, which "
                "no optimizer trains: pass nnx.state(model, nnx.Param), or the model "
                "itself, whose other variables the loss then reads as they are."
            )


def _kind_of(variable: Any) -> type:
    """Returns a variable's class, which older states of Flax hold beside its value."""
    from flax import nnx

    if isinstance(variable, nnx.Variable):
        return type(variable)
    return getattr(variable, "type", type(variable))
