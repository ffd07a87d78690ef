"""Says where equal scores left it to positions which weights are kept."""

import sys
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# A tie is worth a warning from so many weights on, and if they are more than this part
# of what is kept or of what is removed, whichever is fewer. The scores of a float32
# network tie in a handful, those of bfloat16 in two or three of a hundred.
_FEW = 4
_PART = 0.05


class EqualScoresWarning(UserWarning):
    """Equal scores left it to positions which weights, or units, are kept.

    A mask that positions decided tells nothing of the weights. All scores are equal
    where a loss does not see a layer: before a last layer of zeros, behind units that
    are dead, or under a measure of whole filters. Weights of one score are kept from
    the first on.
    """


class Tie(NamedTuple):
    """What of one ranking positions decided.

    Attributes:
        place: what is ranked, for the warning: "of leaf 'a'"; "" if that is all.
        chosen: how many of those that have the score of the threshold are kept.
        tied: how many have it.
        kept: how many of the ranking are kept.
        size: how many are ranked.
    """

    place: str
    chosen: int
    tied: int
    kept: int
    size: int

    @property
    def is_worth_a_warning(self) -> bool:
        """Whether it decided more than a handful."""
        exchangeable = min(self.chosen, self.tied - self.chosen)
        fewer = min(self.kept, self.size - self.kept)
        return exchangeable >= _FEW and exchangeable > _PART * fewer


def tie_at_the_cut(place: str, scores: np.ndarray, kept: np.ndarray) -> Tie:
    """Returns what positions decided of one ranking: those that tie with the removed.

    Args:
        place: what is ranked, for the warning.
        scores: of what is ranked, on the host.
        kept: bool, what of it is kept.
    """
    if kept.all():
        return Tie(place, 0, 0, kept.size, kept.size)
    tied = scores == scores[~kept].max()
    return Tie(
        place, int((tied & kept).sum()), int(tied.sum()), int(kept.sum()), kept.size
    )


def warn_of_ties(ties: Iterable[Tie], things: str = "weights") -> None:
    """Warns of the ties that decided more than a handful, in one warning.

    Args:
        ties: of each ranking.
        things: what is ranked.

    Warns:
        EqualScoresWarning: at the line that called the library.
    """
    large = [tie for tie in ties if tie.is_worth_a_warning]
    if not large:
        return
    first, *others = large
    more = f", and likewise in {len(others)} more rankings" if others else ""
    warnings.warn(
        f"{sum(tie.chosen for tie in large):,} kept {things} were chosen by position "
        f"alone: {first.tied:,} {things}{first.place} have one score, and "
        f"{first.chosen:,} of them are kept{more}. Such a mask tells nothing of the "
        f"{things}: look for a layer that the scores do not see (a later layer of "
        "zeros, dead units), or rank by another measure.",
        EqualScoresWarning,
        stacklevel=_frames_inside(),
    )


def _frames_inside() -> int:
    """Returns the stack level of the first caller outside of this library."""
    level, frame = 0, sys._getframe()
    while frame and frame.f_globals.get("__name__", "").startswith("gradflow_jax."):
        level, frame = level + 1, frame.f_back
    return level
