"""The experiment as its users start it, and the results that are kept."""
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reports import KEPT_BACKBONES, checked_report, names_its_row

from spektron.config import budget, config_hash, from_dict
from spektron.data.corpus import broadened, write_corpus
from spektron.data.lines import load_lines
from spektron.run import load_rows, run_notebook

ROOT = Path(__file__).parent.parent
REPORTS = sorted((ROOT / "results" / "e1").glob("*.ipynb"))


@pytest.mark.parametrize("name, value, allowed", [("backbone", "lstm", "allowed: dlinoss, mamba, s4d, transformer, cnn"), ("budget", "huge", "allowed: smoke, laptop, paper"),
                                                  ("seed", "one", "expected int"), ("corpus", "nowhere.h5", "nowhere.h5")])
def test_bad_parameters_stop_at_once(name, value, allowed, tmp_path):
    "papermill ends with exit code 1, and the message says what is allowed"
    call = [sys.executable, "-m", "papermill", ROOT / "nbs/21_e1.ipynb", "out.ipynb", "-p", name, value, "-p", "out_dir", tmp_path, "--no-progress-bar"]
    run = subprocess.run(list(map(str, call)), cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and allowed in run.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_any_corpus(tmp_path):
    "A corpus of another grid, with Raman spectra measured in part only, given by its path"
    lines = load_lines()[:150]
    data = replace(budget("smoke").data, low=200.0, high=1224.0, n_points=512, modalities=("RAMAN",), fwhm=20.0)
    values, columns = broadened(lines, data)
    stop = np.where(np.arange(len(values)) % 3, 512, 400)
    columns.valid = np.stack([np.zeros_like(stop), stop], 1).astype(np.int32)
    write_corpus(tmp_path / "raman.h5", data.axis, np.where(np.arange(512) < stop[:, None], values, 0), columns)
    run_notebook("e1", tmp_path / "out.ipynb", dict(corpus=str(tmp_path / "raman.h5"), budget="smoke", steps=2, out_dir=str(tmp_path)), progress=False)
    row = load_rows("e1", tmp_path).iloc[0]
    assert row["config.data.modalities"] == ["RAMAN"] and row["config.data.n_points"] == 512 and np.isfinite(row["metrics.nre.model"])
    assert row["config.data.corpus"] == "raman.h5"


def test_unknown_parameter_name_is_refused(tmp_path):
    "papermill alone would only warn"
    call = [sys.executable, "-m", "spektron.run", "e1", "-p", "backbones", "mamba", "-o", str(tmp_path / "out.ipynb")]
    run = subprocess.run(call, capture_output=True, text=True)
    assert run.returncode == 2 and "did you mean 'backbone'" in run.stderr and "Traceback" not in run.stderr


def test_reports_and_rows():
    "Five backbones, three seeds, each with a light report and a row whose name is the hash of its configuration"
    rows = load_rows("e1").query("`config.budget` == 'laptop' and `config.data.corpus` == 'embedded'")
    assert {(r["config.model.backbone"], r["seed"]) for _, r in rows.iterrows()} >= {(b, s) for b in KEPT_BACKBONES for s in range(3)}
    assert {f"{b}-seed{s}" for b in KEPT_BACKBONES for s in range(3)} <= {p.stem for p in REPORTS}
    for path in (ROOT / "results" / "e1").glob("*.json"):
        assert config_hash(from_dict(json.loads(path.read_text())["config"])) == path.stem


@pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.stem)
def test_report(path):
    "Executed to the end without an error, under 300 kB, and speaking of the row that carries its numbers"
    assert names_its_row(checked_report(path, "21_e1"), path.parent)


def test_readme_is_made_from_index():
    "`make readme` would change nothing"
    from nbconvert import MarkdownExporter

    text, _ = MarkdownExporter(exclude_input=True).from_filename(str(ROOT / "nbs" / "index.ipynb"))
    assert text.replace("](images/", "](nbs/images/").strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
