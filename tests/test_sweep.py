"""Sweeps as their users start them: on this machine with a worker that is killed, over SSH, interrupted, with a cell that fails; and code and results brought from one machine to another."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import nbformat
import psutil
import pytest
from safetensors.torch import save_file

from spektron.config import BACKBONES, budget, config_hash, override
from spektron.run import load_rows, load_runs, run_folder, run_hash
from spektron.sweep import open_cluster, sweep, sweep_grid, sync
from spektron.training import read_checkpoint

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "import sys; from spektron.cli import main; sys.exit(main(sys.argv[1:]))"]
GRID = {"backbone": "all", "seed": "0..1", "budget": "smoke"}
TOY = """import os, time
from pathlib import Path
here = Path(os.environ["SPEKTRON_ROOT"])
with (here / f"began-{seed}").open("a") as f: f.write(f"{os.getpid()}\\n")
assert seed != 3, "no such seed"
if seed == 5: os.kill(os.getppid(), 9); time.sleep(60)
(here / f"gpu-{seed}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
while seed > 1 and not (here / "go").exists(): time.sleep(0.02)"""


def wait_for(condition, seconds=120):
    "The first true value of `condition()`"
    began = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.005)
    return found


def checkout(folder: Path) -> Path:
    "A project with this code and data, and with results and cache of its own"
    folder.mkdir()
    for name in ("nbs", "data", "settings.ini"): (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def toy_project(folder: Path, parameters: str = "seed: int = 0  # of all") -> Path:
    "A project whose one experiment waits for a file `go` above seed 1, fails at seed 3, and kills its worker at seed 5"
    (folder / "nbs").mkdir(parents=True)
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(TOY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), folder / "nbs" / "90_toy.ipynb")
    return folder


def spektron(root: Path, *words) -> subprocess.Popen:
    "`spektron sweep`, begun in a process group of its own as a terminal would; what it says goes to the file `said`"
    with (root / "said").open("w") as said:
        return subprocess.Popen([*COMMAND, "sweep", *map(str, words), "--progress"], stdout=said, stderr=said, start_new_session=True, cwd=root, env=os.environ | {"SPEKTRON_ROOT": str(root)})


def at_work(root: Path) -> tuple[str, Path, psutil.Process]:
    "A run that is being computed after its first checkpoint: its hash, the checkpoint, and the process of its worker; None if there is none"
    for seed, backbone in ((s, b) for s in range(2) for b in BACKBONES):
        name, config = run_hash("e1", dict(backbone=backbone, seed=seed, budget="smoke")), override(budget("smoke"), {"model.backbone": backbone, "seed": seed})
        checkpoint, reports = root / ".cache" / "runs" / config_hash(config) / "checkpoints" / "last.safetensors", list((root / ".cache" / "reports").glob(f"{name}-*.ipynb"))
        if checkpoint.exists() and reports: return name, checkpoint, psutil.Process(int(reports[0].stem.rpartition("-")[2]))


def metrics(root: Path) -> dict:
    "Row -> all its numbers, times and memory apart"
    return {p.stem: json.loads(p.read_text())["metrics"] for p in (root / "results" / "e1").glob("*.json")}


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    "Port and client configuration of an SSH server of this user's own, on this machine alone, with keys made for it"
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not server: pytest.skip("sshd is not installed; apt-get install openssh-server")
    at = tmp_path_factory.mktemp("ssh")
    (at / ".ssh").mkdir()
    with socket.socket() as free: free.bind(("127.0.0.1", 0)); port = free.getsockname()[1]
    for key in ("host", "user"): subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at / key], check=True)
    (at / "sshd_config").write_text(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\nStrictModes no\nUsePAM no\nPubkeyAuthentication yes\n"
                                    "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\nLogLevel ERROR\n")
    (at / "known_hosts").write_text(f"[127.0.0.1]:{port},[localhost]:{port} {(at / 'host.pub').read_text()}")
    (at / ".ssh" / "config").write_text(f"Host 127.0.0.1 localhost\n  IdentityFile {at}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {at}/known_hosts\n")
    if os.geteuid() == 0: Path("/run/sshd").mkdir(exist_ok=True)  # which the server wants to see when root starts it
    with (at / "log").open("w") as log: running = subprocess.Popen([server, "-D", "-e", "-f", at / "sshd_config"], stderr=log)
    def answers():
        assert running.poll() is None, (at / "log").read_text()
        with socket.socket() as s: return s.connect_ex(("127.0.0.1", port)) == 0
    wait_for(answers, 10)
    yield port, at / ".ssh" / "config"
    running.terminate()
    running.wait()


def test_a_killed_worker_and_the_same_rows_over_ssh(tmp_path, monkeypatch, request):
    """All runs of a grid end well although a worker is killed in the middle of one, which goes on from its checkpoint; the same grid again takes seconds; and over SSH it gives the same rows.

    A thousand seconds are added to the training time that the checkpoint of the killed run remembers: they are in its row if, and only if, it went on from there."""
    here = checkout(tmp_path / "here")
    command = ("e1", "--backbone", "all", "--seed", "0..1", "--budget", "smoke", "--workers", "2")
    process = spektron(here, *command)
    killed, checkpoint, worker = wait_for(lambda: at_work(here) or process.poll() and {}[(here / "said").read_text()])
    kernel, = (p for p in worker.children() if "ipykernel" in " ".join(p.cmdline()))
    worker.kill()
    assert not (here / "results" / "e1" / killed / "run.json").exists()
    wait_for(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE, 20)
    tensors, text = read_checkpoint(checkpoint)
    text["seconds"]["wall"] += 1000
    save_file(tensors, checkpoint, metadata={"spektron": json.dumps(text)})
    assert process.wait(900) == 0, (here / "said").read_text()
    said = (here / "said").read_text()

    runs, rows = load_runs("e1", here / "results").set_index("hash"), load_rows("e1", here / "results").set_index("hash")
    assert 0 < text["step"] <= 8 and len(re.findall(r"^.*lost .* died; the run is tried again", said, re.M)) == 1 and "Traceback" not in said
    assert len(runs) == len(rows) == 2 * len(BACKBONES) and set(runs.state) == {"done"} and (rows["training.steps"] == 8).all()
    assert set(zip(rows["config.model.backbone"], rows["config.seed"], strict=True)) == {(b, seed) for b in BACKBONES for seed in range(2)} and (rows["metrics.nre.model"] > 0).all()
    assert (rows["training.wall_s"] > 1000).sum() == 1 and rows.loc[runs.rows[killed][0], "training.wall_s"] > 1000
    assert {name for run in runs.rows for name in run} == set(rows.index)

    again, began = spektron(here, *command), time.monotonic()
    assert again.wait(60) == 0 and time.monotonic() - began < 30 and load_runs("e1", here / "results").set_index("hash").ended.equals(runs.ended)

    port, config = request.getfixturevalue("sshd")
    box, client = checkout(tmp_path / "box"), checkout(tmp_path / "client")
    monkeypatch.setenv("HOME", str(config.parent.parent))
    monkeypatch.setenv("SPEKTRON_ROOT", str(client))
    swept = sweep("e1", sweep_grid("e1", GRID), f"ssh://127.0.0.1:{port}{box}", progress=False)
    assert set(swept.state) == {"done"} and metrics(client) == metrics(box) == metrics(here)
    assert set(swept.worker) == {f"127.0.0.1:{port}-{i}" for i in range(2)} and (box / ".cache" / "runs").exists() and not (client / ".cache" / "runs").exists()
    assert all(Path(report).read_text() == (box / Path(report).relative_to(client)).read_text() for report in swept.report)


def test_interrupted(tmp_path):
    "Ctrl-C keeps what is done, leaves nobody computing, and says how to go on; the same command does"
    root = toy_project(tmp_path / "toy")
    process = spektron(root, "toy", "--seed", "0,1,2,4", "--workers", "2")
    wait_for(lambda: (root / "began-2").exists() and (root / "began-4").exists() or process.poll() and {}[(root / "said").read_text()])
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    said = (root / "said").read_text()
    assert "2 of 4 runs are done and kept, 2 were under way; the same command goes on" in said and "Traceback" not in said
    wait_for(lambda: not any(psutil.pid_exists(int(pid)) for p in root.glob("began-*") for pid in p.read_text().split()), 20)
    (root / "go").touch()
    assert spektron(root, "toy", "--seed", "0,1,2,4", "--workers", "2").wait(120) == 0
    assert [len((root / f"began-{seed}").read_text().split()) for seed in (0, 1, 2, 4)] == [1, 1, 2, 2]
    assert set(load_runs("toy", root / "results").state) == {"done"}


def test_a_cell_that_fails(tmp_path, monkeypatch):
    "The others go on; the traceback and the report are shown, and the record says what failed. Here on workers that somebody else has started"
    root = toy_project(tmp_path / "toy")
    (root / "go").touch()
    monkeypatch.setenv("SPEKTRON_ROOT", str(root))
    with open_cluster(workers=2) as cluster:
        process = spektron(root, "toy", "--seed", "2..4", "--cluster", cluster.scheduler_address)
        assert process.wait(120) == 1
        refused, gone = other_version(tmp_path / "other", cluster, monkeypatch), without_workers(root, cluster, monkeypatch)
    said, runs = (root / "said").read_text(), load_runs("toy", root / "results").set_index("parameters.seed")
    assert runs.state.to_dict() == {2: "done", 3: "failed", 4: "done"} and runs.error[3] == "AssertionError: no such seed"
    assert said.count("AssertionError: no such seed") == 1 and str(run_folder("toy", dict(seed=3)) / "failed.ipynb") in said and "seed=3" in said
    assert refused.state[0] == "failed" and "is another version" in refused.error[0]
    assert "no worker is left: 0 of 1 runs are done and kept, 1 were under way" in gone


def other_version(root: Path, cluster, monkeypatch):
    "What a sweep gives whose workers have another notebook of that name"
    toy_project(root, "seed: int = 0\nmore: int = 0")
    with monkeypatch.context() as m:
        m.setenv("SPEKTRON_ROOT", str(root))
        return sweep("toy", sweep_grid("toy", {"seed": [0]}), cluster, progress=False)


def without_workers(root: Path, cluster, monkeypatch) -> str:
    "What a sweep says whose workers all leave while it computes"
    (root / "go").unlink()
    monkeypatch.setattr("spektron.sweep.GONE_AFTER", 1)
    Thread(target=lambda: wait_for((root / "began-7").exists) and cluster.scale(0), daemon=True).start()
    with pytest.raises(ConnectionError) as told: sweep("toy", sweep_grid("toy", {"seed": [7]}), cluster, progress=False)
    return str(told.value)


def test_a_run_that_kills_its_workers(tmp_path, monkeypatch):
    "It is given up after as many attempts as were allowed; the others are done, each on one GPU of its own. No GPU is needed to see which one a run would see"
    root = toy_project(tmp_path / "toy")
    (root / "go").touch()
    monkeypatch.setenv("SPEKTRON_ROOT", str(root))
    monkeypatch.setattr("spektron.sweep.visible_gpus", lambda: ["6", "8"])
    swept = sweep("toy", sweep_grid("toy", {"seed": "5,0,1,2"}), workers=5, retries=1, progress=False).set_index("parameters.seed")
    assert swept.state.tolist() == ["failed", "done", "done", "done"] and swept.error[5].startswith("its worker died 2 times")
    assert [a["state"] for a in swept.attempts[5]] == ["lost", "lost"] and len((root / "began-5").read_text().split()) == 2
    assert all((a[0]["worker"], (root / f"gpu-{seed}").read_text()) in [("worker-0", "6"), ("worker-1", "8")] for seed, a in swept.attempts.items() if len(a) == 1)


@pytest.mark.parametrize("words, why", [(("e1", "--backbone", "mamda"), "did you mean 'mamba'"), (("e1", "--cluster", "ssh://127.0.0.1:1"), "127.0.0.1:1 cannot be reached"),
                                        (("e1", "--cluster", "box"), "is not understood"), (("e1", "--cluster", "tcp://127.0.0.1:1"), "no scheduler answers at tcp://127.0.0.1:1")])
def test_what_cannot_be_is_said_in_one_line(words, why, tmp_path):
    process = spektron(root := checkout(tmp_path / "here"), *words)
    assert process.wait(60) == 2
    said = (root / "said").read_text().strip()
    assert why in said and len(said.splitlines()) == 1


def test_without_dask(tmp_path):
    block = "import sys; [sys.modules.__setitem__(m, None) for m in ('dask', 'distributed', 'asyncssh', 'dask_jobqueue', 'typer', 'plotly', 'papermill')]; from spektron.sweep import open_cluster; open_cluster()"
    run = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert 'ImportError: a sweep needs Dask: pip install "spektron[sweep]"' in run.stderr


def test_slurm(tmp_path, monkeypatch):
    "What is sent to the queue is one worker with one GPU and its threads. Here `sbatch` runs it at once, and the runs are done"
    pytest.importorskip("dask_jobqueue")
    root, bin = toy_project(tmp_path / "toy"), tmp_path / "bin"
    (root / "go").touch()
    bin.mkdir()
    for name, script in (("sbatch", 'cp "$1" "$0.job"; sh "$0.job" >"$0.out" 2>&1 & echo "Submitted batch job $!"'), ("scancel", 'pkill -P "$1"; kill "$1"')):
        (bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    monkeypatch.setenv("SPEKTRON_ROOT", str(root))
    swept = sweep("toy", sweep_grid("toy", {"seed": "0..1"}), "slurm:queue=gpu,account=chem,gpus=1,walltime=04:00:00,memory=16GB", workers=1, threads=4, progress=False)
    script = (bin / "sbatch.job").read_text()
    for line in ("#SBATCH -p gpu", "#SBATCH -A chem", "#SBATCH -t 04:00:00", "#SBATCH --cpus-per-task=4", "#SBATCH --mem=15G", "#SBATCH --gres=gpu:1", "export OMP_NUM_THREADS=4", f"export SPEKTRON_ROOT={root}"):
        assert line in script.splitlines()
    assert all(word in script for word in ("-m distributed.cli.dask_worker tcp://", "--nthreads 1", "--resources GPU=1", "--preload spektron.sweep", "--nanny"))
    assert swept.state.tolist() == ["done", "done"] and (root / "began-1").exists()


def test_sync(sshd, tmp_path, monkeypatch):
    "Code goes up and results come down over SSH; a dry run brings nothing; keys, what git does not track, caches and results do not go up"
    port, config = sshd
    here, box = tmp_path / "here", tmp_path / "box"
    up, never = ["spektron/run.py", "nbs/21_e1.ipynb", "settings.ini"], [".env", "id_ed25519", "nbs/draft.ipynb", ".cache/runs/last.safetensors", "results/e1/0123456789ab.json", ".venv/bin/python"]
    for name in up + never: (here / name).parent.mkdir(parents=True, exist_ok=True); (here / name).write_text(name)
    for words in (["init"], ["add", *up, ".env", "id_ed25519", "results"]): subprocess.run(["git", "-C", here, *words], check=True, capture_output=True)
    monkeypatch.setenv("SPEKTRON_ROOT", str(here))
    target, ssh = f"127.0.0.1:{box}", f"ssh -F {config} -p {port}"
    assert sorted(sync(target, "up", dry_run=True, ssh=ssh)) == sorted(f"up {name}" for name in up) and not box.exists()
    assert sorted(sync(target, ssh=ssh)) == sorted(f"up {name}" for name in up)
    assert sorted(str(p.relative_to(box)) for p in box.rglob("*") if p.is_file()) == sorted(up)

    came, stays = ["results/e1/fedcba987654.json", "results/e1/fedcba987654/report.ipynb", "results/e1/fedcba987654/run.json"], [".cache/runs/x.safetensors", "results/e1/core"]
    for name in came + stays + ["results/e1/0123456789ab.json"]: (box / name).parent.mkdir(parents=True, exist_ok=True); (box / name).write_text("{}")
    os.utime(box / "results/e1/0123456789ab.json", (0, 0))  # an older one than here
    assert sorted(sync(target, "down", ssh=ssh)) == sorted(f"down {name}" for name in came) and sync(target, ssh=ssh) == []
    assert (here / "results/e1/0123456789ab.json").read_text() == "results/e1/0123456789ab.json" and not (here / "results/e1/core").exists()


def test_two_boxes(sshd, tmp_path, monkeypatch):
    "Each takes runs, and sends what they left to this machine, whose folders it does not see"
    port, config = sshd
    box, here = toy_project(tmp_path / "box"), toy_project(tmp_path / "here")
    (box / ".venv").symlink_to(sys.prefix)
    monkeypatch.setenv("HOME", str(config.parent.parent))
    monkeypatch.setenv("SPEKTRON_ROOT", str(here))
    Thread(target=lambda: wait_for(lambda: (box / "began-2").exists() and (box / "began-4").exists()) and (box / "go").touch(), daemon=True).start()
    swept = sweep("toy", sweep_grid("toy", {"seed": "2,4,3"}), f"ssh://127.0.0.1:{port},localhost:{port}{box}", workers=1, progress=False)
    assert swept.state.tolist() == ["done", "done", "failed"] and set(swept.worker[:2]) == {f"127.0.0.1:{port}-0", f"localhost:{port}-0"}
    assert load_runs("toy", here / "results").error.dropna().tolist() == ["AssertionError: no such seed"] and all(Path(report).exists() for report in swept.report) and not (here / "began-2").exists()


def test_a_box_that_does_not_let_one_in(sshd, tmp_path, monkeypatch):
    "Another key, or a folder without the project, is said in one line"
    port, config = sshd
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConnectionError, match="cannot be reached"): open_cluster(f"ssh://127.0.0.1:{port}")
    monkeypatch.setenv("HOME", str(config.parent.parent))
    with pytest.raises(ConnectionError, match="cannot run Spektron .*No such file"): open_cluster(f"ssh://127.0.0.1:{port}{tmp_path}/nothing")
    with pytest.raises(OSError, match="rsync failed"): sync(f"127.0.0.1:{tmp_path}", "up", ssh="false")
