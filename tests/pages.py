"""Pages of the site as nbconvert makes them, for machines without Quarto."""
import re
from pathlib import Path

import nbformat
import yaml
from nbconvert import HTMLExporter
from traitlets.config import Config

GONE = re.compile(r"^#\s*\|\s*(hide\s*$|include:\s*false)", re.M)
NO_CODE = re.compile(r"^#\s*\|\s*(hide_input\s*$|echo:\s*false)", re.M)
NO_OUTPUT = re.compile(r"^#\s*\|\s*(hide_output\s*$|output:\s*false)", re.M)
WITHOUT_CODE = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"no-code"}}})
EXPORTERS = {"lab": HTMLExporter(config=WITHOUT_CODE, exclude_input_prompt=True, exclude_output_prompt=True), "basic": HTMLExporter(template_name="basic", exclude_input=True)}


def has_figure(cell) -> bool:
    return any("application/vnd.plotly.v1+json" in o.get("data", {}) for o in cell.get("outputs", []))


def as_shown(path: Path) -> nbformat.NotebookNode:
    "The notebook as Quarto shows it: its title from the front matter, without what cells ask to hide"
    notebook = nbformat.read(path, 4)
    notebook.cells = [c for c in notebook.cells if c.cell_type != "code" or not GONE.search(c.source)]
    for cell in notebook.cells:
        if cell.cell_type == "raw" and cell.source.startswith("---"):
            front = yaml.safe_load(cell.source.strip().strip("-"))
            cell.cell_type, cell.source = "markdown", f"# {front['title']}\n\n> {front.get('description', '')}"
        if cell.cell_type == "code":
            if NO_CODE.search(cell.source):
                cell.metadata["tags"] = ["no-code"]
            if NO_OUTPUT.search(cell.source):
                cell.outputs = []
            cell.source = re.sub(r"^#\s*\|.*\n?", "", cell.source, flags=re.M)
    return notebook


def render(notebook: nbformat.NotebookNode, template: str = "lab") -> str:
    "HTML, with links to notebooks made into links to pages. Template `basic` has no style and no code, and takes a fifth of the time"
    return re.sub(r'(href="(?!https?:)[^"#]+)\.ipynb(["#])', r"\1.html\2", EXPORTERS[template].from_notebook_node(notebook)[0])
