"""What is said of an equation."""

from pathlib import Path

import jax
import numpy as np

import gradflow_jax as gf
from gradflow_jax.programs.equations import describe

X = np.ones((2, 3), np.float32)


def test_an_equation_is_told_by_its_operands_and_the_line_of_the_user():
    jaxpr = jax.make_jaxpr(lambda x: x * 2.0)(X)
    text, _, place = describe(jaxpr.eqns[0]).partition(" at ")
    assert text == "mul f32[2,3], 2.0"
    file, _, line = place.partition(":")
    assert file == Path(__file__).name
    assert "x * 2.0" in Path(__file__).read_text().splitlines()[int(line) - 1]


def test_lines_of_a_checkout_that_has_the_packages_name_are_told(tmp_path):
    path = tmp_path / "gradflow_jax" / "own_model.py"
    code = "import jax\ndef apply(p, x):\n    return jax.numpy.sort(x @ p) @ p.T\n"
    names = {}
    exec(compile(code, str(path), "exec"), names)
    units = gf.find_units(names["apply"], np.ones((3, 4), np.float32), X)
    assert "own_model.py:3" in units.explain("")
