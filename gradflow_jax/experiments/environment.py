"""Says what computed the numbers: versions of packages and the kind of device."""

import importlib.metadata
import platform

import jax

_PACKAGES = ("gradflow-jax", "jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of what computes the numbers, and the kind of device."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0].device_kind
    return {"python": platform.python_version(), **packages, "device": device}
