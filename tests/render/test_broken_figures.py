"""Figures of runs that are not finite: marked or told in words, and laid out like others."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from support.commands import microgpt

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, which is not installed")
from support.figure_layout import assert_nothing_is_cut_off
from support.sweeps import in_sweep

from microgpt_trace import attribute, diagnose, diff, explain, init, load, patch, save, trace
from microgpt_trace.dumps.arrays_file import save_arrays
from microgpt_trace.render.figures.attention import attention_picture
from microgpt_trace.render.figures.attribution import attribution_picture
from microgpt_trace.render.figures.comparison import diff_picture
from microgpt_trace.render.figures.diagnosis import diagnosis_picture
from microgpt_trace.render.figures.explanation import explanation_picture
from microgpt_trace.render.figures.layers import stream_picture
from microgpt_trace.render.figures.patching import patch_picture
from microgpt_trace.render.figures.predictions import lens_picture, probabilities_picture
from microgpt_trace.render.figures.saving import content_of
from microgpt_trace.render.figures.training import loss_picture, timeline_picture
from microgpt_trace.timeline.reading import read_timeline

CROSS = "× not finite"


def texts(picture):
    """What stands in it, once it is seen that nothing is cut off and nothing warned of."""
    assert_nothing_is_cut_off(picture)
    found = ET.fromstring(content_of(picture, ".svg")).iter("{http://www.w3.org/2000/svg}text")
    return " ".join("".join(text.itertext()) for text in found)


def broken(name):
    """A model of which an element is NaN, or whose hidden units are 1e20 times as large."""
    model = init(seed=42)
    if name == "nan":
        model.params["layer0.attn_wq"][0, 0] = np.nan
    else:
        for parameter in ("layer0.mlp_fc1", "layer0.mlp_fc2"):
            model.params[parameter][...] *= np.float32(1e20)
    return model


OF_A_TRACE = {
    "attention": (attention_picture, CROSS),
    "a head": (lambda run: attention_picture(run, 0, 1), CROSS),
    "probs": (probabilities_picture, "not finite"),
    "loss": (loss_picture, "not finite: 5 of 5 positions"),
}


@pytest.mark.parametrize("name", OF_A_TRACE)
def test_a_trace_of_nan(name):
    picture, words = OF_A_TRACE[name]
    assert words in texts(picture(trace(broken("nan"), "emma", top_k=2)))
    assert words not in texts(picture(trace(init(seed=42), "emma", top_k=2)))


@pytest.mark.parametrize("name", ["nan", in_sweep("inf", whole=True)])
def test_other_results_of_a_microgpt(name, tmp_path):
    model, sound = broken(name), init(seed=42)
    run = trace(model, "emma")
    save_arrays(run, tmp_path / "d.safetensors")
    odd = sum(not math.isfinite(row.loss) for row in run.predictions)
    assert odd
    assert f"not finite: {odd} of 5 positions" in texts(loss_picture(run))
    assert "not finite" in texts(probabilities_picture(run))
    result = attribute(model, "emma", target="m", against="y")
    assert CROSS in texts(attribution_picture(result))
    assert "NaN" in texts(attribution_picture(result, 0))
    assert "NaN" in texts(explanation_picture(explain(model, "logits[0,m]", "emma")))
    assert "NaN, infinite" in texts(diff_picture(diff(sound, model, "emma")))
    assert "NaN, infinite" in texts(diagnosis_picture(diagnose(tmp_path / "d.safetensors", sound)))


def test_what_is_not_finite_on_both_sides_was_not_compared():
    result = diff(broken("nan"), broken("nan"), "emma")
    untold = sum(math.isnan(event.relative) for event in result.events)
    shown = texts(diff_picture(result))
    assert f"{25 - untold} of 25 events compared, 1 of them without elements that are not finite" in shown
    assert "not compared, NaN or infinite on both" in shown


def test_a_cell_of_patching_that_is_no_number():
    result = patch(init(seed=42), "emma", "anna", target="m", against="y")
    odd = replace(result, cells=(replace(result.cells[0], restored=None), *result.cells[1:]))
    assert CROSS in texts(patch_picture(odd))
    assert CROSS not in texts(patch_picture(result))


@pytest.mark.parametrize(("layer", "count"), [(0, 2), (1, 1)])
def test_a_production_model(decoder_folder, layer, count):
    def edit(weights):
        name = next(name for name in weights if f"layers.{layer}" in name and "q_proj" in name)
        weights[name][0, 0] = np.nan

    run = trace(load(decoder_folder("qwen2", edit)), tokens=[3, 4, 5, 6, 7], lens=True, values=True)
    words = " ".join(texts(stream_picture(run)).split())
    assert f"not finite: {count} of 2 layers" in words
    assert texts(lens_picture(run)).count("not finite") == 5 * count
    assert CROSS in texts(attention_picture(run))
    assert "not finite: 4 of 4 positions" in texts(loss_picture(run))
    shown = texts(probabilities_picture(run))
    assert (shown.count("not finite"), shown.count("–")) == (5, 1)  # of the last there is no target


def test_a_timeline_with_gaps(tmp_path):
    line = "train --steps 20 --out c.safetensors --log t.jsonl --trace-every 5"
    assert microgpt(line, cwd=tmp_path).code == 0
    log = read_timeline(tmp_path / "t.jsonl")
    assert "finite" not in texts(timeline_picture(log))
    positions = tuple(replace(p, p=(None, *p.p[1:])) for p in log.positions)
    for losses, count in (((math.nan, math.inf, *log.loss.loss[2:]), 2), ((math.nan,) * 20, 20)):
        odd = replace(log, positions=positions, loss=replace(log.loss, loss=losses))
        shown = texts(timeline_picture(odd))
        assert "a gap: not finite, or not in the log" in shown
        assert f"not finite: {count} of 20 steps" in shown
        assert f"not finite: {count} of 20 steps" in texts(loss_picture(odd))


def test_numbers_beyond_all_measure_stand_beside_their_bars():
    """And their powers of ten at every tick, where nothing else stands."""
    found = explain(broken("inf"), "layer0.mlp.up[3,5]", "emma")
    shown = texts(explanation_picture(found))
    assert re.search(r"-\d\.\d+e\+1\d", shown)


@pytest.mark.parametrize("plot", ["attention", "probs", "loss"])
def test_nothing_but_the_name_of_the_file_is_said(tmp_path, plot):
    save(broken("nan"), tmp_path / "m.safetensors")
    done = microgpt(f"trace emma --model m.safetensors --plot {plot}=a.png", cwd=tmp_path)
    assert done.err == "saved a figure to a.png\n"
