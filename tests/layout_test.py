"""The architecture that the listing promises."""

import ast
from pathlib import Path

import pytest

import gradflow_jax as gf

PACKAGE = Path(gf.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Each may import what stands before it and itself.
ORDER = (
    "trees",
    "whole_files",
    "scores",
    "masks",
    "structured",
    "transforms",
    "dynamics",
    "models",
    "plotting",
    "experiments",
    "cli",
)


def part_of(module):
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else None


def imports(path):
    """Returns the modules of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_file(path):
    relative = path.relative_to(PACKAGE)
    lines = path.read_text().splitlines()
    assert len(lines) <= 300, "split it by idea"
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file says what it is for"
    assert len(relative.parts) <= 2 and not any(
        p.startswith("_src") for p in relative.parts
    )
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert path.stem not in defined, (
        "a file never has the name of a function it exports"
    )
    part = relative.parts[0].removesuffix(".py")
    if part == "__init__":
        return
    allowed = ORDER[: ORDER.index(part) + 1]
    for module in imports(path):
        if module == "gradflow_jax":
            assert part in ("experiments", "cli"), "only programs import the top level"
        elif module.startswith("gradflow_jax."):
            assert part_of(module) in allowed, f"{part} imports {module}"


def test_the_library_itself_needs_no_extra():
    """Scores, masks, transforms and dynamics import the package's dependencies alone.

    But for diffrax, inside the one function that integrates.
    """
    core = ("trees", "scores", "masks", "transforms", "dynamics")
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in core:
            for module in imports(path):
                top = module.split(".")[0]
                assert top not in ("flax", "matplotlib", "click", "rich", "sklearn")


def test_public_names_are_documented():
    for name in dir(gf):
        thing = getattr(gf, name)
        if name.startswith("_") or not callable(thing):
            continue
        assert thing.__doc__, name
        if not isinstance(thing, type) and name != "default_prunable":
            for section in ("Args:", "Returns:", "Example:"):
                assert section in thing.__doc__, f"{name} lacks {section}"


def test_every_measure_stands_in_the_readme():
    readme = (PACKAGE.parent / "README.md").read_text()
    for path in (PACKAGE / "scores").glob("*_order.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert f"`{node.name}(" in readme, node.name
