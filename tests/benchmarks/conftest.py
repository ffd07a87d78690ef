"""The test run leaves this folder alone: `python tests/benchmarks/run.py` runs it.

It needs more than the tests do (pytest-benchmark, psutil), and with doctests on pytest
would import every module here.
"""

collect_ignore_glob = ["*.py"]
