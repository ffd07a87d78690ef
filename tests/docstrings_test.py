"""What several docstrings say alike: each paragraph is compared with one source.

`?` in a notebook shows one docstring, so that what an argument is stands in each of
them. Whoever changes the source changes them all, or learns here which he forgot.
"""

import inspect
import re

import pytest

import gradflow_jax as gf

MEASURES = [
    gf.biased_loss_preservation,
    gf.taylor,
    gf.fisher,
    gf.batch_norm_taylor,
    gf.first_order_terms,
    gf.grasp,
    gf.gradient_norm_preservation,
]
OF_RUNS = [
    gf.dynamics.gradient_descent,
    gf.dynamics.gradient_flow,
    gf.dynamics.follow,
    gf.dynamics.track,
    gf.dynamics.removal_effects,
    gf.dynamics.Recorder,
]
MAKERS = [
    gf.n_of_m_masks,
    gf.layerwise_masks,
    gf.erdos_renyi,
    gf.erdos_renyi_kernel,
    gf.quotas,
]

# The paragraphs of the functions on the right begin with that of the one on the left.
ARGUMENTS = [
    ("loss_fn", gf.loss_preservation, MEASURES),
    ("has_aux", gf.loss_preservation, [gf.differentiate, *MEASURES, *OF_RUNS]),
    ("has_aux", gf.dynamics.follow, OF_RUNS),
    ("per_example", gf.fisher, [gf.batch_norm_taylor]),
    ("prunable", gf.global_masks, MAKERS),
    ("ignore", gf.global_masks, MAKERS),
    ("scores", gf.global_masks, [gf.layerwise_masks, gf.group_masks, gf.n_of_m_masks]),
    ("params", gf.erdos_renyi, [gf.erdos_renyi_kernel, gf.quotas]),
    ("sparsity", gf.erdos_renyi, [gf.erdos_renyi_kernel]),
    ("prunable", gf.masks.shuffle_masks, [gf.masks.invert_scores]),
    ("ignore", gf.masks.shuffle_masks, [gf.masks.invert_scores]),
    ("prunable", gf.connectivity.effective_masks, [gf.connectivity.effective_report]),
    ("ignore", gf.connectivity.effective_masks, [gf.connectivity.effective_report]),
    ("a", gf.scores.spearman, [gf.scores.kendall, gf.scores.top_overlap]),
    ("b", gf.scores.spearman, [gf.scores.kendall, gf.scores.top_overlap]),
    ("prunable", gf.scores.spearman, [gf.scores.kendall, gf.scores.top_overlap]),
    ("scope", gf.score_units, [gf.structured.sum_over_units]),
    ("units", gf.dynamics.follow, [gf.dynamics.track, gf.dynamics.Recorder]),
    ("units", gf.score_units, [gf.cut, gf.structured.sum_over_units]),
]
RAISES = [
    ("TypeError", gf.loss_preservation, [gf.taylor]),
    ("TypeError", gf.fisher, [gf.batch_norm_taylor]),
    ("TypeError", gf.grasp, [gf.gradient_norm_preservation]),
    (
        "ValueError",
        gf.loss_preservation,
        [gf.taylor, gf.grasp, gf.gradient_norm_preservation],
    ),
    ("TypeError", gf.differentiate, [gf.first_order_terms]),
    ("TypeError", gf.erdos_renyi, [gf.erdos_renyi_kernel]),
    ("ValueError", gf.erdos_renyi, [gf.erdos_renyi_kernel]),
    ("ValueError", gf.scores.spearman, [gf.scores.kendall]),
]


def paragraph(function, section, name):
    """Returns what a section of a docstring says of a name, in one line."""
    text = inspect.getdoc(function).split(f"{section}:\n", 1)[1]
    text = re.split(r"\n\n?(?=\S)", text)[0]
    match = re.search(rf"^    {name}: (.*?)(?=^    \S|\Z)", text, re.S | re.M)
    return " ".join(match[1].split())


def cases(table):
    return [
        pytest.param(name, source, other, id=f"{other.__name__}-{name}")
        for name, source, others in table
        for other in others
        if other is not source
    ]


@pytest.mark.parametrize(("name", "source", "other"), cases(ARGUMENTS))
def test_an_argument_is_said_to_be_one_thing(name, source, other):
    said = paragraph(source, "Args", name).removesuffix(".")
    assert paragraph(other, "Args", name).startswith(said)


@pytest.mark.parametrize(("name", "source", "other"), cases(RAISES))
def test_the_same_errors_are_said_alike(name, source, other):
    assert paragraph(other, "Raises", name) == paragraph(source, "Raises", name)


def test_every_measure_of_a_loss_is_compared():
    """So that a new one cannot say something else."""
    compared = {gf.loss_preservation, *MEASURES}
    for name in gf.__all__:
        value = getattr(gf, name)
        if inspect.isfunction(value) and value.__module__.endswith("_order"):
            if "loss_fn" in inspect.signature(value).parameters:
                assert value in compared, name
