"""The bar that every notebook is held to, and what keeps notebooks and package in step."""
import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").glob("*.ipynb") if p.name != "index.ipynb")
TEST = re.compile(r"^\s*(assert\b|test_\w+\(|with (expect_fail|pytest)|np\.testing|torch\.testing|check_estimator)", re.M)
EXPORT = re.compile(r"^#\s*\|\s*export", re.M)


def cells_of(path, kind="code"):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def length(cell):
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in source(cell).splitlines())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_bar(path):
    "Small cells, a test for every exported cell, a figure, light outputs"
    code = cells_of(path)
    lengths = sorted(length(c) for c in code if length(c))
    assert statistics.median(lengths) <= 5 and lengths[int(0.9 * (len(lengths) - 1))] <= 15 and lengths[-1] <= 50, lengths
    exported = [c for c in code if EXPORT.search(source(c))]
    tests = [c for c in code if TEST.search(source(c)) and c not in exported]
    assert not any("default_exp" in source(c) for c in code) or len(tests) >= len(exported), f"{len(tests)} test cells for {len(exported)} exported ones"
    outputs = json.dumps([c["outputs"] for c in code])
    assert "plotly" in outputs or "image/" in outputs, "no figure is stored"
    assert len(outputs) <= 300_000, f"{len(outputs) // 1000} kB of outputs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_form(path):
    "A title with a description, imports by name, nothing of this machine in the outputs"
    first = source(cells_of(path, "markdown")[0])
    assert first.startswith("# ") and "\n> " in first, "the first cell is a title and a `> description`"
    stars = re.findall(r"^from (\S+) import \*", "\n".join(map(source, cells_of(path))), re.M)
    assert set(stars) <= {"fastcore.test"}, stars
    outputs = json.dumps([c["outputs"] for c in cells_of(path)])
    assert '"stderr"' not in outputs, "a stream of warnings or a progress bar is stored"
    assert str(ROOT) not in outputs and not re.search(r"object at 0x[0-9a-f]{6}", outputs)


def test_experiments_have_parameters():
    "papermill finds its cell: nbdev_clean must not strip the tag"
    tagged = {p.stem for p in NOTEBOOKS if any("parameters" in c["metadata"].get("tags", []) for c in cells_of(p))}
    experiments = {p.stem for p in NOTEBOOKS if p.stem[0].isdigit() and not any("default_exp" in source(c) for c in cells_of(p))}
    assert tagged == experiments


def test_exported_modules_have_a_notebook():
    "No module is left behind by a renamed notebook"
    exported = {re.search(r"default_exp (\S+)", source(c))[1] for p in NOTEBOOKS for c in cells_of(p) if "default_exp" in source(c)}
    modules = {".".join(p.relative_to(ROOT / "spektron").with_suffix("").parts) for p in (ROOT / "spektron").rglob("*.py") if not p.name.startswith("_")}
    assert modules == exported


def test_modules_import_only_earlier_ones():
    "Data flows one way: a module imports only modules of notebooks with smaller numbers, or of its own chapter (10, 10a, 10b); transfer_function apart"
    number = {"transfer_function": "00"}
    for p in NOTEBOOKS:
        for c in cells_of(p):
            if found := re.search(r"default_exp (\S+)", source(c)):
                number.setdefault(found[1], p.stem)
    for p in NOTEBOOKS:
        for c in (c for c in cells_of(p) if EXPORT.search(source(c))):
            for module, names in re.findall(r"from spektron\.([\w.]+) import (.+)", source(c)):
                for m in [module] if module in number else [f"{module}.{name.strip()}" for name in names.split(",")]:
                    assert number[m][:2] <= p.stem[:2], f"{p.stem} imports {m} of {number[m]}"
