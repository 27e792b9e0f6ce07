"""Calibration transfer as its users start it, and the results that are kept."""
import itertools
from pathlib import Path

import numpy as np
import papermill
import pytest
from reports import checked_report, names_its_row

from spektron.run import load_rows, transfer_table

ROOT = Path(__file__).parents[1]
REPORTS = sorted((ROOT / "results" / "e4").glob("*.ipynb"))
DIRECTIONS = {("corn", *d) for d in itertools.permutations(("m5", "mp5", "mp6"), 2)} | {("tablets", "1", "2"), ("tablets", "2", "1")}


def run(tmp_path, **given):
    papermill.execute_notebook(ROOT / "nbs/24_e4.ipynb", tmp_path / "out.ipynb", {"out_dir": str(tmp_path), "budget": "smoke", **given}, progress_bar=False, cwd=tmp_path)
    return load_rows("e4", tmp_path)


def test_networks_share_the_splits_of_the_rest(tmp_path):
    "A run of its own for the networks joins the table of the other methods"
    given = dict(n_transfer="5", property="water", workers=1)
    run(tmp_path, methods="none,pool", **given)
    rows = run(tmp_path, methods="CNN,Spektron,CNN + Spektron", **given)
    table = transfer_table(rows)
    assert set(table.method) == {"none", "pool", "CNN", "Spektron", "CNN + Spektron", "ceiling"} and not table.duplicated(["property", "n", "split", "method"]).any()
    assert np.isfinite(table[["rmsep", "ceiling", "none"]]).all(axis=None)


@pytest.mark.parametrize("given, message", [(dict(methods="none,pols"), "methods=\\['pols'\\] are not known"), (dict(methods="none,pool + CNN"), "add CNN, pool"), (dict(budget="huge"), "budget='huge' is not known"), (dict(source="C"), "instrument 'C' is not in this set")])
def test_unknown_names_are_refused(tmp_path, given, message):
    with pytest.raises(papermill.PapermillExecutionError, match=message): run(tmp_path, **given)
    assert load_rows("e4", tmp_path).empty


def test_rows():
    "Every direction of both sets, twenty splits, all methods, from code that was committed; and no method changes the ceiling"
    rows = load_rows("e4").query("`config.splits` >= 20")
    table = transfer_table(rows)
    assert {tuple(d) for d in table[["dataset", "source", "target"]].drop_duplicates().to_numpy()} == DIRECTIONS
    assert not rows["code.dirty"].any() and np.isfinite(table[["rmsep", "ceiling", "none"]]).all(axis=None)
    alone = table[table.method == "ceiling"].groupby(["dataset", "source", "target", "property", "split"]).rmsep
    assert (alone.max() == alone.min()).all()


@pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.stem)
def test_report(path):
    "Executed to the end without an error, under 300 kB, no path of a machine, and speaking of the row that carries its numbers"
    assert names_its_row(checked_report(path, "24_e4"), path.parent)
