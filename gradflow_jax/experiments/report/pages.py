"""A report as Markdown and as JSON."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gradflow_jax.experiments.report.drawing import layer_shares
from gradflow_jax.experiments.report.orderings import CLAIMS, Ordering, judged
from gradflow_jax.experiments.report.runs import (
    NUMBERS,
    Block,
    Run,
    described,
    over_seeds,
)
from gradflow_jax.experiments.report.tables import Grid, grids, markdown, title
from gradflow_jax.experiments.reproduction.record import RunRecord
from gradflow_jax.observations.findings import CONFIDENCE, VERDICTS

_ALT = {
    "training": "training loss and test accuracy over epochs",
    "layers": "share of filters pruned in each layer",
    "correlations": "rank correlations of the measures over epochs",
}


@dataclass(frozen=True)
class Section:
    """What the report says of one block.

    Attributes:
        block: the runs.
        figures: names of files, by what they show.
        tested: the orderings of its runs.
    """

    block: Block
    figures: Mapping[str, str]
    tested: Sequence[Ordering]


def section(block: Block, figures: Mapping[str, str]) -> Section:
    """Returns the section of a block, with its orderings tested."""
    return Section(block, figures, judged(run.record for run in block.runs))


def summary(sections: Sequence[Section]) -> list[str]:
    """Returns in a few sentences whether the runs agree with the paper."""
    tested = [one for own in sections for one in own.tested]
    if not tested:
        return ["No two runs differ in what the paper's orderings are about."]
    counts = Counter(one.verdict for one in tested)
    said = "; ".join(f"{one}: {counts[one]}" for one in VERDICTS if counts[one])
    lines = [f"Orderings of the paper tested: {len(tested)}. {said}."]
    for own in sections:
        against = [one for one in own.tested if one.verdict == "contradicted"]
        if against:
            named = "; ".join(title(own.block))
            lines.append(f"These runs disagree with the paper ({named}):")
        for one in against:
            lines.append(
                f"- ({one.claim.letter}) {one.claim.sentence}: not with {one.where}, "
                f"{_amount(one, one.mean)} {one.claim.unit} ({_interval(one)})"
            )
    return lines if len(lines) > 1 else [*lines, "None is contradicted."]


def to_markdown(sections: Sequence[Section], incomplete: Sequence[RunRecord]) -> str:
    """Returns the report as one Markdown page."""
    count = sum(len(_runs(own.block)) for own in sections)
    lines = ["# Pruning while training", "", f"{_counted(count, 'run')}.", ""]
    lines += [f"- Left out, incomplete: {_unfinished(one)}" for one in incomplete]
    lines += [""] * bool(incomplete)
    for own in sections:
        first, second = title(own.block)
        lines += [f"## {first}", "", f"{second}.", ""]
        for grid in grids(own.block):
            lines += markdown(grid)
        for kind, name in own.figures.items():
            lines += [f"![{_ALT[kind]}]({name})", ""]
        lines += ["### Settings and versions", ""]
        lines += [f"- {name}: {value}" for name, value in _exact(own.block).items()]
        lines.append("")
    text = "\n".join([*lines, *_orderings(sections)])
    return re.sub("\n{3,}", "\n\n", text).rstrip() + "\n"


def _orderings(sections: Sequence[Section]) -> list[str]:
    lines = ["## Orderings", ""]
    for line in summary(sections):
        # A blank line before and after a list, none within.
        lines += [line] if line.startswith("- ") else ["", line, ""]
    lines.append("")
    lines += ["What the paper says:", ""]
    lines += [f"- ({one.letter}) {one.sentence}." for one in CLAIMS]
    lines += [
        "",
        "Each is tested on pairs of runs of one seed that differ in the measure alone, "
        "of (d) in the number of rounds alone. A positive difference is as claimed; "
        "points are of accuracy in percent. "
        f"The interval is Student's at {100 * CONFIDENCE:g} % of the mean over seeds. "
        "Of (a) and (c), it held where the interval lies above 0; of (b) and (d), "
        "which claim no more than no loss, where it lies at or above 0; it is "
        "contradicted where the interval lies below 0. Anything else decides nothing. "
        "Each interval is by itself: of twenty that decide, one may be chance.",
        "",
    ]
    for own in sections:
        if own.tested:
            lines += [f"### {title(own.block)[0]}", "", f"{title(own.block)[1]}.", ""]
            lines += markdown(_tested(own.tested))
    return lines


def _tested(found: Sequence[Ordering]) -> Grid:
    header = ["claim", "seeds", "mean difference", "interval", "verdict"]
    rows = []
    for one in found:
        rows.append(
            [
                f"({one.claim.letter}) {one.where}: {one.claim.difference}",
                str(len(one.seeds)),
                f"{_amount(one, one.mean)} {one.claim.unit}",
                _interval(one),
                one.verdict,
            ]
        )
    return Grid("Differences", header, rows)


def _interval(one: Ordering) -> str:
    if one.interval is None:
        return "none"
    return " to ".join(_amount(one, end) for end in one.interval)


def _amount(one: Ordering, value: float) -> str:
    scale = 100 if one.claim.unit == "points" else 1
    # Without this a difference that rounds to 0 would keep its sign.
    rounded = round(scale * value, 2) or 0.0
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def to_json(sections: Sequence[Section], incomplete: Sequence[RunRecord]) -> str:
    """Returns the numbers behind tables, orderings and layers, for each seed."""
    content = {
        "incomplete": [_unfinished(one) for one in incomplete],
        "blocks": [_block(own) for own in sections],
    }
    return json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n"


def _block(own: Section) -> dict[str, Any]:
    block = own.block
    groups = [block.of(m, count) for m in block.measures for count in block.rounds]
    return {
        "title": title(block),
        "settings": _exact(block),
        "figures": own.figures,
        "results": [_group(runs) for runs in (block.dense, *groups) if runs],
        "orderings": [
            {**asdict(one), "claim": one.claim._asdict()} for one in own.tested
        ],
    }


def _group(runs: Sequence[Run]) -> dict[str, Any]:
    settings = runs[0].record.settings
    numbers = {}
    for name, number in NUMBERS.items():
        mean, deviation, seeds = over_seeds(runs, number)
        numbers[name] = {
            "mean": mean if seeds else None,
            "deviation": deviation if seeds > 1 else None,
            "of_seeds": [number(run) for run in runs],
        }
    return {
        "measure": settings.measure if settings.rounds else "dense",
        "rounds": settings.rounds,
        "seeds": [run.record.settings.seed for run in runs],
        **numbers,
        "pruned_of_layers": layer_shares(runs),
    }


def _exact(block: Block) -> dict[str, Any]:
    """Returns the settings and versions of a block, all there are of each."""
    runs = _runs(block)
    found: dict[str, list[str]] = {"data": [block.data]}
    for run in runs:
        # Of a dense run, what it has in common with the pruned ones only.
        settings = asdict(run.record.settings)
        names = ("model", "seed") if not run.record.settings.rounds else settings
        if not block.runs:
            names = settings
        for name in names:
            _add(found, name, settings[name])
    for run in runs:
        for name, value in run.record.versions.items():
            _add(found, name, value)
    return {name: "; ".join(values) for name, values in found.items()}


def _add(found: dict[str, list[str]], name: str, value: Any) -> None:
    own = found.setdefault(name, [])
    if (text := _text(value)) not in own:
        own.append(text)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(
            " at ".join(map(str, item)) if isinstance(item, tuple) else str(item)
            for item in value
        )
    return str(value)


def _runs(block: Block) -> list[Run]:
    return [*block.dense, *block.runs]


def _unfinished(record: RunRecord) -> str:
    settings = record.settings
    done = f"{len(record.epochs)} of {settings.epochs} epochs"
    return f"{described(settings)} on {record.data}, {done}"


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _finite(value: Any) -> Any:
    """Replaces numbers that JSON has not by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(own) for name, own in value.items()}
    return (
        [_finite(own) for own in value] if isinstance(value, (list, tuple)) else value
    )
