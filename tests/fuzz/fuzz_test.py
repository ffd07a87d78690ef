"""Whatever is passed, a public function answers, or refuses in its own words.

An answer takes five seconds of the processor and a GiB at most. `python -m
tests.fuzz.fuzz_test FILE` writes what is found to a file, function by function; names
of rooms after it, as `scores masks`, take these alone.
"""

import collections
import inspect
import sys

import pytest

import gradflow_jax as gf
from tests.documented_names_test import FUNCTIONS, PUBLIC
from tests.fuzz.hostile import VALUES
from tests.fuzz.inputs import ENTRIES, NOT_CALLED
from tests.fuzz.judging import judge, whole_tracebacks

# Of each function: so many inputs in the tier of runs, and so few in that of units,
# of the functions that refuse before they compile.
MANY, FEW = 60, 20
LEAST = 30
COMPILE_NOTHING = (
    "dynamics.convergence_order",
    "dynamics.measured_rates",
    "dynamics.predicted_rates",
    "masks.combine",
    "masks.erdos_renyi",
    "masks.erdos_renyi_kernel",
    "masks.invert_scores",
    "masks.layerwise_masks",
    "masks.n_of_m_masks",
    "masks.overlap",
    "masks.pack_masks",
    "masks.prune",
    "masks.quotas",
    "masks.shuffle_labels",
    "masks.shuffle_masks",
    "masks.shuffle_pixels",
    "masks.sparsity",
    "masks.unpack_masks",
    "observations.draw_batches",
    "observations.finding",
    "observations.fit",
    "observations.problem_of",
    "observations.Problem",
    "plotting.accuracy_against_sparsity",
    "plotting.correlation_matrix",
    "plotting.look",
    "plotting.mask_picture",
    "plotting.measured_and_predicted",
    "plotting.observations.convergence",
    "plotting.observations.recovery",
    "plotting.pruned_by_layer",
    "plotting.score_histograms",
    "plotting.training_curves",
    "structured.axis_roles",
    "structured.check_cut",
    "structured.choose_units",
    "structured.compose_keep",
    "structured.cut",
    "structured.cut_error",
    "structured.find_units",
    "structured.forward_time",
    "structured.kept_indices",
    "structured.load_cut",
    "structured.recalibrate",
    "structured.register_rule",
    "structured.save_cut",
    "structured.shrink",
    "structured.sum_over_units",
    "transforms.apply_mask",
    "transforms.masks_of",
    "transforms.replace_masks",
    *(name for name in ENTRIES if name.startswith(("models.", "programs.", "trees."))),
    "scores.agreement",
    "scores.batch_norm_scale",
    "scores.differentiate",
    "scores.fisher",
    "scores.loss_preservation",
    "scores.magnitude",
    "scores.over_batches",
    "scores.score",
    "scores.score_all",
    "scores.spearman",
    "scores.top_overlap",
)


def findings(name, count):
    """Returns how many inputs of a function were tried, and what was found by input."""
    entry = ENTRIES[name]
    found, inputs = {}, entry.inputs(count, seed=name)
    with whole_tracebacks():
        for argument, text, make in inputs:
            value = make()
            finding = judge(lambda: entry.call(argument, value), entry.function)  # noqa: B023
            if finding is not None:
                found[f"{argument} = {text}"] = finding
    return len(inputs), found


def described(found):
    return "\n".join(
        f"  {text}\n    {finding.what}\n    {finding.where}"
        for text, finding in found.items()
    )


def test_every_public_function_has_inputs():
    """And each of its parameters is among them; the top level has the rooms' own."""
    assert set(FUNCTIONS) - set(NOT_CALLED) <= set(ENTRIES)
    own = [PUBLIC[name] for name in PUBLIC]
    assert all(getattr(gf, name) in own for name in gf._ROOM_OF)
    for name, entry in ENTRIES.items():
        parameters = inspect.signature(entry.function).parameters.values()
        named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        absent = named - set(entry.arguments)
        assert not absent, f"{name} lacks {absent}"
    assert min(len(VALUES), MANY) >= LEAST


@pytest.mark.runs
@pytest.mark.parametrize("name", ENTRIES)
def test_the_valid_input_is_accepted(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ENTRIES[name].call()


@pytest.mark.parametrize("name", COMPILE_NOTHING)
def test_a_few_hostile_inputs_are_refused_in_words(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, found = findings(name, FEW)
    assert not found, f"\n{described(found)}"


@pytest.mark.runs
@pytest.mark.parametrize("name", ENTRIES)
def test_hostile_inputs_are_answered_or_refused_in_words(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count, found = findings(name, MANY)
    print(f"{name}: {count} inputs, {len(found)} findings")
    assert not found, f"\n{described(found)}"


def main(path, *rooms):
    """Writes what is found to a file, and prints the counts."""
    counts = collections.Counter()
    names = [name for name in ENTRIES if not rooms or name.split(".")[0] in rooms]
    with open(path, "w") as file:
        for name in names:
            count, found = findings(name, MANY)
            counts.update(inputs=count, findings=len(found))
            line = f"{name}: {len(found)} findings of {count} inputs"
            print(line, flush=True)
            file.write(f"{line}\n{described(found)}\n\n")
            file.flush()
    print(dict(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
