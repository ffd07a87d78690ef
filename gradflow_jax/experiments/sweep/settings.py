"""The settings of a sweep and their choices, which import no JAX.

They are the choices and defaults of `gradflow-jax prune`, whose `--help` must not wait
for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradflow_jax.experiments.errors import SettingsError
from gradflow_jax.experiments.names import MEASURE_NAMES, WEIGHT_MEASURES
from gradflow_jax.experiments.typed_values import (
    check_choice,
    check_fields,
    check_range,
)

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

    def __post_init__(self) -> None:
        """Checks each setting.

        Raises:
            SettingsError: naming the first that is not as it must be.
        """
        try:
            self._check()
        except ValueError as error:
            raise SettingsError(f"{error}.") from None

    def _check(self) -> None:
        check_fields(self)
        for name in ("measures", "sparsities", "seeds"):
            check_range(len(getattr(self, name)), f"the length of {name}", 1)
        for measure in self.measures:
            check_choice(measure, "one of measures", self.known_measures)
        for sparsity in self.sparsities:
            check_range(sparsity, "one of sparsities", 0, 1, below=True)
        for seed in self.seeds:
            check_range(seed, "one of seeds", 0)
        check_choice(self.scope, "scope", self.known_scopes)
        for name in ("epochs", "finetune_epochs"):
            check_range(getattr(self, name), name, 0)

    @property
    def known_measures(self) -> Sequence[str]:
        """The names of the measures that can be asked for."""
        return WEIGHT_MEASURES

    @property
    def known_scopes(self) -> Sequence[str]:
        """The names of the scopes that can be asked for."""
        return SCOPE_NAMES

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

    def _check(self) -> None:
        super()._check()
        check_range(self.floor, "floor", 0, 1)
        check_range(self.round_to, "round_to", 1)

    @property
    def known_measures(self) -> Sequence[str]:
        """The names of the measures that can be asked for."""
        return MEASURE_NAMES

    @property
    def known_scopes(self) -> Sequence[str]:
        """The names of the scopes that can be asked for."""
        return tuple(UNIT_SCOPES)

    @property
    def title(self) -> str:
        """The kind of pruning, for the title of a plot."""
        return f"{self.scope} pruning of whole units"

    @property
    def removed(self) -> str:
        """What the sparsities count."""
        return "FLOPs" if self.budget == "flops" else self.budget
