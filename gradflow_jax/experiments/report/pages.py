"""Writes a report as Markdown and as JSON."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gradflow_jax.experiments.formatting import Grid, markdown
from gradflow_jax.experiments.report.drawing import layer_shares
from gradflow_jax.experiments.report.orderings import CLAIMS, Ordering, judge_claims
from gradflow_jax.experiments.report.runs import (
    NUMBERS,
    Block,
    RecordedRun,
    describe,
    over_seeds,
)
from gradflow_jax.experiments.report.tables import grids, title
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


def section_of(block: Block, figures: Mapping[str, str]) -> Section:
    """Returns the section of a block, with its orderings tested."""
    return Section(block, figures, judge_claims(run.record for run in block.runs))


def summary(sections: Sequence[Section]) -> list[str]:
    """Returns in a few sentences whether the runs agree with the paper."""
    tested = [ordering for section in sections for ordering in section.tested]
    if not tested:
        return ["No two runs differ in what the paper's orderings are about."]
    counts = Counter(ordering.verdict for ordering in tested)
    verdicts = "; ".join(f"{name}: {counts[name]}" for name in VERDICTS if counts[name])
    lines = [f"Orderings of the paper tested: {len(tested)}. {verdicts}."]
    for section in sections:
        against = [o for o in section.tested if o.verdict == "contradicted"]
        if against:
            block = "; ".join(title(section.block))
            lines.append(f"These runs disagree with the paper ({block}):")
        for ordering in against:
            claim = ordering.claim
            lines.append(
                f"- ({claim.letter}) {claim.sentence}: not with {ordering.where}, "
                f"{_amount(ordering, ordering.mean)} {claim.unit} "
                f"({_interval(ordering)})"
            )
    return lines if len(lines) > 1 else [*lines, "None is contradicted."]


def to_markdown(sections: Sequence[Section], incomplete: Sequence[RunRecord]) -> str:
    """Returns the report as one Markdown page."""
    count = sum(len(_runs(section.block)) for section in sections)
    runs = f"{count} run{'' if count == 1 else 's'}"
    lines = ["# Pruning while training", "", f"{runs}.", ""]
    lines += [
        f"- Left out, incomplete: {_describe_unfinished(run)}" for run in incomplete
    ]
    lines += [""] * bool(incomplete)
    for section in sections:
        heading, details = title(section.block)
        lines += [f"## {heading}", "", f"{details}.", ""]
        for grid in grids(section.block):
            lines += markdown(grid)
        for kind, name in section.figures.items():
            lines += [f"![{_ALT[kind]}]({name})", ""]
        lines += ["### Settings and versions", ""]
        settings = _settings_and_versions(section.block)
        lines += [f"- {name}: {value}" for name, value in settings.items()]
        lines.append("")
    text = "\n".join([*lines, *_orderings(sections)])
    return re.sub("\n{3,}", "\n\n", text).rstrip() + "\n"


def _orderings(sections: Sequence[Section]) -> list[str]:
    lines = ["## Orderings", ""]
    for line in summary(sections):
        # Markdown wants a blank line before and after a list, and none within.
        lines += [line] if line.startswith("- ") else ["", line, ""]
    lines.append("")
    lines += ["What the paper says:", ""]
    lines += [f"- ({claim.letter}) {claim.sentence}." for claim in CLAIMS]
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
    for section in sections:
        if section.tested:
            heading, details = title(section.block)
            lines += [f"### {heading}", "", f"{details}.", ""]
            lines += markdown(_grid_of_orderings(section.tested))
    return lines


def _grid_of_orderings(orderings: Sequence[Ordering]) -> Grid:
    header = ["claim", "seeds", "mean difference", "interval", "verdict"]
    rows = []
    for ordering in orderings:
        claim = ordering.claim
        rows.append(
            [
                f"({claim.letter}) {ordering.where}: {claim.difference}",
                str(len(ordering.seeds)),
                f"{_amount(ordering, ordering.mean)} {claim.unit}",
                _interval(ordering),
                ordering.verdict,
            ]
        )
    return Grid("Differences", header, rows)


def _interval(ordering: Ordering) -> str:
    if ordering.interval is None:
        return "none"
    return " to ".join(_amount(ordering, end) for end in ordering.interval)


def _amount(ordering: Ordering, value: float) -> str:
    """Returns a difference as pages show it: +1.25, −0.30 or 0.00."""
    scale = 100 if ordering.claim.unit == "points" else 1
    # A difference that rounds to −0.0 would keep its sign; 0.0 stands for both.
    rounded = round(scale * value, 2) or 0.0
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def to_json(sections: Sequence[Section], incomplete: Sequence[RunRecord]) -> str:
    """Returns the numbers behind tables, orderings and layers, for each seed."""
    content = {
        "incomplete": [_describe_unfinished(run) for run in incomplete],
        "blocks": [_block_numbers(section) for section in sections],
    }
    plain = _nulls_for_infinities(content)
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def _block_numbers(section: Section) -> dict[str, Any]:
    block = section.block
    groups = [block.of(m, count) for m in block.measures for count in block.rounds]
    return {
        "title": title(block),
        "settings": _settings_and_versions(block),
        "figures": section.figures,
        "results": [_group_numbers(runs) for runs in (block.dense, *groups) if runs],
        # `asdict` leaves named tuples as they are, and JSON would have lists of them.
        "orderings": [
            {**asdict(ordering), "claim": ordering.claim._asdict()}
            for ordering in section.tested
        ],
    }


def _group_numbers(runs: Sequence[RecordedRun]) -> dict[str, Any]:
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


def _settings_and_versions(block: Block) -> dict[str, Any]:
    """Returns the settings and versions of a block's runs, with all values of each."""
    runs = _runs(block)
    values: dict[str, list[str]] = {"data": [block.data]}
    for run in runs:
        settings = asdict(run.record.settings)
        # How a dense run would have been pruned means nothing beside pruned runs.
        is_reference = block.runs and not run.record.settings.rounds
        for name in ("model", "seed") if is_reference else settings:
            _add_if_new(values, name, settings[name])
    for run in runs:
        for name, version in run.record.versions.items():
            _add_if_new(values, name, version)
    return {name: "; ".join(texts) for name, texts in values.items()}


def _add_if_new(values: dict[str, list[str]], name: str, value: Any) -> None:
    texts = values.setdefault(name, [])
    if (text := _text(value)) not in texts:
        texts.append(text)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(
            " at ".join(map(str, item)) if isinstance(item, tuple) else str(item)
            for item in value
        )
    return str(value)


def _runs(block: Block) -> list[RecordedRun]:
    return [*block.dense, *block.runs]


def _describe_unfinished(record: RunRecord) -> str:
    settings = record.settings
    done = f"{len(record.epochs)} of {settings.epochs} epochs"
    return f"{describe(settings)} on {record.data}, {done}"


def _nulls_for_infinities(value: Any) -> Any:
    """Replaces infinities and not-a-numbers, which JSON has not, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _nulls_for_infinities(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nulls_for_infinities(part) for part in value]
    return value
