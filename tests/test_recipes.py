"""What the README tells a newcomer to do, done: its code blocks are taken out of the text and run, word for word, in a copy of the project."""
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml

from spektron.config import DataConfig, budget
from spektron.data.corpus import split
from spektron.data.sources import fitted, open_corpus
from spektron.report import report_table
from spektron.run import load_rows, load_runs, transfer_table

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))


def blocks(text: str) -> list[tuple[str, str]]:
    "Language and code of every block"
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


def block(word: str, kind: str = "python", text: str = README) -> str:
    "The code block that has this word"
    found = [code for k, code in blocks(text) if k == kind and word in code]
    assert len(found) == 1, f"{len(found)} blocks of {kind} with {word!r}"
    return found[0]


def told(pattern: str) -> tuple[str, ...]:
    "What the README says in words where a block is to go"
    found = re.findall(pattern, README)
    assert len(found) == 1, f"{len(found)} places with {pattern!r}"
    return found[0]


@pytest.fixture
def project(tmp_path) -> Path:
    "Notebooks and package of the project, its data by a link, and no results"
    for name in ("nbs", "spektron"): shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("images", "__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    return tmp_path


def shell(code: str, project: Path, quick: str = "") -> str:
    "A block of shell code as it stands, but for parameters that make an experiment take seconds; what it printed"
    (project / "bin").mkdir(exist_ok=True)
    command = project / "bin" / "spektron"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m spektron.cli "$@"\n')
    command.chmod(0o755)
    quicker, n = re.subn(r"(spektron run \w+)", rf"\1 {quick}", code)
    assert n == bool(quick)
    path = os.pathsep.join([str(project / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(["bash", "-e", "-c", quicker], cwd=project, env=os.environ | dict(PATH=path, PYTHONPATH=str(project)), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    return run.stdout + run.stderr


def add_cell(notebook: Path, code: str, above: str = "") -> None:
    "Put code into a cell of a notebook: of a new one, or above the cell that begins a definition"
    if not notebook.exists(): return nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), notebook)
    book = nbformat.read(notebook, 4)
    place = next(i for i, c in enumerate(book.cells) if re.search(rf"^{above}\b.* = {{", c.source, re.M))
    book.cells.insert(place, nbformat.v4.new_code_cell(code))
    nbformat.write(book, notebook)


def add_line(notebook: Path, registry: str, line: str) -> None:
    "Put a line at the end of a registry, a dict in a cell of a notebook"
    book = nbformat.read(notebook, 4)
    cell = next(c for c in book.cells if re.search(rf"^{registry}\b.* = {{", c.source, re.M))
    cell.source, n = re.subn(rf"(^{registry}\b.*? = {{.*?)^}}", rf"\1    {line}\n}}", cell.source, count=1, flags=re.M | re.S)
    assert n == 1
    nbformat.write(book, notebook)


def test_a_sixth_backbone(project):
    "One notebook and one line, and it has a row, a report, a size that fits and a place in E1's table"
    notebook, line, registry, where = told(r"cell of `(nbs/\w+\.ipynb)`, and the line `([^`]+)` into `(\w+)` in `(nbs/\w+\.ipynb)`")
    add_cell(project / notebook, block("default_exp models."))
    add_line(project / where, registry, line)
    shell(block("-p backbone=", "sh"), project, "-p budget=smoke -p steps=2")
    rows, wanted = load_rows("e1", project / "results"), budget("smoke").model.n_parameters
    name = line.split('"')[1]
    assert list(rows["config.model.backbone"]) == [name] and abs(rows["metrics.parameters.backbone"][0] / wanted - 1) <= 0.02
    run = load_runs("e1", project / "results").iloc[0]
    assert (run["state"], run["parameters.backbone"]) == ("done", name) and (project / "results" / "e1" / run["hash"] / "report.ipynb").exists()
    assert name in set(report_table("e1", {"config.budget": "smoke", "config.training.steps": 2}, folder=project / "results").line)


def test_a_dataset(project, monkeypatch):
    "A table of one's own becomes a corpus, and E1 runs on it; samples of a group are on one side"
    rng = np.random.default_rng(0)
    axis, groups = np.arange(400, 1804, 4.0), [f"oil {i // 3}" for i in range(60)]
    bands = [np.exp(-(((axis - c) / 30) ** 2)) for c in (600, 900, 1100, 1450, 1650)]
    spectra = rng.random((60, 5)) @ np.array(bands) + 0.01 * rng.standard_normal((60, len(axis)))
    monkeypatch.chdir(project)
    exec(block("to_csv"), dict(spectra=spectra, axis=axis, groups=groups, names=[f"{g}, {i % 3}" for i, g in enumerate(groups)]))
    shell(block("corpus build tables", "sh"), project, "-p budget=smoke -p steps=2")
    row, corpus = load_rows("e1", project / "results").iloc[0], open_corpus(fitted(DataConfig(corpus=str(project / "oils.h5"))))
    assert row["config.data.corpus"] == "oils.h5" and row["config.data.modalities"] == ["RAMAN"] and 0 < row["metrics.nre.model"] < 10
    divided = split(corpus)
    parts = [set(corpus.group[rows]) for rows in (divided.train, divided.val, divided.test)]
    assert row["corpus.spectra"] == len(corpus) == 60 and set.union(*parts) == set(groups) and sum(map(len, parts)) == len(set(groups))


def test_a_method(project):
    "One class and one line, and it stands in E4's table, beside the method it improves upon"
    where, line, registry = told(r"one line in `(nbs/\w+\.ipynb)`\. Put this into a cell above `METHODS`, and `([^`]+)` into `(\w+)`")
    add_cell(project / where, block("(SBC)"), above=registry)
    add_line(project / where, registry, line)
    name = line.split('"')[1]
    shell(block("spektron run e4", "sh"), project, "-p splits=2 -p n_transfer='10' -p preprocessing=raw -p workers=1")
    table = transfer_table(load_rows("e4", project / "results"))
    errors = table[table.n == 10].groupby(["method", "property"]).rmsep.mean().unstack()
    assert {name, "bias", "ceiling"} <= set(errors.index) and not np.allclose(errors.loc[name], errors.loc["bias"])
    assert (errors.loc[name] < errors.loc["none"]).all() and name in set(report_table("e4", {"config.splits": 2}, folder=project / "results").line)


def test_a_notebook(project, monkeypatch):
    "The smallest notebook that CONTRIBUTING shows is exported, runs, and is at the bar"
    import test_notebooks

    cells = re.split(r"^# %%(.*)\n", block("default_exp dilution", text=CONTRIBUTING), flags=re.M)[1:]
    made = [nbformat.v4.new_markdown_cell(re.sub(r"^# ?", "", code.strip(), flags=re.M)) if "markdown" in kind else nbformat.v4.new_code_cell(code.strip()) for kind, code in zip(cells[::2], cells[1::2])]
    path = project / "nbs" / "41_dilution.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=dict(kernelspec=dict(name="python3", display_name="python3"))), path)
    shell("nbdev_export\njupyter execute --inplace nbs/41_dilution.ipynb\nnbdev_clean --fname nbs/41_dilution.ipynb", project)
    assert '__all__ = ["diluted"]' in (project / "spektron" / "dilution.py").read_text().replace("'", '"')
    test_notebooks.test_bar(path)
    test_notebooks.test_form(path)


def test_as_a_library():
    "The estimators are used as the README uses them, on a pair of instruments"
    from spektron.adaptation import SpektronRegressor
    from spektron.calibration_transfer import transfer_data
    from spektron.data.instruments import simulate_pair, transfer_splits

    pair = simulate_pair(60, seed=0)
    (split,), (source, target) = transfer_splits(pair, 1, 0), list(pair.spectra)[:2]
    data = transfer_data(pair, source, target, next(iter(pair.units)), split, pair.pairs(5, split, source))
    given = dict(X=data.X, y=data.y, X_standards=data.X_target, y_standards=data.y_target, rows=data.pairs, X_new=data.X_test, wavenumbers=1e7 / data.axis)
    code = block("AutoTransfer().fit")
    assert "SpektronRegressor(axis=wavenumbers)" in code
    exec(code.replace("SpektronRegressor(axis=wavenumbers)", "SpektronRegressor(axis=wavenumbers, steps=5)"), given)
    assert given["est"].predict_interval(data.X_test).shape == (len(data.X_test), 2) and isinstance(given["net"], SpektronRegressor)
    assert np.sqrt(np.mean((given["est"].predict(data.X_test) - data.y_test) ** 2)) < data.y_test.std()


def test_front_door_is_short():
    "One figure, recipes of under twenty lines, and no more than a newcomer reads"
    assert len(README.splitlines()) <= 150 and len(re.findall(r"!\[", README)) == 1
    assert all(len(code.splitlines()) < 20 and max(map(len, code.splitlines())) <= 95 for _, code in blocks(README))
    assert all((ROOT / path).exists() for path in re.findall(r"\]\((nbs/[^)]+)\)", README))


def test_links_lead_somewhere():
    "Every link to the results page ends at one of its headings; files, folders and make's targets that are named are there"
    page = json.loads((ROOT / "nbs" / "results.ipynb").read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", "\n".join("".join(c["source"]) for c in page["cells"] if c["cell_type"] == "markdown"), re.M)
    known = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    contents = re.findall(r"\]\(#([\w-]+)\)", "".join("".join(c["source"]) for c in page["cells"]))
    asked = re.findall(r"results\.html#([\w-]+)", README)
    assert len(asked) >= 8 and set(asked) <= known and contents and set(contents) <= known, (set(asked) | set(contents)) - known
    assert all((ROOT / path).exists() for path in re.findall(r"github\.com/spektron/spektron/(?:tree|blob)/main/([\w./-]+?)/?\)", README))
    extras = [re.findall(r'constraints\.txt -e "(.+?)"', text) for text in (README, CONTRIBUTING, (ROOT / "Makefile").read_text())]
    assert extras[0] == extras[1] == extras[2] and len(extras[0]) == 1
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert {t for t in re.findall(r"make (\w+)", README + CONTRIBUTING)} <= targets


def test_one_version():
    "The citation parses; it, the change log and the package have the same version"
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    version = settings["DEFAULT"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation) and citation["version"] == version
    log = re.findall(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert log[0] == (version, str(citation["date-released"]))
