"""Metrics: what must hold for any numbers, against plain loops and other libraries; and what the module loads."""
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import linregress
from sklearn.metrics import r2_score, root_mean_squared_error

from spektron.metrics import (REGRESSION_METRICS, LearningCurve, SplitConformal, conformal_quantile, corrected_resampled_t, cosine_similarity, interval_coverage, jackknife_plus, learning_curve, mapie_interval,
                              match_peaks, peak_scores, regression_metrics, regression_values, sid, sign_test, spectral_mse, spectral_peaks)

quick = settings(max_examples=60, deadline=None, derandomize=True)
numbers = st.floats(-1e3, 1e3).map(lambda v: round(v, 3))
pairs = st.integers(3, 40).flatmap(lambda m: arrays(np.float64, (2, m), elements=numbers))
intensities = st.integers(3, 30).flatmap(lambda n: arrays(np.float64, (2, 3, n), elements=st.floats(0.01, 100)))


def quiet(f, *args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args, **kw)


def test_import_is_light():
    "The module brings neither tables nor plots nor scikit-learn nor SciPy"
    code = "import sys, spektron.metrics; print({'pandas', 'plotly', 'sklearn', 'scipy', 'torch', 'mapie'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_what_other_modules_import():
    from spektron.metrics import REFERENCES, PerModality, bootstrap_interval, nre, squared_errors  # noqa: F401

    assert list(REFERENCES) == ["mean spectrum", "linear interpolation", "cubic interpolation", "conditional Gaussian"]


def test_message_without_mapie(monkeypatch):
    "What is missing, what installs it, and what does without"
    monkeypatch.setitem(sys.modules, "mapie.regression", None)
    with pytest.raises(ImportError, match=r"pip install spektron\[transfer\]`; SplitConformal does without"):
        mapie_interval(None, [[0.0]], [0.0], [[0.0]])


@quick
@given(pairs)
def test_regression_values(both):
    "The metrics are those of scikit-learn and SciPy, and obey the laws that tie them together; undefined exactly where values are all equal"
    y, p = both
    v, m = quiet(regression_values, y, p), len(y)
    assert {k for k in v if np.isnan(v[k])} <= {"r2", "rpd", "rpiq", "slope", "intercept"}
    assert np.isnan(v["r2"]) == (np.ptp(y) == 0) and np.isnan(v["slope"]) == (np.ptp(p) == 0)
    np.testing.assert_allclose(v["rmsep"], root_mean_squared_error(y, p), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(v["rmsep"] ** 2, v["bias"] ** 2 + v["sep"] ** 2 * (m - 1) / m, rtol=1e-6, atol=1e-9)
    if np.std(y) > 1e-3: np.testing.assert_allclose(v["r2"], r2_score(y, p), rtol=1e-6, atol=1e-6)
    if np.std(p) > 1e-3: np.testing.assert_allclose([v["slope"], v["intercept"]], linregress(p, y)[:2], rtol=1e-6, atol=1e-6)


@quick
@given(pairs, st.integers(0, 9), st.sampled_from(("bca", "percentile")))
def test_intervals_of_any_sample(both, seed, kind):
    "An interval has its ends in order, moves with its unit, and does not depend on how samples are named"
    y, p = both
    a = quiet(regression_metrics, y, p, draws=50, interval=kind, seed=seed)
    b = quiet(regression_metrics, 4 * y, 4 * p, [f"sample {i:03}" for i in range(len(y))], draws=50, interval=kind, seed=seed)
    assert tuple(a) == REGRESSION_METRICS
    for name in a:
        assert np.isnan(a[name]).all() or a[name].low <= a[name].high
    for name in ("rmsep", "bias"):
        np.testing.assert_allclose(b[name], np.multiply(4, a[name]), rtol=1e-9, atol=1e-9)


@quick
@given(pairs, st.integers(0, 40), st.sampled_from((np.nan, np.inf, -np.inf)))
def test_nothing_that_is_not_a_number_goes_in(both, at, bad):
    y, p = both
    p = p.copy()
    p[at % len(p)] = bad
    for f in (lambda: regression_values(y, p), lambda: regression_metrics(y, p), lambda: SplitConformal().calibrate(y, p), lambda: corrected_resampled_t(p, 60, 20), lambda: sign_test(p),
              lambda: spectral_mse(p, y), lambda: cosine_similarity(y, p), lambda: sid(p, y), lambda: peak_scores(p, y, np.arange(len(y))), lambda: learning_curve(range(len(p)), [p, p], 60, 20),
              lambda: conformal_quantile(p), lambda: jackknife_plus(y, p, [p] * len(p))):
        with pytest.raises(ValueError, match="not finite"):
            f()


@quick
@given(pairs, st.integers(1, 200), st.integers(1, 200), st.floats(0.5, 0.99))
def test_corrected_interval_is_wider(both, m_train, m_test, level):
    "The corrected interval contains the ordinary one, is the wider the larger the test part, and leaves out zero exactly when p < 1 - level"
    d = both[0] - both[1]
    ours, usual = corrected_resampled_t(d, m_train, m_test, level), corrected_resampled_t(d, 10**12, 1, level)
    assert ours.low <= usual.low + 1e-9 and ours.high >= usual.high - 1e-9 and ours.p >= usual.p - 1e-9
    assume(abs(ours.p - (1 - level)) > 1e-6)
    assert (ours.p < 1 - level) == (not ours.low <= 0 <= ours.high)


@quick
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=40))
def test_sign_test(d):
    s, t = sign_test(d), sign_test([-x for x in d])
    assert s.wins + s.losses + s.ties == len(d) and (s.wins, s.losses, s.p) == (t.losses, t.wins, t.p) and 0 < s.p <= 1


@quick
@given(st.lists(st.floats(0, 10), min_size=2, max_size=8), st.floats(-1, 11))
def test_reaching_a_target(y, target):
    "At the n that is found, and at all later points, the curve is not above the target; before it, it was"
    curve = LearningCurve(np.arange(len(y)) * 5.0, np.array(y), np.array(y), np.array(y))
    n = curve.reaches(target)
    if np.isinf(n):
        assert y[-1] > target
    else:
        assert np.interp(n, curve.n, y) <= target + 1e-6 and all(v <= target for v, k in zip(y, curve.n) if k > n)
        assert n == 0 or max(v for v, k in zip(y, curve.n) if k < n) > target
    assert min(y) - 1e-9 <= curve.area() <= max(y) + 1e-9 and min(y) - 1e-9 <= curve.area(log=True) <= max(y) + 1e-9


@quick
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.data(), st.floats(0.05, 0.95))
def test_weighted_quantile(scores, data, level):
    "The least score whose weight, with all smaller ones, reaches the level of the whole weight, the new sample's included; found by a plain loop"
    w = data.draw(st.lists(st.integers(0, 5), min_size=len(scores), max_size=len(scores)))
    new = data.draw(st.integers(1, 5))
    reached = [s for s in sorted(scores) if sum(v for x, v in zip(scores, w) if x <= s) >= level * (sum(w) + new) - 1e-9 * (sum(w) + new)]
    assert conformal_quantile(scores, level, w, new) == (reached[0] if reached else np.inf)


@pytest.mark.parametrize("n", [9, 10, 19, 30])
def test_coverage_is_the_promised_one(n):
    "Over many worlds the mean coverage is the rank over n + 1, for skewed and heavy-tailed errors"
    rng, rank = np.random.default_rng(n), np.ceil(0.9 * (n + 1) - 1e-9)
    for errors in (rng.standard_cauchy(size=(4000, n + 1)), rng.exponential(size=(4000, n + 1))):
        inside = [abs(e[-1]) <= conformal_quantile(abs(e[:-1])) for e in errors]
        assert abs(np.mean(inside) - rank / (n + 1)) < 4 * np.sqrt(0.09 / 4000)


def test_scaled_intervals_cover_at_every_size():
    rng = np.random.default_rng(0)
    size = rng.uniform(1, 10, 4000)
    y = size * rng.normal(size=4000)
    low, high = SplitConformal().calibrate(y[:2000], np.zeros(2000), size[:2000]).interval(np.zeros(2000), size[2000:])
    for part in (size[2000:] < 4, size[2000:] > 7):
        c = interval_coverage(y[2000:][part], low[part], high[part])
        assert c.low - 0.03 < 0.9 < c.high + 0.03


@quick
@given(intensities)
def test_spectral_invariances(both):
    "Cosine and SID see no factor and are symmetric; a mask equals leaving the points out; everything is best for the spectrum itself"
    p, t = both
    keep = np.arange(p.shape[1]) != 1
    for f in (cosine_similarity, sid):
        np.testing.assert_allclose(f(3 * p, t), f(p, t), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(f(p, t), f(t, p), rtol=1e-6, atol=1e-9)
    for f in (cosine_similarity, sid, spectral_mse):
        np.testing.assert_allclose(f(np.where(keep, p, np.nan), t, keep), f(p[:, keep], t[:, keep]), rtol=1e-6, atol=1e-9)
    assert (sid(p, t) >= -1e-12).all() and (abs(cosine_similarity(p, t)) <= 1 + 1e-12).all()
    np.testing.assert_allclose([sid(p, p), spectral_mse(p, p)], 0, atol=1e-12)


@quick
@given(st.lists(st.integers(0, 60), max_size=12, unique=True), st.lists(st.integers(0, 60), max_size=12, unique=True), st.integers(0, 9))
def test_matching(a, b, tolerance):
    "Each peak is used once, every pair is within the tolerance, and there are as many pairs as a sweep from the left can make, which is the most there can be"
    a, b = np.sort(np.array(a, float)), np.sort(np.array(b, float))
    i, j = match_peaks(a, b, tolerance)
    assert len(set(i)) == len(i) == len(j) == len(set(j)) and (abs(a[i] - b[j]) <= tolerance).all()
    x = y = most = 0
    while x < len(a) and y < len(b):
        if abs(a[x] - b[y]) <= tolerance: x, y, most = x + 1, y + 1, most + 1
        elif a[x] < b[y]: x += 1
        else: y += 1
    assert len(i) == most


@quick
@given(arrays(np.float64, (2, 60), elements=st.integers(0, 9).map(float)), st.floats(0.5, 9), st.integers(0, 12))
def test_peaks(both, factor, tolerance):
    "Peaks see neither scale nor offset; recall and precision are shares, exchange when the spectra do, and are undefined exactly where there is nothing to count"
    p, t = both
    assert spectral_peaks(p).tolist() == spectral_peaks(2 * p + 7).tolist()
    s, r = (peak_scores(*pair, np.arange(60.0), tolerance) for pair in ((p, t), (t, p)))
    np.testing.assert_array_equal([s.recall, s.precision], [r.precision, r.recall])
    for share, count in ((s.recall, s.true), (s.precision, s.predicted)):
        assert np.isnan(share[0]) if count[0] == 0 else 0 <= share[0] <= 1
    assert s.matched[0] <= min(s.true[0], s.predicted[0])
