"""The README is short and its links work; the page of `transforms` runs, row by row."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import gradflow_jax as gf

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github/CONTRIBUTING.md"
PAGE = gf.transforms.__doc__
METHODS = dict(re.findall(r"^\| ([^|`]+?) \|.* \| `(gf\..*)` \|$", PAGE, re.M))


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 180


@pytest.mark.parametrize(
    "page", [README, CONTRIBUTING, *ROOT.glob("notebooks/results/*.md")]
)
def test_what_pages_link_is_there(page):
    """Files and folders of this repository, from where the page lies."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            assert (page.parent / file).exists() and not anchor, target


def test_the_files_that_contributing_names_are_there():
    named = set(re.findall(r"`([\w./]+/[\w./]+\.\w+)`", CONTRIBUTING.read_text()))
    assert "scores/rules.py" in named and "tests/programs/primitives.md" in named
    absent = [
        file
        for file in named
        if not ((ROOT / file).exists() or (ROOT / "gradflow_jax" / file).exists())
    ]
    assert not absent


def test_the_readme_s_picture_is_small():
    """And it can be drawn from what is kept beside it."""
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", README.read_text())
    assert (ROOT / picture).stat().st_size < 100_000
    assert (ROOT / picture).with_name("prune.csv").exists()


def loss_fn(params, batch):
    hidden = jnp.tanh(batch @ params["a"]["kernel"] + params["a"]["bias"])
    return jnp.mean((hidden @ params["b"]["kernel"]) ** 2)


def test_the_table_is_found():
    assert {"SNIP", "GraSP", "2:4 sparsity"} < set(METHODS) and len(METHODS) == 8


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_the_sparsity_it_says(method):
    key = jax.random.key(0)
    kernels = jax.random.normal(key, (8, 20)), jax.random.normal(key, (20, 2))
    names = {
        "gf": gf,
        "loss_fn": loss_fn,
        "params": {
            "a": {"kernel": kernels[0], "bias": jnp.ones(20)},
            "b": {"kernel": kernels[1]},
        },
        "batch": jax.random.normal(key, (6, 8)),
        "key": key,
    }
    masks = eval(METHODS[method], names)
    found = gf.report(masks)
    assert found.sparsity == pytest.approx(0.5 if method == "2:4 sparsity" else 0.9)
    assert masks["a"]["bias"].all()
