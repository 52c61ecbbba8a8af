"""Figures of runs that are not finite: marked or told in words, and laid out like others."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from support.commands import microgpt

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, which is not installed")
from support.figure_layout import assert_nothing_is_cut_off, words_in

from microgpt_trace import attribute, diagnose, diff, explain, init, load, patch, save, trace
from microgpt_trace.dumps.arrays_file import save_arrays
from microgpt_trace.render.figures.attention import attention_picture
from microgpt_trace.render.figures.attribution import attribution_picture
from microgpt_trace.render.figures.course import diagnosis_picture, diff_picture
from microgpt_trace.render.figures.curves import loss_picture, stream_picture, timeline_picture
from microgpt_trace.render.figures.explanation import explanation_picture
from microgpt_trace.render.figures.patching import patch_picture
from microgpt_trace.render.figures.predictions import lens_picture, probabilities_picture
from microgpt_trace.timeline.reading import read_timeline

CROSS = "× not finite"


def told(picture):
    return " ".join(" ".join(words_in(picture)).split())


def texts(picture):
    """What stands in it, once it is seen that nothing is cut off and nothing warned of."""
    assert_nothing_is_cut_off(picture)
    return told(picture)


def broken():
    """A model of which an element is NaN."""
    model = init(seed=42)
    model.params["layer0.attn_wq"][0, 0] = np.nan
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
    assert words in texts(picture(trace(broken(), "emma", top_k=2)))
    assert words not in told(picture(trace(init(seed=42), "emma", top_k=2)))


def test_other_results_of_a_microgpt(tmp_path):
    model, sound = broken(), init(seed=42)
    save_arrays(trace(model, "emma"), tmp_path / "d.safetensors")
    result = attribute(model, "emma", target="m", against="y")
    assert CROSS in texts(attribution_picture(result))
    assert "NaN" in texts(attribution_picture(result, 0))
    assert "NaN" in texts(explanation_picture(explain(model, "logits[0,m]", "emma")))
    assert "NaN, infinite" in texts(diff_picture(diff(sound, model, "emma")))
    assert "NaN, infinite" in texts(diagnosis_picture(diagnose(tmp_path / "d.safetensors", sound)))


def test_what_is_not_finite_on_both_sides_was_not_compared():
    result = diff(broken(), broken(), "emma")
    untold = sum(math.isnan(event.relative) for event in result.events)
    shown = texts(diff_picture(result))
    assert f"{25 - untold} of 25 events compared, 1 of them without elements that are not finite" in shown
    assert "not compared, NaN or infinite on both" in shown


def test_a_cell_of_patching_that_is_no_number():
    result = patch(init(seed=42), "emma", "anna", target="m", against="y")
    odd = replace(result, cells=(replace(result.cells[0], restored=None), *result.cells[1:]))
    assert CROSS in texts(patch_picture(odd))
    assert CROSS not in told(patch_picture(result))


def test_a_production_model(decoder_folder):
    def edit(weights):
        weights["model.layers.1.self_attn.q_proj.weight"][0, 0] = np.nan

    run = trace(load(decoder_folder("qwen2", edit)), tokens=[3, 4, 5, 6, 7], lens=True, values=True)
    assert "not finite: 1 of 2 layers" in texts(stream_picture(run))
    assert texts(lens_picture(run)).count("not finite") == 5
    assert CROSS in texts(attention_picture(run))
    shown = texts(probabilities_picture(run))
    assert (shown.count("not finite"), shown.count("–")) == (5, 1)  # of the last there is no target


def test_a_timeline_with_gaps(tmp_path):
    line = "train --steps 20 --out c.safetensors --log t.jsonl --trace-every 5"
    assert microgpt(line, cwd=tmp_path).code == 0
    log = read_timeline(tmp_path / "t.jsonl")
    assert "finite" not in told(timeline_picture(log))
    positions = tuple(replace(p, p=(None, *p.p[1:])) for p in log.positions)
    odd = replace(log.loss, loss=(math.nan, math.inf, *log.loss.loss[2:]))
    shown = texts(timeline_picture(replace(log, positions=positions, loss=odd)))
    assert "a gap: not finite, or not in the log" in shown
    assert "not finite: 2 of 20 steps" in shown
    none = replace(log, loss=replace(log.loss, loss=(math.nan,) * 20))
    for picture in (timeline_picture(none), loss_picture(none)):
        assert "not finite: 20 of 20 steps" in texts(picture)


def test_numbers_beyond_all_measure_stand_beside_their_bars():
    """And their powers of ten at every tick, where nothing else stands."""
    model = init(seed=42)
    model.params["layer0.mlp_fc1"][...] *= np.float32(1e20)
    shown = texts(explanation_picture(explain(model, "layer0.mlp.up[3,5]", "emma")))
    assert re.search(r"-\d\.\d+e\+1\d", shown)


def test_nothing_but_the_names_of_the_files_is_said(tmp_path):
    save(broken(), tmp_path / "m.safetensors")
    plots = "--plot attention=a.png --plot probs=b.png --plot loss=c.png"
    done = microgpt(f"trace emma --model m.safetensors {plots}", cwd=tmp_path)
    assert done.lines == [f"saved a figure to {name}.png" for name in "abc"]
