"""What public signatures say."""

import ast
import importlib
import re
from pathlib import Path

import gradflow_jax as gf

PACKAGE = Path(gf.__file__).parent

# By the public name and what is annotated. Arguments of a loss or a model, which are
# anything, stand behind `*` and `**` and need no row.
REALLY_ANYTHING = {
    "Shrunk.__call__ returns": "what the user's model returns",
    "Shrunk.anew returns": "a function that returns what the user's model returns",
    "Shrunk.program returns": "what the user's model returns",
    "recalibrate returns": "variables, or a module of the user's class",
    "shrink returns": "a module of the user's class, or a function",
    "Units.inputs": "trees of shapes, which are no trees of arrays",
    "aligned_leaves returns": "leaves, as those of jax.tree.leaves",
    "mask_leaves returns": "leaves, as those of jax.tree.leaves",
    "named_leaves returns": "leaves, as those of jax.tree.leaves",
    "fetch returns": "a tree like the one that is fetched",
    "map_named(fn)": "what jax.tree.map takes",
    "map_named returns": "what jax.tree.map returns",
    "look returns": "keyword arguments of Matplotlib",
}


def public_definitions():
    """Yields the functions and classes that a package re-exports, from their source."""
    for init in PACKAGE.rglob("__init__.py"):
        for statement in ast.parse(init.read_text()).body:
            if isinstance(statement, ast.ImportFrom):
                names = {alias.asname for alias in statement.names} - {None}
                path = PACKAGE.parent / (statement.module.replace(".", "/") + ".py")
                # Out of a room itself come its files, which have no signatures.
                for node in ast.parse(path.read_text()).body if path.exists() else ():
                    if getattr(node, "name", None) in names:
                        yield node


def annotations_of(definition, owner=""):
    """Yields what is annotated and how: parameters, returned values and fields."""
    name = f"{owner}{definition.name}"
    if isinstance(definition, ast.FunctionDef):
        arguments = definition.args
        for argument in (
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
        ):
            yield f"{name}({argument.arg})", argument.annotation
        yield f"{name} returns", definition.returns
        return
    for member in definition.body:
        if isinstance(member, ast.FunctionDef) and (
            member.name == "__call__" or not member.name.startswith("_")
        ):
            yield from annotations_of(member, f"{name}.")
        elif isinstance(member, ast.AnnAssign) and member.target.id[0] != "_":
            yield f"{name}.{member.target.id}", member.annotation


def test_public_signatures_say_what_they_take_and_return():
    says_nothing = set()
    for definition in public_definitions():
        for place, annotation in annotations_of(definition):
            text = "" if annotation is None else ast.unparse(annotation)
            assert "PyTree" not in text, place
            if re.search(r"\bAny\b", text):
                says_nothing.add(place)
    assert says_nothing == set(REALLY_ANYTHING)


def test_public_types_are_documented():
    """Each alias is followed by a string, which editors show."""
    for module in ("trees.types", "programs.models", "scores.losses"):
        source = importlib.import_module(f"gradflow_jax.{module}").__file__
        body = ast.parse(Path(source).read_text()).body
        for statement, following in zip(body, body[1:], strict=False):
            if isinstance(statement, ast.Assign):
                name = statement.targets[0].id
                is_alias = name[0] != "_" and name != "Kind"
                assert not is_alias or isinstance(following, ast.Expr), name
