"""Keeps a line of `results/history.jsonl` for each table that a commit kept."""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import rows


class Commit(NamedTuple):
    """Whose code was measured.

    Attributes:
        subject: the first line of its message, which a rebase does not change.
        date: of the commit, 2026-11-25.
    """

    subject: str
    date: str


def last_commit(folder: Path) -> Commit | None:
    """Returns the commit that a folder is at; None outside of a checkout."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%s%n%cs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return Commit(*done.stdout.splitlines())


def line_of(
    commit: Commit, where: dict[str, Any], kept: list[rows.Row]
) -> dict[str, Any]:
    """Returns what is kept of a table: its ratios by name, to four digits."""
    ratios = {
        row.work: float(f"{row.value:.4g}")
        for row in kept
        if row.unit == "×" and row.value is not None
    }
    return {"commit": commit.subject, "date": commit.date, **where, "ratios": ratios}


def append(path: Path, line: dict[str, Any]) -> None:
    """Adds a line to the history, in place of one of the same commit and device."""
    before = path.read_text().splitlines() if path.exists() else []
    lines = [json.loads(text) for text in before]
    same = ("commit", "date", "device")
    lines = [old for old in lines if any(old[key] != line[key] for key in same)]
    texts = [json.dumps(each, ensure_ascii=False) for each in [*lines, line]]
    path.write_text("\n".join(texts) + "\n")
