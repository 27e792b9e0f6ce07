"""What a person sees: pages of the site, notebooks in JupyterLab and explorers in voila, in a headless Chromium. Screenshots stay in the folder SPEKTRON_SCREENSHOTS."""
import contextlib
import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import nbformat
import plotly
import pytest
from pages import as_shown, has_figure, render

ROOT = Path(__file__).parent.parent
SHOTS = Path(os.environ.get("SPEKTRON_SCREENSHOTS") or ROOT / ".cache" / "screenshots")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
PATIENCE = 300_000  # ms: on a busy machine everything takes longer, and nothing is wrong

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install it (Debian: apt-get install chromium)")

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
ELSEWHERE = {  # what pages load from other places, answered here
    "https://cdn.plot.ly/plotly-": PLOTLY.read_text(encoding="utf-8"),
    "https://cdnjs.cloudflare.com/ajax/libs/require.js/": (Path(sys.prefix) / "share/jupyter/voila/templates/base/static/require.min.js").read_text(encoding="utf-8"),
    "https://cdnjs.cloudflare.com/ajax/libs/mathjax/": "window.MathJax = {Hub: {Config() {}, Configured() {}, Queue() {}}}",
    "https://cdn.jsdelivr.net/npm/mathjax": "window.MathJax = {}",
    "https://cdn.jsdelivr.net/npm/@fortawesome/": "",
}

# anywidget gives plotly two seconds to load, which a machine with other work may not make
PATIENT = "const short = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => short(100 * ms)"

DRAWN = """(figures) => figures.map(figure => {
  const shown = (e) => { const r = e.getBoundingClientRect(); return r.width + r.height > 1 };
  const svg = figure.querySelector('svg.main-svg'), marks = 'path.js-line, path.js-fill, path.point, .point path, .point text, .hm image, .heatmaplayer image, .table';
  return {width: svg?.getBoundingClientRect().width ?? 0, height: svg?.getBoundingClientRect().height ?? 0, marks: [...figure.querySelectorAll(marks)].filter(shown).length};
})"""

WATCH = """([figure, control, event]) => {
  const look = () => [...figure.querySelectorAll('path.js-line, path.js-fill, path.point')].map(p => p.getAttribute('d') + (p.getAttribute('transform') ?? '')).join();
  const before = look(); window.moved = null;
  control.addEventListener(event, () => {
    const began = performance.now(), check = () => { if (look() === before) requestAnimationFrame(check); else window.moved = performance.now() - began };
    requestAnimationFrame(check);
  }, {once: true, capture: true});
}"""

RAN = """() => window.jupyterapp.shell.currentWidget.content.widgets.every(
  c => c.model.type !== 'code' || !c.model.sharedModel.source.trim() || c.model.executionState === 'idle' && c.model.executionCount)"""
CONNECTED = """() => { const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
  return kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle' }"""
OUTPUTS = "() => window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code').flatMap(c => c.model.outputs.toJSON())"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    "A page that reaches this machine alone; what went wrong on it fails the test"
    wrong = []

    def answer(route):
        url = route.request.url
        known = next((text for start, text in ELSEWHERE.items() if url.startswith(start)), None)
        if url.endswith("/favicon.ico"):
            route.fulfill(status=204)
        elif "://127.0.0.1:" in url:
            route.continue_()
        elif known is not None:
            route.fulfill(body=known, content_type="text/css" if url.endswith(".css") else "text/javascript", headers={"Access-Control-Allow-Origin": "*"})
        else:
            wrong.append(f"asked for {url}")
            route.abort()

    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(PATIENCE)
    page.add_init_script(PATIENT)
    page.route("**/*", answer)
    page.on("console", lambda message: message.type == "error" and wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"page: {error}"))
    yield page
    page.close()
    assert not wrong, "\n".join(w[:300] for w in wrong[:10])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def serving(folder: Path):
    "The address of a server of files"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def running(tmp: Path, *command: str, health: str):
    "The address of a server that is a command, given its port, when it answers at `health`"
    port, log = free_port(), tmp / "server.log"
    own = {f"JUPYTER_{k}_DIR": str(tmp / k) for k in ("CONFIG", "DATA", "RUNTIME")} | {f"JUPYTERLAB_{k}_DIR": str(tmp / k) for k in ("SETTINGS", "WORKSPACES")}
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | own | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        server = subprocess.Popen([sys.executable, "-m", *command, f"--port={port}"], env=env, cwd=tmp, stdout=out, stderr=out)
    try:
        end = time.monotonic() + PATIENCE / 1000
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{health}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def drawn(page, scope, at_least: int) -> int:
    "How many figures of `scope` are drawn, once all are; each has a size and marks in it"
    figures = scope.locator(".js-plotly-plot")
    page.wait_for_function(f"([scope, n]) => {{ const d = ({DRAWN})([...scope.querySelectorAll('.js-plotly-plot')]); return d.length >= n && d.every(f => f.width > 200 && f.height > 100 && f.marks) }}",
                           arg=[scope.element_handle(), at_least])
    return figures.count()


def shot(target, name: str, **how) -> None:
    target.screenshot(path=SHOTS / f"{name}.png", **how)


@pytest.mark.parametrize("name", ["nbs/index", "nbs/results", "results/e1/mamba-seed0", "results/e4/corn-m5-mp6", "nbs/37_explore"])
def test_page(page, name, tmp_path):
    "A page of the site has all its figures drawn and all its pictures loaded"
    shown = as_shown(ROOT / f"{name}.ipynb")
    figures = sum(map(has_figure, shown.cells))
    (tmp_path / "page.html").write_text(render(shown), encoding="utf-8")
    shutil.copytree(ROOT / "nbs" / "images", tmp_path / "images")
    with serving(tmp_path) as address:
        page.goto(f"{address}/page.html", wait_until="load")
        assert drawn(page, page.locator("body"), figures) == figures
        assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []
        assert figures + page.evaluate("document.images.length"), "nothing to see on the page"
        shot(page, f"page-{Path(name).name}", full_page=True)


@contextlib.contextmanager
def laboratory(tmp: Path):
    "The address of JupyterLab on the notebooks in `tmp`/work, without an offer of news"
    quiet = tmp / "SETTINGS" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = ("jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--IdentityProvider.token=t", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={tmp / 'work'}")
    with running(tmp, *command, health="api?token=t") as address:
        yield f"{address}/lab/tree/{{}}?token=t&reset"


def copy_without_outputs(source: Path, to: Path, change=lambda cell: cell.source) -> None:
    notebook = nbformat.read(source, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count, cell.source = [], None, change(cell)
    to.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, to)


def run_all(page, address: str) -> None:
    "Open a notebook in JupyterLab, and choose Run All Cells in its menu; no cell fails"
    page.goto(address)
    page.wait_for_function(CONNECTED)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).first.click()
    page.wait_for_function(RAN)
    assert [o for o in page.evaluate(OUTPUTS) if o["output_type"] == "error"] == []


def explorer(page, label: str):
    "The explorer that has a slider of this name, and the slider's handle"
    handle = page.locator(".widget-slider", has=page.get_by_text(label, exact=True)).locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    return page.locator(".jp-OutputArea-output, .widget-vbox", has=handle).filter(has=page.locator(".js-plotly-plot")).first, handle


def move(page, label: str, times: int = 5) -> float:
    "Move a slider by an arrow key, and wait until curves have moved. Median time from key to picture in ms"
    box, handle = explorer(page, label)
    drawn(page, box, 1)
    figure, taken = box.locator(".js-plotly-plot").first.element_handle(), []
    for _ in range(times):
        page.evaluate(WATCH, [figure, handle.element_handle(), "keydown"])
        handle.press("ArrowRight")
        page.wait_for_function("() => window.moved !== null")
        taken.append(page.evaluate("window.moved"))
    return round(sorted(taken)[times // 2], 1)


def drag_pole(page) -> float:
    "Drag the pole of the filter explorer by its handle, and wait until curves have moved. Time from letting go to picture in ms"
    box, _ = explorer(page, "period / cm⁻¹")
    drawn(page, box, 1)
    figure, handle = box.locator(".js-plotly-plot").first, box.locator(".shapelayer path").first
    figure.scroll_into_view_if_needed()
    before, place = box.locator(".widget-readout").all_inner_texts(), handle.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y + 10, steps=4)
    page.evaluate(WATCH.replace("control.", "document."), [figure.element_handle(), None, "mouseup"])
    page.mouse.up()
    page.wait_for_function("() => window.moved !== null")
    page.wait_for_function("([box, before]) => [...box.querySelectorAll('.widget-readout')].some((e, k) => e.innerText !== before[k])", arg=[box.element_handle(), before])
    return round(page.evaluate("window.moved"), 1)


def note_latency(name: str, taken: dict) -> None:
    "Keep what was measured beside the screenshots; on a busy machine five seconds are the limit"
    (SHOTS / f"latency-{name}.json").write_text(json.dumps(taken | {"load average": os.getloadavg()[0]}, ensure_ascii=False, indent=1))
    assert max(taken.values()) < 5000, taken


def test_experiment_in_jupyterlab(page, tmp_path):
    "E1 opens in JupyterLab, runs at smoke size, and its figures are drawn"
    def small(cell):
        asked = {"budget": "smoke", "steps": 2, "out_dir": str(tmp_path / "out")}
        return cell.source + "".join(f"\n{k} = {v!r}" for k, v in asked.items()) if "parameters" in cell.metadata.get("tags", []) else cell.source

    copy_without_outputs(ROOT / "nbs" / "21_e1.ipynb", tmp_path / "work" / "21_e1.ipynb", small)
    with laboratory(tmp_path) as address:
        run_all(page, address.format("21_e1.ipynb"))
        notebook = page.locator(".jp-Notebook")
        figures = sum(map(has_figure, as_shown(ROOT / "nbs" / "21_e1.ipynb").cells))
        assert drawn(page, notebook, figures) == figures > 3
        assert page.locator(".Toastify__toast").count() == 0
        notebook.locator(".js-plotly-plot").nth(2).scroll_into_view_if_needed()
        shot(page, "jupyterlab-21_e1")
        page.close()


def test_explorers_in_jupyterlab(page, tmp_path):
    "The explorers' notebook runs in JupyterLab; sliders move curves, and a pole can be dragged"
    copy_without_outputs(ROOT / "nbs" / "37_explore.ipynb", tmp_path / "work" / "37_explore.ipynb", lambda cell: cell.source if "nbdev_export" not in cell.source else "")
    with laboratory(tmp_path) as address:
        run_all(page, address.format("37_explore.ipynb"))
        taken = {}
        for label in ("FWHM / cm⁻¹", "spectrum", "period / cm⁻¹", "latent variables"):
            taken[label] = move(page, label)
            shot(explorer(page, label)[0], f"jupyterlab-explorer-{label.split()[0]}")
        taken["pole"] = drag_pole(page)
        shot(page, "jupyterlab-37_explore")
        page.close()
    note_latency("jupyterlab", taken)


def test_explorers_in_voila(page, tmp_path):
    "The same explorers are pages of their own in voila"
    cells = [nbformat.v4.new_code_cell(f"from spektron.explore import {name}\n{name}()") for name in ("explore_spectra", "explore_filters")]
    metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "explorers.ipynb")
    ours = "--VoilaConfiguration.extension_allowlist=['@voila-dashboards/widgets-manager8', '@jupyter-widgets/jupyterlab-manager', 'anywidget']"
    with running(tmp_path, "voila", "explorers.ipynb", "--no-browser", "--Voila.ip=127.0.0.1", ours, health="voila/static/require.min.js") as address:
        page.set_viewport_size({"width": 1280, "height": 1700})
        page.goto(address)
        page.locator(".widget-slider").first.wait_for()
        taken = {label: move(page, label) for label in ("FWHM / cm⁻¹", "period / cm⁻¹")} | {"pole": drag_pole(page)}
        shot(page, "voila-explorers", full_page=True)
        page.close()
    note_latency("voila", taken)
