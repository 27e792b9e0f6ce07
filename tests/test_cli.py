"""The `spektron` command as its user meets it: help, wrong input, exit codes, completion, and a few real runs."""
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import typer
from typer.testing import CliRunner

from spektron import cli

ROOT = Path(__file__).parent.parent
ASKED = {"lines", "corpus", "run", "sweep", "bench", "report", "explore", "doctor", "sync"}
runner = CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200", "TERM": "dumb", "NO_COLOR": "1"})


def leaves(group, path=()):
    for name, c in group.commands.items():
        yield from leaves(c, (*path, name)) if hasattr(c, "commands") else [((*path, name), c)]


GROUP = typer.main.get_command(cli.app)
COMMANDS = dict(leaves(GROUP))
EXAMPLES = [(path, line) for path, c in COMMANDS.items() for line in re.findall(r"Example:\[/\] spektron (.+)", c.epilog)]


def spektron(*words, **more):
    return runner.invoke(cli.app, [str(w) for w in words], prog_name="spektron", **more)


def process(*words, **more):
    "The command in a process of its own"
    return subprocess.Popen([sys.executable, "-m", "spektron.cli", *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "An experiment of one parameter that takes no time, or never ends, or fails"
    cells = [nbformat.v4.new_code_cell("mode: str = 'well'  # well, endless or fails\nout_dir: str = ''", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell("import pathlib, time\npathlib.Path(out_dir, 'begun').touch()"),
             nbformat.v4.new_code_cell("while mode == 'endless': time.sleep(0.1)\nif mode == 'fails': raise RuntimeError('no light')")]
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    path = tmp_path_factory.mktemp("toy") / "90_toy.ipynb"
    nbformat.write(nb, path)
    return path


# help


def test_commands_are_there():
    assert set(GROUP.commands) == ASKED


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_defaults_and_an_example(path):
    done = spektron(*path, "--help")
    assert done.exit_code == 0 and f"Example: spektron {' '.join(path)}" in done.stdout
    shown = " ".join(done.stdout.replace("│", " ").split())
    for p in COMMANDS[path].params:
        assert p.help, p.name
        if p.param_type_name == "argument" or getattr(p, "is_flag", False) and p.default is False: continue
        expected = "(default: " if p.default in (None, [], (), "") else "[default:"
        assert p.required or expected in p.help or f"[default: {p.default}" in shown or p.is_flag, f"{p.name} shows no default"


@pytest.mark.parametrize("name", sorted(ASKED))
def test_groups_have_examples(name):
    assert "Example: spektron " in spektron(name, "--help").stdout


@pytest.mark.parametrize("path, line", EXAMPLES, ids=lambda v: v if isinstance(v, str) else "")
def test_examples_parse(path, line, tmp_path, monkeypatch):
    "What help shows can be typed: the words of an example are the command's own"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rruff.h5").write_bytes(b"")
    words = shlex.split(line)
    assert tuple(words[:len(path)]) == path
    COMMANDS[path].make_context(path[-1], words[len(path):])


def test_help_without_words_and_version():
    from spektron import __version__

    assert spektron("--version").stdout == f"spektron {__version__}\n"
    for words in ([], ["lines"], ["corpus"]):
        done = spektron(*words)
        assert done.exit_code == 0 and "Usage: spektron" in done.stdout and not done.stderr


# what a user can get wrong

WRONG = {
    "no such command": (["swep"], "Did you mean 'sweep'?"),
    "no such command of a group": (["corpus", "bild"], "Did you mean 'build'?"),
    "no such option": (["bench", "mixers", "--repeat", "3"], "--repeats"),
    "an option without its value": (["bench", "mixers", "--repeats"], "requires an argument"),
    "a number that is none": (["bench", "mixers", "--repeats", "many"], "--repeats"),
    "an argument too few": (["run"], "see `spektron run --help`"),
    "an argument too many": (["run", "e1", "e2"], "e2"),
    "no such experiment": (["run", "e9"], "experiment 'e9' is not known"),
    "a notebook that is no experiment": (["run", "config"], "is no experiment"),
    "a path that is not there": (["run", "there/is/none.ipynb"], "none.ipynb"),
    "no such parameter": (["run", "e1", "-p", "bakbone=cnn"], "did you mean 'backbone'?"),
    "no such parameter as an option": (["run", "e1", "--bakbone", "cnn"], "did you mean 'backbone'?"),
    "a value that is not known": (["run", "e1", "-p", "backbone=mamda"], "did you mean 'mamba'?"),
    "a value of another type": (["run", "e1", "-p", "seed=three"], "expected int"),
    "a range for one run": (["run", "e1", "--seed", "0..2"], "seed="),
    "no NAME=VALUE": (["run", "e1", "-p", "backbone"], "expected NAME=VALUE"),
    "a name twice": (["run", "e1", "-p", "seed=1", "--seed", "2"], "given twice"),
    "a parameter without a value": (["run", "e1", "--seed"], "--seed has no value"),
    "output among the sources": (["run", "e1", "--output", "{root}/nbs/x.ipynb"], "lies in nbs/"),
    "output that is no notebook": (["run", "e1", "--output", "x.pdf"], "x.ipynb"),
    "no corpus": (["run", "e1", "-p", "corpus=none.h5"], "none.h5"),
    "no such collection": (["corpus", "fetch", "ruff"], "'ruff' is not known"),
    "no such file": (["corpus", "verify", "none.h5"], "none.h5"),
    "a file that is no corpus": (["corpus", "report", "{root}/settings.ini"], "settings.ini"),
    "a molecule that is not there": (["lines", "show", "CCCCCCCCCCCCCC"], "spektron lines compute --smiles"),
    "no SMILES": (["lines", "show", "C(("], "no readable SMILES"),
    "no line list": (["lines", "show", "CCO", "--path", "none.h5"], "none.h5"),
    "no molecule to compute": (["lines", "compute", "--count", "0"], "--count"),
    "no such bench": (["bench", "mixer"], "mixer"),
    "no such explorer": (["explore", "spectrum"], "did you mean 'spectra'?"),
    "no such setting of an explorer": (["explore", "filters", "-p", "perod=3"], "did you mean 'period'?"),
    "a port that is taken": (["explore", "filters", "--no-browser", "--port", "{taken}"], "is in use"),
    "no such check": (["doctor", "quatro"], "did you mean 'quarto'?"),
    "values that are none": (["sweep", "e1", "--seed", "2..0", "--dry-run"], "2..0"),
    "a wrong value in a sweep": (["sweep", "e1", "--backbone", "cnn,mamda", "--dry-run"], "did you mean 'mamba'?"),
    "an option of its own misspelt": (["sweep", "e1", "--worker", "3", "--dry-run"], "did you mean '--workers'?"),
    "a flag misspelt": (["sweep", "e1", "--dryrun"], "did you mean --dry-run?"),
    "no such cluster": (["sweep", "e1", "--seed", "0", "--cluster", "ftp://box"], "ftp://box"),
    "no such host": (["sweep", "e1", "--seed", "0", "--cluster", "ssh://no-such-host.invalid"], "no-such-host.invalid"),
    "no such report": (["report", "e9"], "e9"),
    "a format that is none": (["report", "e1", "--export", "x.docx"], "x.docx"),
    "no target": (["sync", "nowhere"], "user@host:path"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_ends_in_one_line(name, tmp_path, monkeypatch):
    "Exit code 2, nothing on the output, one line on the error stream that says what to do"
    monkeypatch.chdir(tmp_path)
    words, said = WRONG[name]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0)), s.listen()
        done = spektron(*(w.format(root=ROOT, taken=s.getsockname()[1]) for w in words))
    assert done.exit_code == 2, done.output
    assert done.stdout == "" and done.stderr.startswith(("spektron: ", "error: ")) and said in done.stderr, done.output
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n") and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir()), "something was written"


MISSING = {"distributed": (["sweep", "e1", "--seed", "0", "--steps", "77"], "needs Dask: pip install"), "voila": (["explore", "filters", "--voila"], "voila is missing: python -m pip install voila"),
           "kaleido": (["report", "e1", "--export", "e1.svg"], "kaleido, which is not installed: pip install kaleido")}


@pytest.mark.parametrize("module", MISSING)
def test_missing_package(module, monkeypatch, tmp_path):
    "What is not installed is named, with the command that installs it"
    import importlib.util

    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == module else found(name, *a))
    monkeypatch.setitem(sys.modules, module, None)
    words, said = MISSING[module]
    done = spektron(*words)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and said in done.stderr and not list(tmp_path.iterdir()), done.output


@pytest.mark.parametrize("words", [["--debug", "run", "e9"], ["run", "e9", "--debug"]])
def test_debug_brings_the_traceback(words):
    done = spektron(*words)
    assert done.exit_code == 2 and "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("spektron: experiment 'e9'")


def test_a_fault_of_the_code_is_told_from_a_wrong_input(monkeypatch):
    monkeypatch.setattr("spektron.doctor.examine", lambda *a: {}["key"])
    done = spektron("doctor")
    assert done.exit_code == 1 and done.stderr == "spektron: unexpected KeyError: 'key'; --debug shows where\n"


# completion and start


@pytest.mark.parametrize("line, offers", {"spektron ": ASKED, "spektron corpus ": {"list", "fetch", "build", "report", "verify"}, "spektron run e": {"e1", "e2", "e3", "e4"}, "spektron explore ": {"spectra", "masks", "filters", "transfer"}}.items())
def test_completion_offers(line, offers):
    env = {"_SPEKTRON_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert set(spektron(env=env).stdout.split()) == offers


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell):
    script = spektron(env={"_SPEKTRON_COMPLETE": f"source_{shell}"}).stdout
    assert "_SPEKTRON_COMPLETE" in script and "spektron" in script
    if shell == "bash": subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_start_is_quick():
    "Help costs less than a second of a core, and loads nothing that computes"
    code = "import resource, sys\nfrom spektron.cli import main\nassert main(['--help']) == 0\nu = resource.getrusage(resource.RUSAGE_SELF)\nprint('\\n', u.ru_utime + u.ru_stime, [m for m in ('torch', 'numpy', 'pandas', 'plotly', 'papermill') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1].split(maxsplit=1)
    assert float(said[0]) < 1 and said[1] == "[]"


# what works


def test_run_shows_parameters():
    done = spektron("run", "e1", "--show")
    assert done.exit_code == 0 and re.search(r"^backbone='dlinoss' +dlinoss, mamba", done.stdout, re.M)


def test_lines_of_a_molecule():
    assert "1784.0         342.3" in spektron("lines", "show", "CC(=O)C").stdout


def test_lines_defaults_are_those_of_the_library(monkeypatch):
    "What the command does not ask for, the library decides: the same molecules, line list and file"
    from spektron.data import lines

    asked = []
    monkeypatch.setattr(lines, "main", lambda argv: asked.append(argv) or 0)
    assert spektron("lines", "compute").exit_code == 0 and spektron("lines", "compute", "--smiles", "C", "--smiles", "O", "--start", "x.h5", "--workers", "3").exit_code == 0
    assert asked == [["compute", "--out", "lines.h5", "--count", "5800"], ["compute", "--out", "lines.h5", "--count", "5800", "--start", "x.h5", "--workers", "3", "--smiles", "C", "O"]]


def test_corpus_of_a_table(tmp_path, monkeypatch):
    "build, report and verify one after the other"
    folder, out = tmp_path / "tables" / "RAMAN", tmp_path / "small.h5"
    folder.mkdir(parents=True)
    (folder / "mine.csv").write_text("id," + ",".join(map(str, range(500, 1500, 10))) + "\n" + "".join(f"m{i}," + ",".join(str((i + k) % 7) for k in range(100)) + "\n" for i in range(3)))
    for name in ("DATA", "CACHE"): monkeypatch.setenv(f"SPEKTRON_{name}", str(tmp_path))
    built = spektron("corpus", "build", "tables", "--out", out, "--points", 64, "--low", 600, "--high", 1400, "--workers", 0)
    assert built.exit_code == 0, built.output
    assert spektron("corpus", "report", out).stdout.count("tables") == 1
    assert str(out) in spektron("corpus", "verify", out).stdout


def test_doctor_exit_code(monkeypatch):
    assert spektron("doctor", "python", "data").exit_code == 0
    monkeypatch.setattr("spektron.doctor.DATA", {"lines.h5": "0" * 64})
    done = spektron("doctor", "python", "data")
    assert done.exit_code == 1 and "git checkout -- data" in done.stdout


def test_bench_asks_the_library(monkeypatch, tmp_path):
    "The words of the command arrive, and its file is written where it says"
    asked = []
    monkeypatch.setattr("spektron.bench.run_bench", lambda *a, **given: asked.append((*a, given)) or {"what": a[0]})
    monkeypatch.setattr("spektron.bench.table", lambda result: f"table of {result['what']}")
    monkeypatch.setattr("spektron.bench.write_result", lambda result, path: path)
    assert spektron("bench", "train", "--device", "cuda", "--dtype", "float32", "--repeats", 3, "--batch", 64, "--quick").stdout.startswith("table of train\n")
    done = spektron("bench", "mixers", "--out", tmp_path / "b.json")
    usual = dict(dtype="", repeats=7, quick=False, batch=0)
    assert asked == [("train", "cuda", dict(dtype="float32", repeats=3, quick=True, batch=64)), ("mixers", "cpu", usual)] and str(tmp_path / "b.json") in done.stdout
    asked.clear()
    assert spektron("bench", "mixers", "lengths").exit_code == 0 and asked == [("mixers", "cpu", usual), ("lengths", "cpu", usual)]


def test_sweep_of_what_is_there(toy, tmp_path):
    "A dry run prints the grid and computes nothing; what is done is left out of a sweep, and its reports are named"
    words = ["sweep", toy, "--mode", "well", "--out-dir", tmp_path]
    dry = spektron(*words, "--dry-run")
    assert dry.exit_code == 0 and "1 runs, 0 done" in dry.stdout and not list(tmp_path.iterdir())
    assert spektron("run", toy, "--mode", "well", "--out-dir", tmp_path, "--no-progress").exit_code == 0
    done = spektron(*words, "--no-progress")
    assert done.exit_code == 0 and "1 done (1 before), 0 failed" in done.stdout and "report.ipynb" in done.stdout


def test_sync_asks_the_library(monkeypatch):
    asked = []
    monkeypatch.setattr("spektron.sweep.sync", lambda *a: asked.append(a) or ["up a.py"])
    assert spektron("sync", "me@box:there", "--direction", "up", "--dry-run", "--ssh", "ssh -p 2222").stdout == "up a.py\n1 files would be brought\n"
    assert asked == [("me@box:there", "up", True, "ssh -p 2222")]


def test_report_writes_what_the_name_says(tmp_path):
    done = spektron("report", "e4", "--standards", "10", "--export", tmp_path / "e4.csv", "--export", tmp_path / "e4.tex")
    assert done.exit_code == 0 and (tmp_path / "e4.csv").read_text().count("\n") > 3 and "tabular" in (tmp_path / "e4.tex").read_text()


@pytest.mark.parametrize("what, function", {"index": "write_results_index", "paper": "write_paper"}.items())
def test_report_pages(what, function, monkeypatch):
    monkeypatch.setattr(f"spektron.report.{function}", lambda: Path("there"))
    assert spektron("report", what).stdout == "written to there\n"


def test_explorer_is_served_and_closed(monkeypatch):
    "The server gets a notebook of its own, which is gone when it ends; Ctrl-C ends both"
    seen = []

    class Server:
        def __init__(self, words, env, **more):
            seen.append((Path(words[3]), env["SPEKTRON_ROOT"], "explore_filters(period=25)" in Path(words[3]).read_text()))
            self.ended = False

        def wait(self):
            if not self.ended: raise KeyboardInterrupt

        def terminate(self):
            self.ended = True

    monkeypatch.setattr(subprocess, "Popen", Server)
    done = spektron("explore", "filters", "--period", "25", "--no-browser")
    (page, root, right), = seen
    assert done.exit_code == 0 and done.stderr == "closed\n" and right and not page.parent.exists() and Path(root) == ROOT


def test_run_that_fails(toy, tmp_path):
    "Exit code 1, the traceback of the cell and where the report is"
    done = spektron("run", toy, "-p", "mode=fails", "-p", f"out_dir={tmp_path}", "--no-progress", "--output", tmp_path / "copy.ipynb")
    failed = next(tmp_path.rglob("failed.ipynb"))
    assert done.exit_code == 1 and "RuntimeError: no light" in done.stderr and str(failed) in done.stderr.splitlines()[-1]
    assert (tmp_path / "copy.ipynb").read_text() == failed.read_text()


def test_run_stopped_by_hand(toy, tmp_path):
    "Ctrl-C ends with one line and 130"
    p = process("run", toy, "-p", "mode=endless", "-p", f"out_dir={tmp_path}", "--no-progress")
    for _ in range(600):
        if (tmp_path / "begun").exists(): break
        time.sleep(0.1)
    p.send_signal(signal.SIGINT)
    _, said = p.communicate(timeout=60)
    assert p.returncode == 130 and said == f"spektron: {cli.STOPPED}\n", said


def test_run_e1(tmp_path):
    "Report, record and row are there; a second call finds them and runs nothing"
    words = ["run", "e1", "-p", "budget=smoke", "--steps", "2", "-p", f"out_dir={tmp_path}", "--no-progress"]
    first = spektron(*words)
    assert first.exit_code == 0, first.output
    report, = tmp_path.glob("e1/*/report.ipynb")
    record = json.loads(report.with_name("run.json").read_text())
    assert record["state"] == "done" and str(report) in first.stdout and all((tmp_path / "e1" / f"{row}.json").exists() for row in record["rows"])
    assert spektron(*words).stdout == first.stdout and json.loads(report.with_name("run.json").read_text()) == record
