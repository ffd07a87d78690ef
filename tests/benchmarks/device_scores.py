"""Whether scores are right on this device: against numbers, precisions, repetition."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import networks
import numpy as np
from cutting import cut_network
from device_timing import figure
from rows import Row

import gradflow_jax as gf
from tests.scores.reference_problem import (
    LAYERS,
    batches_of,
    logits_of,
    loss_at,
    params_of,
    read_reference,
)

PRECISIONS = ("default", "highest")
# The release's word for a measure, and ours.
WORDS = {
    "loss_based": "loss_preservation",
    "grasp": "grasp",
    "grad_preserve": "gradient_norm_preservation",
    "fisher": "fisher",
}


def right(small: bool) -> Iterator[Row]:
    """All rows on whether scores are right here."""
    yield from against_the_reference()
    for name, problem in _problems(small).items():
        yield from between_precisions(name, problem)
    yield from cut_against_masked(small)


def _at(precision: str) -> Any:
    # The default is whatever the device takes: on recent GPUs float32 products are
    # rounded to tf32.
    return jax.default_matmul_precision(None if precision == "default" else precision)


def against_the_reference() -> Iterator[Row]:
    """Filter scores of the authors' release beside ours, at two precisions."""
    reference = read_reference()
    params, batches = params_of(reference), batches_of(reference)
    loss = gf.over_batches(loss_at(logits_of(reference), 1))
    for precision in PRECISIONS:
        with _at(precision):
            found = gf.differentiate(loss, squares="batch")(params, batches)
            scores = {word: gf.score(found, WORDS[word], axis=-1) for word in WORDS}
        for word, tree in scores.items():
            errors = [
                _largest_error(tree[layer]["kernel"], reference[f"{word}|T1|{i}"])
                for i, layer in enumerate(LAYERS)
            ]
            yield figure(
                f"largest error of {WORDS[word]}, {precision} precision",
                max(errors),
                "of the largest score",
                at_most=1e-4 if precision == "highest" else None,
                note="against the numbers of the authors' release",
            )


def _largest_error(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _problems(small: bool) -> dict[str, networks.Problem]:
    size = 4 if small else 128
    network = networks.resnet(8 if small else 56)
    text = {"layers": 1, "width": 16, "length": 8, "size": 2}
    return {
        "ResNet": networks.image_problem(network, size, train=False),
        "transformer": networks.text_problem(
            **(text if small else {"layers": 6, "width": 512, "length": 256, "size": 8})
        ),
    }


def between_precisions(name: str, problem: networks.Problem) -> Iterator[Row]:
    """How many weights two precisions keep alike, and two runs of one."""
    for measure in (gf.loss_preservation, gf.grasp):
        scores = {}
        for precision in PRECISIONS:
            with _at(precision):
                runs = [measure(problem.loss)(*problem.arguments) for _ in "ab"]
            apart = sum(
                int((np.asarray(a) != np.asarray(b)).sum())
                for a, b in zip(*map(jax.tree.leaves, runs), strict=True)
            )
            work = f"{measure.__name__}, {name}, {precision} precision"
            yield figure(f"scores in which two runs differ: {work}", apart, "weights")
            scores[precision] = runs[0]
        for sparsity in (0.5, 0.9):
            kept = [
                gf.global_masks(scores[precision], sparsity=sparsity)
                for precision in PRECISIONS
            ]
            both, either = _overlap(*kept)
            yield figure(
                "weights kept by both precisions, of those by either: "
                f"{measure.__name__}, {name}, sparsity {sparsity}",
                100 * both / either,
                "%",
            )


def _overlap(first: Any, second: Any) -> tuple[int, int]:
    both = either = 0
    for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if not (a.all() and b.all()):
            both, either = both + int((a & b).sum()), either + int((a | b).sum())
    return both, max(either, 1)


def cut_against_masked(small: bool) -> Iterator[Row]:
    """How far a cut network's outputs lie from those of the masked one."""
    for name in ("VGG-13",) if small else ("VGG-13", "ResNet-56"):
        network = cut_network(
            name, batch=2 if small else 16, width_divisor=8 if small else 1
        )
        for precision in PRECISIONS:
            with _at(precision):
                masked = _call(network.module.apply, network.masked, network.x)
                cut = _call(network.shrunk, network.small, network.x)
                dense = _call(network.module.apply, network.variables, network.x)
                error = gf.cut_error(
                    network.variables, network.units, network.keep, network.x
                )
            scale = np.abs(dense).max()
            work = f"{name}, half of the channels, {precision} precision"
            yield figure(
                f"masked less cut outputs: {work}",
                np.abs(masked - cut).max() / scale,
                "of the largest output",
                at_most=1e-5 if precision == "highest" else None,
            )
            yield figure(f"gf.cut_error: {work}", error, "")


def _call(apply: Callable[..., Any], variables: Any, x: jax.Array) -> np.ndarray:
    return np.asarray(jax.jit(apply)(variables, x), np.float64)
