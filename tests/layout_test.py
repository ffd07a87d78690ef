"""The architecture that the listing promises."""

import ast
import re
from pathlib import Path

import pytest

import gradflow_jax as gf

PACKAGE = Path(gf.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Each may import what stands before it and itself.
ORDER = """
    exports trees atomic_files programs scores masks structured transforms updates
    layers dynamics connectivity observations formats models plotting experiments cli
""".split()
INSIDE_EXPERIMENTS = """
    names formatting environment errors typed_values data networks sweep reproduction
    report commands
""".split()
# Flax takes longer to import than a mask to make. In the core it is imported by the
# files that handle its objects, and there inside of functions.
FLAX = {
    "trees/flax_objects.py": "says what is one of its objects",
    "trees/mistaken.py": "names the variables of a module in an error",
    "trees/trained.py": "tells the variables of a state that are trained",
    "programs/models.py": "makes functions of modules",
    "programs/parameters.py": "parts modules into parameters and what else they hold",
    "structured/running/linen_widths.py": "runs linen modules at other widths",
    "structured/running/nnx_widths.py": "runs NNX modules at other widths",
    "structured/running/recalibration.py": "finds batch norms of both",
    "observations/model_functions.py": "makes functions of modules",
}
OF_FLAX_ALTOGETHER = ("models", "experiments")


def module_of(path):
    pieces = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(pieces).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports(path):
    """Returns the modules that a file imports, of this package the very file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else node.module


def names(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_each_file(path):
    relative = path.relative_to(PACKAGE)
    lines = path.read_text().splitlines()
    assert len(lines) <= 300, "split it by idea"
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file says what it is for"
    assert len(relative.parts) <= 3, "three levels"
    assert not any(part.startswith("_src") for part in relative.parts)
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert path.stem not in defined, (
        "a file never has the name of a function it exports"
    )
    part = relative.parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for module in imports(path):
        if module == "gradflow_jax":
            assert part in ("experiments", "cli"), "only programs import the top level"
        elif module.startswith("gradflow_jax."):
            assert_stands_before(ORDER, part, module.split(".")[1])
            if part == "experiments" and len(relative.parts) > 2:
                inside = (*module.split("."), "")[2]
                if module.startswith("gradflow_jax.experiments."):
                    assert_stands_before(INSIDE_EXPERIMENTS, relative.parts[1], inside)


def assert_stands_before(order, room, imported):
    assert order.index(imported) <= order.index(room), f"{room} imports {imported}"


def cycle(edges):
    """Returns a cycle of a graph as a list of its nodes, or None."""
    done = set()

    def visit(node, path):
        if node in path:
            return path[path.index(node) :] + [node]
        if node not in done:
            for target in sorted(edges.get(node, ())):
                if (found := visit(target, [*path, node])) is not None:
                    return found
            done.add(node)
        return None

    return next(filter(None, (visit(node, []) for node in sorted(edges))), None)


def edges_of(label):
    """Returns which labels of files import which others; `__init__` files export."""
    edges = {}
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            continue
        for imported in imports(path):
            if imported in MODULES and label(imported) != label(module):
                edges.setdefault(label(module), set()).add(label(imported))
    return edges


def folder_of(module):
    path = MODULES[module]
    return path.parent.relative_to(PACKAGE.parent).as_posix()


def test_imports_point_one_way_between_folders_and_inside_them():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}), "cycles are found"
    files = edges_of(lambda module: module)
    assert cycle(files) is None
    rooms = edges_of(folder_of)
    # `cli`, `exports` and `atomic_files` stand beside the rooms.
    rooms.pop("gradflow_jax")
    for targets in rooms.values():
        targets.discard("gradflow_jax")
    assert cycle(rooms) is None


def test_no_folder_holds_too_much():
    for folder in {path.parent for path in FILES}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 15, f"{folder}: split it by idea"


def test_each_room_opens_with_what_it_holds():
    """A package's docstring names each of its files and folders."""
    for path in FILES:
        if path.name == "__init__.py" and path.parent != PACKAGE:
            text = ast.get_docstring(ast.parse(path.read_text()))
            inside = {p.stem for p in path.parent.glob("*.py")} - {"__init__"}
            inside |= {p.parent.name for p in path.parent.glob("*/__init__.py")}
            absent = [n for n in inside if not re.search(rf"\b{n}\b|x_command", text)]
            assert not absent, f"{names(path)} does not say what {absent} are for"


def test_flax_is_imported_where_its_objects_are_handled():
    """And nothing looks into `sys.modules` for it."""
    importing = set()
    for path in FILES:
        assert "sys.modules" not in path.read_text(), names(path)
        if path.relative_to(PACKAGE).parts[0] not in OF_FLAX_ALTOGETHER:
            if any(module.split(".")[0] == "flax" for module in imports(path)):
                importing.add(names(path))
    assert importing == set(FLAX)


def test_the_library_itself_needs_no_extra():
    """Scores, masks, transforms and dynamics import the package's dependencies alone.

    But for diffrax, inside the one function that integrates.
    """
    core = ("trees", "programs", "scores", "masks", "structured", "transforms")
    core += ("dynamics", "connectivity", "observations")
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] in core:
            for module in imports(path):
                top = module.split(".")[0]
                assert top not in ("matplotlib", "click", "rich", "sklearn")


def test_tests_mirror_the_package():
    """A folder of tests is one of the package, or is named here."""
    apart = {"benchmarks", "fuzz", "mutants", "reference", "sharding", "structured/zoo"}
    tests = Path(__file__).parent
    for path in tests.rglob("*_test.py"):
        folder = path.parent.relative_to(tests).as_posix()
        known = any(folder == own or folder.startswith(own + "/") for own in apart)
        assert known or (PACKAGE / folder).is_dir(), folder


def test_every_measure_stands_on_the_page_of_scores():
    for path in (PACKAGE / "scores").glob("*_order.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert f"`{node.name}(" in gf.scores.__doc__, node.name
