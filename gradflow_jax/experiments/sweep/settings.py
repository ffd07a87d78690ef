"""The settings of a sweep and their choices, which import no JAX.

They are the choices and defaults of `gradflow-jax prune`, whose `--help` must not wait
for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradflow_jax.experiments.names import WEIGHT_MEASURES

# `choose_units` has words of its own for what --scope says.
UNIT_SCOPES: dict[str, Literal["global", "family"]] = {
    "global": "global",
    "layerwise": "family",
}
# `weights.SCOPES` says how each chooses weights; the last one chooses no units.
SCOPE_NAMES = (*UNIT_SCOPES, "erk")
BUDGETS = ("units", "parameters", "flops")


@dataclass(frozen=True)
class Settings:
    """What a sweep does; every result carries them.

    Attributes:
        measures: names among `WEIGHT_MEASURES`.
        sparsities: fractions of the prunable weights to remove.
        seeds: one trained network each.
        scope: "global" ranks all layers together, "layerwise" each by itself at the
            same sparsity, "erk" each by itself at Erdős–Rényi-kernel densities.
        epochs: of training the dense network.
        finetune_epochs: of training each pruned one.
    """

    measures: Sequence[str] = WEIGHT_MEASURES
    sparsities: Sequence[float] = (0.5, 0.8, 0.9, 0.95, 0.98)
    seeds: Sequence[int] = (0, 1, 2)
    scope: str = "global"
    epochs: int = 10
    finetune_epochs: int = 1

    @property
    def title(self) -> str:
        """The kind of pruning, for the title of a plot."""
        return f"{self.scope} pruning"

    @property
    def removed(self) -> str:
        """What the sparsities count."""
        return "prunable weights"


@dataclass(frozen=True)
class StructuredSettings(Settings):
    """What a sweep over cut networks does; every result carries them.

    Attributes:
        measures: names among `MEASURES`.
        sparsities: fractions to remove of the budget.
        seeds: one trained network each.
        scope: "global" ranks the units of all layers together, "layerwise" removes the
            same fraction of each layer.
        epochs: of training the dense network.
        finetune_epochs: of training each cut one.
        budget: what sparsities count: "units", "parameters" or "flops".
        floor: the fraction of a layer's units that stays at least; the paper's.
        round_to: layers that are cut keep a multiple of this.
    """

    measures: Sequence[str] = (
        "magnitude",
        "loss_preservation",
        "taylor",
        "gradient_norm_preservation",
        "random",
    )
    sparsities: Sequence[float] = (0.25, 0.5, 0.75, 0.9)
    seeds: Sequence[int] = (0,)
    budget: Literal["units", "parameters", "flops"] = "units"
    floor: float = 0.05
    round_to: int = 1

    @property
    def title(self) -> str:
        """The kind of pruning, for the title of a plot."""
        return f"{self.scope} pruning of whole units"

    @property
    def removed(self) -> str:
        """What the sparsities count."""
        return "FLOPs" if self.budget == "flops" else self.budget
