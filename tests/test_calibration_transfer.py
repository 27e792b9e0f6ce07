"""Calibration transfer on any data: what every method keeps, what the inner cross-validation never sees, and input that is refused."""
import inspect
import warnings

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge

from spektron.calibration_transfer import (DS, METHODS, PDS, PLS, AutoTransfer, Bench, MSCReference, Pool, Recalibrate, SpectraMapped, TransferSplitter, choose, half_width, inner_folds, pairing_z,
                                           pls_path, preprocess, shares, stack, transfer_data)
from spektron.data.instruments import repeated_splits, simulate_pair

quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def two_instruments(seed, m=24, p=16, k=5):
    "Source spectra and property, the same samples on a target with gain, offset and noise, and the rows of the standards"
    r = np.random.default_rng(seed)
    C = r.normal(size=(m, k))
    X = C @ r.normal(size=(k, p)) + 0.05 * r.normal(size=(m, p)) + np.linspace(1, 3, p)
    T = X @ (np.eye(p) + 0.05 * r.normal(size=(p, p))) + r.normal(size=p) + 0.02 * r.normal(size=(m, p))
    return X, C @ r.normal(size=k) + 10, T, r.permutation(m)[:8]


def fitted(make, X, y, T, rows, **changes):
    est = make(base=PLS(3))
    return est.fit(**dict(X=X, y=y, X_target=T[rows], y_target=y[rows], pairs=rows) | changes)


@quick
@given(seeds, st.integers(3, 30), st.integers(2, 20), st.integers(1, 12))
def test_pls(seed, m, p, most):
    "PLS is scikit-learn's for as many latent variables as it allows, and no further one changes anything"
    r = np.random.default_rng(seed)
    X, y = r.normal(size=(m, p)), r.normal(size=m)
    path, rank = pls_path(X, y, most), min(m - 1, p)
    for a in range(min(most, rank)):
        np.testing.assert_allclose(path(X)[:, a], PLSRegression(a + 1, scale=False).fit(X, y).predict(X).ravel(), atol=1e-6)
    assert np.isfinite(path.coef).all() and (most <= rank or np.allclose(path(X)[:, rank:], path(X)[:, [rank - 1]], atol=1e-6))


@pytest.mark.parametrize("name", METHODS)
@quick
@given(seeds)
def test_property_in_other_units(name, seed):
    "Predictions follow the property through any change of unit: y -> a y + b"
    X, y, T, rows = two_instruments(seed)
    one, other = fitted(METHODS[name], X, y, T, rows), fitted(METHODS[name], X, 100 * y - 7, T, rows)
    np.testing.assert_allclose(other.predict(T), 100 * one.predict(T) - 7, rtol=1e-5, atol=1e-4 * 100 * y.std())


@pytest.mark.parametrize("name", METHODS)
@quick
@given(seeds)
def test_order_of_rows(name, seed):
    "Neither the order of the source's samples nor that of the standards matters, as long as the pairs go with them"
    X, y, T, rows = two_instruments(seed)
    r = np.random.default_rng(seed)
    order, turn = r.permutation(len(X)), r.permutation(len(rows))
    mixed = fitted(METHODS[name], X[order], y[order], T, rows, X_target=T[rows[turn]], y_target=y[rows[turn]], pairs=np.argsort(order)[rows[turn]])
    np.testing.assert_allclose(mixed.predict(T), fitted(METHODS[name], X, y, T, rows).predict(T), atol=1e-5 * y.std())


@pytest.mark.parametrize("name", [name for name, make in METHODS.items() if make().rotates and name != "MSC"])
@quick
@given(seeds)
def test_rotation(name, seed):
    "What says of itself that it treats all directions alike, does"
    X, y, T, rows = two_instruments(seed)
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 16)))[0]
    np.testing.assert_allclose(fitted(METHODS[name], X @ Q, y, T @ Q, rows).predict(T @ Q), fitted(METHODS[name], X, y, T, rows).predict(T), atol=1e-5 * y.std())


@pytest.mark.parametrize("name", METHODS)
def test_one_row_at_a_time(name):
    "A prediction does not depend on what else is predicted, transform leads to it, and a clone with a fit gives it again"
    X, y, T, rows = two_instruments(0)
    est = fitted(METHODS[name], X, y, T, rows)
    np.testing.assert_allclose(np.concatenate([est.predict(t[None]) for t in T]), est.predict(T), atol=1e-9)
    again = clone(est).fit(X, y, T[rows], y[rows], pairs=rows)
    np.testing.assert_array_equal(again.predict(T), est.predict(T))
    if isinstance(est, SpectraMapped):
        source = X if est.source_map_ is None else est.source_map_(X)
        np.testing.assert_allclose(PLS(3).fit(source, y).predict(est.transform(T)), est.predict(T), atol=1e-8)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("ridge prior", "PFCE", "di-PLS", "CTAI", "JYPLS")])
def test_any_model(name):
    "Methods that map spectra, predictions or rows take any regressor; a ridge of no penalty on few channels is least squares, as PLS of all latent variables is"
    X, y, T, rows = two_instruments(1, p=4, k=3)
    est = METHODS[name](base=Ridge(1e-10)).fit(X, y, T[rows], y[rows], pairs=rows)
    full = METHODS[name](base=PLS(4)).fit(X, y, T[rows], y[rows], pairs=rows)
    np.testing.assert_allclose(est.predict(T), full.predict(T), atol=1e-3 * y.std())


def test_every_knob_counts():
    "Every setting of every method changes its predictions"
    X, y, T, rows = two_instruments(3)
    changed = dict(rank=2, difference=True, window=3, local="pcr", alpha=1e-4, shrinkage=1.0, invariance=50.0, weight=9.0, centred=True, penalty=3.0, cosine=0.9999, paired=True, labelled=True, unpaired=True)
    for name, make in METHODS.items():
        for knob in make().settings():
            est = make(base=PLS(3))
            now = getattr(est, knob)
            moved = clone(est).set_params(**{knob: not now if knob in ("paired", "labelled", "unpaired") else (now + 1 if name == "PDS" else now - 1) if knob == "n_components" else changed[knob]})
            a, b = (e.fit(X, y, T[rows], y[rows], X_unlabelled=T, pairs=rows).predict(T) for e in (est, moved))
            assert np.abs(a - b).max() > 1e-9, f"{name}.{knob}"


def test_nothing_in_init():
    "A constructor only stores what it is given"
    for make in (AutoTransfer, *METHODS.values()):
        est = make()
        assert set(vars(est)) == set(inspect.signature(type(est).__init__).parameters) - {"self"}


@quick
@given(st.integers(0, 40), seeds)
def test_folds(n, seed):
    "Each standard is held out once; its sample is then absent from the source, and the pairs still point to their samples"
    pairs, out = np.random.default_rng(seed).permutation(50)[:n], np.zeros(n, int)
    for kept, held, renumbered in inner_folds(n, 50, pairs):
        out += held
        assert not kept[pairs[held]].any() and kept.sum() == 50 - held.sum()
        np.testing.assert_array_equal(np.flatnonzero(kept)[renumbered], pairs[~held])
    assert (out == 1).all()


@quick
@given(st.integers(2, 20), st.integers(2, 10), seeds)
def test_splitter(n, parts, seed):
    "No sample on both sides, tests on the target only, every target row once"
    r = np.random.default_rng(seed)
    X, y, instrument, sample = stack(r.normal(size=(25, 3)), r.normal(size=25), r.normal(size=(n, 3)), r.normal(size=n), r.permutation(25)[:n])
    tested = []
    for train, test in TransferSplitter(instrument, sample, parts).split(X):
        assert not set(sample[train]) & set(sample[test]) and (instrument[test] == 1).all()
        tested += test.tolist()
    assert sorted(tested) == list(range(25, 25 + n))
    with pytest.raises(ValueError, match="expected the table that it was made for"):
        next(TransferSplitter(instrument, sample).split(X[1:]))


def test_held_out_sample_is_not_seen():
    "Changing the held-out spectrum and label, on either instrument, changes no prediction made without them, only what is judged"
    X, y, T, rows = two_instruments(5)
    for est in (DS(), PDS(5), Pool(3.0), Recalibrate()):
        others = np.arange(24) != rows[0]
        a = Bench(X, T[rows], pairs=rows).held_out(est, "raw", y, y[rows], 3)
        Xb, yb, tb = X.copy(), y.copy(), y[rows].copy()
        Xb[rows[0]], yb[rows[0]], tb[0] = 99, -99, 99
        b = Bench(Xb, T[rows], pairs=rows).held_out(est, "raw", yb, tb, 3)
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)
        assert np.abs(a[1:] - b[1:]).max() > 1e-3 and others.sum() == 23


@quick
@given(st.integers(1, 60), st.floats(0.5, 0.95), seeds)
def test_half_width(n, coverage, seed):
    "At least the asked share of n + 1 exchangeable errors lies inside the interval that the others give; wider coverage is never narrower"
    errors = np.random.default_rng(seed).normal(size=n + 1)
    if np.ceil((n + 1) * coverage) > n: return
    inside = [abs(errors[i]) <= half_width(np.delete(errors, i), coverage) for i in range(n + 1)]
    assert np.mean(inside) >= coverage - 1e-9
    if np.ceil((n + 2) * (0.5 + coverage / 2)) <= n + 1: assert half_width(errors, coverage) <= half_width(errors, 0.5 + coverage / 2)


@quick
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30), st.floats(0, 20))
def test_shares(scores, sharpness):
    "Shares sum to one, none is negative, and a better pipeline of a method never gets less"
    w = shares(np.array(scores), np.zeros(len(scores), int), sharpness)
    assert w.sum() == pytest.approx(1) and (w >= 0).all() and (np.diff(w[np.argsort(scores)]) <= 1e-12).all()


def test_a_shared_bench_changes_nothing():
    "Work that is shared between properties, methods and AutoTransfer gives what each gives alone"
    X, y, T, rows = two_instruments(7)
    given = dict(X=X, X_target=T[rows], pairs=rows, most=4)
    bench = Bench(X, T[rows], pairs=rows)
    for labels in (y, y[::-1] ** 2 / 10):
        for name in ("DS", "PDS", "GLSW", "pool", "di-PLS"):
            a, b = (choose(METHODS[name](), y=labels, y_target=labels[rows], preprocessing=("raw", "snv"), bench=shared, **given) for shared in (None, bench))
            np.testing.assert_allclose(a.estimator.predict(T), b.estimator.predict(T), rtol=1e-9)
            assert a.table.equals(b.table)
        autos = [AutoTransfer(most=4, preprocessing=("raw", "d1")).fit(X, labels, T[rows], labels[rows], pairs=rows, bench=shared) for shared in (None, bench)]
        np.testing.assert_allclose(autos[0].predict(T), autos[1].predict(T), rtol=1e-7)


def test_auto_budgets():
    "Only methods of the allowed budget are tried"
    X, y, T, rows = two_instruments(9)
    def tried(labels=None, pairs=None, **budget):
        return {next(iter(METHODS[m]().budget), "none") for m in AutoTransfer(most=3, preprocessing=("raw",), **budget).fit(X, y, T[rows], labels, pairs=pairs).table_.method}
    assert tried(y[rows]) == {"none", "labels", "unlabelled"}
    assert tried(None, rows) == {"none", "pairs", "unlabelled"}
    assert tried(y[rows], rows, n_pairs=0, unlabelled=False) == {"none", "labels"}
    assert tried(y[rows], rows) == {"none", "labels", "pairs", "unlabelled"}
    with pytest.raises(ValueError, match="neither labels nor pairs"):
        AutoTransfer().fit(X, y, T[rows])
    only = AutoTransfer(most=3, preprocessing=("raw",)).fit(X, y, X_unlabelled=T)
    assert np.isfinite(only.predict(T)).all()


@pytest.mark.parametrize("name", [*METHODS, "auto"])
def test_finite_or_refused(name):
    "Few standards, constant spectra, constant property, one sample: a clear refusal or finite numbers, never not-a-number"
    X, y, T, rows = two_instruments(11)
    flat = np.tile(X[0], (len(X), 1))
    for source, labels, target, n in ((X, y, T, 1), (X, y, T, 2), (X, y, T, 3), (X, 0 * y + 3, T, 6), (flat, y, flat, 6), (flat, y, T, 6), (X, y, flat, 6), (X[:1], y[:1], T[:1], 1), (1e-9 * X, y, 1e-9 * T, 6), (1e6 * X, y, 1e6 * T, 6)):
        est = AutoTransfer(most=4) if name == "auto" else METHODS[name](base=PLS(9))
        few = np.arange(n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                predicted = est.fit(source, labels, target[few], labels[few], pairs=few).predict(target)
            except ValueError as e:
                assert any(word in str(e) for word in ("needs at least", "expected", "no preprocessing")), e
                continue
        assert np.isfinite(predicted).all(), (n, source.std())


def test_other_axes():
    "Instruments of different channels: only methods that need no common axis are tried, and no transfer is refused"
    X, y, T, rows = two_instruments(13)
    short = T[:, :13]
    auto = AutoTransfer(most=4, preprocessing=("raw", "snv")).fit(X, y, short[rows], y[rows], pairs=rows)
    assert set(auto.table_.method) <= {"DS", "CTCCA", "recalibrate", "JYPLS"} and np.isfinite(auto.predict(short)).all()
    assert np.corrcoef(auto.predict(short), y)[0, 1] > 0.5
    with pytest.raises(ValueError, match="on_common_grid"):
        METHODS["pool"]().fit(X, y, short[rows], y[rows])
    with pytest.raises(ValueError, match="13"):
        DS().fit(X, y, short[rows], pairs=rows).predict(T)


def test_routing():
    "All estimators can request what they need in a pipeline"
    with sklearn.config_context(enable_metadata_routing=True):
        for make in METHODS.values():
            est = make().set_fit_request(X_target=True, y_target=True, X_unlabelled=True, pairs=True)
            assert est.get_metadata_routing().fit.requests["pairs"] is True


def test_simulated_pair():
    "On the simulated pair every method repairs something, and the intervals of AutoTransfer hold"
    pair = simulate_pair(80)
    inside = []
    for split in repeated_splits(pair, 20, 2):
        data = transfer_data(pair, "A", "B", "water", split, 12)
        assert not set(data.y_test) & set(data.y_target)
        auto = AutoTransfer(preprocessing=("raw", "d1"), most=10).fit(**data.given)
        nothing = choose(METHODS["none"](), data.X, data.y, preprocessing=("raw",), most=10).estimator
        rmse = [np.sqrt(np.mean((e.predict(data.X_test) - data.y_test) ** 2)) for e in (auto, nothing)]
        assert rmse[0] < 0.5 * rmse[1]
        low, high = auto.predict_interval(data.X_test).T
        inside.append(np.mean((low <= data.y_test) & (data.y_test <= high)))
    assert np.mean(inside) > 0.8


def test_mixed_up_pairs():
    "Random pairs have z of mean 0 and deviation 1, true ones far more"
    X, y, T, _ = two_instruments(17, m=40)
    r = np.random.default_rng(0)
    z = [pairing_z(X, T[r.permutation(40)]) for _ in range(300)]
    assert abs(np.mean(z)) < 0.2 and 0.7 < np.std(z) < 1.3 and pairing_z(X, T) > 4


def test_msc_needs_its_preprocessing():
    X, y, T, rows = two_instruments(19)
    with pytest.raises(ValueError, match="MSCReference is the preprocessing msc"):
        MSCReference(preprocessing="snv").fit(X, y)
    with pytest.raises(ValueError, match="not known; allowed: raw, snv, msc, d1, d2"):
        DS(preprocessing="emsc").fit(X, y)
    with pytest.raises(ValueError, match="window=11"):
        preprocess(X[:, :5], "d1")
