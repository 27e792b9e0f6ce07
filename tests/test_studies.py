"""The parts on trial: rows that are complete and from committed code, and executed reports that speak of them."""
from pathlib import Path

import numpy as np
import papermill
import pytest
from reports import checked_report, has_figure

from spektron.run import load_rows

ROOT = Path(__file__).parents[1]
STUDIES = {"architecture": "31_architecture", "losses": "32_losses", "test_time": "33_test_time", "e3": "23_e3"}


@pytest.mark.parametrize("study", STUDIES)
def test_rows(study):
    "All from committed code, no number missing; every line of reconstruction with three seeds that saw the same spectra and masks"
    rows = load_rows(study)
    assert len(rows) and not rows["code.dirty"].any()
    if study in ("test_time", "e3"): return
    trained = rows.dropna(subset=["metrics.nre"])
    assert (trained.groupby("config.line")["config.config.seed"].nunique() == 3).all() and np.isfinite(trained["metrics.nre"].astype(float)).all()
    for _, of_seed in trained.groupby("config.config.seed"): assert len({tuple(m) for m in of_seed["metrics.of_mean"]}) == 1
    assert set(trained["config.against"]) - {""} <= set(trained["config.line"])


@pytest.mark.parametrize("study, notebook", STUDIES.items())
def test_report(study, notebook):
    "Executed to the end at laptop size without an error, under 300 kB, with a figure, and no path of a machine"
    path = ROOT / "results" / study / "laptop.ipynb"
    assert has_figure(checked_report(path, notebook))


def test_a_row_is_not_made_again(tmp_path):
    "A second run of a study reads what the first one left"
    given = dict(out_dir=str(tmp_path), budget="smoke", seeds="0", directions="simulated:A:B", splits=2, steps="2", standards="0")
    def run(): papermill.execute_notebook(ROOT / "nbs/33_test_time.ipynb", tmp_path / "out.ipynb", given, progress_bar=False, cwd=tmp_path)
    run()
    (path,) = (tmp_path / "test_time").glob("*.json")
    stamp = path.stat().st_mtime_ns
    run()
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("notebook, given, message", [("31_architecture", dict(budget="huge"), "budget='huge' is not known"), ("33_test_time", dict(directions="corn:m5"), "dataset:source:target"), ("32_losses", dict(seeds="one"), "seeds='one'"),
                                                      ("23_e3", dict(seeds="0"), "expected two or more"), ("23_e3", dict(n_random=3), "expected at least 20")])
def test_bad_parameters_stop_at_once(notebook, given, message, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(ROOT / f"nbs/{notebook}.ipynb", tmp_path / "out.ipynb", {"out_dir": str(tmp_path), **given}, progress_bar=False, cwd=tmp_path)
    assert not list(tmp_path.glob("*/*.json"))


def test_oscillators():
    "E3 has five seeds of each kind, enough untrained networks, and networks without damping whose poles stayed on the unit circle"
    rows = load_rows("e3").set_index("config.kind")
    kinds = ["FWHM 5", "FWHM 10", "FWHM 20", "shuffled axis", "no damping", "half the depth", "real S4D", "complex S4D"]
    assert all(rows.loc[k, "config.config.seed"].nunique() == 5 for k in kinds) and len(rows.loc["untrained", "metrics.layers"]) >= 20
    assert all(abs(r - 1) < 1e-9 for radii in rows.loc["no damping", "metrics.radii"] for r in radii)
