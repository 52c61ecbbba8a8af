"""Statistics of channels, magnitudes and document sums: NumPy in float64 over all values, kept."""

import math

import numpy as np
import pytest
from support.surveys import LONG, MANY, columns, surveyed, values_of
from support.sweeps import in_sweep

from microgpt_trace import init
from microgpt_trace.measuring.channels import QUANTILES, channel_statistics, quantiles
from microgpt_trace.surveying.report import report_of

SWEPT = map(in_sweep, ("untrained", "trained", "qwen2"))
CASES = ["deep", "broken", "qwen3", "mistral_window", "gpt2", *SWEPT]


@pytest.mark.parametrize("texts", [[*MANY, *LONG]])
@pytest.mark.parametrize("model", CASES, indirect=True)
def test_every_event_channel_by_channel(model, texts, tmp_path):
    names = [name for name in model.plan if model.plan.open_shapes[name]]
    found = surveyed(model, texts, tmp_path, events=names)
    documents = values_of(model, texts)
    for name in names:
        own = channel_statistics(found.tallies, name)
        parts = [columns(value[name], model.plan[name].kind.causal) for *_, value in documents]
        wide = np.concatenate(parts).astype(np.float64)
        fine = np.isfinite(wide)
        with np.errstate(all="ignore"):
            held = np.where(fine, wide, np.nan)
            count = fine.sum(axis=0)
            known = count > 0
            np.testing.assert_array_equal(own.count, count, name)
            np.testing.assert_array_equal(own.nonfinite, (~fine).sum(axis=0), name)
            np.testing.assert_array_equal(own.zeros, (wide == 0).sum(axis=0), name)
            for got, of in ((own.least, np.nanmin), (own.largest, np.nanmax)):
                np.testing.assert_array_equal(got[known], of(held[:, known], axis=0), name)
            squares = np.nanmean(held[:, known] ** 2, axis=0)
            mean = np.nanmean(held[:, known], axis=0)
            assert np.all(np.abs(own.mean[known] - mean) <= 1e-13 * np.sqrt(squares)), name
            np.testing.assert_allclose(own.mean_square[known], squares, 1e-12, 1e-300, err_msg=name)
            gap = np.abs(own.variance[known] - np.nanvar(held[:, known], axis=0))
            assert np.all(gap <= 1e-13 * squares), f"{name}: {gap.max()} of {squares.max()}"
        for got in (own.mean, own.variance, own.mean_square, own.least, own.largest):
            assert np.isnan(got[~known]).all(), name


@pytest.mark.parametrize(("model", "texts"), [("deep", MANY), ("llama_gqa", LONG)], indirect=["model"])
def test_documents_are_summed_row_after_row_and_put_together_by_fsum(model, texts, tmp_path):
    found = surveyed(model, texts, tmp_path)
    documents = values_of(model, texts)
    for name in found.order.events:
        if model.plan[name].kind.causal or name == "logits":
            continue
        sums = {"total": [], "squares": []}
        for *_, value in documents:
            rows = value[name].astype(np.float64)
            for kind, taken in (("total", rows), ("squares", rows * rows)):
                added = np.zeros(rows.shape[1])
                for row in taken:
                    added = added + row
                sums[kind].append(added)
        for kind, of_documents in sums.items():
            expected = [math.fsum(column) for column in np.array(of_documents).T.tolist()]
            got = found.tallies[f"{name}/{kind}"].values().tolist()
            assert got == expected, f"{name} {kind}: {max(map(abs, np.subtract(got, expected)))}"


@pytest.mark.parametrize("model", ["broken", "llama_gqa"], indirect=True)
def test_magnitudes_that_shares_of_all_do_not_exceed(model, tmp_path):
    names = ["layer0.mlp.down", "layer0.mlp.act", "layer0.attn.scores", "logits"]
    found = surveyed(model, MANY, tmp_path, events=["embed.tok"], histograms=names)
    documents = values_of(model, MANY)
    for name in names:
        parts = [columns(value[name], model.plan[name].kind.causal) for *_, value in documents]
        sizes = np.abs(np.concatenate(parts).astype(np.float64)).ravel()
        sizes = sizes[np.isfinite(sizes)]
        bins = found.tallies[f"{name}/magnitudes"].values()
        assert bins.sum() == np.concatenate(parts).size
        got = quantiles(bins)
        assert set(got) == (set(QUANTILES) if sizes.size else set())
        for q in got:
            true = np.quantile(sizes, q, method="inverted_cdf")
            assert true <= got[q] <= 1.125 * true, f"{name} {q}: {got[q]}, NumPy {true}"


@pytest.mark.parametrize(("values", "at_half"), [
    ([0.0, 0.0, -0.0, 5.0], (0, 0)), ([np.nan, np.inf, -np.inf, -2.0], (2, 2.25)), ([np.nan, np.inf], None),
    ([3.4e38, -3.4e38, 3.3e38], (3.3e38, np.inf)),
    ([2.0, 2.0, *np.array([-1], np.int32).view(np.float32)], (2, 2.25)),
])  # fmt: skip
def test_magnitudes_at_the_ends(values, at_half):
    """Zeros; what is no number, of all bits ones too; and the largest that float32 holds."""
    bits = np.array(values, np.float32).view(np.uint32)
    bins = np.bincount((bits >> 20) & 2047, minlength=2048)
    got = quantiles(bins)
    assert (at_half[0] <= got[0.5] <= at_half[1]) if at_half else got == {}, got


@pytest.mark.parametrize("largest", [1e20, 1e140, 1e151, 1e160])
def test_large_numbers_of_a_model_in_float64(largest, deep, tmp_path):
    """Each is measured or counted as none, and nothing breaks."""
    model = deep.model.__class__(deep.model.params.copy(), deep.model.tokenizer, "large")
    model.params["wte"][1, 3] = largest
    found = surveyed(model, ["abba", "cab"], tmp_path, events=["embed.tok"])
    own = channel_statistics(found.tallies, "embed.tok")
    assert own.count[3] + own.nonfinite[3] == 9
    assert np.isfinite(own.mean_square[3])


def test_what_is_counted_is_measured_too_and_no_quantile_is_above_the_largest_magnitude(tmp_path):
    how = {"events": ["embed.tok"], "histograms": ["layer0.attn.weights"]}
    one, two = report_of(surveyed(init(), ["emma", "ava"], tmp_path, **how)).events
    assert (one.name, one.quantiles) == ("embed.tok", None)
    assert (two.name, two.largest, max(two.quantiles.values())) == ("layer0.attn.weights", 1.0, 1.0)
