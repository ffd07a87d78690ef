"""Makes HTML of all public names: `python tests/build_pages.py [folder]`, by pdoc.

Each package is a page: its docstring, and the names that its `__init__` exports. The
files between them are plumbing and have none, but for `trees/types.py`, which says what
the words of signatures mean.
"""

import argparse
import ast
import importlib
import inspect
import sys
import textwrap
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import chex
import pdoc
import pdoc.render

import gradflow_jax

PACKAGE = Path(gradflow_jax.__file__).parent
TYPES = "gradflow_jax.trees.types"


class Written:
    """An annotation as its author wrote it: `Params`, not the union that it names."""

    def __init__(self, source: str):
        self.source = source

    def __repr__(self) -> str:
        return self.source


def packages() -> list[str]:
    """Returns the names of the package and of all rooms in it."""
    folders = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))
    return [".".join(folder.relative_to(PACKAGE.parent).parts) for folder in folders]


def public_names(module: ModuleType) -> list[str]:
    """Returns what a room exports; one without a list is plumbing and exports none."""
    return [*getattr(module, "__all__", ())]


def write_annotations(value: Any) -> None:
    """Puts the source of annotations in place of the types that they evaluate to."""
    value = inspect.unwrap(value)
    if isinstance(value, FunctionType):
        (node,) = _parse(value).body
        if isinstance(node, ast.FunctionDef):
            _write_function(value, node)
    elif isinstance(value, type):
        (node,) = _parse(value).body
        assert isinstance(node, ast.ClassDef)
        fields = {
            field.target.id: Written(ast.unparse(field.annotation))
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
        if fields:
            value.__annotations__ = fields
            # A dataclass and a NamedTuple make one of these of their fields.
            for constructor in (value.__init__, value.__new__):
                for name in getattr(constructor, "__annotations__", {}):
                    if name in fields:
                        constructor.__annotations__[name] = fields[name]
        for name in getattr(value, "_fields", ()):
            # A NamedTuple says "Alias for field number 0"; its docstring says more.
            vars(value)[name].__doc__ = value.__new__.__doc__ = ""
        for method in node.body:
            if isinstance(method, ast.FunctionDef):
                member = vars(value)[method.name]
                for attribute in ("fget", "func", "__func__"):
                    member = getattr(member, attribute, member)
                if isinstance(member, FunctionType):
                    _write_function(member, method)


def _parse(value: Any) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(value)))


def _write_function(function: FunctionType, node: ast.FunctionDef) -> None:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    arguments += [extra for extra in (node.args.vararg, node.args.kwarg) if extra]
    sources = {argument.arg: argument.annotation for argument in arguments}
    sources["return"] = node.returns
    function.__annotations__ = {
        name: Written(ast.unparse(source)) for name, source in sources.items() if source
    }


def build(folder: Path) -> None:
    """Writes the pages into a folder."""
    names = packages()
    for name in names:
        module = importlib.import_module(name)
        exported = public_names(module)
        for public in exported:
            value = getattr(module, public)  # imports what the top has not yet
            if getattr(value, "__module__", "").startswith("gradflow_jax"):
                write_annotations(value)
        # pdoc shows what is listed here, and without a list what a file defines, which
        # in a room's `__init__` is nothing.
        inside = [room.removeprefix(f"{name}.") for room in [*names, TYPES]]
        rooms = [room for room in inside if room not in names and "." not in room]
        module.__all__ = [*dict.fromkeys([*exported, *rooms])]
    for name, module in [*sys.modules.items()]:
        if name.startswith("gradflow_jax"):
            # pdoc evaluates annotations of attributes, and the trees of chex refer to
            # themselves by this name.
            vars(module).setdefault("ArrayTree", chex.ArrayTree)
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("gradflow_jax", output_directory=folder)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("pages"))
    folder = parser.parse_args().folder
    build(folder)
    print(f"Open {folder / 'index.html'}.")


if __name__ == "__main__":
    main()
