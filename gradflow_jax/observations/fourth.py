"""Evaluates observation 4: increasing the gradient norm raises the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradflow_jax.masks import report
from gradflow_jax.observations.arguments import checked_items, checked_temperature
from gradflow_jax.observations.findings import Finding, finding
from gradflow_jax.observations.runs import Runs
from gradflow_jax.observations.study import Study, checked_runs
from gradflow_jax.scores import score
from gradflow_jax.scores.rank_agreement import spearman
from gradflow_jax.scores.rules import first_order, second_order
from gradflow_jax.trees import Masks


@dataclass(frozen=True)
class IncreasingGradientNorm:
    """Observation 4: increasing the gradient norm removes what raises the loss.

    Attributes:
        temperatures: that divide the logits while scoring, [T].
        layers: paths, in the order in which they meet the model's inputs.
        correlation: Spearman's ρ of θ ⊙ Hg with θ ⊙ g, [T, seed].
        pruned: the share pruned of each layer by GraSP, [T, seed, layer].
        findings: at each temperature, of the correlation and of early layers, by minus
            Spearman's ρ of depth and share.
    """

    temperatures: tuple[float, ...]
    layers: tuple[str, ...]
    correlation: np.ndarray
    pruned: np.ndarray
    findings: tuple[Finding, ...]


def increasing_gradient_norm_raises_loss(
    study: Study, runs: Runs, *, temperatures: Sequence[float] = (1.0, 200.0)
) -> IncreasingGradientNorm:
    """Evaluates observation 4 of the paper.

    GraSP keeps weights of high θ ⊙ Hg. Those are the ones of high θ ⊙ g, whose removal
    lowers the loss most: so it removes those whose removal raises it. And it strips
    early layers.

    Args:
        study: the problem, and how networks are trained and pruned.
        runs: of `study`, one a seed.
        temperatures: that divide the logits while scoring; the paper's GraSP has 200.

    Returns:
        Correlations and shares, at each temperature.

    Raises:
        TypeError: for what is no study, what are no runs, or temperatures that are no
            real numbers.
        ValueError: if there is no run or no temperature, or one is not above 0.

    Example:
        >>> import jax, numpy as np
        >>> import gradflow_jax as gf
        >>> apply = lambda params, x: x @ params["w"]
        >>> init = lambda key: {"w": jax.random.normal(key, (5, 3))}
        >>> x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
        >>> problem = gf.observations.Problem(init, apply, x, np.arange(24) % 3)
        >>> study = gf.observations.Study(problem, steps=4, moments=1, finetuning=2)
        >>> run = study.run(seed=0)
        >>> evaluate = gf.observations.increasing_gradient_norm_raises_loss
        >>> fourth = evaluate(study, [run], temperatures=(200.0,))
        >>> fourth.layers, fourth.pruned.round(1).tolist()
        (('w',), [[[0.8]]])
    """
    runs = checked_runs(study, runs)
    temperatures = checked_items(
        temperatures, "temperatures", checked_temperature, such_as="(1.0, 200.0)"
    )
    # Gains are measured on the training loss (T = 1), not at the scoring temperature.
    gains = [first_order(study.derivatives(study.pruned_from(run))) for run in runs]
    correlation, pruned = [], []
    layers: tuple[str, ...] = ()
    for temperature in temperatures:
        for run, gain in zip(runs, gains, strict=True):
            d = study.derivatives(study.pruned_from(run), temperature=temperature)
            correlation.append(spearman(second_order(d), gain))
            share_by_layer = shares_pruned(study, study.masks(score(d, "grasp")))
            layers = tuple(share_by_layer)
            pruned.append(list(share_by_layer.values()))
    shape = len(temperatures), len(runs)
    correlations = np.array(correlation).reshape(shape)
    shares = np.array(pruned).reshape(*shape, -1)
    findings = []
    for T, rho, share in zip(temperatures, correlations, shares, strict=True):
        findings += [
            finding(f"θ ⊙ Hg is correlated with θ ⊙ g at T = {T:g}", rho, "ρ"),
            finding(
                f"GraSP prunes early layers more at T = {T:g}",
                _earliness(share, [place_of(study, layer) for layer in layers]),
                "ρ",
            ),
        ]
    return IncreasingGradientNorm(
        temperatures, layers, correlations, shares, tuple(findings)
    )


def shares_pruned(study: Study, masks: Masks) -> dict[str, float]:
    """Returns the share pruned of each prunable layer, in the order of their use."""
    layers = [layer for layer in report(masks).layers if layer.prunable]
    layers.sort(key=lambda layer: place_of(study, layer.path))
    return {layer.path: 1 - layer.kept / layer.size for layer in layers}


def place_of(study: Study, path: str) -> int:
    """Returns a layer's place from the input; one that nothing reads comes last."""
    depth = study.problem.depth
    return depth.get(path, len(depth))


def _earliness(shares: np.ndarray, places: Sequence[int]) -> np.ndarray:
    """Returns minus Spearman's ρ of depth and share, [seed]; 0 of equal shares.

    Args:
        shares: [seed, layer].
        places: of the layers from the input; layers that share one are tied.
    """
    depth = np.array(places, dtype=float)
    # Equal shares have no order, and their ρ is NaN.
    return -np.nan_to_num([spearman(depth, by_layer) for by_layer in shares])
