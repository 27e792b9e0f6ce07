"""Collects every notebook of nbs/ as one test: library notebooks through nbdev's runner, experiments through papermill at smoke size."""
import json
import os
import re
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests at a time, a core for each

SMOKE = {"budget": "smoke", "steps": 4, "splits": 2, "seeds": "0", "directions": "simulated:A:B"}
OWN = {"23_e3": {"seeds": "0 1"}}  # what one experiment needs besides: a spread over seeds
LONGEST = ("test_a_killed_worker_and_the_same_rows_over_ssh", "20_training", "20a_neural_transfer", "test_explorers_in_jupyterlab", "38_bench", "19_model", "10b_cuda_kernels", "39_run", "23_e3")


def pytest_collection_modifyitems(items):
    "The longest tests go first, so that no core is idle while another is busy with the last of them"
    items.sort(key=lambda item: LONGEST.index(item.name) if item.name in LONGEST else len(LONGEST))


def is_experiment(path: Path) -> bool:
    "Whether a notebook has a cell of papermill parameters"
    return any("parameters" in c["metadata"].get("tags", []) for c in json.loads(path.read_text(encoding="utf-8"))["cells"])


def pytest_collect_file(parent, file_path):
    if file_path.suffix == ".ipynb" and file_path.parent.name == "nbs" and not file_path.name.startswith(("_", ".")):
        return Notebook.from_parent(parent, path=file_path)


class Notebook(pytest.File):
    def collect(self):
        kind = Experiment if is_experiment(self.path) else Library
        yield kind.from_parent(self, name=self.path.stem)


class NotebookFailure(Exception):
    "A notebook whose cell failed; the message is the traceback as the notebook shows it"


class Runs(pytest.Item):
    def repr_failure(self, excinfo):
        return str(excinfo.value) if isinstance(excinfo.value, NotebookFailure) else super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, self.path.name


class Library(Runs):
    "All cells run in a process of their own; a failing assertion of a law fails the test"

    def runtest(self):
        import subprocess
        import sys

        run = "import sys; from pathlib import Path; from nbdev.test import test_nb; passed, _ = test_nb(Path(sys.argv[1]), force_flags=['slow']); sys.exit(not passed)"
        done = subprocess.run([sys.executable, "-c", run, str(self.path)], cwd=self.path.parent, capture_output=True, text=True)
        if done.returncode:
            raise NotebookFailure(re.sub(r"\x1b\[[0-9;]*m", "", done.stderr))


class Experiment(Runs):
    "Papermill runs it whole, with parameters that take seconds"

    def runtest(self):
        import tempfile

        import papermill

        from spektron.run import notebook_parameters

        with tempfile.TemporaryDirectory() as d:
            try:
                given = {k: v for k, v in {**SMOKE, **OWN.get(self.path.stem, {}), "out_dir": d}.items() if k in notebook_parameters(self.path)}
                papermill.execute_notebook(self.path, Path(d, "out.ipynb"), given, progress_bar=False, cwd=d)
            except papermill.PapermillExecutionError as e:
                raise NotebookFailure(re.sub(r"\x1b\[[0-9;]*m", "", str(e))) from None
