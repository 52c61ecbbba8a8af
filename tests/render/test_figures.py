"""Figures show the numbers of their results: plotted values are read back from the Axes."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.terminal import contrast, luminance

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, which is not installed")
from matplotlib.figure import Figure

from microgpt_trace import (
    Config,
    MicrogptError,
    attribute,
    diagnose,
    diff,
    explain,
    init,
    load,
    patch,
    plot_attention,
    plot_attribution,
    plot_diagnosis,
    plot_diff,
    plot_explanation,
    plot_lens,
    plot_loss,
    plot_patch,
    plot_probabilities,
    plot_stream,
    plot_timeline,
    trace,
)
from microgpt_trace.patching.pairs import patch_pairs, read_pairs
from microgpt_trace.render.figures.attention_figures import weights_of
from microgpt_trace.render.figures.heat import ColorScale, add_bar, draw_heat, signed_scale, write_cells
from microgpt_trace.render.figures.panel import Panel
from microgpt_trace.timeline.reading import read_timeline


@pytest.fixture
def ax():
    return Figure(figsize=(6, 6), layout="constrained").add_subplot()


@pytest.fixture(scope="module")
def emma():
    return trace(init(seed=42), "emma", top_k=3)


@pytest.fixture(scope="module")
def ann(decoder_folder):
    model = load(decoder_folder("mistral_window"))
    return trace(model, tokens=list(range(3, 12)), lens=True, values=True)


@pytest.fixture
def log(results):
    return read_timeline(results / "t.jsonl")


def image(ax):
    """Return the numbers behind the colours, NaN for a blank cell."""
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def lengths(ax):
    return [bar.get_width() for bar in ax.patches]


def same(plotted, expected):
    print(plotted, expected)
    np.testing.assert_array_equal(np.asarray(plotted, float), np.asarray(expected, float))


def test_a_head_shows_its_weights_and_hatches_masked_cells(emma, ax):
    assert plot_attention(emma, head=2, ax=ax) is ax
    same(image(ax), np.where(np.tri(5, dtype=bool), emma["layer0.attn.weights"][2], np.nan))
    assert ax.patch.get_hatch()
    assert labels(ax.xaxis) == labels(ax.yaxis) == ["0 BOS", "1 e", "2 m", "3 m", "4 a"]
    assert ax.figure.axes[1].get_ylabel() == "attention weight"
    norm = ax.images[0].norm
    assert (norm.vmin, norm.vmax, norm(0.25)) == (0, 1, 0.25)


def test_every_head_of_a_layer_has_its_own_axes(emma, ax):
    heads = plot_attention(emma, layer=0, ax=ax).child_axes
    assert [own.get_title("left") for own in heads] == ["layer 0, head 0", "head 1", "head 2", "head 3"]
    for head, own in enumerate(heads):
        same(np.nan_to_num(image(own)), emma["layer0.attn.weights"][head])


def test_a_sliding_window_hides_earlier_positions(ann, ax):
    plot_attention(ann, layer=1, head=0, ax=ax)
    window = next(spec.kind.window for spec in ann.specs.values() if getattr(spec.kind, "window", None))
    back = np.subtract.outer(np.arange(9), np.arange(9))
    assert window < 9
    same(~np.isnan(image(ax)), (back >= 0) & (back < window))


def test_all_layers_are_shown_as_tiles_with_gaps(ann, ax):
    plot_attention(ann, ax=ax)
    tiles, pitch = image(ax), 10  # nine positions and a gap of one
    for layer in (0, 1):
        weights = ann[f"layer{layer}.attn.weights"]
        for head in range(len(weights)):
            tile = tiles[layer * pitch : layer * pitch + 9, head * pitch : head * pitch + 9]
            same(np.nan_to_num(tile), weights[head])
    assert np.isnan(tiles[9]).all()
    assert labels(ax.yaxis) == ["layer 0", "layer 1"]


def test_values_that_are_not_finite_are_crossed_out_and_values_beyond_the_scale_add_an_arrow(emma, ax):
    odd = emma["layer0.attn.weights"] * 3
    odd[0, 3, 1], odd[0, 4, 4] = np.nan, np.inf
    arrays = emma.arrays | {("forward", "layer0.attn.weights"): odd}
    plot_attention(replace(emma, arrays=arrays), head=0, ax=ax)
    (crosses,) = ax.lines
    assert {(y, x) for x, y in crosses.get_xydata()} == {(3, 1), (4, 4)}
    assert np.isnan(image(ax)[3, 1])
    assert ax.images[0].colorbar.extend == "max"


def test_candidates_have_the_colour_of_their_probability(emma, ax):
    plot_probabilities(emma, ax=ax)
    expected = [[p.target.p, *(c.p for c in p.top)] for p in emma.predictions]
    same(image(ax), expected)
    assert texts(ax)[:2] == ["e\n0.031", "p\n0.070"]
    assert labels(ax.xaxis) == ["target", "1", "2", "3"]


def test_the_logit_lens_has_a_row_for_each_layer(ann, ax):
    plot_lens(ann, ax=ax)
    same(image(ax), [[c.p for c in row.predicted] for row in ann.lens])
    assert labels(ax.yaxis) == ["0", "1"]
    assert len(texts(ax)) == 2 * 9


def test_the_residual_stream_has_norms_and_relative_writes(ann, ax):
    above, below = plot_stream(ann, ax=ax).child_axes
    same(above.lines[0].get_ydata(), [row.row_norm for row in ann.layers])
    same(below.lines[0].get_ydata(), [row.attention_share for row in ann.layers])
    same(below.lines[1].get_ydata(), [row.mlp_share for row in ann.layers])


def test_the_loss_of_a_trace_is_plotted_by_position(emma, ax):
    plot_loss(emma, ax=ax)
    same([bar.get_height() for bar in ax.patches], [p.loss for p in emma.predictions])
    same(ax.lines[0].get_ydata(), [math.log(27)] * 2)
    assert labels(ax.xaxis)[0] == "0 BOS → e"


def test_bars_of_an_attribution_are_its_parts_the_rest_and_the_sum(ax):
    result = attribute(init(seed=42), "emma")
    plot_attribution(result, position=2, top=4, ax=ax)
    position = result.positions[2]
    ranked = position.by_difference()
    rest, total = sum(p.difference for p in ranked[4:]), position.target.total - position.against.total
    same(lengths(ax), [*(p.difference for p in ranked[:4]), rest, total])
    assert labels(ax.yaxis) == [*(p.name for p in ranked[:4]), "3 more parts", "sum of all"]
    assert texts(ax)[0] == "+0.580"


def test_an_attribution_of_several_positions_is_shown_in_colours(ax):
    result = attribute(init(seed=42), "emma")
    plot_attribution(result, ax=ax)
    same(image(ax), np.array([[p.difference for p in each.parts] for each in result.positions]).T)
    assert ax.get_title("left") == "what each part adds to logit(target) − logit(against)"


def test_a_map_of_patching_shows_what_each_site_restores(ax):
    result = patch(init(seed=42), "emma", "emmy", target="a", against="y")
    plot_patch(result, ax=ax)
    same(image(ax).ravel(), [cell.restored for cell in result.cells])
    assert labels(ax.xaxis)[-1] == "4: a / y"
    assert ax.get_title("left").startswith("share of the logit difference restored\nembed.norm, layer0")


@pytest.mark.parametrize(
    ("values", "bar"),
    [([0, 0.5], (0, 1)), ([-0.5, 0], (-1, 0)), ([-0.03, 1.2], (-0.03, 1.2)), ([-3, math.nan, 2], (-3, 2))],
)
def test_a_signed_scale_has_a_bar_of_the_values_that_are_shown(ax, values, bar):
    """0 is exactly white, and values of the same magnitude are equally far from white."""
    values = np.array([values])
    scale = signed_scale(values, "", least=1.0)
    image = draw_heat(Panel(ax), values, scale)
    add_bar(Panel(ax), [image], scale, values)
    assert image.colorbar.ax.get_ylim() == bar
    assert image.to_rgba(0.0) == (1, 1, 1, 1)
    ends = image.to_rgba(np.array([-1.0, 1.0]) * max(map(abs, bar)), bytes=True)[:, :3]
    assert [tuple(end) for end in ends] == [(10, 63, 134), (128, 48, 9)]


def test_cells_that_were_not_patched_are_hatched_and_not_white(ax):
    sites = ["layer0.attn.head1", "layer0.attn.head3", "layer1.attn.head1"]
    model = init(Config(n_layer=2), seed=42)
    plot_patch(patch(model, "emma", "emmy", target="a", against="y", sites=sites), ax=ax)
    assert np.isnan(image(ax)).tolist() == [[False, False], [False, True]]
    assert ax.patch.get_hatch()
    assert ax.get_title("left").startswith("share of the logit difference restored, hatched: not patched")


def test_each_kind_of_site_has_a_map_and_parts_of_events_are_bars(ax):
    sites = ["*.attn.head*", "embed.tok@2:5", "*.mlp.residual"]
    result = patch(init(seed=42), "emma", "emmy", target="a", against="y", sites=sites)
    heads, stream, parts = plot_patch(result, ax=ax).child_axes
    same(image(heads).ravel(), [c.restored for c in result.cells if c.head is not None])
    assert texts(heads) == ["−0.01", "0.00", "0.01", "0.00"]
    same(image(stream).ravel(), [c.restored for c in result.cells if c.position is not None])
    same(lengths(parts), [c.restored for c in result.cells if c.site.startswith("embed")])


def test_the_mean_of_several_pairs_is_plotted(ax, results):
    result = patch_pairs(init(seed=42), read_pairs(results / "pairs.txt"))
    plot_patch(result, ax=ax)
    same(image(ax).ravel(), [cell.mean for cell in result.cells])
    assert labels(ax.xaxis) == ["0: BOS", "1", "2", "3", "4: a / y"]
    assert ax.get_title("left").startswith("share of the logit difference restored, mean of 2 pairs\n")


def test_terms_of_a_sum_are_bars_named_by_factors_and_function(ax):
    explanation = explain(init(seed=42), "layer0.attn.q[3,5]", "emma", terms=4)
    plot_explanation(explanation, ax=ax)
    (step,) = explanation.steps
    same(lengths(ax), [*(term.value for term in step.terms), step.rest, step.value])
    assert labels(ax.yaxis)[-2:] == ["12 more", "sum of 16"]
    assert labels(ax.yaxis)[0].startswith("attn.norm[3,")
    ax.clear()
    plot_explanation(explain(init(seed=42), "probs[1,a]", "emma"), ax=ax)
    assert labels(ax.yaxis)[0] == "exp(logits[1,24]) x"


@pytest.mark.parametrize("element", ["layer0.attn.scores[0,3,1]", "probs[1,a]", "layer0.attn.norm[3,4]",
                                     "layer0.attn.weights[0,3,1]"])  # fmt: skip
def test_the_title_leads_from_the_longest_sum_to_the_element(ax, element):
    """A score is an eighth or a half of the sum of products. The title has the factor and both numbers."""
    explanation = explain(init(seed=42), element, "emma")
    plot_explanation(explanation, ax=ax)
    first, *then = ax.get_title("left").replace("\u2212", "-").split("\n")
    longest = max(explanation.steps, key=lambda step: step.count)
    assert first.startswith(f"{explanation.element} = ")
    (last,) = [line for line in then if line.startswith(f"{explanation.element} = ")]
    assert float(last.rpartition(" = ")[2]) == pytest.approx(explanation.value, rel=1e-5)
    lengths_of_bars = lengths(ax)
    assert lengths_of_bars[-1] == pytest.approx(longest.value)
    if "scores" in element:
        assert then == [last]
        factor = last.split(" = ")[2].split(" × ")
        assert [float(number) for number in factor] == pytest.approx([lengths_of_bars[-1], 0.5], rel=1e-5)


def test_a_comparison_has_a_point_for_each_event(ax):
    result = diff(init(seed=1), init(seed=2), "emma")
    plot_diff(result, ax=ax)
    points = dict(p for line in ax.lines if line.get_marker() == "X" for p in line.get_xydata())
    same(list(points.values()), [event.relative for event in result.events if not event.holds])
    band = next(line for line in ax.lines if line.get_label() == "allowed")
    same(band.get_ydata(), [event.tolerance for event in result.events])
    assert "first: embed.tok" in [line.get_label() for line in ax.lines]


def test_events_without_a_difference_are_plotted_at_the_bottom(ax):
    plot_diff(diff(init(), init(), "emma"), ax=ax)
    zeros = next(line for line in ax.lines if line.get_marker() == "v")
    assert (zeros.get_label(), len(zeros.get_xdata())) == ("0, no difference", 25)
    assert ax.get_title("left") == "25 events compared, all within their bands"


def test_events_that_are_not_finite_on_one_side_are_plotted_at_the_top(ax):
    model = init()
    with model.hooks.subscribe(lambda event, value: value * np.nan, "layer0.mlp.up"):
        result = diff(init(), model, "emma")
        plot_diff(result, ax=ax)
    odd = next(line for line in ax.lines if line.get_marker() == "^")
    assert odd.get_label() == "NaN, infinite"
    assert len(odd.get_xdata()) == sum(event.relative == math.inf for event in result.events)


def test_a_diagnosis_marks_the_first_wrong_operation_and_its_remaining_error(ax, results):
    diagnosis = diagnose(results / "port", results / "qwen2")
    plot_diagnosis(diagnosis, ax=ax)
    diagnosis = diagnosis.diagnosis
    wrong = [o.error for o in diagnosis.operations if not o.holds]
    beyond = next(line for line in ax.lines if line.get_marker() == "X")
    same(beyond.get_ydata(), wrong)
    left = next(line for line in ax.lines if line.get_marker() == "D")
    same(left.get_ydata(), [diagnosis.findings[0].residual])
    assert ax.get_title("left").split() == diagnosis.findings[0].claim.split()
    assert f"first: {diagnosis.first_wrong}" in [line.get_label() for line in ax.lines]


def test_a_timeline_has_a_curve_for_each_position_and_the_loss(log, ax):
    """A missing value leaves a gap."""
    first = replace(log.positions[0], p=(None, *log.positions[0].p[1:]))
    log = replace(log, positions=(first, *log.positions[1:]))
    above, below = plot_timeline(log, ax=ax).child_axes
    for line, position in zip(above.lines, log.positions, strict=True):
        same(line.get_ydata(), position.p)
        same(line.get_xdata(), log.steps)
    assert math.isnan(above.lines[0].get_ydata()[0])
    same(below.lines[0].get_ydata(), log.loss.loss)
    assert above.get_legend().get_texts()[1].get_text() == "1 e → m"


def refusal(draw):
    with pytest.raises(MicrogptError) as caught:
        draw()
    return str(caught.value)


def test_a_figure_of_missing_values_is_an_error_that_draws_nothing(emma, ann, log, ax):
    without_arrays = replace(ann, arrays={}, lens=())
    many = replace(emma, predictions=emma.predictions * 13)
    assert refusal(lambda: plot_attention(without_arrays, layer=0)).endswith("name it in `values`")
    error = "use --lens, or lens=True, with a production model"
    assert refusal(lambda: plot_lens(without_arrays)).endswith(error)
    error = refusal(lambda: plot_stream(emma, ax=ax))
    assert error.startswith("stream: only a trace of a production model")
    assert not ax.child_axes
    assert ax.axison
    nothing = replace(emma, predictions=())
    assert refusal(lambda: plot_loss(nothing)).startswith("loss: no predicted position")
    assert refusal(lambda: plot_probabilities(nothing)) == "probs: this trace has no predictions"
    assert refusal(lambda: plot_probabilities(many)).startswith("probs of 65 positions: a figure shows at")
    empty = replace(log, positions=(), loss=replace(log.loss, steps=(), loss=()))
    assert refusal(lambda: plot_timeline(empty)).endswith("has neither predictions nor losses to plot")
    stored = explain(init(), "wte[0,0]", "emma")
    assert refusal(lambda: plot_explanation(stored)).endswith("so there is no plot")
    result = attribute(init(), "emma")
    error = refusal(lambda: plot_attribution(result, position=9))
    assert error.endswith("expected one of the positions 0, 1, 2, 3, 4")


def test_a_layer_that_does_not_exist_and_a_head_without_a_layer_are_errors(ann):
    """Layers and heads beyond the last one are tried through `--plot` in tests/cli."""
    error = "attention of layer -1: expected a layer from 0 to 1"
    assert refusal(lambda: plot_attention(ann, -1)) == error
    error = "attention of head 1: expected a layer too, as in layer0.head1"
    assert refusal(lambda: plot_attention(ann, head=1)) == error


def test_too_many_heads_for_one_figure_are_an_error(ann):
    specs = {
        f"layer{i}{spec.name[6:]}": replace(spec, layer=i, name=f"layer{i}{spec.name[6:]}")
        for spec in ann.specs.values()
        if spec.layer == 0
        for i in range(200)
    }
    assert len(weights_of(specs, 3, None)) == 1
    assert refusal(lambda: weights_of(specs, None, None)).endswith("name a layer, such as layer0")


def test_without_axes_a_pyplot_figure_is_created(emma):
    from matplotlib import pyplot

    ax = plot_attention(emma, head=0)
    assert pyplot.gcf() is ax.figure
    pyplot.close(ax.figure)


@pytest.mark.parametrize("scale", [ColorScale(0.0, 1.0, ""), ColorScale(-1.0, 1.0, "", "signed")])
def test_numbers_contrast_with_their_colours_and_colours_get_darker_away_from_zero(ax, scale):
    """Values then differ in print and for readers who see no hues."""
    values = np.linspace(scale.low, scale.high, 61)[None]
    picture = draw_heat(Panel(ax), values, scale)
    write_cells(Panel(ax), values, [["1"] * 61], scale)
    backgrounds = picture.to_rgba(values)[0, :, :3] * 255
    for text, background in zip(ax.texts, backgrounds, strict=True):
        ink = {"white": (255, 255, 255), "black": (0, 0, 0)}[text.get_color()]
        assert contrast(ink, background) >= 4.5
    light = [luminance(colour) for colour in scale.colours(np.linspace(0, 1, 101))[:, :3] * 255]
    from_zero = [light] if scale.low == 0 else [light[50:], light[50::-1]]
    for side in from_zero:
        assert all(a > b for a, b in pairwise(side))
        assert side[0] - side[-1] > 0.6
