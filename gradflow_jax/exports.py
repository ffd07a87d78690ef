"""What a room exports: the names that its `__init__` binds by `X as X`."""

from collections.abc import Mapping
from types import ModuleType


def exported_names(namespace: Mapping[str, object]) -> list[str]:
    """Returns the public names of a room, for its `__all__`.

    With it `help(room)` lists the functions, which are defined in other files, and a
    star takes them. Files are attributes of a room once Python has imported them, and
    are no names of it.

    Args:
        namespace: the `globals()` of the room, whose last statement calls this.

    Returns:
        The names, in the order in which they were imported.

    Example:
        >>> import math
        >>> exported_names({"_private": 1, "magnitude": abs, "file": math})
        ['magnitude']
    """
    return [
        name
        for name, value in namespace.items()
        if name[0] != "_" and not isinstance(value, ModuleType)
    ]
