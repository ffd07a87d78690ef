"""Settings and records have the types that their fields declare, or an error says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from gradflow_jax.experiments.errors import SettingsError
from gradflow_jax.experiments.reproduction.record import RunSettings
from gradflow_jax.experiments.sweep.settings import Settings, StructuredSettings
from gradflow_jax.experiments.typed_values import check_range, convert, describe


@dataclass(frozen=True)
class Inner:
    count: int
    ratio: float | None


class Pair(NamedTuple):
    first: int
    rest: Sequence[Inner]


def test_numbers_of_numpy_are_numbers_and_bools_are_none():
    for value in (3, np.int32(3), np.uint8(3), np.array(3)):
        assert convert(int, value, "n") == 3 and type(convert(int, value, "n")) is int
    assert type(convert(float, np.float32(0.5), "x")) is float
    assert convert(float, 2, "x") == 2, "an integer is a number"
    assert convert(bool, np.True_, "b") is True
    for kind in (int, float):
        for value in (True, np.True_, "3", None, [3], 2**63, 10**5000):
            with pytest.raises(ValueError, match="^n is .*: it is an? "):
                convert(kind, value, "n")
    for value in (3.0, math.nan, np.float32(3)):
        with pytest.raises(ValueError, match="it is an integer"):
            convert(int, value, "n")
    for value in (1, 0, "True", None):
        with pytest.raises(ValueError, match="it is True or False"):
            convert(bool, value, "b")


def test_parts_are_made_of_mappings_and_named_in_errors():
    content = {"first": 1, "rest": [{"count": 2, "ratio": None}]}
    assert convert(Pair, content, "pair") == Pair(1, (Inner(2, None),))
    assert convert(Pair, Pair(1, ()), "pair") == Pair(1, ())
    refused = {
        "pair.rest[0].count is 'x': it is an integer": [{"count": "x", "ratio": 1}],
        "pair.rest[0] lacks 'ratio'": [{"count": 2}],
        "pair.rest[0] has the unknown 'z'": [{"count": 2, "ratio": 1, "z": 0}],
        "pair.rest[0] is a list of length 1: it is an object": [[1]],
        "pair.rest is text of 200 signs: it is a list": "x" * 200,
    }
    for message, rest in refused.items():
        with pytest.raises(ValueError) as caught:
            convert(Pair, {"first": 1, "rest": rest}, "pair")
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (str, 3, "v is 3: it is a line of text"),
        (str, "a\nb", r"v is 'a\\nb': it is a line of text"),
        (Literal["a", "b"], "c", "v is 'c': it is one of a, b"),
        (Literal["a", "b"], ["a"], "v is a list of length 1: it is one of"),
        (tuple[int, float], [1], "v is a list of length 1: it is a list of length 2"),
        (tuple[int, ...], {1: 2}, "v is an object of length 1: it is a list"),
        (dict[str, int], [1], "v is a list of length 1: it is an object"),
        (Mapping[str, int], {"a": "b"}, r"v.'a' is 'b': it is an integer"),
        (dict[str, int], {1: 1}, "a key of v is 1: it is a line of text"),
        (int | None, 10**30, "v is an integer of 100 bits: it is an integer"),
        (int, object, "v is of type type: it is an integer"),
    ],
)
def test_other_values_are_refused_by_kind(kind, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        convert(kind, value, "v")


def test_ranges_are_of_finite_numbers():
    check_range(0, "x", 0)
    check_range(0.5, "x", 0, 1, above=True)
    for value, bounds in {
        -1: (0,), 2: (0, 1), math.nan: (0,), math.inf: (0,), -math.inf: (0, 1),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match="^x is .*: it is finite, at least 0"):
            check_range(value, "x", *bounds)
    with pytest.raises(ValueError, match="it is finite, above 0 and at most 1"):
        check_range(0, "x", 0, 1, above=True)


def test_no_description_is_long():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**6000, "x" * 10**6, {"a": deep}, np.zeros(9), b"\0" * 999):
        assert len(describe(value)) < 60


RUN = {"model": "vgg13", "measure": "magnitude", "prune": 0.5, "rounds": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", True), ("rounds", 2.0), ("rounds", "2"), ("prune", True),
        ("prune", "0.5"), ("seed", -1), ("seed", False), ("seed", 2**64),
        ("warmup", -1), ("warmup", True), ("batch_size", 0), ("batch_size", True),
        ("width", 0), ("width", math.nan), ("width", math.inf), ("width", True),
        ("schedule", ()), ("schedule", ((True, 0.1),)), ("schedule", ((0, 0.1),)),
        ("schedule", ((1, 0.0),)), ("schedule", ((1, math.nan),)),
        ("schedule", ((1,),)), ("schedule", "1@0.1"),
        ("examples", 0), ("tests", True), ("tests", 1.5),
        ("thresholds", (True,)), ("thresholds", 0.5), ("tracked", 1), ("tracked", "no"),
        ("momentum", "lost"), ("momentum", None), ("correlate_every", -1), ("fast", 0),
        ("model", None), ("measure", 3),
    ],
)  # fmt: skip
def test_settings_of_a_run_are_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=rf"^[^.]*\b{name}\b.* it is "):
        RunSettings(**{**RUN, name: value})


def test_settings_of_a_run_may_be_of_numpy():
    options = {"rounds": np.int64(2), "seed": np.uint8(1), "prune": np.float32(0.5)}
    settings = RunSettings(**{**RUN, **options, "schedule": [[np.int32(3), 0.1]]})
    assert settings == RunSettings(**RUN, seed=1, schedule=((3, 0.1),))
    assert type(settings.rounds) is int and type(settings.prune) is float


@pytest.mark.parametrize("kind", [Settings, StructuredSettings])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sparsities", (True,)), ("sparsities", (0.5, 1.0)),
        ("sparsities", (-0.1,)), ("sparsities", (math.nan,)),
        ("sparsities", 0.5), ("sparsities", ()),
        ("measures", ("magnitud",)), ("measures", "magnitude"), ("measures", ()),
        ("seeds", (True,)), ("seeds", (-1,)), ("seeds", ()), ("seeds", 3),
        ("scope", "locally"), ("epochs", True), ("epochs", -1), ("epochs", 1.5),
        ("finetune_epochs", True), ("finetune_epochs", -1),
    ],
)  # fmt: skip
def test_settings_of_a_sweep_are_refused_by_name(kind, name, value):
    with pytest.raises(SettingsError, match=rf"\b{name}\b.* it is "):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", "bytes"), ("floor", True), ("floor", 1.5), ("floor", math.nan),
        ("round_to", True), ("round_to", 0), ("round_to", 2.0), ("scope", "erk"),
    ],
)  # fmt: skip
def test_settings_of_a_structured_sweep_are_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=rf"\b{name}\b.* it is "):
        StructuredSettings(**{name: value})


def test_settings_of_a_sweep_may_be_of_numpy():
    settings = StructuredSettings(
        sparsities=np.array([0.25, 0.5]).tolist(),
        seeds=[np.int64(2)],
        round_to=np.int32(8),
    )
    assert (settings.seeds, settings.round_to) == ((2,), 8)
    assert settings.sparsities == (0.25, 0.5)
