"""Executes notebooks: `python tests/execute_notebooks.py [names]` writes the .ipynb."""

import argparse
import copy
import time
import warnings
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    # What Jupyter's packages say of each other is not for who runs a notebook.
    warnings.simplefilter("ignore")
    import jupytext
    import nbformat
    from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))


def read(source: Path) -> Any:
    """Returns the notebook that a py:percent source describes, without outputs."""
    notebook = jupytext.read(source, fmt="py:percent")
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"  # jupytext's are random
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    return notebook


def execute(notebook: Any, *, timeout: float = 600) -> None:
    """Runs all cells in a fresh kernel of this Python; the first error is raised."""
    metadata = copy.deepcopy(notebook.metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        NotebookClient(notebook, timeout=timeout, record_timing=False).execute()
    notebook.metadata = metadata  # the kernel adds its own version


def main() -> None:
    """Executes the notebooks named, or all, in full size."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="such as 01_scores; all, if none")
    names = parser.parse_args().names or [source.stem for source in SOURCES]
    for name in names:
        notebook = read(NOTEBOOKS / f"{name}.py")
        start = time.perf_counter()
        execute(notebook)
        nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
