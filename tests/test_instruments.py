"""Instrument sets: splits, standards and effects on any input, and loaders that meet damaged files with a DataError or a whole set."""
import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.io import savemat
from scipy.io.matlab import MatlabObject

from spektron.data.instruments import (InstrumentEffects, InstrumentSet, kennard_stone, load_corn, load_folder, load_tablets, measure, noise_sd, read_corn_csv, read_corn_mat, repeated_splits, sample_split,
                                       simulate_pair, spxy, with_stray_light, write_folder)
from spektron.data.measured import DataError, local_folder
from spektron.data.spectra import Spectra

quick = settings(max_examples=60, deadline=None, derandomize=True)
many = settings(max_examples=150, deadline=None, derandomize=True)
lots = st.lists(st.text("abcdé01 ", min_size=1, max_size=3), min_size=2, max_size=30).filter(lambda ids: len(set(ids)) > 1)
clouds = st.tuples(st.integers(2, 25), st.integers(1, 5)).flatmap(lambda shape: arrays(np.float64, shape, elements=st.integers(-9, 9).map(float)))


@quick
@given(lots, st.randoms(use_true_random=False), st.integers(0, 2**31), st.floats(0.1, 0.9))
def test_splits(ids, random, seed, share):
    "Both sides are disjoint and cover all rows, a sample lies on one side, and neither sides nor hash depend on the order of the rows"
    ids, order = np.array(ids), random.sample(range(len(ids)), len(ids))
    n = min(max(1, round(share * len(set(ids)))), len(set(ids)) - 1)
    for a, b in zip(repeated_splits(ids, n, 3, seed), repeated_splits(ids[order], n, 3, seed)):
        assert sorted([*a.train, *a.test]) == list(range(len(ids))) and len(set(ids[a.test])) == n
        assert not set(ids[a.train]) & set(ids[a.test])
        assert a.hash == b.hash and set(ids[a.test]) == set(ids[order][b.test])
        other = sample_split(ids, np.isin(np.arange(len(ids)), a.train))
        assert other.hash != a.hash


@quick
@given(clouds, st.randoms(use_true_random=False))
def test_standards_begin_alike(X, random):
    "More standards begin with the fewer, no row twice, the first two at the greatest distance, as written out with the whole table of distances"
    d = ((X[:, None] - X[None]) ** 2).sum(-1)
    chosen = kennard_stone(X, len(X)).tolist()
    assert sorted(chosen) == list(range(len(X))) and d[chosen[0], chosen[1]] == d.max()
    for n in range(2, len(X)):
        assert kennard_stone(X, n).tolist() == chosen[:n]
        near = d[:, chosen[:n]].min(1)
        near[chosen[:n]] = -1
        assert chosen[n] == near.argmax()


@quick
@given(clouds, st.integers(0, 2**31))
def test_spxy_begins_alike(X, seed):
    "The same of standards by spectra and reference values; values that do not vary are refused"
    y = np.random.default_rng(seed).integers(0, 5, len(X))
    if np.ptp(y) == 0 or not np.ptp(X, axis=0).any():
        with pytest.raises(ValueError, match="is the same in all"):
            spxy(X, y, 1)
        return
    chosen = spxy(X, y, len(X)).tolist()
    assert sorted(chosen) == list(range(len(X)))
    assert all(spxy(X, y, n).tolist() == chosen[:n] for n in range(len(X)))


@quick
@given(arrays(np.float64, (3, 40), elements=st.floats(-0.5, 3)), st.integers(0, 2**31))
def test_no_effects_is_the_identity(values, seed):
    "An instrument without effects reports what is there, bit for bit, whatever the seed"
    pure = Spectra(values, np.arange(1000.0, 1040), "nm", "NIR")
    assert (measure(pure, InstrumentEffects(), seed=seed).values == pure.values).all()
    assert (measure(pure, InstrumentEffects(), pure.axis[3:-3:2], seed).values == pure.values[:, 3:-3:2]).all()


@quick
@given(arrays(np.float64, 50, elements=st.floats(0, 12)), st.floats(1e-6, 0.5), st.floats(0, 1))
def test_photometry(A, share, growth):
    "Stray light keeps the order of absorbances, lowers them and has a ceiling; noise never shrinks with absorbance"
    A = np.sort(A)
    seen = with_stray_light(A, share)
    assert (np.diff(seen) >= -1e-12).all() and (seen <= A + 1e-12).all() and (seen <= -np.log10(share / (1 + share)) + 1e-12).all()
    assert (np.diff(noise_sd(A, 1e-4, growth)) >= 0).all()


@quick
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_rows_stay_together(rows):
    "Whatever rows are taken, spectra, reference values, ids and truth are of the same samples"
    whole = simulate_pair(6, axes=dict.fromkeys("AB", np.arange(1100.0, 1120, 2)))
    part = whole[rows]
    for name in whole.instruments:
        assert (part.on(name).values == whole.on(name).values[rows]).all() and (part.on(name).ids == whole.ids[rows]).all()
    assert (part.properties.to_numpy() == whole.properties.to_numpy()[rows]).all() and (part.truth.concentrations == whole.truth.concentrations[rows]).all()


# Files: every mutant of a good file gives a DataError or a whole set, and nothing else

place = st.floats(0, 1, exclude_max=True)
pieces = st.sampled_from([b"", b",", b"\n", b"\r", b'"', b"nan", b"inf", b"-", b"e9", b"1_0", b"\0", b"\xff", b"<html>", b"{", b"}", b"[", b"../", b"null", b"\xef\xbb\xbf", b"\xf0\x9f\x8d\x8e"]) | st.binary(max_size=8)
changes = st.lists(st.one_of(st.tuples(st.just("flip"), place, st.integers(0, 7)), st.tuples(st.just("cut"), place, st.just(0)), st.tuples(st.just("drop"), place, st.integers(1, 60)),
                             st.tuples(st.just("twice"), place, st.integers(1, 200)), st.tuples(st.just("put"), place, pieces)), min_size=1, max_size=3)


def mutant(data: bytes, what) -> bytes:
    for kind, where, how in what:
        i = int(where * len(data))
        if kind == "flip" and data: data = data[:i] + bytes([data[i] ^ 1 << how]) + data[i + 1:]
        elif kind == "cut": data = data[:i]
        elif kind == "drop": data = data[:i] + data[i + how:]
        elif kind == "twice": data = data[:i + how] + data[i:]
        elif kind == "put": data = data[:i] + how + data[i:]
    return data


def whole_or_refused(load, *args) -> bool:
    "Whether a file was refused; if it was not, the set holds finite numbers throughout"
    try:
        s = load(*args)
    except DataError as e:
        assert len(str(e)) > 20 and ". " in str(e)
        return True
    assert isinstance(s, InstrumentSet) and len(s) and all(len(x) == len(s) and np.isfinite(x.values).all() and x.valid.all() for x in s.spectra.values())
    assert not np.isinf(s.properties.to_numpy()).any() and set(s.units) == set(s.properties)
    return False


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Good files in every layout"
    home = tmp_path_factory.mktemp("instruments")
    s = simulate_pair(5, effects=dict.fromkeys(("m5", "mp5", "mp6"), InstrumentEffects(noise=1e-4)), axes=dict.fromkeys(("m5", "mp5", "mp6"), np.arange(1100.0, 1116, 2)))
    write_folder(s, home / "own")
    (home / "corn").mkdir()
    for name in s.instruments:
        for kind, x in (("spectra", s.on(name)), ("nbs_standard", s.standards[name])): pd.DataFrame(x.values, columns=x.axis).to_csv(home / "corn" / f"{name}_{kind}.csv", index=False)
    s.properties.set_axis(["Moisture", "Oil", "Protein", "Starch"], axis=1).to_csv(home / "corn" / "property_values.csv", index=False)
    content = {f"{name}{kind}": dataset(x.values, x.axis[None]) for name in s.instruments for kind, x in (("spec", s.on(name)), ("nbs", s.standards[name]))}
    savemat(home / "good.mat", content | {"propvals": dataset(s.properties.to_numpy(), labels=np.array(["Moisture", "Oil     ", "Protein ", "Starch  "]))})
    (home / "tablets").mkdir()
    head = "SampleType,weight,hardness,assay,600,602,604\n"
    for i in "12": (home / "tablets" / f"Pharma_Instrument{i}.csv").write_text(head + "".join(f"{part},37{k}.5,2{k}.0,20{k},3.{i}{k},3.2,3.1\n" for k, part in enumerate(("Train", "Validate", "Test"))))
    return home


def dataset(values, axis=None, labels=None):
    empty = np.empty((0, 0))
    def cells(x): return np.fromiter([empty, empty, empty if x is None else x, empty], object).reshape(2, 2)
    row = np.array([(values, cells(labels), cells(axis))], dtype=[("data", object), ("label", object), ("axisscale", object)])
    return MatlabObject(row[None], "dataset")


def try_mutant(folder, name, what, load):
    "Load a folder in which one file is damaged, and mend the file"
    good = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(mutant(good, what))
        whole_or_refused(load, folder)
    finally:
        (folder / name).write_bytes(good)
    assert not whole_or_refused(load, folder)


@many
@given(st.sampled_from(["manifest.json", "spectra_1.csv", "spectra_2.csv", "properties.csv", "standards_1.csv"]), changes)
@example("manifest.json", [("put", 0.0, b"[" * 100_000)])
def test_damaged_folder(home, name, what): try_mutant(home / "own", name, what, load_folder)


@many
@given(st.sampled_from(["m5_spectra.csv", "mp6_nbs_standard.csv", "property_values.csv"]), changes)
def test_damaged_corn_csv(home, name, what): try_mutant(home / "corn", name, what, read_corn_csv)


@many
@given(st.sampled_from(["Pharma_Instrument1.csv", "Pharma_Instrument2.csv"]), changes)
def test_damaged_tablets(home, name, what): try_mutant(home / "tablets", name, what, load_tablets)


@settings(many, max_examples=300)
@given(changes)
def test_damaged_mat(home, what):
    "No mutant passes the hash, so none is parsed"
    data = (home / "good.mat").read_bytes()
    (home / "bad.mat").write_bytes(bad := mutant(data, what))
    assert whole_or_refused(read_corn_mat, home / "bad.mat", hashlib.sha256(data).hexdigest()) == (bad != data)


def test_damaged_original(tmp_path):
    "No bit of the real corn.mat can be changed"
    if (folder := local_folder("corn")) is None or not (folder / "corn.mat").exists():
        pytest.skip("the corn set is not on this machine: SPEKTRON_DATA names the path it lies under")
    data = (folder / "corn.mat").read_bytes()
    for i in np.random.default_rng(0).integers(0, len(data), 20):
        (tmp_path / "corn.mat").write_bytes(mutant(data, [("flip", i / len(data), int(i) % 8)]))
        assert whole_or_refused(load_corn, tmp_path)


@given(st.text(min_size=1).filter(lambda s: s.strip()))
@quick
def test_names_survive(tmp_path_factory, name):
    "Sample ids and names of instruments and properties of any characters are written and read back, or refused with a DataError or ValueError"
    folder = tmp_path_factory.mktemp("names") / "set"
    x = Spectra(np.eye(2, 4), np.arange(1100.0, 1108, 2), "nm", "NIR", ids=[f"a{name}", f"{name}b"])
    s = InstrumentSet({name: x}, {name: [1.0, np.nan]}, {name: "%"})
    try:
        again = load_folder(write_folder(s, folder))
    except ValueError:
        return
    assert again.instruments == s.instruments and again.ids.tolist() == s.ids.tolist() and again.property(name, drop=True) == [1.0]
