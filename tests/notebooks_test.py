"""The notebooks: source and .ipynb agree, and every cell runs, in a small size."""

import ast
import subprocess
import sys

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.execute_notebooks import NOTEBOOKS, SOURCES, execute, read

# What the constants of each notebook's cell "sizes" are in the tests.
SMALL = {
    "01_scores": {"HIDDEN": 16, "STEPS": 20},
    "02_prune_and_finetune": {
        "SEEDS": (0, 1),
        "HIDDEN": 16,
        "STEPS": 20,
        "FINE_TUNING_STEPS": 20,
        "SPARSITIES": (0.5, 0.8),
    },
    "03_gradient_flow": {
        "SEEDS": 2,
        "EXAMPLES": 20,
        "RESNET_EXAMPLES": 20,
        "STEPS": 6,
        "FINETUNING": 3,
        "NETWORK": "vgg13",
    },
    "04_structured": {
        "WIDTHS": (8, 8),
        "BATCH": 8,
        "STEPS": 2,
        "FINE_TUNING_STEPS": 2,
        "MEASURES": ("magnitude",),
        "SPARSITIES": (0.5,),
        "ROUND_TO": 2,
        "CHOSEN": 0.5,
        "PAIRS": 3,
    },
    "05_choose_a_measure": {
        "SEEDS": 2,
        "TRAIN": 60,
        "STEPS": 6,
        "FINETUNING": 3,
        "SPARSITIES": (0.8, 0.9),
    },
}

# In the kernel: this Python, and warnings are errors, but for Jupyter's own.
PREAMBLE = f"""
import sys, warnings
assert sys.prefix == {sys.prefix!r}, sys.prefix
warnings.simplefilter("error")
for own in ("ipykernel", "IPython", "jupyter_client", "tornado", "traitlets", "zmq"):
    warnings.filterwarnings("ignore", module=own + r"(\\.|$)")
"""

each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def sizes_cell(notebook):
    (cell,) = (c for c in notebook.cells if "sizes" in c.metadata.get("tags", ()))
    return cell


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_has_small_sizes_and_both_files():
    names = {source.stem for source in SOURCES}
    assert names == set(SMALL)
    assert names == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


@each
def test_the_source_and_the_notebook_hold_the_same_cells(source):
    stored = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    expected = read(source)
    assert len(stored.cells) == len(expected.cells)
    for ours, theirs in zip(expected.cells, stored.cells, strict=True):
        for part in ("id", "cell_type", "source", "metadata"):
            assert ours[part] == theirs[part], f"execute it anew: {ours['source']}"


@each
def test_the_first_code_cell_is_the_common_one(source):
    first = code_cells(read(source))[0]["source"]
    assert first == code_cells(read(SOURCES[0]))[0]["source"]
    assert 'SOURCE = ""' in first


def run_first_cell(folder, *flags):
    """Runs the common first cell in a folder, by an interpreter of its own."""
    cell = code_cells(read(SOURCES[0]))[0]["source"]
    where = "import gradflow_jax; print(gradflow_jax.__file__)"
    return subprocess.run(
        [sys.executable, "-I", *flags, "-c", f"{cell}\n{where}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_first_cell_takes_the_checkout_above_it():
    """Whatever is installed, nothing is."""
    run = run_first_cell(NOTEBOOKS)
    assert run.returncode == 0, run.stderr
    expected = NOTEBOOKS.parent / "gradflow_jax" / "__init__.py"
    assert run.stdout.strip() == str(expected)


def test_the_first_cell_asks_for_a_source_where_there_is_no_checkout(tmp_path):
    """No index is asked: nobody holds the name there."""
    run = run_first_cell(tmp_path, "-S")
    assert run.returncode == 1
    assert "ValueError: SOURCE is empty: write into this cell" in run.stderr
    assert "The project has no name on a package index." in run.stderr


@each
def test_the_stored_notebook_is_whole_and_small(source):
    path = source.with_suffix(".ipynb")
    assert path.stat().st_size < 300_000
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell["execution_count"] for cell in cells] == [
        i + 1 for i in range(len(cells))
    ]
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {kind for output in outputs for kind in output.get("data", ())}
    assert "image/png" in kinds
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]
        # Neither an object's address nor a folder of the machine it ran on.
        shown = str(output.get("text", output.get("data", {}).get("text/plain")))
        assert " at 0x" not in shown and "/tmp" not in shown


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


@pytest.mark.runs
@pytest.mark.usefixtures("own_folders")
def test_a_warning_in_a_cell_is_an_error():
    cells = [PREAMBLE, 'warnings.warn("seen", DeprecationWarning)']
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
    )
    with pytest.raises(CellExecutionError) as error:
        execute(notebook, timeout=60)
    assert error.value.ename == "DeprecationWarning"


@each
@pytest.mark.runs
@pytest.mark.usefixtures("own_folders")
def test_every_cell_runs_without_a_warning(source):
    notebook = read(source)
    cell = sizes_cell(notebook)
    names = {
        target.id
        for node in ast.parse(cell["source"]).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    small = SMALL[source.stem]
    assert set(small) <= names, "the cell 'sizes' has no such constant"
    cell["source"] += "".join(f"\n{name} = {value!r}" for name, value in small.items())
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PREAMBLE))
    execute(notebook, timeout=300)
    printed = [
        output["text"]
        for cell in code_cells(notebook)
        for output in cell["outputs"]
        if output.get("name") == "stderr"
    ]
    assert not printed
