"""The manuscript: every number is a reference to a row, every claim holds, and the page of all runs is that of the rows."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from spektron.report import render_paper, typed_numbers, write_results_index

ROOT = Path(__file__).parent.parent
PAPER, RESULTS = ROOT / "paper", ROOT / "results"
TEXT = (PAPER / "index.qmd").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)#:]+)\)")


@pytest.fixture(scope="module")
def rendered():
    return render_paper(PAPER)


def spoiled(tmp_path, old, new):
    "A copy of the manuscript with one place changed"
    assert TEXT.count(old) >= 1, old
    (tmp_path / "index.qmd").write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return tmp_path


def test_all_is_filled_in(rendered):
    "No form is left, tables and figures are there, and the text is as long as a paper"
    assert "{{" not in rendered and "}}" not in rendered and "nan" not in rendered.split()
    assert len(re.findall(r"\{#tbl-", rendered)) >= 4 and len(re.findall(r"\{#fig-", rendered)) >= 3
    body = "\n".join(line for line in rendered.splitlines() if not line.startswith("|"))
    assert 1500 <= len(body.split()) <= 2700


def test_no_number_is_typed_by_hand():
    assert typed_numbers(TEXT) == []


@pytest.mark.parametrize("typed", ["0.687", "-3.1", "1,200", "12 %", "n=10", "seven", "Twenty"])
def test_a_typed_number_is_refused(typed, tmp_path):
    with pytest.raises(ValueError, match="typed by hand"):
        render_paper(spoiled(tmp_path, "has the errors.", f"has the errors, {typed} in all."))


@pytest.mark.parametrize("old, new, why", [
    ("table e1 | only spread | line=mamba", "table e1 | only spread | line=lstm", "no row matches"),
    ("config.kind=\"FWHM 20\"", "config.kind=\"FWHM 80\"", "no row matches"),
    ("metrics.at.5", "metrics.at.7", "no column"),
    ("only config.training.steps | config.data.corpus=embedded", "mean metrics.nre.model | config.budget=laptop", "ambiguous"),
    ("{{table e1 |", "{{table e9 |", "report 'e9' is not known"),
    ("line=transformer > table e1", "line=transformer < table e1", "the text claims"),
])
def test_what_has_no_row_or_is_not_true_is_refused(old, new, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        render_paper(spoiled(tmp_path, old, new))


def test_a_changed_row_changes_the_text(rendered, tmp_path):
    "The text says what the rows say, not what they said"
    shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.ipynb"))
    path = tmp_path / "results" / "e3" / "05689490fb0c.json"
    path.write_text(path.read_text().replace('"5": 0.8932457171297634', '"5": 0.5932457171297634'))
    assert "their own width 0.92" in rendered and "their own width 0.86" in render_paper(PAPER, tmp_path / "results")


def test_references():
    "What is cited is in the bibliography, and nothing else is; figures and tables that are spoken of are there"
    cited = set(re.findall(r"@([a-z]+\d{4})\b", TEXT))
    assert cited == set(re.findall(r"@\w+\{(\w+),", (PAPER / "references.bib").read_text(encoding="utf-8")))
    shown = render_paper(PAPER)
    spoken, there = (set(re.findall(pattern, shown)) for pattern in (r"@((?:fig|tbl)-[\w-]+)", r"\{#((?:fig|tbl)-[\w-]+)"))
    assert spoken <= there


def test_quarto_configuration():
    "It fills the text in before it renders, and renders what was filled in; that file is not kept"
    config = yaml.safe_load((PAPER / "_quarto.yml").read_text())
    assert config["project"]["pre-render"] == "python -m spektron.report paper" and config["project"]["render"] == ["spektron.qmd"]
    assert (PAPER / config["bibliography"]).exists() and {"spektron.qmd", "figures/"} <= set((PAPER / ".gitignore").read_text().split())
    header = yaml.safe_load(TEXT.split("---")[1])
    assert set(header) == {"title", "author", "abstract", "keywords"}


def test_index_of_runs_is_up_to_date(tmp_path):
    "results/index.md is what the committed rows give, and each of its links leads to a file"
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=all", "--", "results"], cwd=ROOT, capture_output=True, text=True).stdout
    if any(line.endswith(".json") for line in changed.splitlines()):
        pytest.skip("there are rows that are not committed: python -m spektron.report index, once they are")
    shutil.copytree(RESULTS, tmp_path / "results")
    assert write_results_index(tmp_path / "results").read_text(encoding="utf-8") == (RESULTS / "index.md").read_text(encoding="utf-8"), "run python -m spektron.report index"
    links = LINK.findall((RESULTS / "index.md").read_text(encoding="utf-8"))
    assert len(links) > 200 and all((RESULTS / to).is_file() for to in links)
