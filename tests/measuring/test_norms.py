"""Measure the norms of a plan, among them LayerNorms with gain and bias."""

from types import SimpleNamespace

import numpy as np
from support.other_plans import T, V, post_norm_plan, random_model, values_of

from microgpt_trace.measuring.norm_meter import NormMeter


def run(change=None):
    model = random_model(post_norm_plan())
    values = values_of(model, np.random.default_rng(6).integers(V, size=T))
    values |= {} if change is None else {change: values[change] * 1.1}
    meter = NormMeter(model.plan, model.parameter)
    for name in meter.names:
        meter(SimpleNamespace(name=name), values[name])
    assert len(meter.read) <= 1
    return meter.rows.off


def test_every_norm_of_a_plan_is_measured():
    off = run()
    assert list(off) == ["layer0.attn.norm", "layer0.attn.post_norm", "layer0.mlp.norm", "final.norm"]
    assert max(off.values()) < 1e-12


def test_reports_a_norm_with_a_deviation():
    off = run("layer0.attn.post_norm")
    assert off["layer0.attn.post_norm"] > 1e-2
    assert off["layer0.attn.norm"] < 1e-12
