"""The loop of training and its batches, against plain Python."""

import itertools

import numpy as np

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
