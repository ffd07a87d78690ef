"""How much each round of pruning removes, and which filters."""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from gradflow_jax.experiments.errors import SettingsError
from gradflow_jax.experiments.names import MEASURE_NAMES, MODEL_NAMES
from gradflow_jax.experiments.reproduction.record import RunSettings
from gradflow_jax.experiments.typed_values import check_choice
from gradflow_jax.masks import EqualScoresWarning
from gradflow_jax.programs.uses import first_uses
from gradflow_jax.structured import Family, Units, choose_units
from gradflow_jax.structured.choosing import ties_of_units
from gradflow_jax.structured.units import program_of

MAX_REMOVED = 0.95
"""The paper's limit of how much a family loses of its units, over all rounds."""


def share(round: int, rounds: int, prune: float) -> float:
    """Returns what a round removes of what is left: r_k = p / (k·p + n·(1 − p)).

    After k rounds n·(1 − p) / (k·p + n·(1 − p)) is left, after all of them 1 − p.

    Args:
        round: k, from 1.
        rounds: n.
        prune: p, the fraction to remove in all.

    Example:
        >>> [round(share(k, 2, 0.75), 3) for k in (1, 2)]  # of 1, then of 2/5
        [0.6, 0.375]
    """
    return prune / (round * prune + rounds * (1 - prune))


def shares(settings: RunSettings) -> list[float]:
    """Returns what each round removes of what is left.

    Manual thresholds are fractions of the original filters that are gone after each
    round.
    """
    if settings.thresholds is None:
        rounds = settings.rounds
        return [share(k, rounds, settings.prune) for k in range(1, rounds + 1)]
    # Of the 1 − before that is left ahead of a round, it removes after − before.
    gone = [0.0, *settings.thresholds]
    pairs = zip(gone, gone[1:], strict=False)
    return [(after - before) / (1 - before) for before, after in pairs]


def check_rounds(settings: RunSettings) -> None:
    """Checks that names are known, the rounds fit the schedule, the thresholds rise.

    Raises:
        SettingsError: naming what does not.
    """
    try:
        check_choice(settings.model, "model", MODEL_NAMES)
        check_choice(settings.measure, "measure", MEASURE_NAMES)
    except ValueError as error:
        raise SettingsError(f"{error}.") from None
    if not 0 <= settings.prune < 1:
        raise SettingsError(f"prune is {settings.prune:g}, outside [0, 1).")
    if settings.rounds < 0 or (settings.rounds == 0) != (settings.prune == 0):
        raise SettingsError(
            f"{settings.rounds} rounds are asked to remove {settings.prune:g}: both "
            "are 0, for training alone, or none is."
        )
    first_stage = settings.schedule[0][0]
    if settings.warmup + settings.rounds > first_stage:
        raise SettingsError(
            f"{settings.warmup} epochs of warm-up and {settings.rounds} rounds of one "
            f"epoch do not fit into the first stage of {first_stage} epochs."
        )
    thresholds = settings.thresholds
    if thresholds is not None:
        steps = zip((0.0, *thresholds), thresholds, strict=False)
        rising = all(before < after for before, after in steps)
        if (
            len(thresholds) != settings.rounds
            or not rising
            or (thresholds and thresholds[-1] != settings.prune)
        ):
            fractions = ", ".join(f"{fraction:g}" for fraction in thresholds)
            raise SettingsError(
                f"thresholds are {fractions}: they rise from above 0 to "
                f"{settings.prune:g}, one for each of the {settings.rounds} rounds."
            )


def floors(widths: Mapping[str, int]) -> dict[str, int]:
    """Returns how many units each family keeps at least, of its original ones."""
    return {name: n - int(MAX_REMOVED * n) for name, n in widths.items()}


def is_stem(family: Family) -> bool:
    """Says whether a family holds a first layer and, by a residual stream, others."""
    return family.reads_input and len(family.producers) > 1


def removed_by(shares: Sequence[float], filters: int) -> list[int]:
    """Returns how many filters are gone after each round, of so many at first.

    Each count is rounded up from what the shares leave of the original, so that
    rounding does not add up over rounds.

    Example:
        >>> removed_by([0.6, 0.375], 10)  # 4 are left, then 2.5
        [6, 8]
    """
    left, gone = float(filters), []
    for fraction in shares:
        left *= 1 - fraction
        # The products meet 1 − p to rounding only: without the 1e-6 a count that is
        # whole could be rounded up by one.
        gone.append(math.ceil(filters - left - 1e-6))
    return gone


def choose(
    scores: Mapping[str, np.ndarray],
    units: Units,
    count: int,
    widths: Mapping[str, int],
    *,
    cut_stem: bool = False,
) -> dict[str, np.ndarray]:
    """Chooses the units that stay of all families together, by their scores as such.

    Args:
        scores: [units] for each family, by its name.
        units: of the network as it is now.
        count: how many of them go.
        widths: of the original families: 5 % of each stays, the best-scored ones, and
            one unit at least.
        cut_stem: whether a ResNet's first convolution loses filters, which the whole
            first stage's stream then loses with it.

    Returns:
        bool [units] for each family, by its name: True keeps.

    Raises:
        ValueError: if the floors do not let so many go.
    """
    with warnings.catch_warnings():
        # The record says it of each round.
        warnings.simplefilter("ignore", EqualScoresWarning)
        return choose_units(
            scores,
            units,
            sparsity=count / sum(family.size for family in units),
            min_units={name: n for name, n in floors(widths).items() if n > 1},
            ignore=() if cut_stem else is_stem,
        )


def kept_by_position(
    scores: Mapping[str, np.ndarray],
    units: Units,
    keep: Mapping[str, np.ndarray],
    *,
    cut_stem: bool = False,
) -> int:
    """Returns how many of the units that `choose` keeps have the score of removed ones.

    Args:
        scores: [units] for each family, by its name.
        units: of the network as it was before the cut.
        keep: what `choose` returned.
        cut_stem: as it was given to it.
    """
    may_go = {
        family.name: np.asarray(scores[family.name])
        for family in units
        if cut_stem or not is_stem(family)
    }
    return sum(tie.chosen for tie in ties_of_units(may_go, units, keep, "global"))


def check_reachable(units: Units, settings: RunSettings) -> None:
    """Checks that the floors let so much go, before anything is trained.

    Raises:
        SettingsError: if they do not, saying how much can be removed.
    """
    if settings.published_rules:
        return
    least = floors({family.name: family.size for family in units})
    total = sum(family.size for family in units)
    removable = sum(
        family.size - least[family.name]
        for family in units
        if settings.cut_stem or not is_stem(family)
    )
    if removed_by([settings.prune], total)[-1] > removable:
        # The fraction is rounded down, so that what the message names can be reached.
        most = math.floor(1e4 * removable / total) / 1e4
        raise SettingsError(
            f"prune is {settings.prune:g}, but a layer keeps 5 % of its filters and "
            "one at least, and a ResNet's first all that it has: "
            f"{math.floor(1e3 * most) / 10:g} % can go, ask for at most {most:g}."
        )


def in_order(units: Units) -> list[Family]:
    """Returns families in the order in which the network first reads their makers."""
    first = first_uses(program_of(units).frame.jaxpr, units.leaves)

    def first_maker(family: Family) -> int:
        return min(first[producer.path] for producer in family.producers)

    return sorted(units, key=first_maker)


def layer_names(units: Units) -> dict[str, str]:
    """Returns the layer that makes each family, by its name, in the network's order."""
    first = first_uses(program_of(units).frame.jaxpr, units.leaves)

    def layer(family: Family) -> str:
        producers = [producer.path for producer in family.producers]
        path = min(producers, key=first.__getitem__)
        return path.removesuffix("/kernel").removesuffix("/conv")

    return {family.name: layer(family) for family in in_order(units)}
