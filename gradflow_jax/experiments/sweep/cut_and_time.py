"""A trainer's network as a function whose units are found, cut, checked and timed."""

from typing import Any

import jax
import numpy as np

from gradflow_jax.experiments.data.pixels import normalize_pixels
from gradflow_jax.experiments.networks.architecture import Network
from gradflow_jax.experiments.networks.timing import Times, time_in_pairs
from gradflow_jax.experiments.networks.training import Trainer, mask_params
from gradflow_jax.structured import check_cut, cut, find_units
from gradflow_jax.structured.units import Keep
from gradflow_jax.trees import named_leaves

FORWARD_BATCH = 128
"""How many images the forward pass is timed on."""


Variables = dict[str, dict[str, Any]]


class Cuttable:
    """Cuts networks of one trainer.

    Attributes:
        units: the filters and neurons that can be removed.
        layers: the layer that makes each family of units, by the family's name.
    """

    def __init__(self, trainer: Trainer):
        """Finds the units; nothing is computed."""
        network = jax.eval_shape(lambda: trainer.init(0))
        self._structure = jax.tree.structure(network)
        self._paths = [path for path, _ in named_leaves(network)]

        def forward(variables: Variables, images: Any) -> Any:
            return trainer.forward.logits(self.network(variables), images)[0]

        self._forward = jax.jit(forward)
        tests = trainer.dataset.x_test
        self._batch = jax.device_put(
            normalize_pixels(np.resize(tests, (FORWARD_BATCH, *tests.shape[1:])))
        )
        example = jax.ShapeDtypeStruct((1, *tests.shape[1:]), self._batch.dtype)
        self.units = find_units(self._forward, _variables(network), example)
        self.layers = {
            family.name: family.producers[0].path.split("/")[1] for family in self.units
        }

    def variables(self, network: Network) -> Variables:
        """Returns the leaves of a network by path, in plain dicts on the host.

        To flatten an NNX state takes JAX half a millisecond a call, as long as the
        forward pass of a small network; dicts are flattened faster. The host takes
        slices of every shape without compiling a program for each.
        """
        return _variables(jax.device_get(network))

    def network(self, variables: Variables) -> Network:
        """Returns the network of such leaves."""
        paths = (path.split("/", 1) for path in self._paths)
        leaves = (variables[part][path] for part, path in paths)
        return self._structure.unflatten(leaves)

    def cut(self, network: Network, keep: Keep) -> Network:
        """Returns the network without the units that are not kept.

        Raises:
            ValueError: if on real images it computes something else than the whole
                network with the weights of these units at zero.
        """
        variables = self.variables(network)
        masked = mask_params(variables, self.units.masks(keep, variables))
        small = jax.device_put(cut(variables, self.units, keep))
        # Timing runs both programs again, so that comparing them compiles no others.
        outputs = (self._forward(tree, self._batch) for tree in (small, masked))
        check_cut(*outputs, what=f"the network cut to {self.widths(keep)}")
        return self.network(small)

    def time(self, small: Network, dense: Network) -> Times:
        """Measures the forward pass of one network beside that of another."""

        def forward_of(network: Network) -> Any:
            variables = jax.device_put(self.variables(network))
            return lambda: self._forward(variables, self._batch)

        return time_in_pairs(forward_of(small), forward_of(dense))

    def widths(self, keep: Keep) -> dict[str, int]:
        """Returns how many units of each layer stay, by the layer's name."""
        widths = self.units.widths(keep)
        return {layer: widths[name] for name, layer in self.layers.items()}

    def kept(self, keep: Keep) -> dict[str, list[int]]:
        """Returns which units of each layer stay, by the layer's name."""
        flags = self.units.check_keep(keep)
        return {
            layer: np.flatnonzero(flags[name]).tolist()
            for name, layer in self.layers.items()
        }


def _variables(network: Network) -> Variables:
    return {name: dict(named_leaves(tree)) for name, tree in network._asdict().items()}
