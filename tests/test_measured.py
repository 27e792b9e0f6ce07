"""Files of measured spectra that were damaged in any way: a reader gives spectra that hold together, refuses with a place and a reason, or raises DataError. Nothing else."""
import gzip
import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spektron.data.measured import REASONS, DataError, Refused, cas, hill, local_folder, read_jcamp, read_openspecy, read_rruff, read_rruff_processed, read_table
from spektron.data.measured import _pieces, _squeezed, _steps

BAND = np.exp(-((np.arange(60) - 25) / 6) ** 2)
GRID = 400 + 4 * np.arange(60)
RRUFF = "Quartz__R040031-1__Infrared__Infrared_Data_Processed__1.txt"
SQUEEZED = {False: "@ABCDEFGHI", True: "@abcdefghi"}
DIFFERENCES = {False: "%JKLMNOPQR", True: "%jklmnopqr"}


def pseudo(n: int, alphabet: dict) -> str:
    "`n` with its first digit as a letter"
    return alphabet[n < 0][int(str(abs(n))[0])] + str(abs(n))[1:]


def asdf(y: list[int], per_line: int, squeezed: bool) -> list[str]:
    "Lines of (X++(Y..Y)) as differences, or as squeezed values"
    if squeezed:
        return [f"{400 + i}" + "".join(pseudo(v, SQUEEZED) for v in y[i:i + per_line]) for i in range(0, len(y), per_line)]
    out = []
    for i in range(0, len(y), per_line):
        j = max(i - 1, 0)
        part = y[j:i + per_line]
        out.append(f"{400 + j}{pseudo(part[0], SQUEEZED)}" + "".join(pseudo(b - a, DIFFERENCES) for a, b in zip(part, part[1:])))
    return out


def jdx(form: str) -> bytes:
    y = [int(v) for v in np.round(1000 * BAND)]
    lines = {"plain": [f"{400 + i} " + " ".join(map(str, y[i:i + 8])) for i in range(0, 60, 8)], "dif": asdf(y, 8, False), "sqz": asdf(y, 8, True),
             "pairs": [f"{400 + i}, {v};" for i, v in enumerate(y)]}[form]
    block = "\n".join(["##TITLE=water", "##JCAMP-DX=4.24", "##DATA TYPE=INFRARED SPECTRUM", "##XUNITS=1/CM", "##YUNITS=ABSORBANCE", "##MOLFORM=H2 O", "##CAS REGISTRY NO=7732-18-5", "##FIRSTX=400",
                       "##LASTX=459", "##NPOINTS=60", "##XFACTOR=1", "##YFACTOR=0.001", f"##{'XYPOINTS=(XY..XY)' if form == 'pairs' else 'XYDATA=(X++(Y..Y))'}", *lines, "##END=\n"])
    return (f"##TITLE=both\n##DATA TYPE=LINK\n##BLOCKS=2\n{block}{block}##END=\n" if form == "sqz" else block).encode()


def mineral() -> bytes:
    head = "##NAMES=Quartz\n##RRUFFID=R040031\n##IDEAL CHEMISTRY=SiO_2_\n"
    return (head + "".join(f"{x:e}, {y:e}\n" for x, y in zip(GRID, BAND)) + "##END=\n").encode()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(3):
            z.writestr(RRUFF.replace("R040031", f"R04003{i}"), mineral().replace(b"R040031", f"R04003{i}".encode()))
    return out.getvalue()


def frame() -> pd.DataFrame:
    return pd.DataFrame(np.stack([np.roll(BAND, i) for i in range(3)]).round(5), columns=[str(x) for x in GRID]).assign(oil=[1.0, 2.0, 3.0])


def npz(**arrays) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    frame().to_parquet(out)
    return out.getvalue()


def rds() -> bytes:
    import tempfile

    import rdata
    with tempfile.TemporaryDirectory() as d:
        long = pd.DataFrame({"wavenumber": np.tile(GRID.astype(float), 3), "intensity": np.concatenate([np.roll(BAND, i) for i in range(3)]), "sample_name": np.repeat(np.array([1, 2, 3], np.int32), 60)})
        rdata.write_rds(f"{d}/raman.rds", long.set_index(pd.RangeIndex(1, 181)), compression=None)
        return Path(d, "raman.rds").read_bytes()


def table(path): return read_table(path, "IR", "cm-1", properties=("oil",))


RAMAN = dict(spectra=np.stack([BAND, np.pad(BAND[10:-10], 10)]).astype(np.float32), raman_shift_cm1=GRID.astype(np.float32), mineral=["Quartz", "Talc"], rruff_id=["R040031", "R040137"], ideal_chemistry=["SiO_2_", ""])
BASES = {
    "jcamp plain": (lambda: jdx("plain"), "a.jdx", read_jcamp, 160), "jcamp differences": (lambda: jdx("dif"), "a.jdx", read_jcamp, 200), "jcamp squeezed, compound": (lambda: jdx("sqz"), "a.jdx", read_jcamp, 160),
    "jcamp pairs": (lambda: jdx("pairs"), "a.jdx", read_jcamp, 120), "rruff": (zipped, "a.zip", read_rruff, 160), "csv": (lambda: frame().to_csv(index=False).encode(), "a.csv", table, 160),
    "semicolons": (lambda: frame().to_csv(index=False, sep=";", decimal=",").encode(), "a.csv", table, 100), "gzip": (lambda: gzip.compress(frame().to_csv(index=False).encode(), mtime=0), "a.csv.gz", table, 100),
    "npz": (lambda: npz(spectra=frame().to_numpy()[:, :-1], axis=GRID, oil=[1, 2, 3]), "a.npz", table, 100), "parquet": (parquet, "a.parquet", table, 100), "processed": (lambda: npz(**RAMAN), "a.npz", read_rruff_processed, 100),
    "rds": (rds, "raman.rds", read_openspecy, 200),
}
TOKENS = [b"", b"nan", b"inf", b"-1", b"1e999", b"9" * 400, b"n.d.", b"\x00", b"\xff", b",", b";", b"##", b"##END=\n", b"##TITLE=x\n", b"\n", b"s99999", b"$$", b"..", b"<html>", "µ".encode()]


@st.composite
def damage(draw):
    "Where, as shares of a file's length, and what is done there; some damages in a row"
    place = st.floats(0, 1, exclude_max=True)
    one = st.one_of(st.tuples(st.just("flip"), place, st.integers(0, 7)), st.tuples(st.just("cut"), place, place), st.tuples(st.just("drop"), place, st.integers(1, 40)),
                    st.tuples(st.just("double"), place, st.integers(1, 200)), st.tuples(st.just("put"), place, st.sampled_from(TOKENS)), st.tuples(st.just("over"), place, st.sampled_from(TOKENS)))
    return draw(st.lists(one, min_size=1, max_size=4))


def damaged(data: bytes, how: list) -> bytes:
    for kind, place, what in how:
        i = int(place * len(data))
        if kind == "flip" and data: data = data[:i] + bytes([data[i] ^ (1 << what)]) + data[i + 1:]
        if kind == "cut": data = data[:max(1, i)] if what < 0.5 else data[i:]
        if kind == "drop": data = data[:i] + data[i + what:]
        if kind == "double": data = data[:i + what] + data[i:]
        if kind == "put": data = data[:i] + what + data[i:]
        if kind == "over": data = data[:i] + what + data[i + len(what):]
    return data


def holds_together(records: list) -> None:
    "What a reader gave: refusals that say where and why, spectra with an axis, finite values and an identity"
    ids = []
    for r in records:
        if isinstance(r, Refused):
            assert r.place and r.detail and r.reason in REASONS
            continue
        assert (np.diff(r.axis) > 0).all() and np.isfinite(r.values[r.valid]).all() and r.valid.any(1).all() and len(r) <= 512
        assert (r.meta.molecule.str.len() > 0).all() and (r.meta.group.str.len() > 0).all() and (r.meta.intensity_unit != "").all()
        assert not (r.meta.intensity_unit == "absorbance").any() or np.nanmax(np.abs(r.values)) <= 10
        ids += list(r.ids)


@cache
def base(name: str) -> bytes: return BASES[name][0]()


@pytest.mark.parametrize("name", BASES)
def test_whole_files_are_read(name, tmp_path):
    "Undamaged, each of the files gives spectra and no refusal"
    _, file, read, _ = BASES[name]
    (tmp_path / file).write_bytes(base(name))
    records = list(read(tmp_path / file))
    holds_together(records)
    assert records and not any(isinstance(r, Refused) for r in records)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BASES)
def test_damaged_files(name, tmp_path_factory):
    "Spectra that hold together, refusals, or DataError"
    _, file, read, n = BASES[name]
    path = tmp_path_factory.mktemp("damaged") / file

    @settings(max_examples=n, deadline=None, derandomize=True, database=None)
    @given(damage())
    def run(how):
        path.write_bytes(damaged(base(name), how))
        try:
            holds_together(list(read(path)))
        except DataError as e:
            assert path.name in str(e)

    run()


@pytest.mark.skipif(local_folder("nist") is None, reason="no real files: set SPEKTRON_DATA to a folder that holds nist")
def test_damaged_real_files(tmp_path):
    "The same for real JCAMP-DX files"
    files = sorted(local_folder("nist").glob("*.jdx"), key=lambda p: (p.stat().st_size, p.name))[:12]
    path = tmp_path / "a.jdx"

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(files), damage())
    def run(real, how):
        path.write_bytes(damaged(real.read_bytes(), how))
        try:
            holds_together(read_jcamp(path))
        except DataError as e:
            assert path.name in str(e)

    run()


@pytest.mark.skipif(local_folder("rruff") is None, reason="no real files: set SPEKTRON_DATA to a folder that holds rruff")
def test_damaged_real_minerals(tmp_path):
    "The same for real RRUFF files"
    files = sorted((local_folder("rruff") / "ir").glob("*.txt"), key=lambda p: (p.stat().st_size, p.name))[:40]

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(files), damage())
    def run(real, how):
        (tmp_path / real.name).write_bytes(damaged(real.read_bytes(), how))
        try:
            holds_together(list(read_rruff(tmp_path)))
        finally:
            (tmp_path / real.name).unlink()

    run()


quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@quick
@given(st.lists(st.integers(-10**6, 10**6), min_size=1, max_size=60), st.integers(2, 12), st.booleans())
def test_squeezed_ordinates_survive(y, per_line, squeezed):
    "Whatever integers are written as squeezed values or as differences are read back"
    assert _steps(list(enumerate(asdf(y, per_line, squeezed))), 1000)[0].tolist() == y


@quick
@given(st.text("0123456789+-.,;?%@ABIJRSZabijrsz eE", max_size=60), st.integers(0, 500))
def test_a_line_never_grows_beyond_its_room(text, room):
    try:
        y, _ = _squeezed(text, room)
    except ValueError:
        return
    assert len(y) <= max(room, len(text))


@quick
@given(st.dictionaries(st.sampled_from(["C", "H", "N", "O", "Cl", "Si"]), st.integers(1, 40), min_size=1), st.randoms(use_true_random=False))
def test_hill_order_does_not_depend_on_the_order_written(counts, random):
    parts = [f"{s}{n}" for s, n in counts.items()]
    random.shuffle(parts)
    assert hill(" ".join(parts)) == hill("".join(f"{s}{n}" for s, n in counts.items())) == hill(hill("".join(parts)))


@quick
@given(st.integers(10, 9_999_999), st.integers(0, 99), st.integers(0, 9))
def test_one_check_digit_in_ten_is_right(a, b, c):
    assert sum(cas(f"{a}-{b:02d}-{d}") != "" for d in range(10)) == 1


@quick
@given(st.integers(0, 5000), st.integers(1, 700))
def test_pieces_cover_once(n, size):
    assert [i for start, stop in _pieces(n, size) for i in range(start, stop)] == list(range(n))
