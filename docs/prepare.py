"""Makes `_proc`, the folder that Quarto renders: the notebooks as nbdev processes them, and the executed reports of `results/` as they are.

    python docs/prepare.py && quarto render _proc
"""
import ast
import json
import re
from pathlib import Path

import yaml
from nbdev.config import get_config
from nbdev.serve import proc_nbs

NOT_ASKED = {"out_dir", "device"}  # where a report was made, not what was asked


def markdown(text: str) -> dict:
    "A cell of prose"
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def front_matter(**fields) -> dict:
    "The cell that tells Quarto of title and description"
    return {"cell_type": "raw", "metadata": {}, "source": f"---\n{yaml.safe_dump(fields, allow_unicode=True, sort_keys=False)}---"}


def head(notebook: dict) -> tuple[str, str, str]:
    "Title, description and introduction: what the first cell of prose says"
    text = next("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
    return re.fullmatch(r"# (.+?)\n*(?:\n> (.+?)\n*)?(?:\n((?!>).*))?", text.strip(), re.S).groups("")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write(text: str, path: Path) -> None:
    "Write what is new, and leave alone what is not: Quarto and whoever reads at the same time see no change"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def as_text(notebook: dict) -> str:
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def change_prose(notebook: dict, change) -> dict:
    "The notebook with `change` applied to its prose, that of outputs included"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = change("".join(cell["source"]))
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output["data"]["text/markdown"] = change("".join(output["data"]["text/markdown"]))
    return notebook


def to_pages(text: str, settings) -> str:
    "Text whose links to reports and folders of results lead to their pages on the site, and without nbdev's links to what has no heading: private names"
    text = re.sub(rf"\[(`[^`]+`)\]\({re.escape(settings.doc_host)}[^)#]*#_[^)]*\)", r"\1", text)
    repository = re.escape(settings.git_url) + rf"/(?:tree|blob)/{settings.branch}"
    def page(found):
        path = found[1].strip("/")
        return f"]({path if path.endswith('.ipynb') else path + ('/index.md' if path == 'results' else '/index.ipynb')})"
    return re.sub(rf"\]\((?:{repository}|\.\.)/(results(?:/[\w-]+)*(?:\.ipynb)?/?)\)", page, text)


def from_folder(text: str, pages: set[str], up: str) -> str:
    "Text whose links to notebooks and images beside it are right for a page that lies in a deeper folder"
    return re.sub(r"\]\(([\w./-]+)", lambda found: f"]({up}{found[1]}" if found[1] in pages else found[0], text)


def complete(page: Path, source: Path, settings) -> None:
    "Give a processed page the introduction that nbdev drops with the title, links to pages, and if it is no module's an address that is no module's"
    notebook, introduction = read(page), head(read(source))[2]
    if page.stem[0].isdigit() and "#| default_exp" not in source.read_text(encoding="utf-8"):
        name = page.stem.partition("_")[2]
        if list(source.parent.glob(f"*_{name}.ipynb")) != [source]:
            notebook["cells"][0]["source"] = "".join(notebook["cells"][0]["source"]).replace(f"output-file: {name}.html", f"output-file: study_{name}.html")
    if introduction and notebook["cells"][1].get("id") != "introduction":
        notebook["cells"].insert(1, markdown(introduction) | {"id": "introduction"})
    for cell in notebook["cells"]:
        cell.pop("has_sd", None)  # a mark of nbdev's that no notebook may have
    write(as_text(change_prose(notebook, lambda text: to_pages(text, settings))), page)


def asked(report: dict) -> dict:
    "All parameters of a report: what papermill was given, and the defaults of the notebook's own cell"
    cell = next(c for c in report["cells"] if "parameters" in c["metadata"].get("tags", []))
    defaults = {a.target.id: ast.literal_eval(a.value) for a in ast.parse("".join(cell["source"])).body if isinstance(a, ast.AnnAssign)}
    return {k: v for k, v in (defaults | report["metadata"]["papermill"]["parameters"]).items() if k not in NOT_ASKED}


def name_of(report: Path) -> str:
    "What a report is called: its file's name, or that of the run's folder"
    return report.parent.name if report.stem == "report" else report.stem


def report_page(report: dict, name: str) -> dict:
    "The page of an executed report: its cells and outputs as they are"
    title, description, introduction = head(report)
    given = ", ".join(f"{k} {v}" for k, v in asked(report).items() if v != "")
    first = next(c for c in report["cells"] if c["cell_type"] == "markdown")
    rest = [c for c in report["cells"] if c is not first]
    return report | {"cells": [front_matter(title=f"{title.split(':')[0]}: {name}", description=f"{description}. {given}"), markdown(introduction), *rest]}


def listing_page(reports: dict[str, dict]) -> dict:
    "The page that lists the reports of one experiment by path, with the parameters in which they differ"
    title, description, _ = head(next(iter(reports.values())))
    parameters = {path: asked(r) for path, r in reports.items()}
    names = dict.fromkeys(k for p in parameters.values() for k in p)
    differ = [k for k in names if len({str(p.get(k, "")) for p in parameters.values()}) > 1]
    lines = [["report", *differ, "finished", "minutes"], ["---"] * (len(differ) + 3)]
    for path, r in reports.items():
        run = r["metadata"]["papermill"]
        lines.append([f"[{name_of(Path(path))}]({path})", *(str(parameters[path].get(k, "")) for k in differ), run["end_time"][:10], f"{run['duration'] / 60:.1f}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    metadata = {"kernelspec": next(iter(reports.values()))["metadata"]["kernelspec"]}
    cells = [front_matter(title=f"Reports of {title}", description=description), markdown(f"Executed reports, as their runs left them.\n\n{table}")]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}


def add_reports(results: Path, pages: Path) -> dict[str, str]:
    "Bring results to the site, reports made into pages. Title of each experiment's listing, by its path on the site"
    there = {p.relative_to(pages).as_posix() for p in pages.rglob("*") if p.is_file() and "results" not in p.relative_to(pages).parts[:1]}
    texts, listings = {}, {}
    for source in [*results.glob("*.md"), *results.rglob("*.json")]:
        texts[source.relative_to(results)] = source.read_text(encoding="utf-8")
    for folder in sorted(p for p in results.iterdir() if p.is_dir()):
        found = {p.relative_to(folder).as_posix(): read(p) for p in sorted(folder.rglob("*.ipynb")) if p.name != "failed.ipynb"}
        if not found:
            continue
        for path, report in found.items():
            up = "../" * (2 + path.count("/"))
            page = change_prose(report_page(report, name_of(Path(path))), lambda text: from_folder(text, there, up))
            texts[Path(folder.name, path)] = as_text(page)
        texts[Path(folder.name, "index.ipynb")] = as_text(listing_page(found))
        listings[f"results/{folder.name}/index.ipynb"] = head(next(iter(found.values())))[0]
    for old in [p for p in (pages / "results").rglob("*") if p.is_file() and p.relative_to(pages / "results") not in texts]:
        old.unlink()
    for path, text in texts.items():
        write(text, pages / "results" / path)
    return listings


def sidebar(contents: dict, entries: list) -> dict:
    "The sidebar, with entries at the end of its section of results"
    section = next(e for e in contents["website"]["sidebar"]["contents"] if isinstance(e, dict) and e["section"] == "Results")
    section["contents"] += entries
    return contents


def facts(settings) -> dict:
    "What settings.ini says that Quarto must know"
    website = {"title": settings.title, "description": settings.description, "site-url": settings.doc_host + settings.doc_baseurl}
    website |= {"repo-url": settings.git_url, "repo-branch": settings.branch}
    return {"project": {"output-dir": Path(settings.doc_path).name}, "website": website}


def processed(pages: Path) -> Path:
    "The pages, those of changed notebooks made anew; all of them if this file has changed"
    own = Path(__file__).stat().st_mtime
    return Path(proc_nbs(force=any(p.stat().st_mtime < own for p in pages.glob("*.ipynb"))))


def main() -> None:
    settings = get_config()
    root = Path(settings.config_path)
    nbs, results, pages = Path(settings.nbs_path), root / "results", processed(root / "_proc")
    for gone in {p.name for p in pages.glob("*.ipynb")} - {p.name for p in nbs.glob("*.ipynb")}:
        (pages / gone).unlink()
    for source in nbs.glob("*.ipynb"):
        complete(pages / source.name, source, settings)
    listings = add_reports(results, pages)
    reports = {"section": "Reports", "contents": [{"text": title, "href": path} for path, title in listings.items()]}
    found = sidebar(yaml.safe_load((nbs / "sidebar.yml").read_text()), ["results/index.md", reports])
    for name, content in {"sidebar.yml": found, "nbdev.yml": facts(settings)}.items():
        write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), pages / name)


if __name__ == "__main__":  # nbdev works in several processes
    main()
