"""Tells what is an object of Flax, without importing Flax for what is none.

Importing Flax takes longer than making a mask, and a tree of plain arrays needs none of
it; so the package of a class is looked at first.
"""


def is_nnx_module(value: object) -> bool:
    """Says whether a value is an `nnx.Module`.

    Args:
        value: anything.

    Returns:
        True of an instance, of a derived class too; False of a class.

    Example:
        >>> from flax import nnx
        >>> is_nnx_module(nnx.Dropout(0.5)), is_nnx_module({})
        (True, False)
    """
    if not _has_class_of("flax.nnx", value):
        return False
    from flax import nnx

    return isinstance(value, nnx.Module)


def is_nnx_state(value: object) -> bool:
    """Says whether a value is an `nnx.State`.

    Args:
        value: anything.

    Returns:
        True of an instance, of a derived class too; False of a class.

    Example:
        >>> from flax import nnx
        >>> is_nnx_state(nnx.state(nnx.Dropout(0.5))), is_nnx_state({})
        (True, False)
    """
    if not _has_class_of("flax.nnx", value):
        return False
    from flax import nnx

    return isinstance(value, nnx.State)


def is_linen_module(value: object) -> bool:
    """Says whether a value is a `flax.linen.Module`.

    Args:
        value: anything.

    Returns:
        True of an instance, of a derived class too; False of a class.

    Example:
        >>> from flax import linen
        >>> is_linen_module(linen.Dense(2)), is_linen_module(linen.relu)
        (True, False)
    """
    if not _has_class_of("flax.linen", value):
        return False
    from flax import linen

    return isinstance(value, linen.Module)


def _has_class_of(package: str, value: object) -> bool:
    """Says whether the class of a value, or one it derives from, is of a package."""
    return any(kind.__module__.startswith(package) for kind in type(value).__mro__)
