"""The loop of training and its batches, against plain Python."""

import itertools

import numpy as np
import pytest

from gradflow_jax.observations import draw_batches, fit


def test_each_step_goes_on_from_the_one_before():
    seen = []
    state, outputs = fit(
        lambda total, number: (total + number, 10 * number),
        0,
        [3, 1, 4],
        after=lambda step: seen.append((*step[:3], list(step.outputs))),
    )
    assert (state, outputs) == (8, [30, 10, 40])
    assert seen == [
        (1, 3, 3, [30]),
        (2, 1, 4, [30, 10]),
        (3, 4, 8, [30, 10, 40]),
    ]
    assert fit(lambda total, number: (total, number), 5, []) == (5, [])


def test_a_pass_takes_each_example_once_and_leaves_out_what_fills_no_batch():
    batches = list(itertools.islice(draw_batches(7, 3, seed=1), 4))
    rng = np.random.default_rng(1)
    first, second = rng.permutation(7), rng.permutation(7)
    expected = [first[:3], first[3:6], second[:3], second[3:6]]
    np.testing.assert_array_equal(batches, expected)


def test_a_batch_is_at_most_all_examples():
    assert sorted(next(draw_batches(4, 64, seed=0)).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"examples": 0}, "^examples is 0: pass a whole number above 0"),
        ({"examples": 4.0}, "^examples is 4.0: pass a whole number above 0"),
        ({"batch_size": True}, "^batch_size is True: pass a whole number above 0"),
        ({"seed": None}, r"^seed\[0\] is None, not a whole number"),
        ({"seed": "0"}, "^seed is a str: pass a whole number"),
        ({"seed": -1}, r"^seed\[0\] is -1: pass a whole number from 0"),
        ({"seed": (3, 0.5)}, r"^seed\[1\] is 0.5, not a whole number"),
        ({"seed": []}, "^seed is empty: pass one at least"),
    ],
    ids=str,
)
def test_batches_that_cannot_be_drawn_are_refused_before_the_first(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        draw_batches(**{"examples": 4, "batch_size": 2, "seed": 0, **wrong})


def test_seeds_are_those_of_numpy():
    order = next(draw_batches(5, 5, seed=np.array([3, 1])))
    assert order.tolist() == np.random.default_rng((3, 1)).permutation(5).tolist()
    order = next(draw_batches(5, 5, seed=np.array(3)))
    assert order.tolist() == np.random.default_rng(3).permutation(5).tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": None}, "^step is a NoneType: pass a function, step.state, batch."),
        ({"step": lambda *args: 3.0}, "^step returned float32.*: return a pair"),
        ({"step": lambda *args: (1, 2, 3)}, "^step returned tuple: return a pair"),
        ({"step": lambda *args: "ab"}, "^step returned str: return a pair, the state"),
        ({"batches": 3}, "^batches is a int: pass a list or an iterator of batches"),
        ({"batches": np.ones(())}, "^batches is a ndarray: pass a list or an iterator"),
        ({"after": 3}, "^after is a int: pass a function, after.step., or None"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_loop_of_what_is_no_step_is_refused(wrong, message):
    step = {"step": lambda state, batch: (state, batch)}
    with pytest.raises(TypeError, match=message):
        fit(**{**step, "state": 0, "batches": [1], "after": None, **wrong})
