"""Draws the sample of mutants: `python -m tests.mutants.sample`.

Each room gives as many mutants as `COUNT`, its operators in turn, drawn with the seed
`SEED` among the statements that stand in it once. A mutant is stored in `sample.json`
as its room, its operator, the statement before and the statement after. When a name in
the code changes, the stored statement is changed by hand with it; a test says which.
`excluded` there are mutants that change nothing a caller can see, each with its reason;
what is drawn leaves them out.
"""

import ast
import functools
import json
import random
from collections import defaultdict
from pathlib import Path

from tests.mutants.operators import OPERATORS, mutants, statements

ROOMS = ("scores", "masks", "transforms", "structured", "dynamics")
COUNT, SEED = 8, 0
PACKAGE = Path(__file__).parents[2] / "gradflow_jax"
SAMPLE = Path(__file__).with_name("sample.json")


def rooms():
    """Returns the rooms of the sample: statements may have moved since the draw."""
    stored = json.loads(SAMPLE.read_text())["mutants"]
    return tuple(dict.fromkeys(mutant["room"] for mutant in stored))


def files(room):
    """Returns the files of a room, in order."""
    return sorted((PACKAGE / room).rglob("*.py"))


@functools.cache
def places(room):
    """Returns {text: [(file, statement)]} of a room's statements."""
    found = defaultdict(list)
    for path in files(room):
        for statement in statements(ast.parse(path.read_text())):
            found[ast.unparse(statement.node)].append((path, statement))
    return found


def candidates(room):
    """Returns {operator: [(before, after)]} of the statements found once."""
    by_operator = defaultdict(list)
    for before, stands in places(room).items():
        if len(stands) == 1:
            ((_, statement),) = stands
            for operator, after in mutants(statement):
                if after != before:
                    by_operator[operator].append((before, after))
    return by_operator


def drawn(room, excluded):
    """Returns a room's mutants: operators in turn, no statement twice."""
    rng, by_operator = random.Random(f"{SEED} {room}"), candidates(room)
    for operator in OPERATORS:
        rng.shuffle(by_operator[operator])
    chosen = []
    while len(chosen) < COUNT:
        for operator in OPERATORS:
            while by_operator[operator] and len(chosen) < COUNT:
                before, after = by_operator[operator].pop()
                taken = {mutant["before"] for mutant in chosen}
                if before not in taken and (room, before, after) not in excluded:
                    parts = {"room": room, "operator": operator}
                    chosen.append({**parts, "before": before, "after": after})
                    break
    return chosen


def main():
    """Writes the sample, with what is excluded as it stands."""
    stored = json.loads(SAMPLE.read_text()) if SAMPLE.exists() else {"excluded": []}
    excluded = {(m["room"], m["before"], m["after"]) for m in stored["excluded"]}
    sample = [mutant for room in ROOMS for mutant in drawn(room, excluded)]
    content = {"mutants": sample, "excluded": stored["excluded"]}
    SAMPLE.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
