"""What a user of the package, rather than of the notebooks, relies on."""
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTEBOOK_STACK = ("mapie", "chemotools", "diPLSlib", "jcamp", "pooch", "rdata", "pyarrow", "dask", "torch_geometric", "plotly", "IPython", "jupyterlab", "papermill", "ipywidgets", "pywt", "ot", "rdkit", "tblite", "nbdev")


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_library_runs_without_the_notebook_stack():
    "Training and what it imports load none of the packages that a bare GPU machine lacks"
    block = "import sys; [sys.modules.__setitem__(m, None) for m in %r]; " % (NOTEBOOK_STACK,)
    assert python(block + "import spektron.training, spektron.run, spektron.data.lines, spektron.data.sources; print('in')") == "in"


def test_import_is_quick():
    "`import spektron` takes under a second and brings no torch"
    assert python("import time; t = time.perf_counter(); import spektron, sys; print(time.perf_counter() - t < 1, 'torch' in sys.modules)") == "True False"


def test_constraints_cover_requirements():
    "Every requirement of settings.ini is pinned in constraints.txt"
    import re

    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini")
    wanted = " ".join(v for k, v in settings["DEFAULT"].items() if k.endswith("requirements") and not k.startswith("cuda")).split()
    name = lambda r: re.split(r"[<>=!~\[]", r)[0].lower().replace("_", "-")
    pinned = {name(line) for line in (ROOT / "constraints.txt").read_text().split()}
    assert not {name(r) for r in wanted} - pinned
