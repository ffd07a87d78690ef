"""The stored mutants are of today's code."""

import ast
import json

import pytest

from tests.mutants.operators import OPERATORS, planted
from tests.mutants.sample import COUNT, ROOMS, SAMPLE, drawn, places, rooms

STORED = json.loads(SAMPLE.read_text())
MUTANTS = STORED["mutants"]


def test_every_room_has_its_share_of_every_kind():
    assert len(MUTANTS) == COUNT * len(ROOMS)
    # Two statements have moved since, to `programs` and to `observations`.
    assert rooms()[:3] == ROOMS[:3] and set(rooms()) > set(ROOMS)
    assert {mutant["operator"] for mutant in MUTANTS} == set(OPERATORS)
    for mutant in STORED["excluded"]:
        assert len(mutant["reason"].split()) > 5


@pytest.mark.parametrize("room", rooms())
def test_each_stored_statement_stands_once_and_can_be_changed(room):
    for mutant in MUTANTS:
        if mutant["room"] == room:
            before, after = mutant["before"], mutant["after"]
            stands = places(room)[before]
            assert len(stands) == 1, f"carry the mutant along: {before}"
            source = stands[0][0].read_text()
            changed = planted(source, before, after)
            ast.parse(changed)
            texts = [ast.unparse(ast.parse(text)) for text in (source, changed)]
            assert texts[0] != texts[1]


def test_a_drawn_sample_is_the_same_again():
    assert drawn("transforms", set()) == drawn("transforms", set())
