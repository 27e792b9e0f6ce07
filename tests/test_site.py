"""The site: what Quarto will render is complete, and every page, link and figure of it is there. The same where Quarto is missing."""
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from pages import as_shown, has_figure, render

ROOT = Path(__file__).parent.parent
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini")
SETTINGS = SETTINGS["DEFAULT"]
HOME, REPOSITORY = SETTINGS["doc_host"] + SETTINGS["doc_baseurl"], SETTINGS["git_url"]
REPORTS = sorted(p for p in (ROOT / "results").rglob("*.ipynb") if p.name != "failed.ipynb")


def configuration(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def entries(contents: list) -> list[str]:
    "All pages that a sidebar names"
    found = []
    for e in contents:
        found += [e] if isinstance(e, str) else [e["href"]] if "href" in e else entries(e["contents"])
    return found


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    return "".join(cell["source"])


def outputs(notebook: dict) -> list:
    "What cells gave, as figures, tables, text"
    return [{k: "".join(v) if isinstance(v, list) else v for k, v in o.get("data", {}).items()} for c in notebook["cells"] for o in c.get("outputs", [])]


@pytest.fixture(scope="module")
def site(testrun_uid):
    "The folder that Quarto renders, made by the command of the workflow, once for all processes that run these tests"
    made = ROOT / ".cache" / "site.txt"  # which run of the tests made it last
    made.parent.mkdir(exist_ok=True)
    with FileLock(ROOT / ".cache" / "site.lock"):
        if not made.exists() or made.read_text() != testrun_uid:
            run = subprocess.run([sys.executable, "docs/prepare.py"], cwd=ROOT, capture_output=True, text=True)
            assert run.returncode == 0, run.stderr[-3000:]
            made.write_text(testrun_uid)
    return ROOT / "_proc"


def test_configuration():
    "nbdev and Quarto read one file; results come first; every notebook has its place"
    assert (ROOT / "nbs" / "_quarto.yml").resolve() == ROOT / "_quarto.yml"
    quarto = configuration("_quarto.yml")
    assert quarto["project"]["type"] == "website" and quarto["website"]["search"] and set(quarto["format"]["html"]["theme"]) == {"light", "dark"}
    assert quarto["execute"] == {"enabled": False}, "a report is shown as it was executed"
    contents = configuration("nbs/sidebar.yml")["website"]["sidebar"]["contents"]
    assert [e["section"] for e in contents if isinstance(e, dict)] == ["Results", "Data", "Models", "Learning", "Experiments", "Studies", "Tools"]
    assert sorted(entries(contents)) == sorted(p.name for p in (ROOT / "nbs").glob("*.ipynb"))
    paper = configuration("paper/_quarto.yml")["project"]
    assert {e["href"] for e in quarto["website"]["navbar"]["left"]} <= {*entries(contents), *(f"paper/{Path(p).stem}.html" for p in paper["render"])}


def test_pages_are_whole(site):
    "Every notebook is a page with a title and an address of its own, and no prose is lost on the way"
    assert {p.name for p in site.glob("*.ipynb")} == {p.name for p in (ROOT / "nbs").glob("*.ipynb")}
    addresses = []
    for path in (ROOT / "nbs").glob("*.ipynb"):
        page, notebook = read(site / path.name), read(path)
        front = yaml.safe_load(source(page["cells"][0]).strip().strip("-"))
        addresses.append(front["output-file"])
        prose = re.sub(r"\[(`[^`]+`)\]\([^)]*\)", r"\1", "\n".join(source(c) for c in page["cells"]))
        for cell in (c for c in notebook["cells"] if c["cell_type"] == "markdown"):
            for paragraph in re.split(r"\n\n+", source(cell)):
                plain = re.sub(r"\[(`[^`]+`)\]\([^)]*\)", r"\1", paragraph).strip()
                assert re.sub(r"^[#>]\s+", "", plain) in front.values() or plain in prose or "](" in plain, f"{path.name} loses: {paragraph[:80]}"
    assert len(set(addresses)) == len(addresses)


def test_exported_names_are_documented(site):
    "What a module exports is shown with its signature on the page of its notebook"
    for path in (ROOT / "nbs").glob("*.ipynb"):
        shown = {m[1]: bool(c["outputs"]) for c in read(site / path.name)["cells"] if c["cell_type"] == "code" and (m := re.search(r"^show_doc\((?:\w+\.)*(\w+)", source(c), re.M))}
        assert all(shown.values()), f"{path.name}: {[k for k, v in shown.items() if not v]}"
        exported = [source(c) for c in read(path)["cells"] if re.match(r"#\s*\|\s*export\b", source(c))]
        defined = {n for cell in exported for n in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", cell, re.M)}
        assert defined <= set(shown) or not exported, f"{path.name}: {defined - set(shown)}"


def test_reports_are_pages(site):
    "An executed report is on the site with its outputs as they were, under a title of its own, and its experiment's list leads to it"
    titles = []
    for path in REPORTS:
        page = read(site / "results" / path.relative_to(ROOT / "results"))
        titles.append(yaml.safe_load(source(page["cells"][0]).strip().strip("-"))["title"])
        assert outputs(page) == outputs(read(path)) != []
        experiment, *inside = path.relative_to(ROOT / "results").parts
        assert f"]({'/'.join(inside)})" in source(read(site / "results" / experiment / "index.ipynb")["cells"][1])
    assert len(set(titles)) == len(titles) > 50
    contents = yaml.safe_load((site / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    assert {f"results/{p.relative_to(ROOT / 'results').parts[0]}/index.ipynb" for p in REPORTS} <= set(entries(contents))
    assert all((site / page).exists() for page in entries(contents))
    facts = yaml.safe_load((site / "nbdev.yml").read_text())["website"]
    assert (facts["title"], facts["site-url"], facts["repo-url"]) == (SETTINGS["title"], HOME, REPOSITORY)


def test_reports_of_runs(tmp_path):
    "A run's report is named by the run's hash, one that failed is no page, its links hold from its folder, and what is gone from results is gone from the site"
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "docs" / "prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    results, there = tmp_path / "in", tmp_path / "out"
    report = read(ROOT / "results" / "e1" / "mamba-seed0.ipynb")
    report["cells"].append({"cell_type": "markdown", "metadata": {}, "source": "[e1](21_e1.ipynb#training), ![](images/a.svg), [other](https://example.org)"})
    for path in ("e1/0123456789ab/report.ipynb", "e1/0123456789ab/failed.ipynb", "e1/ba9876543210/report.ipynb", "e9/run.ipynb"):
        (results / path).parent.mkdir(parents=True, exist_ok=True)
        (results / path).write_text(json.dumps(report))
    for path in ("21_e1.ipynb", "images/a.svg"):
        (there / path).parent.mkdir(parents=True, exist_ok=True)
        (there / path).write_text("")
    assert set(prepare.add_reports(results, there)) == {"results/e1/index.ipynb", "results/e9/index.ipynb"}
    page = read(there / "results" / "e1" / "0123456789ab" / "report.ipynb")
    assert "title: 'E1: 0123456789ab'" in source(page["cells"][0]) and "backbone mamba" in source(page["cells"][0])
    assert source(page["cells"][-1]) == "[e1](../../../21_e1.ipynb#training), ![](../../../images/a.svg), [other](https://example.org)"
    assert {p.name for p in there.rglob("*.ipynb")} == {"21_e1.ipynb", "index.ipynb", "report.ipynb", "run.ipynb"}
    shutil.rmtree(results / "e1" / "ba9876543210")
    shutil.rmtree(results / "e9")
    prepare.add_reports(results, there)
    assert {p.relative_to(there).as_posix() for p in there.rglob("*.ipynb")} == {"21_e1.ipynb", "results/e1/index.ipynb", "results/e1/0123456789ab/report.ipynb"}


@pytest.fixture(scope="module")
def pages(site):
    "Pages as they will be shown, by the address that Quarto will give them: all of the notebooks, all lists, one report of each experiment"
    lists = sorted((site / "results").glob("*/index.ipynb"))
    chosen = [*sorted(site.glob("*.ipynb")), *lists, *(next(p for p in sorted(x.parent.rglob("*.ipynb")) if p != x) for x in lists)]
    found = {}
    for path in chosen:
        output = re.search(r"^output-file: (\S+)", source(read(path)["cells"][0]), re.M)
        found[path.relative_to(site).with_name(output[1] if output else f"{path.stem}.html").as_posix()] = path, as_shown(path)
    return found


def test_pages_render(pages):
    "nbconvert makes every page, each figure in it; no output is an error"
    for address, (path, notebook) in pages.items():
        html = render(notebook, "basic")
        assert "<h1" in html and html.count("Plotly.newPlot") >= sum(has_figure(c) for c in notebook.cells), address
        assert not any(o.output_type == "error" for c in notebook.cells if c.cell_type == "code" for o in c.outputs), address


def prose(notebook) -> str:
    "What a page says in words, signatures of its functions included"
    said = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    said += ["".join(o.data["text/markdown"]) for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "text/markdown" in o.get("data", {})]
    return "\n\n".join(said)


def links_of(text: str) -> list[str]:
    "Addresses in markdown, code apart"
    text = re.sub(r"```.*?```|(?<!\[)`[^`\n]*`(?!\])", "", text, flags=re.S)
    return re.findall(r"\]\(\s*([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)", text) + re.findall(r"<(?:a|img)[^>]*?(?:href|src)=\"([^\"]+)\"", text)


def anchors(text: str) -> set[str]:
    "The identifiers that pandoc gives to the headings of markdown"
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", h.lower()).strip())) for h in headings}


def broken(link: str, path: Path, pages: dict) -> bool:
    "Whether a link of the page made from `path` leads nowhere. What is not of this project is not asked"
    address, _, mark = link.partition("#")
    if found := re.match(rf"{re.escape(REPOSITORY)}/(?:blob|tree)/{SETTINGS['branch']}/(.+)", address):
        return not (ROOT / found[1]).exists()
    if address.startswith(HOME):
        target = address.removeprefix(HOME).strip("/") or "index.html"
        if target not in pages:
            return True
    elif re.match(r"\w+:", address):
        return False
    else:
        file = (path.parent / address).resolve() if address else path
        if not file.exists():
            return True
        target = next((a for a, (p, _) in pages.items() if p == file), None)
    return bool(mark) and target is not None and mark not in anchors(prose(pages[target][1]))


def test_links(site, pages):
    "Every link and picture of every page, list and index of results leads to something that is there, headings included"
    index = site / "results" / "index.md"
    links = [(path, link) for path, text in [(index, index.read_text()), *((p, prose(n)) for p, n in pages.values())] for link in links_of(text)]
    wrong = {f"{path.relative_to(site)}: {link}" for path, link in links if broken(link, path, pages)}
    assert not wrong, "\n".join(sorted(wrong))
    assert len(links) > 500 and any(link.startswith(HOME) and "#" in link for _, link in links)


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow(path):
    "A workflow parses, pins its actions, and runs only what is there"
    workflow = yaml.safe_load(path.read_text())
    assert workflow["name"] and workflow[True] and workflow["jobs"]  # YAML reads `on` as true
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.search(r"@v\d", step.get("uses", "@v1"))
            for word in step.get("run", "").split():
                file = word.strip("\"'").partition("=")[0]
                assert not re.match(r"(\.ci|docs|tests|nbs)/", file) or (ROOT / file).exists(), file
                assert not re.fullmatch(r"[\w-]+\.(txt|py|ini)", file) or (ROOT / file).exists(), file
            assert set(re.findall(r"\bmake (\w+)", step.get("run", ""))) <= targets


def test_shell_scripts_parse():
    "Bash understands .ci/run"
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")]).returncode == 0


def test_workflows_do_what_the_project_needs():
    "Tests keep their screenshots; the site is prepared, rendered by a known Quarto and published"
    steps = {p.stem: [s for j in yaml.safe_load(p.read_text())["jobs"].values() for s in j["steps"]] for p in WORKFLOWS}
    kept = next(s for s in steps["test"] if s.get("uses", "").startswith("actions/upload-artifact"))
    assert kept["if"] == "always()" and kept["with"]["path"] == ".cache/screenshots"
    quarto = next(s for s in steps["docs"] if s.get("uses", "").startswith("quarto-dev/quarto-actions/setup"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", quarto["with"]["version"])
    done = "\n".join(s.get("run", s.get("uses", "")) for s in steps["docs"])
    order = [done.index(x) for x in ("constraints.txt", "docs/prepare.py", "quarto render _proc", "quarto render paper", "actions/upload-pages-artifact", "actions/deploy-pages")]
    assert order == sorted(order)
