"""Attention matrices on a terminal: which heads are shown, that they fit the screen, that numbers are the
weights; and heat maps that are legible on every terminal."""

import re
from io import StringIO
from itertools import pairwise, product

import numpy as np
import pytest
from rich.ansi import AnsiDecoder
from rich.cells import cell_len
from rich.color import Color, ColorSystem
from rich.style import Style
from safetensors.numpy import load_file
from support.commands import microgpt
from support.terminal import contrast, luminance, rendered

from microgpt_trace import Config, init, load, save, trace
from microgpt_trace.render.sections import AttentionMatrices, Grid, Section
from microgpt_trace.render.terminal.attention_printing import print_attention
from microgpt_trace.render.terminal.matrices import heat, print_grid
from microgpt_trace.render.terminal.screen import Screen
from microgpt_trace.render.trace.whole_trace import trace_sections

HEAD = re.compile(r"head (\d+)")
CUT = re.compile(r"(?:queries|keys); (--.*?) (?:prints a whole head|saves all weights)")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A microGPT of many heads in several layers."""
    path = tmp_path_factory.mktemp("many") / "m.safetensors"
    save(init(Config(n_embd=24, n_head=12, n_layer=3, block_size=80), seed=3), path)
    return path


def block(heads, length, seed=0, **options):
    weights = np.tril(np.random.default_rng(seed).random((heads, length, length)) + 1e-9)
    weights /= weights.sum(-1, keepdims=True)
    return AttentionMatrices(weights, ["BOS", *"abcdefghijklmnopqrst" * 4][:length], range(heads), **options)


def lines_of(matrices, width=80):
    return rendered([Section([matrices])], width).splitlines()


def shown_heads(text):
    return [int(number) for number in HEAD.findall(text.partition(" heads are shown")[0])]


def softmax_of_scores(model, text):
    """Compute the attention weights in float64 from q and k, for each head."""
    run = trace(model, text)
    q, k = (run[f"layer0.attn.{n}"].astype(float).reshape(len(text) + 1, 4, 4) for n in "qk")
    weights = []
    for head in range(4):
        e = np.tril(np.exp(q[:, head] @ k[:, head].T / 2))
        weights.append(e / e.sum(1, keepdims=True))
    return np.array(weights)


@pytest.mark.parametrize(("options", "width"), [("", 80), ("-v", 120), ("--layer layer0.attn.weights", 80)])
def test_a_trace_shows_the_weights_of_every_head_in_percent(options, width):
    out = microgpt(f"trace emma {options}", width=width).out
    start = out.index("Attention weights in percent, row = query, column = key")
    shown = out[start : out.index("\n\nStage 3" if "Stage 3" in out else "\n\nPredictions")]
    print(shown)
    assert shown_heads(shown) == [0, 1, 2, 3]
    beside, expected = (4 if width == 120 else 2), softmax_of_scores(init(), "emma")
    rows = [line.split()[1:] for line in shown.splitlines() if re.match(r"(BOS|[ema]) ", line)]
    assert len(rows) == 5 * 4 // beside
    for number, row in enumerate(rows):
        group, query = divmod(number, 5)
        percents = [int(figure.strip("░▒▓█")) for figure in row]
        weights = expected[group * beside : (group + 1) * beside, query, : query + 1]
        assert np.abs(np.array(percents) - 100 * weights.ravel()).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("length", [1, 2, 8, 17, 40, 64])
def test_the_heads_fit_a_screen(length):
    more = "the heads with the largest weight after position 0; --show 'layer10.attn.weights[12]' prints more"
    rest = {"in_figures": "; --show 'layer10.attn.weights[12]' prints a whole head"}
    for heads, sharing in product([1, 9, 32], [1, 2, 30]):
        lines = lines_of(block(heads, length, more=more, sharing=sharing, **rest))
        text = "\n".join(lines)
        assert len(lines) <= max(24 // sharing, 5 + min(length + 2, 20) if sharing > 1 else 0)
        assert max(map(cell_len, lines)) <= 80
        shown = shown_heads(text)
        assert shown == list(range(len(shown)))
        assert len(shown) == heads or f"{len(shown)} of {heads} heads are shown, {more[:30]}" in text
        assert len(shown) >= min(heads, 3) or length > 30
        assert ("in percent" in text) == ("(from 4%" not in text)


def test_a_very_narrow_screen_shows_heads():
    for width, sharing in product([1, 3, 9], [None, 1]):
        assert "".join(lines_of(block(4, 5, sharing=sharing), width))


@pytest.mark.parametrize(("heads", "length", "width"), [(4, 16, 40), (12, 5, 80), (9, 21, 80), (3, 70, 40)])
def test_without_sharing_all_heads_are_shown(heads, length, width):
    lines, margin = lines_of(block(heads, length), width), len("BOS ")
    assert shown_heads("\n".join(lines)) == list(range(heads))
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if re.match(r"(BOS|[a-t]) ", line)]
    assert len(rows) % length == 0
    assert any("the first " in line for line in lines) == (margin + length > width)


def test_the_first_heads_in_order_and_the_last_queries_are_shown_if_not_all_fit():
    matrices = block(32, 8, sharing=30)._replace(order=[30, 7, 9, 8, *range(7)])
    shown = shown_heads("\n".join(lines_of(matrices)))
    assert 30 in shown
    assert set(shown) <= {30, 7, 9, 8}
    lines = lines_of(block(2, 40, sharing=1))
    assert lines[-1] == "the last 18 of 40 queries"
    assert len([line for line in lines if re.match(r"[a-t] ", line)]) == 18


@pytest.mark.parametrize(
    ("length", "width", "options"), [(23, 80, ""), (23, 40, "-v"), (63, 40, ""), (63, 80, "-v")]
)
def test_a_note_names_a_command_for_what_was_cut(many, tmp_path, monkeypatch, length, width, options):
    monkeypatch.chdir(tmp_path)
    line = f"trace {('abcdefghijklmnopqrstuvw' * 3)[:length]} --model {many}"
    out = " ".join(microgpt(f"{line} {options}", width=width).out.split())
    cut = CUT.findall(out)
    print(out[-200:], cut)
    assert len(cut) == (0 if options and width > length else 3)
    run = trace(load(many), line.split()[1])
    for number, how in enumerate(cut):
        weights = run[f"layer{number}.attn.weights"]
        if how.startswith("--show"):
            head = int(re.search(r"\[(\d+)\]'", how)[1])
            shown = microgpt(f"{line} {how}", width=width).out.split("\n\n")[1]
            figures = list(map(float, re.findall(r" (\d\.\d{3}|\de-\d\d)\b", shown)))
            np.testing.assert_allclose(np.sort(figures), np.sort(weights[head].ravel()), atol=6e-4)
        else:
            assert width < 8 * length
            microgpt(f"{line} {how.replace('FILE', f'{number}.safetensors')}")
            np.testing.assert_array_equal(load_file(f"{number}.safetensors").popitem()[1], weights)


def test_heads_are_chosen_by_their_largest_weight_off_position_0(many):
    out = microgpt(f"trace abcdefgh --model {many}").out
    run = trace(load(many), "abcdefgh")
    for layer in range(3):
        _, _, rest = out.partition(f"Layer {layer}\n")
        shown = rest[rest.index("Attention weights") : rest.index("Stage 3")]
        heads = shown_heads(shown)
        largest = [max(head[query, key] for query in range(9) for key in range(1, 9))
                   for head in run[f"layer{layer}.attn.weights"]]  # fmt: skip
        print(heads, np.round(largest, 3))
        best = sorted(range(12), key=lambda head: -largest[head])
        assert 0 < len(heads) < 12
        assert sorted(best[: len(heads)]) == heads
        note = " ".join(shown[shown.index(" heads are shown") :].split())
        commands = f"--show 'layer{layer}.attn.weights[{best[-1]}]' prints another head, --verbose prints all"
        assert note == f"heads are shown, the heads with the largest weight after position 0; {commands}"
    verbose = microgpt(f"trace abcdefgh -v --model {many}").out
    assert shown_heads(verbose) == list(range(12)) * 3
    assert "prints another" not in verbose


@pytest.mark.parametrize("options", ["", "-v"])
def test_a_note_replaces_the_weights_of_a_text_that_is_too_long(many, options):
    out = microgpt(f"trace {'abcd' * 16} --model {many} {options}").out
    assert not HEAD.search(out)
    note = (
        "The attention weights of 65 tokens do not fit here; --show 'layer2.attn.weights[0]' prints one head."
    )
    assert note in " ".join(out.split())


def test_a_production_model_shows_attention_weights_only_with_its_events(decoder_folder):
    model = decoder_folder("qwen3")
    assert "Attention weights" not in microgpt(f"trace {model} 'Ann ran'").out
    for options in ("-v", "--layer '*.weights'", "-v --generate 3"):
        out = microgpt(f"trace {model} 'Ann ran' {options}").out
        assert out.count("row = query") == 2, options  # and none of a continuation's steps
    assert "Attention weights" not in microgpt(f"trace {model} 'Ann ran' --layer '*.attn.q'").out


def test_a_larger_weight_never_has_a_lighter_shade():
    order = " ░▒▓█"
    matrices = block(1, 40)
    values = np.linspace(1e-6, 1, 40)
    matrices.weights[0, -1] = values
    (row,) = lines_of(matrices)[-1:]
    shades = [order.index(shade) for shade in row[-40:]]
    assert shades == sorted(shades)
    assert [sum(value >= step for step in (0.04, 0.16, 0.36, 0.64)) for value in values] == shades


def test_a_weight_that_is_not_finite_is_marked_and_a_negative_one_is_printed():
    for length, mark in ((3, "NaN"), (40, "?")):
        matrices = block(2, length)
        matrices.weights[1, -1, 1] = np.nan
        assert lines_of(matrices)[-1].count(mark) == 1
    matrices.weights[1, -1, 1] = -0.5
    assert len(lines_of(matrices)) > 40


def test_a_head_with_nan_is_shown(many):
    def set_nan(event, value):
        value = value.copy()
        value[5, 3, 2] = np.nan
        return value

    model = load(many)
    with model.hooks.subscribe(set_nan, "layer1.attn.weights"):
        shown = rendered(trace_sections(trace(model, "abcdefghijklmnop")))
    assert 5 in shown_heads(shown.split("Attention weights")[2])


def test_labels_are_printed_above_their_columns():
    lines = lines_of(block(1, 5))
    assert [cell_len(a) - cell_len(b) for a, b in pairwise(lines[2:4] + lines[-1:])][1] <= 0
    assert lines[2].split() == ["BOS", *"abcd"]
    assert [line.split()[0] for line in lines[3:]] == ["BOS", *"abcd"]


SHARES = np.linspace(-1.2, 1.2, 241)


def colors(share, system=ColorSystem.TRUECOLOR, kind="signed"):
    """Return the text colour and the background of a cell on a terminal of this colour system."""
    style = Style.parse(heat(share, kind))
    return [color.downgrade(system).get_truecolor() for color in (style.color, style.bgcolor)]


@pytest.mark.parametrize(("system", "least"), [(ColorSystem.TRUECOLOR, 4.5), (ColorSystem.EIGHT_BIT, 3.5)])
def test_numbers_contrast_with_their_background(system, least):
    for share in SHARES:
        assert contrast(*colors(share, system)) >= least, share
        assert contrast(*colors(share, system, "share")) >= least, share


def test_a_colour_is_lighter_the_farther_from_zero():
    """The order stays visible without hues, as in print or for a colour-blind reader."""
    for sign, kind in ((1, "signed"), (-1, "signed"), (1, "share")):
        shares = sign * np.linspace(0, 1, 101)
        grounds = [luminance(colors(share, kind=kind)[1]) for share in shares]
        assert all(a <= b + 1e-3 for a, b in pairwise(grounds))  # channels are whole numbers
        assert grounds[-1] - grounds[0] > 0.5
    assert colors(1.7) == colors(1.0)
    red, _, blue = colors(0.4)[1]
    assert red > blue
    red, _, blue = colors(-0.4)[1]
    assert blue > red


def painted(paint, system, width=80, **options):
    options |= {"force_terminal": True, "color_system": system, "legacy_windows": False}
    screen = Screen(file=StringIO(), width=width, **options)
    paint(screen)
    return list(AnsiDecoder().decode(screen.file.getvalue()))


def maps(screen):
    print_attention(block(2, 5), screen)
    rows = [("layer 0", [0.0, 0.25, None, float("nan")]), ("layer 1", [1.0, -0.5, 12.5, 0.004])]
    print_grid(Grid([("position", "0123")], range(4), rows), screen)


def grounds(line):
    """Return the background of each character of a line."""
    return [line.get_style_at_offset(CONSOLE, i).bgcolor for i in range(len(line.plain))]


CONSOLE = Screen(file=StringIO(), force_terminal=True, color_system="truecolor")


@pytest.mark.parametrize("system", ["truecolor", "256"])
def test_a_coloured_cell_sets_the_text_colour_and_does_not_touch_the_next_cell(system):
    coloured = 0
    for line in painted(maps, system):
        assert not set(line.plain) & set("░▒▓█")
        for start, stop in ((m.start(), m.end()) for m in re.finditer(r"\S+", line.plain)):
            styles = [line.get_style_at_offset(CONSOLE, i) for i in range(start, stop)]
            for style in styles:
                assert (style.bgcolor is None) or isinstance(style.color, Color)
            assert len({style.bgcolor for style in styles}) == 1, line.plain
            coloured += styles[0].bgcolor is not None
        runs = grounds(line)
        for left, right in pairwise(runs):
            assert left == right or None in (left, right), line.plain
    assert coloured == 2 * 15 + 6  # the causal part of two heads, and the finite values of the grid


NO_COLOURS = [(None, {}), ("standard", {}), ("truecolor", {"no_color": True})]


@pytest.mark.parametrize(("system", "options"), NO_COLOURS)
def test_without_256_colours_a_shade_precedes_each_number(system, options):
    text = "\n".join(line.plain for line in painted(maps, system, **options))
    assert not any(any(grounds(line)) for line in painted(maps, system, **options))
    assert re.findall(r"[░▒▓█]+", text)
    assert not re.search(r"[░▒▓█](?![0-9])", text)
    assert re.search(r"^layer 1 +█1\.00 +-0\.50 +█12\.50 +0\.00$", text, re.MULTILINE)


@pytest.mark.parametrize("length", [2, 15, 16, 19, 20, 30, 60])
def test_a_matrix_fits_the_width_of_the_screen(length):
    labels = ["BOS", *("\\u3000" if i % 7 == 3 else "日" if i % 5 == 2 else "m" for i in range(length - 1))]
    matrices = block(1, length)._replace(labels=labels)
    for width, system in ((40, None), (80, "truecolor")):
        lines = painted(lambda screen: print_attention(matrices, screen), system, width)
        assert max(line.cell_len for line in lines) <= width
