"""Raman from infrared and back: the experiment as its users start it, and the results that are kept."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import papermill
import pytest
from rdkit import Chem
from reports import KEPT_BACKBONES, checked_report, has_figure, names_its_row

from spektron.config import budget
from spektron.data.corpus import Columns, broadened, write_corpus
from spektron.data.lines import load_lines
from spektron.run import load_rows, run_notebook

ROOT = Path(__file__).parent.parent
REPORTS = sorted((ROOT / "results" / "e2").glob("*.ipynb"))


def run(tmp_path, **given):
    run_notebook("e2", tmp_path / "out.ipynb", dict(budget="smoke", steps=2, out_dir=str(tmp_path)) | given, progress=False)
    (row,) = load_rows("e2", tmp_path).to_dict("records")
    return row


def test_held_out_group_and_other_corpus(tmp_path):
    "No molecule of a group that is held out is trained on; what is trained on is left out of the other corpus, by InChIKey"
    lines = load_lines()[:150]
    lines.smiles[:] = [Chem.MolToSmiles(Chem.MolFromSmiles(s), canonical=False, allHsExplicit=True, kekuleSmiles=False) for s in lines.smiles]  # the same molecules, written otherwise
    assert (lines.smiles != load_lines()[:150].smiles).all()
    data = budget("smoke").data
    values, columns = broadened(lines, data)
    write_corpus(tmp_path / "other.h5", data.axis, values, columns)
    row = run(tmp_path, held_out="nitrile", also_on=str(tmp_path / "other.h5"), backbone="cnn")
    assert row["split.hash"].endswith("nitrile") and row["metrics.also_on.left_out"] >= row["split.train"] > 100
    assert row["metrics.also_on.pairs"] + row["metrics.also_on.left_out"] == 150


def test_a_corpus_measured_in_part(tmp_path):
    "Another grid, Raman spectra measured in part only, given by its path; back to infrared"
    lines = load_lines()[:150]
    data = replace(budget("smoke").data, low=600.0, high=3600.0, n_points=512, fwhm=20.0)
    values, columns = broadened(lines, data)
    stop = np.where(columns.modality == 1, 400, 512)
    columns.valid = np.stack([np.zeros_like(stop), stop], 1).astype(np.int32)
    write_corpus(tmp_path / "part.h5", data.axis, np.where(np.arange(512) < stop[:, None], values, 0), columns)
    row = run(tmp_path, corpus=str(tmp_path / "part.h5"), direction="raman2ir", backbone="cnn", pretrained="e1")
    assert np.isfinite(row["metrics.means.model.cosine"]) and row["asked.pretrained"] == "e1"


def test_pretraining_does_not_see_test_molecules(tmp_path):
    "Half of the molecules have no Raman spectrum, which makes the division of all spectra another one than that of the pairs"
    lines = load_lines()[:300]
    data = budget("smoke").data
    values, columns = broadened(lines, data)
    keep = (columns.modality == 0) | (np.arange(len(values)) % 4 == 1)
    kept = Columns(*(np.asarray(getattr(columns, k))[keep] for k in ("modality", "molecule", "formula")), n=data.n_points)
    write_corpus(tmp_path / "half.h5", data.axis, values[keep], kept)
    for held_out in ("", "alkyne"):
        out = tmp_path / (held_out or "none")
        row = run(out, corpus=str(tmp_path / "half.h5"), backbone="cnn", pretrained="e1", held_out=held_out)  # the report asserts it
        assert row["asked.pretrained"] == "e1" and row["asked.config.data.corpus"] == "half.h5" and str(tmp_path) not in next((out / "e2").glob("*.json")).read_text()


@pytest.mark.parametrize("given, message", [(dict(direction="ir2nir"), "allowed: ir2raman, raman2ir"), (dict(held_out="gold"), "held_out='gold' is not known"), (dict(window="400"), "expected 2 numbers"), (dict(backbone="lstm"), "allowed: dlinoss")])
def test_bad_parameters_stop_at_once(given, message, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(ROOT / "nbs/22_e2.ipynb", tmp_path / "out.ipynb", dict(out_dir=str(tmp_path), budget="smoke") | given, progress_bar=False, cwd=tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_pairs_joined_by_row_are_refused(tmp_path):
    "A corpus whose Raman spectra are those of the next molecule fails the pairing law"
    lines = load_lines()[:150]
    data = budget("smoke").data
    values, columns = broadened(lines, data)
    values[columns.modality == 1] = np.roll(values[columns.modality == 1], 1, axis=0)
    write_corpus(tmp_path / "wrong.h5", data.axis, values, columns)
    with pytest.raises(papermill.PapermillExecutionError, match="these are not pairs"): run(tmp_path, corpus=str(tmp_path / "wrong.h5"))


def test_rows():
    "From committed code; every backbone in both directions on computed spectra, two on measured ones with five divisions of the species; the same test pairs for all of one kind"
    rows = load_rows("e2")
    assert not rows["code.dirty"].any() and (rows["config.budget"] == "laptop").all()
    computed = rows[(rows["config.data.corpus"] == "embedded") & (rows["asked.pretrained"] == "") & (rows["asked.held_out"] == "") & (rows["seed"] == 0)]
    assert {tuple(x) for x in computed[["asked.direction", "config.model.backbone"]].to_numpy()} >= {(d, b) for d in ("ir2raman", "raman2ir") for b in KEPT_BACKBONES}
    assert len({tuple(m) for m in computed["metrics.molecule"]}) == 1
    measured = rows[rows["config.data.corpus"] == "rruff"]
    assert (measured.groupby(["asked.direction", "config.model.backbone"])["seed"].nunique() == 5).all() and len(measured.groupby(["asked.direction", "config.model.backbone"])) == 4


@pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.stem)
def test_reports(path):
    "Executed to the end without an error, light, with figures, and no path of a machine"
    cells = checked_report(path, "22_e2", most=400_000)
    assert has_figure(cells) and names_its_row(cells, path.parent)
