"""Check that every reader can use the page of a trace: axe-core, narrow screens, paper, forced colours,
reduced motion, no scripts; and the size of the page."""

import re
from itertools import pairwise

import pytest
from support.browser import axe_finds_nothing, faults, go, needs_browser, with_modules
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import in_sweep
from support.terminal import contrast, luminance

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
    in_sweep((EMMA, f"wte[1,2]&{CHANGED}", "dark")),
    in_sweep((("trace", "emma", "--backward"), "gradient+layer0.attn.weights[0,3,1]", "light")),
    pytest.param(("trace", SMOLLM2, "--tokens", MANY), "layer17.attn.weights", "light",
                 marks=(needs_smollm2, pytest.mark.sweep)),
]  # fmt: skip
VIEWS = {"include": [["#views"], ["#explain"], ["#flow"], ["body > header"]]}


@pytest.mark.parametrize(("words", "address", "scheme"), PLACES)
def test_axe_finds_no_fault_and_no_page_is_wider_than_the_screen(page_at, axe, words, address, scheme):
    page, is_small = page_at(*words, address=address), words[1] == "emma"
    for details in page.locator("details.behind:visible").all()[: 2 if words != LENS else 0]:
        details.locator("summary").click()
    axe_finds_nothing(axe, page, None if is_small else VIEWS, scheme, (400, 1400) if is_small else (1400,))


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


def in_sight(page, *selectors):
    boxes = [page.locator(selector).bounding_box() for selector in selectors]
    return all(b["y"] >= 0 and b["y"] + b["height"] <= page.viewport_size["height"] for b in boxes)


def test_axe_finds_no_fault_in_the_keyboard_help(page_at, axe):
    page = page_at("trace", "emma")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    assert faults(axe, page, "dialog") == []
    page.keyboard.press("Escape")


# The colours of cells along both scales, each with the colour of the number in it.
NUMBERS_IN_CELLS = """() => ["share", "signed"].map((kind) => Array.from({ length: 201 }, (_, n) => {
  const color = M.colors.colorOf(kind, kind === "share" ? n / 200 : n / 100 - 1);
  return [color, M.colors.inkOn(color) === "#fff" ? [255, 255, 255] : [0, 0, 0]];
}))"""


def test_numbers_stand_out_from_their_cells_and_colours_grow_lighter(page_at):
    for colors in with_modules(page_at("trace", "emma")).evaluate(NUMBERS_IN_CELLS):
        worst = min(contrast(cell, ink) for cell, ink in colors)
        light = [luminance(cell) for cell, _ in colors]
        print(f"worst contrast {worst:.2f}, from {light[0]:.3f} to {light[-1]:.3f}")
        assert worst >= 4.5
        assert all(a <= b + 1e-3 for a, b in pairwise(light))
        assert light[-1] - light[0] > 0.5


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


ON_PAPER = ("#tokens", ".attention", ".prediction", "#explain .verdict", "#results .card", ".array canvas")
CONTROLS = ("#flow", "#live", "#theme", "#help", "#reading", ".copy", "details.behind")


def test_a_printed_page_has_everything_but_the_controls(page_of, page_file):
    page = page_of(page_file("trace", "emma"), "#layer0.attn.scores[1,3,2]")
    page.emulate_media(media="print")
    for shown in ON_PAPER:
        assert page.locator(shown).first.is_visible(), shown
    for hidden in CONTROLS:
        assert not page.locator(hidden).first.is_visible(), hidden
    assert page.evaluate("getComputedStyle(document.querySelector('#explain')).maxHeight") == "none"


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
    "the longest name": (("trace", "a" * 15, "--step"), 250),
    "5 tokens": (("trace", SMOLLM2, PROMPT), 2000),
    "all layers": (("trace", SMOLLM2, PROMPT, "--layers", "0-29", "--html-budget", "2.5"), 2500),
    "63 tokens": (tokens(63), 2000),
    "256 tokens": (tokens(256), 2000),
}
CASES = [
    "the longest name",
    *(pytest.param(name, marks=needs_smollm2) for name in ("5 tokens", "63 tokens", "all layers")),
    pytest.param("256 tokens", marks=(needs_smollm2, pytest.mark.sweep)),
]


@pytest.mark.parametrize("name", CASES)
def test_a_page_keeps_its_size_limit_and_becomes_ready(page_at, page_file, name):
    words, most = SIZES[name]
    size = page_file(*words).stat().st_size / 1000
    print(f"{name}: {size:.0f} KB")
    assert size <= most
    page, layers = with_modules(page_at(*words)), 30 if words[1] == SMOLLM2 else 1
    assert page.locator(".attention canvas").count() >= 2
    heads = {1: 4, 30: 270}[layers]
    assert page.locator(".glance").get_attribute("aria-label").startswith(f"{heads} heads")
    if name == "all layers":
        names = [f"layer{layer}.attn.{event}" for layer in range(30) for event in IN_FULL]
        names += [f"layer{layer}.mlp.residual" for layer in range(30)]
        exact = "(names) => names.filter((name) => shown.held(name) && !shown.held(name).exact)"
        assert page.evaluate(exact, names) == names
