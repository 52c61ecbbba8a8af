"""Heat maps: legible on every terminal, and each cell apart from the next."""

import re
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
from rich.ansi import AnsiDecoder
from rich.color import Color, ColorSystem
from rich.style import Style
from support.terminal import contrast, luminance

from microgpt_trace.render.sections import AttentionMatrices, Grid
from microgpt_trace.render.terminal.attention import print_attention
from microgpt_trace.render.terminal.matrices import heat, print_grid
from microgpt_trace.render.terminal.screen import Screen

SHARES = np.linspace(-1.2, 1.2, 241)


def colors(share, system=ColorSystem.TRUECOLOR):
    """Text and ground of a cell, as a terminal of that kind has them."""
    style = Style.parse(heat(share))
    return [color.downgrade(system).get_truecolor() for color in (style.color, style.bgcolor)]


@pytest.mark.parametrize(("system", "least"), [(ColorSystem.TRUECOLOR, 4.5), (ColorSystem.EIGHT_BIT, 3.5)])
def test_the_figures_are_read_whatever_the_terminals_own_colours(system, least):
    for share in SHARES:
        assert contrast(*colors(share, system)) >= least, share


def test_a_colour_is_lighter_the_farther_from_zero():
    """So that a picture without hues, or an eye that does not tell them, has the same order."""
    for sign in (1, -1):
        grounds = [luminance(colors(sign * share)[1]) for share in np.linspace(0, 1, 101)]
        assert all(a <= b for a, b in pairwise(grounds))
    assert colors(1.7) == colors(1.0)
    red, _, blue = colors(0.4)[1]
    assert blue > red
    red, _, blue = colors(-0.4)[1]
    assert red > blue


def painted(paint, system, width=80, **options):
    options |= {"force_terminal": True, "color_system": system, "legacy_windows": False}
    screen = Screen(file=StringIO(), width=width, **options)
    paint(screen)
    return list(AnsiDecoder().decode(screen.file.getvalue()))


def weights(length, seed=0):
    values = np.tril(np.random.default_rng(seed).random((2, length, length)) + 1e-9)
    return values / values.sum(-1, keepdims=True)


def maps(screen):
    print_attention(AttentionMatrices(weights(5), ["BOS", *"emma"], range(2)), screen)
    rows = [("layer 0", [0.0, 0.25, None, float("nan")]), ("layer 1", [1.0, -0.5, 12.5, 0.004])]
    print_grid(Grid([("position", "0123")], range(4), rows), screen)


def grounds(line):
    """What a line has for the ground of each character."""
    return [line.get_style_at_offset(CONSOLE, i).bgcolor for i in range(len(line.plain))]


CONSOLE = Screen(file=StringIO(), force_terminal=True, color_system="truecolor")


@pytest.mark.parametrize("system", ["truecolor", "256"])
def test_on_a_ground_stands_a_text_of_our_own_and_next_to_it_none(system):
    seen = 0
    for line in painted(maps, system):
        assert not set(line.plain) & set("░▒▓█")
        for start, stop in ((m.start(), m.end()) for m in re.finditer(r"\S+", line.plain)):
            styles = [line.get_style_at_offset(CONSOLE, i) for i in range(start, stop)]
            for style in styles:
                assert (style.bgcolor is None) or isinstance(style.color, Color)
            assert len({style.bgcolor for style in styles}) == 1, line.plain
            seen += styles[0].bgcolor is not None
        runs = grounds(line)
        for left, right in pairwise(runs):
            assert left == right or None in (left, right), line.plain
    assert seen == 2 * 15 + 6  # of two heads the causal part; not what has no value or is NaN


NO_COLOURS = [(None, {}), ("standard", {}), ("truecolor", {"no_color": True})]


@pytest.mark.parametrize(("system", "options"), NO_COLOURS)
def test_without_colours_of_our_choice_a_shade_stands_before_its_own_figure(system, options):
    text = "\n".join(line.plain for line in painted(maps, system, **options))
    assert not any(any(grounds(line)) for line in painted(maps, system, **options))
    assert re.findall(r"[░▒▓█]+", text)
    assert not re.search(r"[░▒▓█](?![0-9])", text)
    assert re.search(r"^layer 1 +█1\.00 +-0\.50 +█12\.50 +0\.00$", text, re.MULTILINE)


@pytest.mark.parametrize("length", [2, 15, 16, 19, 20, 30, 60])
def test_a_matrix_stays_within_the_screen_and_its_columns_in_line(length):
    labels = ["BOS", *("\\u3000" if i % 7 == 3 else "日" if i % 5 == 2 else "m" for i in range(length - 1))]
    block = AttentionMatrices(weights(length)[:1], labels, [0])
    for width, system in ((40, None), (80, "truecolor")):
        lines = painted(lambda screen: print_attention(block, screen), system, width)
        assert max(line.cell_len for line in lines) <= width
