"""Files of computed spectra, damaged in every way: a reader may give what is whole, refuse records or refuse the file. It may do nothing else, and nothing in a file may run."""
import io
import json
import os
import pickle
import sqlite3
import zipfile
import zlib
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spektron.data import computed
from spektron.data.computed import NUMPY, PlainUnpickler, decoded, plain_numbers, read_chembl, read_identities, read_mve, read_qme14s, read_rows, read_uspto
from spektron.data.lines import LineList
from spektron.data.measured import DataError, Refused, local_folder
from spektron.data.spectra import Spectra

SMILES = ["C", "CO", "CC", "C#N", "CC=O", "N", "O", "c1ccccc1"]
ATOMS = [[6, 1, 1, 1, 1], [6, 8, 1, 1, 1, 1], [6, 6] + [1] * 6, [6, 7, 1], [6, 6, 8, 1, 1, 1, 1], [7, 1, 1, 1], [8, 1, 1], [6] * 6 + [1] * 6]
rng = np.random.default_rng(0)


def many(count):
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def write_pt(path):
    torch, data = pytest.importorskip("torch"), pytest.importorskip("torch_geometric.data")
    torch.save([data.Data(smile=s, number=i + 1, z=torch.tensor(z), pos=torch.zeros(len(z), 3)) for i, (s, z) in enumerate(zip(SMILES, ATOMS))], path)


def write_csv(path):
    rows = [",".join(["", *(f"{v:.1f}" for v in np.arange(500.0, 540.0))])] + [",".join([str(i), *map(repr, rng.random(40).tolist())]) for i in range(12)]
    path.write_text("\n".join(rows) + "\n")


def write_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for i, (s, atoms) in enumerate(zip(SMILES[:3], ATOMS)):
            z.writestr(f"IR_broaden/IR_{i}.csv", "\n".join([s, *(f"{k},0.0,1.5,-2.0" for k in atoms), "", ",".join(f"{v:.4g}" for v in rng.random(3501))]))


def write_db(path, how):
    lists = [{"freq": np.sort(rng.uniform(100, 3500, 12)).tolist(), "IR Inten": rng.random(12).tolist(), "Raman Activ": rng.random(12).tolist()} for _ in SMILES]
    with closing(sqlite3.connect(path)) as db:
        if how == "json":
            db.execute("CREATE TABLE molecule (id INTEGER PRIMARY KEY, SMILES TEXT, blob_data BLOB)")
            db.executemany("INSERT INTO molecule (SMILES, blob_data) VALUES (?, ?)", [(s, zlib.compress(json.dumps(x).encode())) for s, x in zip(SMILES, lists)])
        else:
            db.execute('CREATE TABLE molecule (id INTEGER PRIMARY KEY, smiles TEXT, freq BLOB, "IR Inten" BLOB, "Raman Activ" BLOB)')
            db.executemany('INSERT INTO molecule (smiles, freq, "IR Inten", "Raman Activ") VALUES (?, ?, ?, ?)', [(s, *(zlib.compress(pickle.dumps(np.array(v))) for v in x.values())) for s, x in zip(SMILES, lists)])
        db.commit()


def write_parquet(path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    axis = np.arange(400.0, 480.0)
    pq.write_table(pa.table({"id": list(range(8)), "smiles": SMILES, "Frequency(cm^-1)": [axis] * 8, "ir_spectra": [rng.random(80) for _ in SMILES]}), path, row_group_size=4)


def write_npz(path):
    n = np.array([len(z) for z in ATOMS])
    m = 3 * n - 6
    a = rng.normal(size=(m.sum(), 3, 3))
    np.savez_compressed(path, smiles=np.array(SMILES), n_atoms=n, n_modes=m, numbers=np.concatenate(ATOMS).astype("i2"), freq_cm1=np.concatenate([np.sort(rng.uniform(50, 3500, k)) for k in m]),
                        dipole_deriv=rng.normal(size=(m.sum(), 3)), polar_deriv=a + a.transpose(0, 2, 1))


def molecules(path):
    table, refused = read_identities(path)
    assert set(table.columns) == {"position", "number", "smiles", "formula"}
    return refused


SOURCES = {"pt": (write_pt, molecules), "csv": (write_csv, read_rows), "zip": (write_zip, read_qme14s), "json.db": (lambda p: write_db(p, "json"), read_chembl), "pickle.db": (lambda p: write_db(p, "pickle"), read_chembl),
           "parquet": (write_parquet, read_uspto), "npz": (write_npz, read_mve)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    "Each kind of file, as its authors write it; and a path for the damaged one"
    folder = tmp_path_factory.mktemp("sound")
    for kind, (write, _) in SOURCES.items():
        write(folder / f"x.{kind}")
    return folder


def damaged(raw: bytes, seed: int) -> bytes:
    "One of eight kinds of damage, by seed"
    r = np.random.default_rng(seed)
    a, b = sorted(r.integers(0, len(raw) + 1, 2).tolist())
    b = min(b, a + 200)
    kind = seed % 8
    if kind < 3:
        changed = bytearray(raw)
        for i in r.integers(0, len(raw), 1 + seed % 7):
            changed[i] ^= 1 << int(r.integers(0, 8)) if kind else int(r.integers(1, 256))
        return bytes(changed)
    return [raw[:a], raw[:a] + raw[b:], raw[:a] + bytes(b - a) + raw[b:], raw[:b] + raw[a:b] + raw[b:], raw[:a] + r.bytes(b - a) + raw[b:]][kind - 3]


def holds(read, path):
    "Every record is a block that is finite or a refusal that says where and why; the only exception is DataError, which names the file"
    try:
        for block in read(path):
            if isinstance(block, Refused):
                assert path.name in block.place and block.detail
            elif isinstance(block, LineList):
                assert all(np.isfinite(getattr(block, n)).all() for n in ("frequency", "ir_intensity", "raman_activity")) and block.offsets[-1] == len(block.frequency)
            else:
                values = block.values if isinstance(block, Spectra) else block[1]
                assert np.isfinite(values).all() and 0 < len(values) <= 512
    except DataError as e:
        assert path.name in str(e)


@pytest.mark.parametrize("kind,count", [("pt", 250), ("csv", 250), ("zip", 150), ("json.db", 200), ("pickle.db", 200), ("parquet", 200), ("npz", 150)])
def test_mutants(sound, kind, count):
    raw, path = (sound / f"x.{kind}").read_bytes(), sound / f"mutant.{kind}"
    holds(SOURCES[kind][1], sound / f"x.{kind}")

    @many(count)
    @given(st.integers(0, 2**32 - 1))
    def run(seed):
        path.write_bytes(damaged(raw, seed))
        holds(SOURCES[kind][1], path)

    run()


def test_mutants_of_the_real_file(tmp_path):
    if not (folder := local_folder("mve")) or not (folder / "thiols.npz").exists():
        pytest.skip("thiols.npz is not here: set SPEKTRON_DATA to a folder with mve/thiols.npz")
    raw, path = (folder / "thiols.npz").read_bytes(), tmp_path / "thiols.npz"
    for seed in range(16):
        path.write_bytes(damaged(raw, seed))
        holds(read_mve, path)


@many(600)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4, 5]))
def test_mutants_of_pickles(seed, protocol):
    "A damaged pickle gives numbers or an error of Python's own, and calls nothing"
    raw = pickle.dumps({"freq": np.arange(6.0), "IR Inten": [0.5, 2, 3.0], "x": ("a", None, b"b", True)}, protocol)
    raw = raw if seed % 5 == 0 else damaged(raw, seed)
    before = set(os.listdir("."))
    try:
        got = PlainUnpickler(io.BytesIO(raw), NUMPY).load()
        plain_numbers(got["freq"])
    except Exception as e:
        assert not isinstance(e, (ImportError, OSError))
    assert set(os.listdir(".")) == before


@many(200)
@given(st.sampled_from(["os system", "builtins eval", "builtins exec", "subprocess Popen", "numpy.core.multiarray scalar", "numpy memmap", "torch load", "shutil rmtree"]), st.sampled_from([b"R", b"\x81", b"b", b"\x92"]), st.text(max_size=20))
def test_payloads(name, how, text):
    "Whatever function a pickle asks for, by whatever instruction, it is not called"
    module, function = name.split()
    word = text.encode("utf-8", "surrogatepass")
    raw = f"c{module}\n{function}\n".encode() + b"X" + len(word).to_bytes(4, "little") + word + b"\x85" + how + b"."
    with pytest.raises(Exception) as e:
        plain_numbers(decoded(zlib.compress(b"\x80\x02" + raw)))
    assert isinstance(e.value, (pickle.UnpicklingError, KeyError, TypeError, ValueError))


@many(100)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True), st.integers(1, 400))
def test_pieces_lose_nothing(tmp_path_factory, keys, step):
    "However a table is divided, each row is read once"
    path = tmp_path_factory.getbasetemp() / "pieces.csv"
    path.write_text("key,1.0,2.0\n" + "".join(f"{k},{k / 3!r},1e{k % 4}\n" for k in keys))
    got = [block for piece in computed.pieces_broaden(path, step) for block in read_rows(path, *piece)]
    assert np.concatenate([k for k, _ in got]).tolist() == keys
    np.testing.assert_allclose(np.concatenate([v[:, 0] for _, v in got]), np.array(keys) / 3, rtol=1e-6)
