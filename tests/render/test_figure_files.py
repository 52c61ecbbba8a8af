"""Figures as files: text as text whatever a token is, the same bytes again, nobody's settings changed."""

import re
import sys
from dataclasses import replace

import pytest
from support.figure_layout import assert_nothing_is_cut_off, words_in
from support.sweeps import in_sweep

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, which is not installed")
import matplotlib
from matplotlib.figure import Figure

from microgpt_trace import (
    attribute,
    diff,
    explain,
    init,
    load,
    patch,
    plot_attention,
    plot_probabilities,
    trace,
)
from microgpt_trace.render.figures.attention import attention_picture
from microgpt_trace.render.figures.attribution import attribution_picture
from microgpt_trace.render.figures.course import diff_picture
from microgpt_trace.render.figures.curves import loss_picture
from microgpt_trace.render.figures.explanation import explanation_picture
from microgpt_trace.render.figures.panel import Panel, spelled_out, thinned
from microgpt_trace.render.figures.patching import patch_picture
from microgpt_trace.render.figures.predictions import probabilities_picture
from microgpt_trace.render.figures.saving import content_of, save_picture

HOSTILE = ["$x_2$", "中国", "\x1b[31m", "\u202eabc", "<b>&amp;", "_private", "$", "\\$a$", "\ud800"]
HOSTILE += [" is", ""]


def named(*tokens):
    """A trace whose tokens are called so."""
    run = trace(init(seed=42), "abcdefghij"[: len(tokens) - 1])
    pairs = zip(run.predictions, tokens, strict=True)
    candidates = tuple(replace(p, top=(replace(p.top[0], label=token),)) for p, token in pairs)
    return replace(run, input=replace(run.input, labels=tokens), predictions=candidates)


@pytest.fixture(scope="module")
def hostile():
    return named(*HOSTILE)


def test_text_of_a_vector_picture_is_text(hostile):
    found = words_in(attention_picture(hostile, 0, 0))
    assert {"0 $x_2$", "1 中国", "2 \\x1b[31m", "3 \\u202ea…", "4 <b>&amp;", "5 _private"} <= set(found)
    assert {"6 $", "7 \\$a$", "8 \\ud800", "9 ␣is", "10 ''"} <= set(found)
    assert {"layer 0, head 0", "attention weight, square-root scale"} <= set(found)


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_no_token_warns_and_the_same_picture_is_the_same_bytes(hostile, suffix, capfd):
    """Warnings are errors in these tests, what matplotlib logs would be on stderr."""
    for picture in (attention_picture(hostile, 0, 0), probabilities_picture(hostile)):
        first = content_of(picture, suffix)
        assert len(first) > 1000
    assert content_of(picture, suffix) == first
    assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate|Matplotlib v", first)
    assert capfd.readouterr() == ("", "")


def test_what_the_font_lacks_is_spelled_out_where_text_is_drawn(hostile):
    pdf = content_of(attention_picture(hostile, 0, 0), ".pdf")
    assert b"/FontFile2" in pdf  # a TrueType font, whose text can be searched
    assert spelled_out("été → ␣ 中") == "été → ␣ \\u4e2d"
    ax = plot_attention(hostile, layer=0, head=0, ax=Figure().add_subplot())
    assert [label.get_text() for label in ax.get_xticklabels()][1] == "1 \\u4e2d\\u56fd"
    assert all(not label.get_parse_math() for label in ax.get_xticklabels())
    ax = plot_probabilities(hostile, ax=Figure().add_subplot())
    assert "\\u4e2d\\u56fd\n" in "".join(text.get_text() for text in ax.texts)


@pytest.mark.parametrize(("suffix", "same"), [(".png", True), (".pdf", True), (".svg", False)])
def test_a_viewer_of_svg_alone_is_left_what_the_font_lacks(suffix, same):
    ours, spelled = (content_of(attention_picture(named(t, "a"), 0, 0), suffix) for t in ("中", "\\u4e2d"))
    assert (ours == spelled) is same


def test_dollars_are_drawn_as_dollars():
    """As mathematics "$x$" would be one letter in another font."""
    figure = Figure()
    panel = Panel(figure.add_subplot())
    panel.write(0, 0, "$x$")
    panel.title("$x$")
    panel.ax.plot([0], [0], label="$x$")
    panel.legend_beside()
    written = [panel.ax.texts[0], panel.ax._left_title, panel.ax.get_legend().get_texts()[0]]
    for text in written:
        assert not text.get_parse_math()
        plain = panel.ax.text(0, 0, "xxx", fontsize=text.get_fontsize(), parse_math=False)
        assert text.get_window_extent().width > 0.7 * plain.get_window_extent().width


def test_settings_of_the_user_are_neither_changed_nor_followed_but_for_the_font():
    picture = attention_picture(trace(init(seed=42), "emma"), 0, 0)
    plain = content_of(picture, ".svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "text.color": "white"}):
        before = dict(matplotlib.rcParams)
        assert content_of(picture, ".svg") == plain
        assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.family": "DejaVu Serif"}):
        assert b"DejaVu Serif" in content_of(picture, ".svg")


def test_a_file_is_drawn_without_pyplot(tmp_path):
    loaded = sys.modules.pop("matplotlib.pyplot", None)
    save_picture(attention_picture(trace(init(seed=42), "emma"), 0, 0), tmp_path / "a.PNG")
    assert "matplotlib.pyplot" not in sys.modules
    if loaded is not None:
        sys.modules["matplotlib.pyplot"] = loaded
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")


LONG = "a" * 12
MODEL = init(seed=42)


def pictures(text):
    """Every kind of figure, of tokens as long as they are shown."""
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
        yield attribution_picture(replace(result, positions=tuple(positions)), position)
    yield diff_picture(diff(MODEL, init(seed=2), text))
    yield explanation_picture(explain(MODEL, "layer0.mlp.up[0,3]", text))
    for sites in (None, ["*.attn.head*", "embed.tok@0:1", "*.mlp.residual"]):
        yield patch_picture(patch(MODEL, text, "b" * len(text), target="a", against="y", sites=sites))


@pytest.mark.parametrize("length", [1, in_sweep(5, whole=True), 15])
def test_nothing_is_cut_off(length):
    for picture in pictures("abcdefghijklmno"[:length]):
        assert_nothing_is_cut_off(picture)


def test_the_longest_words_below_an_explanation_have_room(decoder_folder):
    """They stand beneath names that take half the width."""
    found = explain(load(decoder_folder("qwen2")), "layer1.attn.head2[4,5]", tokens=[3, 4, 5, 6, 7])
    (step,) = found.steps
    terms = [
        replace(t, factors=tuple(replace(f, name=f.name.replace("[", "[1024,1")) for f in t.factors))
        for t in step.terms
    ]
    step = replace(step, label="layer29.attn.head12[1024,1100]", terms=tuple(terms))
    picture = explanation_picture(replace(found, steps=(step,)))
    assert_nothing_is_cut_off(picture)
    assert "layer1.)" in content_of(picture, ".svg").decode()


@pytest.mark.parametrize(("count", "inches", "step"), [(5, 1, 1), (16, 2, 1), (63, 2, 5), (63, 7.5, 1)])
def test_labels_have_a_line_each(count, inches, step):
    assert thinned(count, inches) == step
