"""Statistics of channels, magnitudes and document sums against NumPy in float64 over all values."""

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
def test_statistics_of_every_channel(model, texts, tmp_path):
    names = [name for name in model.plan if model.plan.open_shapes[name]]
    survey = surveyed(model, texts, tmp_path, events=names)
    documents = values_of(model, texts)
    for name in names:
        own = channel_statistics(survey.tallies, name)
        parts = [columns(value[name], model.plan[name].kind.causal) for *_, value in documents]
        wide = np.concatenate(parts).astype(np.float64)
        finite = np.isfinite(wide)
        with np.errstate(all="ignore"):
            values = np.where(finite, wide, np.nan)
            count = finite.sum(axis=0)
            some = count > 0
            np.testing.assert_array_equal(own.count, count, name)
            np.testing.assert_array_equal(own.nonfinite, (~finite).sum(axis=0), name)
            np.testing.assert_array_equal(own.zeros, (wide == 0).sum(axis=0), name)
            for got, extreme in ((own.least, np.nanmin), (own.largest, np.nanmax)):
                np.testing.assert_array_equal(got[some], extreme(values[:, some], axis=0), name)
            squares = np.nanmean(values[:, some] ** 2, axis=0)
            mean = np.nanmean(values[:, some], axis=0)
            assert np.all(np.abs(own.mean[some] - mean) <= 1e-13 * np.sqrt(squares)), name
            np.testing.assert_allclose(own.mean_square[some], squares, 1e-12, 1e-300, err_msg=name)
            gap = np.abs(own.variance[some] - np.nanvar(values[:, some], axis=0))
            assert np.all(gap <= 1e-13 * squares), f"{name}: {gap.max()} of {squares.max()}"
        for got in (own.mean, own.variance, own.mean_square, own.least, own.largest):
            assert np.isnan(got[~some]).all(), name


@pytest.mark.parametrize(("model", "texts"), [("deep", MANY), ("llama_gqa", LONG)], indirect=["model"])
def test_rows_of_a_document_are_summed_in_order_and_documents_exactly(model, texts, tmp_path):
    survey = surveyed(model, texts, tmp_path)
    documents = values_of(model, texts)
    for name in survey.order.events:
        if model.plan[name].kind.causal or name == "logits":
            continue
        sums = {"total": [], "squares": []}
        for *_, value in documents:
            values = value[name].astype(np.float64)
            for kind, rows in (("total", values), ("squares", values * values)):
                sums[kind].append(sum(rows, np.zeros(rows.shape[1])))
        for kind, document_sums in sums.items():
            expected = [math.fsum(column) for column in np.array(document_sums).T.tolist()]
            got = survey.tallies[f"{name}/{kind}"].values().tolist()
            assert got == expected, f"{name} {kind}: {max(map(abs, np.subtract(got, expected)))}"


@pytest.mark.parametrize("model", ["broken", "llama_gqa"], indirect=True)
def test_quantiles_of_magnitudes_are_close_to_the_true_ones(model, tmp_path):
    names = ["layer0.mlp.down", "layer0.mlp.act", "layer0.attn.scores", "logits"]
    survey = surveyed(model, MANY, tmp_path, events=["embed.tok"], histograms=names)
    documents = values_of(model, MANY)
    for name in names:
        parts = [columns(value[name], model.plan[name].kind.causal) for *_, value in documents]
        sizes = np.abs(np.concatenate(parts).astype(np.float64)).ravel()
        sizes = sizes[np.isfinite(sizes)]
        bins = survey.tallies[f"{name}/magnitudes"].values()
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
def test_quantiles_of_extreme_values(values, at_half):
    """Zeros, NaN (also one whose bits are all 1), infinities, and the largest numbers of float32."""
    bits = np.array(values, np.float32).view(np.uint32)
    bins = np.bincount((bits >> 20) & 2047, minlength=2048)
    got = quantiles(bins)
    assert (at_half[0] <= got[0.5] <= at_half[1]) if at_half else got == {}, got


@pytest.mark.parametrize("largest", [1e20, 1e140, 1e151, 1e160])
def test_huge_numbers_of_float64_are_measured_or_counted_as_not_finite(largest, deep, tmp_path):
    model = deep.model.__class__(deep.model.params.copy(), deep.model.tokenizer, "large")
    model.params["wte"][1, 3] = largest
    survey = surveyed(model, ["abba", "cab"], tmp_path, events=["embed.tok"])
    own = channel_statistics(survey.tallies, "embed.tok")
    assert own.count[3] + own.nonfinite[3] == 9
    assert np.isfinite(own.mean_square[3])


def test_events_with_histograms_are_measured_and_no_quantile_exceeds_the_largest_magnitude(tmp_path):
    options = {"events": ["embed.tok"], "histograms": ["layer0.attn.weights"]}
    one, two = report_of(surveyed(init(), ["emma", "ava"], tmp_path, **options)).events
    assert (one.name, one.quantiles) == ("embed.tok", None)
    assert (two.name, two.largest, max(two.quantiles.values())) == ("layer0.attn.weights", 1.0, 1.0)
