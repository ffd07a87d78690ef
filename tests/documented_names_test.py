"""Every public name of every room says what it is, in types, words and an example.

That the examples run is doctest's part, which reads them in the package's files.
"""

import ast
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

import gradflow_jax as gf

PACKAGE = Path(gf.__file__).parent
# The rooms whose names are for users; `experiments` is what the command runs.
ROOMS = sorted({p.parent.name for p in PACKAGE.glob("*/__init__.py")} - {"experiments"})


def public_things():
    """Yields each public name of the rooms, and what it is."""
    for room in ROOMS:
        module = import_module(f"gradflow_jax.{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.ismodule(thing):
                # A file that a room exports as it is: `plotting.observations`.
                for inner, member in vars(thing).items():
                    if getattr(member, "__module__", "") == thing.__name__:
                        yield f"{room}.{name}.{inner}", member
            else:
                yield f"{room}.{name}", thing


PUBLIC = {
    name: thing
    for name, thing in public_things()
    if not name.split(".")[-1].startswith("_")
}
FUNCTIONS = [name for name, thing in PUBLIC.items() if inspect.isfunction(thing)]
CLASSES = [name for name, thing in PUBLIC.items() if inspect.isclass(thing)]


def without_types(function):
    """Returns which parameters of a function have no type, and whether it says one."""
    signature = inspect.signature(function)
    absent = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
        and parameter.name not in ("self", "cls")
    ]
    return absent + ["return"] * (signature.return_annotation is signature.empty)


def section(text, title):
    """Returns a section of a docstring, which ends where the indentation does."""
    _, _, after = inspect.cleandoc(text).partition(f"\n{title}:\n")
    return re.split(r"\n(?=\S)", after)[0]


def test_the_functions_of_all_rooms_are_found():
    assert {"scores.grasp", "trees.label", "structured.cut"} < set(FUNCTIONS)
    assert {"observations.observe", "plotting.observations.recovery"} < set(FUNCTIONS)
    assert {"structured.Units", "dynamics.Recorder"} < set(CLASSES)
    assert {f"{room}.{name}" for name, room in gf._ROOM_OF.items()} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    """Every parameter has a type and a line, every result both, and an example runs."""
    function = inspect.unwrap(PUBLIC[name])
    text = function.__doc__ or ""
    signature = inspect.signature(function)
    assert not without_types(function), "types"
    for parameter in signature.parameters:
        line = rf"^ +[\w*, ]*\b{parameter}\b[\w*, ]*: "
        assert re.search(line, section(text, "Args"), re.M), f"Args lacks {parameter}"
    if signature.return_annotation is not None:
        assert section(text, "Returns"), "Returns"
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    if any(isinstance(node, ast.Raise) for node in ast.walk(definition)):
        assert section(text, "Raises"), "Raises"
    example = section(text, "Example")
    assert ">>> " in example and "+SKIP" not in example, "Example"


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_are_documented(name):
    """Every field has a line, every public method a sentence and types."""
    kind = PUBLIC[name]
    assert kind.__doc__
    for field in inspect.get_annotations(kind):
        if not field.startswith("_"):
            assert re.search(rf"^ +{field}:", kind.__doc__, re.M), field
    for attribute, member in vars(kind).items():
        if attribute.startswith("_"):
            continue
        for wrapped in ("fget", "func", "__func__"):
            member = getattr(member, wrapped, member)
        if inspect.isfunction(member):
            assert member.__doc__, attribute
            assert not without_types(member), attribute


def test_public_constants_are_documented():
    """Types and tables that a room exports have a docstring beneath them."""
    for room in ROOMS:
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
        for statement in tree.body:
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    thing = PUBLIC.get(f"{room}.{alias.asname}")
                    if not (thing is None or callable(thing) and thing.__doc__):
                        assert_described(statement.module, alias.name)


def assert_described(module, name):
    path = PACKAGE.parent / (module.replace(".", "/") + ".py")
    body = ast.parse(path.read_text()).body
    for statement, after in zip(body, body[1:], strict=False):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if any(getattr(target, "id", None) == name for target in targets):
            text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert text, f"{module}: {name} has no docstring beneath it"
