"""Checks values against the types that dataclasses and named tuples declare.

Settings come from callers and records from files, and either may hold anything. The
types that their fields declare say what is right, so that nothing else has to. It
imports no JAX: settings are made before it is loaded.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

_MAX_INTEGER = 2**63
_PLAIN = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a line of text",
}


def convert(kind: Any, value: Any, name: str) -> Any:
    """Returns a value as its type is declared, made of Python's own values.

    Args:
        kind: the type: bool, int, float, str, a Literal, a tuple, a Sequence or a
            Mapping of such, a dataclass or a named tuple, or a union of them.
        value: what there is; NumPy's numbers are numbers, and bools are none. A
            dataclass or a named tuple is made of a mapping of its fields.
        name: of the value, for errors.

    Returns:
        The value: lists as tuples, NumPy's numbers as Python's.

    Raises:
        ValueError: naming the innermost value that is not of its type.

    Example:
        >>> convert(tuple[int, ...], [1, 2], "seeds")
        (1, 2)
        >>> convert(int, True, "rounds")
        Traceback (most recent call last):
        ValueError: rounds is True: it is an integer
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return _convert_plain(kind, value, name)
    if origin is Literal:
        if not isinstance(value, str):
            _refuse(value, name, f"one of {', '.join(arguments)}")
        check_choice(value, name, arguments)
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        # Of the types that are declared here, none but None has a companion.
        (kind,) = (part for part in arguments if part is not NoneType)
        return convert(kind, value, name)
    if origin in (tuple, Sequence):
        return _convert_sequence(arguments, value, name)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            _refuse(value, name, "an object")
        return {
            convert(arguments[0], key, f"a key of {name}"): convert(
                arguments[1], part, f"{name}.{describe(key)}"
            )
            for key, part in value.items()
        }
    return _convert_fields(kind, value, name)


def check_fields(instance: Any) -> None:
    """Replaces the fields of a frozen dataclass by what `convert` makes of them.

    Raises:
        ValueError: naming the first field that is not of its type.
    """
    hints = get_type_hints(type(instance))
    for field in fields(instance):
        value = convert(hints[field.name], getattr(instance, field.name), field.name)
        object.__setattr__(instance, field.name, value)


def describe(value: Any) -> str:
    """Returns a value as messages show it, the length of anything long."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"text of {len(value)} signs"
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, numbers.Real):
        return str(value)
    if isinstance(value, (list, tuple, Mapping)):
        kind = "an object" if isinstance(value, Mapping) else "a list"
        return f"{kind} of length {len(value)}"
    return f"of type {type(value).__name__}"


def _convert_plain(kind: Any, value: Any, name: str) -> Any:
    if kind is str:
        # Terminals, titles and pages show it.
        if not isinstance(value, str) or not value.isprintable():
            _refuse(value, name, _PLAIN[kind])
        return value
    # NumPy's scalars have an item of Python's.
    plain = value.item() if getattr(value, "shape", None) == () else value
    is_bool = isinstance(plain, bool)
    fits = {
        bool: is_bool,
        int: isinstance(plain, int) and not is_bool,
        float: isinstance(plain, (int, float)) and not is_bool,
    }[kind]
    if not fits or isinstance(plain, int) and not -_MAX_INTEGER <= plain < _MAX_INTEGER:
        _refuse(value, name, _PLAIN[kind])
    return plain


def _convert_sequence(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        _refuse(value, name, "a list")
    if len(kinds) == 1 or kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        _refuse(value, name, f"a list of length {len(kinds)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(convert(kind, part, f"{name}[{i}]") for i, (kind, part) in pairs)


def _convert_fields(kind: Any, value: Any, name: str) -> Any:
    """Returns a dataclass or named tuple, which may be made already."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        _refuse(value, name, "an object")
    names = [f.name for f in fields(kind)] if is_dataclass(kind) else kind._fields
    if odd := set(names) ^ set(value):
        which = min(odd, key=str)
        problem = "lacks" if which in names else "has the unknown"
        raise ValueError(f"{name} {problem} {describe(which)}")
    hints = get_type_hints(kind)
    make: Any = kind
    return make(**{n: convert(hints[n], value[n], f"{name}.{n}") for n in names})


def check_range(
    value: float,
    name: str,
    least: float,
    most: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Checks that a number is finite and in a range.

    Args:
        value: the number.
        name: of it, for errors.
        least: the least that it may be.
        most: the most.
        above: whether it has to be more than the least.
        below: whether it has to be less than the most.

    Raises:
        ValueError: if it is not.
    """
    fits = math.isfinite(value) and least <= value <= most
    if not fits or (above and value == least) or (below and value == most):
        bounds = f"{'above' if above else 'at least'} {least:g}"
        if math.isfinite(most):
            bounds += f" and {'below' if below else 'at most'} {most:g}"
        _refuse(value, name, f"finite, {bounds}")


def check_choice(value: str, name: str, known: Sequence[str]) -> None:
    """Checks that text is one of the names that are known.

    Raises:
        ValueError: if it is none, listing them.
    """
    if value not in known:
        _refuse(value, name, f"one of {', '.join(known)}")


def _refuse(value: Any, name: str, expected: str) -> NoReturn:
    raise ValueError(f"{name} is {describe(value)}: it is {expected}")
