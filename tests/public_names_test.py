"""The names of the package, each imported when it is asked for."""

import ast
import inspect
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import gradflow_jax as gf

PACKAGE = Path(gf.__file__).parent
ROOMS = {"cli", *(path.parent.name for path in PACKAGE.glob("*/__init__.py"))}
ROOMS_OF_EXTRAS = {"cli", "experiments", "plotting"}


def names_of_type_checkers():
    """Returns the module that each name is imported from where only checkers look."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (imports,) = (
        node.body
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    aliases = [(node.module, alias) for node in imports for alias in node.names]
    # Without an alias of the same name checkers take a name for private.
    assert all(alias.name == alias.asname for _, alias in aliases)
    assert len({alias.name for _, alias in aliases}) == len(aliases)
    return {alias.name: module for module, alias in aliases}


NAMES = names_of_type_checkers()


def test_type_checkers_see_the_names_of_the_table():
    table = {name: f"gradflow_jax.{room}" for name, room in gf._ROOM_OF.items()}
    assert NAMES == table | dict.fromkeys(ROOMS, "gradflow_jax")
    # A name that stood in two rooms would be that of the last.
    rows = [name for names in gf._NAMES_OF.values() for name in names.split()]
    assert len(rows) == len(set(rows))


def test_each_name_is_what_its_room_calls_so():
    for name, module in NAMES.items():
        own = import_module(f"{module}.{name}" if name in ROOMS else module)
        assert getattr(gf, name) is (own if name in ROOMS else getattr(own, name))


def test_listings_and_stars_have_every_name():
    listed = set(NAMES) - ROOMS_OF_EXTRAS
    assert {name for name in dir(gf) if not name.startswith("_")} == listed
    assert {"__version__", "__doc__", "__all__"} < set(dir(gf))
    namespace = {}
    exec("from gradflow_jax import *", namespace)
    assert set(namespace) == {*listed, "__builtins__"}


def aliases_of(room):
    """Returns what a room's `__init__` imports as `X as X`, which checkers read."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = [alias.asname for node in imports for alias in node.names]
    return [name for name in names if name and name[0] != "_"]


@pytest.mark.parametrize("room", sorted(ROOMS - {"cli", "experiments"}))
def test_help_lists_what_a_room_exports_and_a_star_takes_it(room):
    module = getattr(gf, room)
    assert sorted(module.__all__) == sorted(aliases_of(room))
    namespace = {}
    exec(f"from gradflow_jax.{room} import *", namespace)
    assert set(namespace) == {*module.__all__, "__builtins__"}
    functions = {
        name for name in module.__all__ if inspect.isfunction(vars(module)[name])
    }
    assert functions and functions <= functions_on_the_page_of(module)


def test_help_of_the_package_lists_its_functions():
    assert set(gf._ROOM_OF) <= functions_on_the_page_of(gf)


def functions_on_the_page_of(module):
    """Returns what `help` lists as functions; a second name stands with its first."""
    page = pydoc.plain(pydoc.render_doc(module))
    _, _, after = page.partition("\nFUNCTIONS\n")
    return set(re.findall(r"^    (\w+)(?: = \w+)?\(", after, re.M))


def test_no_module_takes_the_place_of_a_name():
    """An import of `gradflow_jax.x` sets `gradflow_jax.x`, whatever that was."""
    assert not {path.stem for path in PACKAGE.iterdir()} & set(gf._ROOM_OF)


def test_what_is_no_name_is_an_error_that_knows_similar_ones():
    with pytest.raises(AttributeError, match="no attribute 'magnitud'") as error:
        gf.magnitud  # noqa: B018
    # Python looks among these when it prints "Did you mean".
    assert error.value.name == "magnitud" and "magnitude" in dir(error.value.obj)
    with pytest.raises(ImportError, match="cannot import name 'magnitud'"):
        exec("from gradflow_jax import magnitud")


def test_a_name_of_another_place_is_an_error_that_says_which():
    for name, place in gf._PLACE_OF.items():
        with pytest.raises(
            AttributeError, match=re.escape(f"{name!r}; see gf.{place}")
        ):
            getattr(gf, name)
        found = gf
        for part in place.split("(")[0].split("."):
            found = getattr(found, part)
        assert callable(found)


@pytest.mark.runs
def test_the_page_of_help_needs_no_extra():
    hidden = ["click", "diffrax", "grain", "matplotlib", "safetensors", "sklearn"]
    program = f"""
import pydoc, sys
sys.modules.update(dict.fromkeys({hidden}))
import gradflow_jax
print(pydoc.render_doc(gradflow_jax))
"""
    page = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "loss_preservation(" in page and "plotting" in page
