"""The rows of the table: what they say, how they are kept, compared and printed."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax

Better = Literal["lower", "higher", ""]

# How far beyond the old quartiles a ratio may lie before it counts as worse.
ALLOWED = 0.15


@dataclass
class Row:
    """One figure.

    Attributes:
        work: what is measured; no two rows say the same.
        value: the median of the ratios, or a count; None where it was not measured.
        quartiles: of the ratios.
        unit: "×" for a ratio, else what is counted.
        better: which way is better; "" where neither is ours.
        target: the bound that way; None where the figure is only reported.
        milliseconds: the median time of each contestant.
        memory: in bytes, by contestant and kind.
        rounds: how many rounds the median is of.
        note: what else there is to say, or why there is no value.
    """

    work: str
    value: float | None
    quartiles: tuple[float, float] | None = None
    unit: str = "×"
    better: Better = ""
    target: float | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    rounds: int = 1
    note: str = ""
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without value or target."""
        if self.value is None or self.target is None:
            return None
        if self.better == "higher":
            return self.value >= self.target
        return self.value <= self.target


def environment() -> dict[str, Any]:
    """Returns what the figures depend on, but for the code."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else "cpu",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("jax", "jaxlib", "numpy", "torch")},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(
        r"model name\s*:\s*(.+)", info.read_text() if info.exists() else ""
    )
    return names[0] if names else platform.processor()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def file_stem(device: str) -> str:
    """Returns the name of a device's files: `cpu`, `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def load(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Returns the environment and the rows of a JSON file; nothing if there is none."""
    if not path.exists():
        return {}, []
    kept = json.loads(path.read_text())
    return kept["environment"], [Row(**row) for row in kept["rows"]]


def save(path: Path, where: dict[str, Any], rows: list[Row]) -> None:
    """Writes the JSON file and the table beside it, `.md`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"environment": where, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    facts = ", ".join(f"{key} {value}" for key, value in where.items())
    dates = [row.date for row in rows]
    span = " to ".join(sorted({min(dates), max(dates)}))
    text = f"# Benchmarks\n\n{facts}; {span}.\n"
    text += (
        "\nA ratio is the median over rounds in which all contestants ran in turn, "
        "with the quartiles. Times are medians, in milliseconds.\n\n"
    )
    path.with_suffix(".md").write_text(text + table(rows))


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """Returns the old rows with the new ones in their places, and the rest of them."""
    fresh = {row.work: row for row in new}
    kept = [fresh.pop(row.work, row) for row in old]
    return kept + list(fresh.values())


def regressions(old: list[Row], new: list[Row]) -> list[str]:
    """Says which ratios lie farther beyond the old quartiles than is allowed."""
    before = {row.work: row for row in old}
    found = []
    for row in new:
        was = before.get(row.work)
        if was is None or was.value is None or row.value is None or not row.better:
            continue
        low, high = was.quartiles or (was.value, was.value)
        if row.better == "lower":
            worse = row.value > high * (1 + ALLOWED)
        else:
            worse = row.value < low / (1 + ALLOWED)
        if worse:
            found.append(f"{row.work}: {_figure(row)}, was {_figure(was)}")
    return found


def table(rows: list[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    head = ("work", "ratio (quartiles)", "target", "met", "times, ms", "memory", "note")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in rows:
        cells = (
            row.work,
            _figure(row),
            _target(row),
            {True: "yes", False: "**missed**", None: "–"}[row.met],
            "; ".join(f"{name} {_number(ms)}" for name, ms in row.milliseconds.items()),
            "; ".join(_memory(*of) for of in row.memory.items()),
            row.note,
        )
        lines.append(f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _figure(row: Row) -> str:
    if row.value is None:
        return "not measured"
    if row.unit != "×":
        return f"{_number(row.value)} {row.unit}".strip()
    text = f"{_number(row.value)}×"
    if row.quartiles:
        text += f" ({_number(row.quartiles[0])}–{_number(row.quartiles[1])})"
    return text


def _target(row: Row) -> str:
    if row.target is None:
        return "reported"
    sign = "≥" if row.better == "higher" else "≤"
    return f"{sign} {row.target:,g}{'' if row.unit != '×' else '×'}"


def _memory(contestant: str, kinds: dict[str, float]) -> str:
    parts = []
    for kind, value in kinds.items():
        shown = (
            f"{value / 2**20:,.1f} MiB" if kind != "bytes a weight" else f"{value:.2f}"
        )
        parts.append(f"{kind} {shown}")
    return f"{contestant}: {', '.join(parts)}"


def _number(value: float) -> str:
    """Returns three digits, or all of those before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")
