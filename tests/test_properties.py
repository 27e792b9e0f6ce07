"""Properties that hold for any input of the right kind, tried on many."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spektron.config import MASKS, MaskConfig, budget, from_dict, override, to_dict
from spektron.data.augment import make_mask, mask_widths
from spektron.data.spectra import Spectra, snv, snv_inverse
from spektron.models.recurrence import oscillator_scan

quick = settings(max_examples=60, deadline=None)
finite = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@quick
@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(3, 40)), elements=finite))
def test_snv_inverts(x):
    "What SNV removes can be put back, unless it refuses a spectrum that does not vary"
    try:
        z, mean, scale = snv(x)
    except ValueError as e:
        assert "constant" in str(e)
        return
    np.testing.assert_allclose(snv_inverse(z, mean, scale), x, atol=1e-9 * (1 + np.abs(x).max()))
    np.testing.assert_allclose(z.std(-1), 1, rtol=1e-6)


@quick
@given(st.integers(100, 600), st.floats(0.1, 0.5), st.integers(1, 20), st.sampled_from(MASKS), st.integers(0, 2**31))
def test_mask_ratio(n, ratio, patch, kind, seed):
    "The share that is hidden is the one asked for, within one block, and the longest run is at most the longest block"
    config = MaskConfig(kind=kind, ratio=ratio, patch_points=patch, block_patches=(1, 3))
    valid = torch.ones(2, n, dtype=torch.bool)
    values = torch.from_numpy(np.random.default_rng(seed).random((2, n), dtype=np.float32))
    try:
        hidden = make_mask(valid, config, np.random.default_rng(seed), values)
    except ValueError:
        assert n < 12 * patch or ratio > 0.4  # refused because blocks cannot be placed apart
        return
    assert ((hidden.sum(1) - ratio * n).abs() <= 3 * patch).all()
    if kind == "contiguous":
        assert all(w <= 3 * patch for row in hidden for w in np.ravel(mask_widths(row[None])))


@quick
@given(st.integers(1, 200), st.integers(0, 2**31))
def test_recurrence_of_any_length(length, seed):
    "Every path equals the loop at every length"
    g = torch.Generator().manual_seed(seed)
    u, (a, d, dt) = torch.randn(2, length, 3, generator=g, dtype=torch.float64), torch.rand(3, 3, generator=g, dtype=torch.float64) * 0.9 + 0.05
    loop = oscillator_scan(u, a, d, dt, path="loop")
    for path in ("torch", "numba"):
        torch.testing.assert_close(oscillator_scan(u, a, d, dt, path=path), loop, atol=1e-10, rtol=1e-10)


@quick
@given(st.integers(5, 60), st.integers(5, 60), st.floats(100, 900), st.floats(200, 3000))
def test_resampling_never_invents(n, m, start, span):
    "A point is called measured only inside the measured range, whatever grid is asked for"
    axis = np.linspace(400, 1600, n)
    spectra = Spectra(np.sin(axis / 50)[None], axis, "cm-1", "IR")
    grid = np.linspace(start, start + span, m)
    try:
        there = spectra.resample(grid)
    except ValueError:
        assert grid[-1] < 400 or grid[0] > 1600
        return
    inside = (grid >= 400) & (grid <= 1600)
    assert not there.valid[0][~inside].any() and len(there.axis) == m


@quick
@given(st.sampled_from(["smoke", "laptop", "paper"]), st.integers(0, 2**31 - 1), st.floats(0.01, 0.9))
def test_config_survives_json(name, seed, ratio):
    config = override(budget(name), {"seed": seed, "mask.ratio": ratio})
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize("text", ["", "{}", "SMILES,IR\n", "<!doctype html>", "\x89HDF\r\n\x1a\n"])
def test_foreign_files_are_refused(tmp_path, text):
    "Line lists, corpora and models say what is wrong with a file that is none"
    from spektron.data.sources import open_corpus
    from spektron.data.lines import load_lines
    from spektron.models.spektron import load_model

    path = tmp_path / "file"
    path.write_bytes(text.encode("latin-1"))
    for read in (load_lines, lambda p: open_corpus(override(budget(), {"data.corpus": str(p)}).data), load_model):
        with pytest.raises(ValueError, match="file"):
            read(path)
