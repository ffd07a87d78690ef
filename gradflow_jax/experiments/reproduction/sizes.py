"""How large a network is at the widths that a cut leaves."""

from collections.abc import Mapping

import numpy as np

from gradflow_jax.experiments.reproduction import published_rules, rounds
from gradflow_jax.experiments.reproduction.record import Size
from gradflow_jax.structured import Units

Flags = Mapping[str, np.ndarray]


def size_of(units: Units, keep: Flags, zeroed: Flags | None = None) -> Size:
    """Returns how large a network is at the widths that a cut leaves.

    Args:
        units: of the network before it was cut.
        keep: which of them are left.
        zeroed: as in `ShrinkingNetwork.size`.
    """
    widths = units.widths(keep)
    names = rounds.layer_names(units)
    layers = {layer: widths[name] for name, layer in names.items()}
    if zeroed is not None:
        layers = published_rules.widths(units, widths, zeroed)
    return Size(
        filters=sum(layers.values()),
        parameters=units.parameters(keep),
        flops=units.flops(keep),
        widths=layers,
    )
