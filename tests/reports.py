"""What every executed report that is kept must be."""
import json
from pathlib import Path

KEPT_BACKBONES = ("dlinoss", "mamba", "s4d", "transformer", "cnn")  # those with rows and reports in results/; a further one need not have any


def checked_report(path: Path, notebook: str, most: int = 300_000) -> list[dict]:
    "The code cells of a report: executed by papermill to the end, without an error, light, and with no path of a machine"
    text = path.read_text()
    report = json.loads(text)
    cells = [c for c in report["cells"] if c["cell_type"] == "code"]
    assert report["metadata"]["papermill"]["input_path"] == f"nbs/{notebook}.ipynb" and len(text.encode()) < most
    assert all(o["output_type"] != "error" for c in cells for o in c["outputs"]) and all(c["execution_count"] for c in cells)
    assert "/home/" not in text and "/tmp/" not in text
    return cells


def has_figure(cells: list[dict]) -> bool:
    return any("application/vnd.plotly.v1+json" in o.get("data", {}) for c in cells for o in c["outputs"])


def names_its_row(cells: list[dict], folder: Path) -> bool:
    "Whether the last cell speaks of a row that is there"
    return any(p.name in json.dumps(cells[-1]["outputs"]) for p in folder.glob("*.json"))
