"""Numbers and keys that come with trees: what is none is refused in words."""

import re
from decimal import Decimal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from gradflow_jax.trees import (
    check_key,
    check_number,
    checked_whole_number,
    default_prunable,
    prunable_flags,
    real_array,
)
from gradflow_jax.trees.numbers import check_bool, check_choice

NO_NUMBERS = {
    "none": (None, "None"),
    "text": ("0.5", "'0.5'"),
    "bool": (True, "True"),
    "complex": (1j, "1j"),
    "of NumPy": (np.bool_(True), "True"),
    "Decimal": (Decimal("0.5"), "Decimal"),
    "ragged": ([[1.0], [1.0, 2.0]], "list"),
    "dates": (np.array(["2021-05-03"], "M8[D]"), "datetime64[D]"),
    "huge": (10**5000, "a number of more than 64 bits"),
    "shape": (jax.ShapeDtypeStruct((), np.float32), "float32"),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_is_no_number_is_said(name):
    value, said = NO_NUMBERS[name]
    for check in (check_number, real_array):
        with pytest.raises(TypeError, match=re.escape(f"rate is {said}: pass real")):
            check(value, "rate")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308, -0.5, np.float16(-1)])
def test_numbers_out_of_range_are_said(value):
    with pytest.raises(ValueError, match=r"rate is .*: pass a finite number, 0 or abo"):
        check_number(value, "rate", least=0.0)


def test_one_number_is_one():
    with pytest.raises(TypeError, match="rate is float64: pass one real number"):
        check_number(np.ones(1), "rate")
    for number in (1, 0.5, np.int8(1), ml_dtypes.bfloat16(0.5), jnp.float32(1)):
        check_number(number, "rate", least=0.0)
        assert real_array(number, "rate") == number
    # What is traced is not known yet.
    jax.eval_shape(lambda rate: check_number(rate, "rate", least=0.0), 1.0)


def test_no_whole_number_is_said():
    for value, said in ((0.5, "0.5"), ([1], "list"), (np.ones(2), "float64")):
        with pytest.raises(TypeError, match=f"n is {said}, not a whole number"):
            checked_whole_number(value, "n")


@pytest.mark.parametrize("value", [0, None, "yes", 1.0, np.ones(2, bool), [True]])
def test_a_switch_is_true_or_false(value):
    with pytest.raises(TypeError, match="reset is .*: pass True or False"):
        check_bool(value, "reset")
    check_bool(np.bool_(True), "reset")


@pytest.mark.parametrize("value", [3, True, 1.0, "1", None, np.ones(2), [1], 2**70])
def test_a_choice_is_one_of_those_that_there_are(value):
    with pytest.raises(ValueError, match=r"order is .*; it is one of 1, 2\."):
        check_choice(value, (1, 2), "order")
    check_choice(2, (1, 2), "order")


@pytest.mark.parametrize("path", [None, 0, ("a", "kernel"), b"kernel"])
def test_a_path_is_a_text(path):
    with pytest.raises(TypeError, match="the path of a leaf is .*: pass its name"):
        default_prunable(path, np.ones((2, 2)))


def test_long_texts_are_cut_in_errors():
    with pytest.raises(TypeError, match="rate is '0{60}…': pass real numbers"):
        real_array("0" * 100, "rate")


def test_one_key_is_a_key_of_either_kind():
    check_key(jax.random.key(0))
    check_key(jax.random.PRNGKey(0))
    for key in (0, None, "key", np.zeros(3, np.uint32), np.zeros(2, np.int32)):
        with pytest.raises(TypeError, match=r"key is a .*: pass one key, jax.random"):
            check_key(key)
    with pytest.raises(TypeError, match=r"key is a key<fry>\[2\]: pass one key"):
        check_key(jax.random.split(jax.random.key(0)))


TREE = {"kernel": np.ones((2, 2))}


@pytest.mark.parametrize("prunable", [None, "kernel", {"kernel": True}])
def test_a_prunable_that_is_no_function_is_refused(prunable):
    with pytest.raises(TypeError, match="prunable is a .*: pass a function of a leaf"):
        prunable_flags(TREE, prunable)


@pytest.mark.parametrize("answer", [np.ones(2, bool), np.ones(2)])
def test_a_prunable_that_answers_for_each_weight_is_refused(answer):
    message = r"prunable\('kernel', leaf\) returned a ndarray: return True or False"
    with pytest.raises(TypeError, match=message):
        prunable_flags(TREE, lambda path, leaf: answer)


@pytest.mark.parametrize("ignore", [None, 1, np.array("kernel"), abs])
def test_patterns_that_are_none_are_refused(ignore):
    with pytest.raises(TypeError, match="ignore is a .*: pass a path or a pattern of"):
        prunable_flags(TREE, lambda path, leaf: True, ignore)
