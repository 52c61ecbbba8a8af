"""Files of figures: tokens are plain text, bytes are reproducible, settings stay unchanged, nothing is cut
off, and values that are not finite are marked."""

import math
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.sweeps import in_sweep

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, which is not installed")
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microgpt_trace import (
    attribute,
    diagnose,
    diff,
    explain,
    init,
    load,
    patch,
    plot_attention,
    plot_probabilities,
    trace,
)
from microgpt_trace.dumps.stored_arrays import save_arrays
from microgpt_trace.render.figures.attention_figures import _tiles, attention_picture
from microgpt_trace.render.figures.curve_figures import loss_picture, stream_picture
from microgpt_trace.render.figures.panel import Panel, Picture, escaped, label_step, minus
from microgpt_trace.render.figures.prediction_figures import lens_picture, probabilities_picture
from microgpt_trace.render.figures.saving import content_of, save_picture
from microgpt_trace.render.shown import picture_of
from microgpt_trace.timeline.reading import read_timeline

HOSTILE = ["$x_2$", "中国", "\x1b[31m", "\u202eabc", "<b>&amp;", "_private", "$", "\\$a$", "\ud800"]
HOSTILE += [" is", ""]


def named(*tokens):
    """Return a trace whose tokens have these labels."""
    run = trace(init(seed=42), "abcdefghij"[: len(tokens) - 1])
    pairs = zip(run.predictions, tokens, strict=True)
    candidates = tuple(replace(p, top=(replace(p.top[0], label=token),)) for p, token in pairs)
    return replace(run, input=replace(run.input, labels=tokens), predictions=candidates)


@pytest.fixture(scope="module")
def hostile():
    return named(*HOSTILE)


def assert_nothing_is_cut_off(picture):
    """Check that every text lies within the figure, that no labels of an axis overlap, and that a colour bar
    is as high as its maps."""
    figure = Figure(figsize=(picture.width, picture.height), layout="constrained")
    picture.draw(Panel(figure.add_subplot()))
    figure.draw_without_rendering()
    whole = figure.bbox.padded(1)
    maps = [ax for ax in figure.findobj(Axes) if ax.images]
    edges = [edge for ax in maps for edge in ax.get_window_extent().intervaly]
    for bar in {image.colorbar for ax in maps for image in ax.images if image.colorbar}:
        if bar.extend == "neither":
            assert bar.ax.get_window_extent().intervaly == pytest.approx([min(edges), max(edges)])
    bars = [ax.get_tightbbox() for ax in figure.axes if ax.get_label() == "<colorbar>"]
    for ax in figure.findobj(Axes):
        title = ax.get_title("left") and ax._left_title.get_window_extent().padded(-1)
        assert not title or not any(bar.overlaps(title) for bar in bars), ax.get_title("left")
        place = ax.get_tightbbox()
        assert whole.x0 <= place.x0 <= place.x1 <= whole.x1, ax
        assert whole.y0 <= place.y0 <= place.y1 <= whole.y1, ax
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            both = [label for tick in ticks for label in (tick.label1, tick.label2)]
            shown = [label for label in both if label.get_visible() and label.get_text()]
            places = [label.get_window_extent().padded(-1) for label in shown]
            overlap = any(a.overlaps(b) for a, b in pairwise(places))
            assert not overlap, [label.get_text() for label in shown]
            assert not axis.get_offset_text().get_text() or ax.get_label() == "<colorbar>"


def texts_of(picture):
    """Return the texts of a figure, in the order of its SVG file."""
    elements = ET.fromstring(content_of(picture, ".svg")).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()) for text in elements]


def test_an_svg_contains_text_as_text(hostile):
    words = set(texts_of(attention_picture(hostile, 0, 0)))
    assert {"0 $x_2$", "1 中国", "2 \\x1b[31m", "3 \\u202ea…", "4 <b>&amp;", "5 _private"} <= words
    assert {"6 $", "7 \\$a$", "8 \\ud800", "9 ␣is", "10 ''"} <= words
    assert {"layer 0, head 0", "attention weight"} <= words


@pytest.mark.parametrize("suffix", [".svg", ".pdf", in_sweep(".png")])
def test_no_token_causes_a_warning_and_bytes_are_reproducible(hostile, suffix, capfd):
    """Warnings are errors in these tests, and matplotlib would log to stderr."""
    for picture in (attention_picture(hostile, 0, 0), probabilities_picture(hostile)):
        first = content_of(picture, suffix)
        assert len(first) > 1000
    assert content_of(picture, suffix) == first
    assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate|Matplotlib v", first)
    assert capfd.readouterr() == ("", "")


def test_characters_that_the_font_lacks_are_escaped(hostile):
    pdf = content_of(attention_picture(hostile, 0, 0), ".pdf")
    assert b"/FontFile2" in pdf  # a TrueType font, whose text can be searched
    assert escaped("été → ␣ 中") == "été → ␣ \\u4e2d"
    ax = plot_attention(hostile, layer=0, head=0, ax=Figure().add_subplot())
    assert [label.get_text() for label in ax.get_xticklabels()][1] == "1 \\u4e2d\\u56fd"
    assert all(not label.get_parse_math() for label in ax.get_xticklabels())
    ax = plot_probabilities(hostile, ax=Figure().add_subplot())
    assert "\\u4e2d\\u56fd\n" in "".join(text.get_text() for text in ax.texts)


@pytest.mark.parametrize(("suffix", "same"), [(".png", True), (".pdf", True), (".svg", False)])
def test_only_svg_keeps_characters_that_the_font_lacks(suffix, same):
    plain, escape = (content_of(attention_picture(named(t, "a"), 0, 0), suffix) for t in ("中", "\\u4e2d"))
    assert (plain == escape) is same


def test_dollar_signs_are_not_mathematics():
    """As mathematics, "$x$" would be one letter in another font."""
    figure = Figure()
    panel = Panel(figure.add_subplot())
    panel.write(0, 0, "$x$")
    panel.ax.plot([0], [0], label="$x$")
    panel.label("$x$")
    written = [panel.ax.texts[0], panel.ax._left_title, panel.ax.get_legend().get_texts()[0]]
    for text in written:
        assert not text.get_parse_math()
        plain = panel.ax.text(0, 0, "xxx", fontsize=text.get_fontsize(), parse_math=False)
        assert text.get_window_extent().width > 0.7 * plain.get_window_extent().width


def test_the_users_settings_stay_unchanged_and_only_their_font_is_used():
    picture = attention_picture(trace(init(seed=42), "emma"), 0, 0)
    plain = content_of(picture, ".svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "text.color": "white"}):
        before = dict(matplotlib.rcParams)
        assert content_of(picture, ".svg") == plain
        assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.family": "DejaVu Serif"}):
        assert b"DejaVu Serif" in content_of(picture, ".svg")


def test_a_file_is_saved_without_pyplot(tmp_path):
    loaded = sys.modules.pop("matplotlib.pyplot", None)
    save_picture(attention_picture(trace(init(seed=42), "emma"), 0, 0), tmp_path / "a.PNG")
    assert "matplotlib.pyplot" not in sys.modules
    if loaded is not None:
        sys.modules["matplotlib.pyplot"] = loaded
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")


LONG = "a" * 12
MODEL = init(seed=42)


def pictures(text):
    """Yield every kind of figure, with tokens of the greatest length."""
    run = trace(MODEL, text, top_k=5)
    run = replace(run, input=replace(run.input, labels=[LONG] * len(run.input.labels)))
    yield attention_picture(run)
    yield attention_picture(run, 0, 1)
    yield probabilities_picture(run)
    yield loss_picture(run)
    result = attribute(MODEL, text)
    contrasts = [replace(p.contrast, target_label=LONG, against_label=LONG) for p in result.positions]
    positions = [replace(p, contrast=c) for p, c in zip(result.positions, contrasts, strict=True)]
    for position in (None, 0):
        yield picture_of(replace(result, positions=tuple(positions)), position=position)
    yield picture_of(diff(MODEL, init(seed=2), text))
    yield picture_of(explain(MODEL, "layer0.mlp.up[0,3]", text))
    for sites in (None, ["*.attn.head*", "embed.tok@0:1", "*.mlp.residual"]):
        yield picture_of(patch(MODEL, text, "b" * len(text), target="a", against="y", sites=sites))


@pytest.mark.parametrize("length", [1, in_sweep(5, whole=True), in_sweep(15)])
def test_nothing_is_cut_off(length):
    for picture in pictures("abcdefghijklmno"[:length]):
        assert_nothing_is_cut_off(picture)


def test_the_longest_label_below_an_explanation_fits(decoder_folder):
    """The names beside the bars take half the width."""
    explanation = explain(load(decoder_folder("qwen2")), "layer1.attn.head2[4,5]", tokens=[3, 4, 5, 6, 7])
    (step,) = explanation.steps
    terms = [
        replace(t, factors=tuple(replace(f, name=f.name.replace("[", "[1024,1")) for f in t.factors))
        for t in step.terms
    ]
    step = replace(step, label="layer29.attn.head12[1024,1100]", terms=tuple(terms))
    picture = picture_of(replace(explanation, steps=(step,)))
    assert_nothing_is_cut_off(picture)
    assert "layer1.)" in content_of(picture, ".svg").decode()


@pytest.mark.parametrize(("count", "inches", "step"), [(5, 1, 1), (16, 2, 1), (63, 2, 5), (63, 7.5, 1)])
def test_labels_do_not_overlap(count, inches, step):
    assert label_step(count, inches) == step


CROSS = "× not finite"


def text_of(picture):
    return " ".join(" ".join(texts_of(picture)).split())


def texts(picture):
    """Check that nothing is cut off, and return the text of the picture."""
    assert_nothing_is_cut_off(picture)
    return text_of(picture)


def broken():
    """Return a model with a NaN in a parameter of head 0. The other heads stay finite up to the output."""
    model = init(seed=42)
    model.params["layer0.attn_wq"][0, 0] = np.nan
    return model


OF_A_TRACE = {
    "attention": (attention_picture, CROSS),
    "a head": (lambda run: attention_picture(run, 0, 0), CROSS),
    "probs": (probabilities_picture, "not finite"),
    "loss": (loss_picture, "not finite: 5 of 5 positions"),
}


@pytest.mark.parametrize("name", OF_A_TRACE)
def test_figures_of_a_trace_mark_nan(name):
    picture, words = OF_A_TRACE[name]
    assert words in texts(picture(trace(broken(), "emma", top_k=2)))
    assert words not in text_of(picture(trace(init(seed=42), "emma", top_k=2)))


def test_figures_of_other_results_of_a_microgpt_mark_nan(tmp_path):
    model, sound = broken(), init(seed=42)
    save_arrays(trace(model, "emma"), tmp_path / "d.safetensors")
    result = attribute(model, "emma", target="m", against="y")
    assert CROSS in texts(picture_of(result))
    assert "NaN" in texts(picture_of(result, position=0))
    assert "NaN" in texts(picture_of(explain(model, "logits[0,m]", "emma")))
    assert "NaN, infinite" in texts(picture_of(diff(sound, model, "emma")))
    assert "NaN, infinite" in texts(picture_of(diagnose(tmp_path / "d.safetensors", sound)))


def test_events_that_are_not_finite_on_both_sides_are_not_compared():
    result = diff(broken(), broken(), "emma")
    skipped = sum(math.isnan(event.relative) for event in result.events)
    shown = texts(picture_of(result))
    assert f"{25 - skipped} of 25 events compared, 4 only in finite elements" in shown
    assert "not compared: both NaN or both infinite" in shown


def test_a_map_of_patching_marks_a_cell_without_a_value():
    result = patch(init(seed=42), "emma", "anna", target="m", against="y")
    odd = replace(result, cells=(replace(result.cells[0], restored=None), *result.cells[1:]))
    assert CROSS in texts(picture_of(odd))
    assert CROSS not in text_of(picture_of(result))


def test_figures_of_a_production_model_mark_nan(decoder_folder):
    def edit(weights):
        weights["model.layers.1.self_attn.q_proj.weight"][0, 0] = np.nan

    run = trace(load(decoder_folder("qwen2", edit)), tokens=[3, 4, 5, 6, 7], lens=True, values=True)
    assert "not finite: 1 of 2 layers" in texts(stream_picture(run))
    assert texts(lens_picture(run)).count("not finite") == 5
    assert CROSS in texts(attention_picture(run))
    shown = texts(probabilities_picture(run))
    assert (shown.count("not finite"), shown.count("–")) == (5, 1)  # the last position has no target


def test_a_timeline_explains_gaps(results):
    log = read_timeline(results / "t.jsonl")
    assert "finite" not in text_of(picture_of(log))
    positions = tuple(replace(p, p=(None, *p.p[1:])) for p in log.positions)
    odd = replace(log.loss, loss=(math.nan, math.inf, *log.loss.loss[2:]))
    shown = texts(picture_of(replace(log, positions=positions, loss=odd)))
    assert "a gap: a value that is not finite or not in the log" in shown
    assert "not finite: 2 of 20 steps" in shown
    none = replace(log, loss=replace(log.loss, loss=(math.nan,) * 20))
    for picture in (picture_of(none), loss_picture(none)):
        assert "not finite: 20 of 20 steps" in texts(picture)


def test_very_large_numbers_have_exponents_beside_their_bars_and_at_ticks():
    model = init(seed=42)
    model.params["layer0.mlp_fc1"][...] *= np.float32(1e20)
    shown = texts(picture_of(explain(model, "layer0.mlp.up[3,5]", "emma")))
    assert re.search(r"−\d\.\d+e\+1\d", shown)


def test_minus_signs_are_not_hyphens():
    words = {"-0.5": "−0.5", "1e-05": "1e−05", "-log(probs[0,5])": "−log(probs[0,5])", "+1.0e-05": "+1.0e−05"}
    assert {text: minus(text) for text in words} == words
    assert minus("two-part name, a - b, mlp-2") == "two-part name, a - b, mlp-2"
    shown = texts(picture_of(explain(init(seed=42), "loss", "emma")))
    assert "−log(probs[0,5]) e" in shown
    assert "-" not in shown


def test_the_heads_of_30_layers_fit_on_one_page():
    weights = np.full((30, 9, 5, 5), 0.2)
    picture = _tiles([f"layer {i}" for i in range(30)], weights, np.triu(np.ones((30, 5, 5), bool), 1))
    assert_nothing_is_cut_off(picture)
    assert (picture.width < 8.27 - 1, picture.height < 11.69 - 1) == (True, True)
    assert {f"layer {i}" for i in range(30)} <= set(texts_of(picture))


def test_a_long_title_above_a_legend_of_many_lines_fits():
    def draw(panel):
        for i in range(8):
            panel.ax.plot([0, 1], [i, i], label=f"{i} with a name that is long, as names of events are")
        panel.label("a title of many words " * 6)

    assert_nothing_is_cut_off(Picture(7.0, 3.0, draw))
