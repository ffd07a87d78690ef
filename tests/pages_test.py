"""The API pages: pdoc makes them without a warning, and every public name is there."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

import gradflow_jax as gf

ROOT = Path(__file__).parents[1]
PACKAGE = Path(gf.__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of the pages, made in a process whose warnings are errors."""
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-W", "error", "tests/build_pages.py", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr and "index.html" in done.stdout
    return folder


def anchors(page):
    return set(re.findall(r'\bid="([^"]+)"', page.read_text()))


def test_every_public_name_has_an_anchor_on_the_page_of_its_room(pages):
    for room in ROOMS:
        module = import_module(f"gradflow_jax.{room}")
        # pdoc shows a TypeVar where it has a docstring: on the page of types.
        names = {
            name
            for name in getattr(module, "__all__", ())
            if not isinstance(getattr(module, name), (ModuleType, TypeVar))
        }
        assert names <= anchors(pages / "gradflow_jax" / f"{room}.html"), room


def test_the_first_page_has_the_names_of_the_top_and_the_rooms(pages):
    page = pages / "gradflow_jax.html"
    assert set(gf._ROOM_OF) <= anchors(page)
    for room in ROOMS:
        assert f'href="gradflow_jax/{room}.html"' in page.read_text(), room


def test_files_between_rooms_and_names_have_no_page(pages):
    made = {path.relative_to(pages).as_posix() for path in pages.rglob("*.html")}
    packages = {
        path.parent.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("__init__.py")
    }
    # The words of signatures, and the plots that are named as the room that they draw.
    files = {"gradflow_jax/trees/types", "gradflow_jax/plotting/observations"}
    assert made == {f"{name}.html" for name in {"index", *packages, *files}}


def test_signatures_say_types_by_name_and_tables_are_tables(pages):
    masks = re.sub("<[^>]+>", "", (pages / "gradflow_jax/masks.html").read_text())
    assert "path: str" in masks and "Alias for field number" not in masks
    assert "scores: Scores" in masks and "-> Masks" in masks
    assert "Union[" not in masks
    scores = (pages / "gradflow_jax/scores.html").read_text()
    assert "<td><code>magnitude(params)</code></td>" in scores
    words = {"AnyTree", "ArrayTree", "Params", "Scores", "Masks", "Allocation"}
    assert words <= anchors(pages / "gradflow_jax/trees/types.html")
