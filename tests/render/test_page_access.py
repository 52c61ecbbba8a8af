"""Check that every reader can use the page of a trace: axe-core, narrow screens, paper, forced colours,
reduced motion, no scripts; and the size of the page."""

import re
from itertools import pairwise

import numpy as np
import pytest
from support.browser import CONTRAST, axe_finds_nothing, faults, go, needs_browser, show_in, with_modules
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import in_sweep
from support.terminal import contrast, luminance

from microgpt_trace import Intervention, init, load, trace
from microgpt_trace.render.colors import SCALES, color_at

pytestmark = needs_browser

PROMPT = "The capital of France is"
MANY = ",".join(map(str, range(500, 563)))
EMMA = ("trace", "emma", "--step")
LENS = ("trace", SMOLLM2, PROMPT, "--lens", "--top-k", "3")
CHANGED = "text=olivia&off=layer0.attn.head1"
# The words of a command, the address in its page, and the colour scheme.
PLACES = [
    pytest.param(EMMA, f"layer0.attn.scores[1,3,2]&{CHANGED}", "light"),
    pytest.param(LENS, "layer12.mlp.residual", "dark", marks=needs_smollm2),
    in_sweep((EMMA, f"wte[1,2]&{CHANGED}", "dark"), whole=True),
    in_sweep((("trace", "emma", "--backward"), "gradient+layer0.attn.weights[0,3,1]", "light")),
    pytest.param(("trace", SMOLLM2, "--tokens", MANY), "layer17.attn.weights", "light",
                 marks=(needs_smollm2, pytest.mark.sweep, pytest.mark.rest)),
]  # fmt: skip
VIEWS = {"include": [["#views"], ["#explain"], ["#flow"], ["body > header"]]}


@pytest.mark.parametrize(("words", "address", "scheme"), PLACES)
def test_axe_finds_no_fault_and_no_page_is_wider_than_the_screen(page_at, axe, words, address, scheme):
    page, is_small = page_at(*words, address=address), words[1] == "emma"
    for details in page.locator("details.behind:visible").all()[: 2 if words != LENS else 0]:
        details.locator("summary").click()
    widths = (400, 1400) if is_small else (1400,)
    axe_finds_nothing(axe, page, None if is_small else VIEWS, (scheme,), widths)


@pytest.mark.parametrize("width", [1400, 1000, 400])
def test_the_chosen_array_and_its_explanation_are_in_sight(page_at, width):
    page = page_at("trace", "emma")
    page.set_viewport_size({"width": width, "height": 800})
    go(page, "layer0.attn.scores[1,3,2]")
    assert in_sight(page, '[data-array="layer0.attn.scores"] h2', "#explained")
    page.locator('[data-key="flow layer0.mlp.up"]').click()
    assert in_sight(page, '[data-array="layer0.mlp.up"] h2')
    page.locator('[data-key="layer0.mlp.up null"]').click(position={"x": 60, "y": 40})
    assert in_sight(page, "#explained-value", '[data-array="layer0.mlp.up"] h2')


FIRST = {"include": [["#answer"], ["#picture"], ["#cards"]]}


def test_the_first_screen_fits_every_screen_and_its_contrasts_suffice(page_at, axe):
    """The first test checks the other rules of axe-core on the whole page."""
    page = page_at("trace", "emma", address="&off=layer0.attn.head1")
    for width in (400, 700, 1280, 1400, 1920):
        page.set_viewport_size({"width": width, "height": 1000})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for scheme in ("light", "dark") if width in (400, 1400) else ():
            show_in(page, scheme)
            assert faults(axe, page, FIRST, runOnly=[CONTRAST]) == [], (width, scheme)
    show_in(page, "light")


# The texts of the picture that overlap or leave it.
CROWDED = """() => {
  const picture = document.querySelector("#picture svg").getBoundingClientRect();
  const texts = Array.from(document.querySelectorAll("#picture text"));
  const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
  const { left, right, bottom } = picture;
  const leaves = (box) => box.left < left - 0.5 || box.right > right + 0.5 || box.bottom > bottom;
  const size = (a, b, from, to) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
  const meet = (a, b) => size(a, b, "left", "right") > 1 && size(a, b, "top", "bottom") > 4;
  const pairs = boxes.flatMap(([text, a], n) => boxes.slice(n + 1).map((other) => [text, a, ...other]));
  const met = pairs.filter(([, a, , b]) => meet(a, b)).map(([text, , other]) => `${text} | ${other}`);
  return [...boxes.filter(([, box]) => leaves(box)).map(([text]) => text), ...met];
}"""


@pytest.mark.parametrize("text", ["maximillianaaaa", "olivia", in_sweep("mia", whole=True), "abbacife"])
def test_no_texts_of_the_picture_overlap(page_at, checkpoints, text):
    page = page_at("trace", checkpoints["deep" if text == "abbacife" else "trained"], text)
    for width in (400, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 1000})
        for lane in (0, len(text) // 2, len(text)):
            page.locator(f'#answer [data-key="token {lane}"]').click()
            assert page.evaluate(CROWDED) == [], (width, lane)


def in_sight(page, *selectors):
    boxes = [page.locator(selector).bounding_box() for selector in selectors]
    return all(b["y"] >= 0 and b["y"] + b["height"] <= page.viewport_size["height"] for b in boxes)


def test_axe_finds_no_fault_in_the_keyboard_help(page_at, axe):
    page = page_at("trace", "emma")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    assert faults(axe, page, "dialog") == []
    page.keyboard.press("Escape")


# The colours of cells from zero outwards along the scales, each with the colour of the number in it.
NUMBERS_IN_CELLS = """() => [["share", 2], ["signed", 2], ["signed", -2]].map(([kind, end]) => {
  const colors = Array.from({ length: 101 }, (_, n) => M.colors.scaleOf(kind, 2)((end * n) / 100));
  return colors.map((color) => [color, M.colors.inkOn(color) === "#fff" ? [255, 255, 255] : [0, 0, 0]]);
})"""


@pytest.mark.parametrize(("scheme", "sign"), [("light", -1), ("dark", 1)])
def test_numbers_stand_out_from_their_cells_and_colours_leave_the_paper(page_of, page_file, scheme, sign):
    """From zero outwards, colours get darker on light paper, and lighter on dark paper."""
    page = with_modules(page_of(page_file("trace", "emma"), color_scheme=scheme))
    for colors in page.evaluate(NUMBERS_IN_CELLS):
        worst = min(contrast(cell, ink) for cell, ink in colors)
        light = [sign * luminance(cell) for cell, _ in colors]
        print(f"worst contrast {worst:.2f}, from {light[0]:.3f} to {light[-1]:.3f}")
        assert worst >= 4.5
        assert all(a <= b + 1e-3 for a, b in pairwise(light))
        assert light[-1] - light[0] > 0.5


# The colours of the cells of a strip in the chosen lane.
CELLS = """(name) => {
  const strips = Array.from(document.querySelectorAll("#picture .lane.chosen .strip"));
  const strip = strips.find((each) => each.querySelector("title").textContent === name);
  const cells = strip.querySelectorAll("rect:not(.frame)");
  return Array.from(cells, (cell) => getComputedStyle(cell).fill.match(/\\d+/g).map(Number));
}"""
STRIPS = {"layer0.mlp.act": ["layer0.mlp.act"], "embed.pos": ["embed.tok", "embed.pos"]}


def test_cells_of_the_picture_have_the_colours_of_their_numbers_in_both_schemes(page_of, page_file):
    page, run = page_of(page_file("trace", "emma"), "#&position=3"), trace(init(), "emma", values=True)
    for stops in ("light", "dark"):
        page.click("#theme")
        assert page.inner_text("#theme") == f"colours: {stops}"
        for name, family in STRIPS.items():
            end = max(np.abs(run[each]).max() for each in family)
            shares = (float(value / end) for value in run[name][3])
            kind = "share" if "act" in name else "signed"
            places = (share if kind == "share" else (share + 1) / 2 for share in shares)
            expected = [list(color_at(getattr(SCALES[kind], stops), place)) for place in places]
            assert np.abs(np.subtract(page.evaluate(CELLS, name), expected)).max() <= 1, name


PLAIN = ["BOS", "Predictions", "Self-check", "gradients agree with finite differences", "4,192 parameters"]


def test_without_scripts_the_page_shows_its_sections_and_its_paper_is_light(page_of, page_file):
    path, schemes = page_file("trace", "emma"), ("light", "dark")
    page, dark = (page_of(path, color_scheme=scheme, java_script_enabled=False) for scheme in schemes)
    text = page.inner_text("body")
    for words in PLAIN:
        assert words in text, words
    assert page.locator(".token").all_inner_texts() == ["BOS\n0", "e\n1", "m\n2", "m\n3", "a\n4"]
    assert page.locator("button:visible, input:visible").count() == 0
    weights = page.locator("noscript table").first.locator("tbody tr").all_inner_texts()
    assert [row.split() for row in weights][:2] == [["BOS", "100"], ["e", "50", "50"]]
    for empty in ("#live", "#flow", "#explain"):
        assert not page.locator(empty).is_visible(), empty
    assert page.evaluate("document.documentElement.scrollWidth") == 1400
    assert on_paper(page) == on_paper(dark)


def on_paper(page):
    """Return the printed page without its date."""
    return re.sub(rb"D:[0-9+'-]+", b"", page.pdf())


def test_without_scripts_the_page_reports_values_that_are_not_finite(page_of, page_file, checkpoints):
    page = page_of(page_file("trace", checkpoints["broken"], "emma"), java_script_enabled=False)
    assert "Not finite: embed.pos, position 2, element [2, 5] = NaN" in page.inner_text("body")
    assert "NaN" in page.inner_text("main")


def test_values_that_are_not_finite_get_no_colour_and_no_prediction(page_at, checkpoints):
    page = page_at("trace", checkpoints["broken"], "emma", address="layer0.attn.weights")
    assert page.inner_text(".glances").endswith("red: not finite")
    none = "There is no prediction, because the probabilities are not finite."
    assert page.inner_text(".prediction p") == none
    assert page.locator('[data-key="flow logits"]').inner_text().split() == ["logits", "⚠", "–"]


@needs_smollm2
def test_the_flow_marks_a_layer_with_an_anomaly(page_of, page_file):
    page = page_of(page_file("trace", SMOLLM2, PROMPT, "--scale", "layer10.mlp.down=100"))
    marks = page.locator(".flow summary .odd")
    assert marks.count() == 1
    mark = page.locator('[data-layer="10"] summary .odd').get_attribute("title")
    assert mark.startswith("a layer that scales the stream unlike other layers (layer 10: ")


ON_PAPER = ("#tokens", ".picture", "#cards .card", ".sheet table", ".sheet li")
SCREEN_ONLY = (
    "#numbers",
    "#all",
    "#live",
    "#theme",
    "#help",
    "#reading",
    ".copy",
    ".card.write",
    "[data-key=tour]",
)


@pytest.mark.parametrize("name", ["emma", "a" * 15])
def test_a_microgpt_is_printed_on_one_sheet_without_controls(page_of, page_file, name):
    page = page_of(page_file("trace", name), "#layer0.attn.scores[1,1,0]")
    paper = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b[^s]", paper)) == 1
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for shown in ON_PAPER:
        assert page.locator(shown).first.is_visible(), shown
    for hidden in SCREEN_ONLY:
        assert not page.locator(hidden).first.is_visible(), hidden


def test_the_printed_sheet_has_the_chances_of_the_command(page_of, page_file):
    page = page_of(page_file("trace", "emma", "--model", "small"))
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    table = page.locator(".sheet tr").all()
    cells = [[cell.text_content() for cell in row.locator("th, td").all()] for row in table]
    assert cells[0][:6] == ["read", "next", "chance", "rank", "no head 0", "no head 1"]
    parts = [f"layer0.attn.head{head}" for head in range(5)] + ["layer0.mlp.down", "embed.pos"]
    runs = [[], *([Intervention("ablate", part)] for part in parts)]
    columns = [trace(load("small"), "emma", interventions=run).predictions for run in runs]
    for row, predictions in zip(cells[1:], zip(*columns, strict=True), strict=True):
        shown = [float(text) for text in (row[2], *row[4:])]
        print(row, [100 * prediction.target.p for prediction in predictions])
        assert shown == pytest.approx([100 * each.target.p for each in predictions], rel=5e-3)


BOTH = [("trace", "emma"), ("patch", "emma", "emmy", "--target", "m", "--against", "y")]


@pytest.mark.parametrize("words", BOTH)
def test_light_and_dark_pages_print_the_same_and_keep_their_colours(page_of, page_file, words):
    light, dark = (page_of(page_file(*words), color_scheme=scheme) for scheme in ("light", "dark"))
    pictures = "Array.from(document.querySelectorAll('canvas'), (canvas) => canvas.toDataURL())"
    on_screen = dark.evaluate(pictures)
    assert on_screen != light.evaluate(pictures)
    paper = on_paper(light)
    assert on_paper(dark) == paper
    for _ in range(2):
        light.click("#theme")
    assert light.evaluate(pictures) == on_screen
    assert on_paper(light) == paper
    assert dark.evaluate(pictures) == light.evaluate(pictures) == on_screen


@pytest.mark.parametrize("words", BOTH)
def test_a_page_makes_its_views_before_it_has_loaded(page_of, page_file, words):
    """`chromium --print-to-pdf` prints a page as soon as it has loaded."""
    page = page_of(page_file(*words))
    page.add_init_script(
        "addEventListener('load', () => { globalThis.atLoad = document.body.dataset.ready; })"
    )
    page.reload()
    assert page.evaluate("atLoad") == "yes"
    assert page.locator("iframe").count() == 0


def test_the_page_respects_reduced_motion_and_forced_colours(page_of, page_file):
    """Forced colours remove backgrounds, so the border marks the chosen token."""
    media = {"reduced_motion": "reduce", "forced_colors": "active"}
    page = page_of(page_file("trace", "emma"), "#layer0.attn.q[1,2]", **media)
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"
    assert page.evaluate("document.getAnimations().length") == 0
    style = "(element) => getComputedStyle(element).borderTopColor"
    chosen, other = (f".token[aria-pressed={pressed}]" for pressed in ("true", "false"))
    assert page.locator(chosen).first.evaluate(style) != page.locator(other).first.evaluate(style)


IN_FULL = ("q_rope", "k_rope", "v", "scores", "weights", "context", "out")


def tokens(count):
    return ("trace", SMOLLM2, "--tokens", ",".join(map(str, range(500, 500 + count))))


# The words of a command, and the largest size of its page in KB.
SIZES = {
    "untrained": (("trace", "emma"), 170),
    "trained": (("trace", "trained", "emma"), 180),
    "the longest name": (("trace", "a" * 15, "--step"), 245),
    "5 tokens": (("trace", SMOLLM2, PROMPT), 2000),
    "all layers": (("trace", SMOLLM2, PROMPT, "--layers", "0-29", "--html-budget", "2.5"), 2500),
    "63 tokens": (tokens(63), 2000),
    "256 tokens": (tokens(256), 2000),
}
CASES = [
    *("untrained", "trained", "the longest name"),
    *(pytest.param(name, marks=needs_smollm2) for name in ("5 tokens", "63 tokens", "all layers")),
    pytest.param("256 tokens", marks=(needs_smollm2, pytest.mark.sweep)),
]


@pytest.mark.parametrize("name", CASES)
def test_a_page_keeps_its_size_limit_and_becomes_ready(page_at, page_file, checkpoints, name):
    words, most = SIZES[name]
    words = (words[0], *(checkpoints.get(word, word) for word in words[1:]))
    size = page_file(*words).stat().st_size / 1000
    print(f"{name}: {size:.0f} KB")
    assert size <= most
    page, layers = with_modules(page_at(*words)), 30 if words[1] == SMOLLM2 else 1
    assert page.locator(".attention canvas").count() >= 2
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 1000})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    heads = {1: 4, 30: 270}[layers]
    assert page.locator(".glance").get_attribute("aria-label").startswith(f"{heads} heads")
    if name == "all layers":
        names = [f"layer{layer}.attn.{event}" for layer in range(30) for event in IN_FULL]
        names += [f"layer{layer}.mlp.residual" for layer in range(30)]
        exact = "(names) => names.filter((name) => shown.held(name) && !shown.held(name).exact)"
        assert page.evaluate(exact, names) == names
