"""Says by which name a misplaced or misnamed argument is taken."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

# What other libraries, and people at first, call these.
_OTHER_NAMES = {
    "amount": "sparsity",
    "axes": "axis",
    "density": "sparsity",
    "exclude": "ignore",
    "fraction": "sparsity",
    "include": "prunable",
    "mask": "previous",
    "masks": "previous",
    "min_density": "floor",
    "ratio": "sparsity",
    "skip": "ignore",
}


def explain_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorates a function to say how an argument is named that it does not know.

    Python says of `global_masks(scores, 0.9)` that it takes one positional argument,
    and not that 0.9 is `sparsity=0.9`.

    Args:
        function: takes some arguments by name alone.

    Returns:
        The same function, whose TypeError names the argument.
    """
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    name = function.__name__

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        more = args[len(positional) :]
        if more:
            pairs = zip(by_name, map(_shown, more), strict=False)
            meant = ", ".join(f"{keyword}={value}" for keyword, value in pairs)
            raise TypeError(
                f"{name} takes {' and '.join(positional)} by position, all else by "
                f"name: {name}({', '.join([*positional, meant])})."
            )
        for keyword in kwargs:
            if keyword not in by_name and keyword not in positional:
                near = difflib.get_close_matches(keyword, by_name, n=1)
                synonym = _OTHER_NAMES.get(keyword)
                meant = synonym if synonym in by_name else near[0] if near else None
                raise TypeError(
                    f"{name} has no argument {keyword}=; "
                    + (f"{meant}= is meant, perhaps. It" if meant else "it")
                    + f" takes {', '.join(f'{known}=' for known in by_name)}."
                )
        return function(*args, **kwargs)

    return call


def _shown(value: object) -> str:
    """Returns a number as it is written, and anything else in short."""
    return repr(value) if isinstance(value, (int, float, str)) else "..."
