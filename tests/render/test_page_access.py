"""A trace's page for every reader: by axe-core, narrow, printed, without colours, motion or scripts; and how
large it is."""

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
# The words of a command, where its page is opened, and in which colours it is judged.
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
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(page_at, axe, words, address, scheme):
    page, is_small = page_at(*words, address=address), words[1] == "emma"
    for details in page.locator("details.behind:visible").all()[: 2 if words != LENS else 0]:
        details.locator("summary").click()
    axe_finds_nothing(axe, page, None if is_small else VIEWS, scheme, (400, 1400) if is_small else (1400,))


@pytest.mark.parametrize("width", [1400, 1000, 400])
def test_what_is_chosen_and_its_explanation_are_in_sight(page_at, width):
    page = page_at("trace", "emma")
    page.set_viewport_size({"width": width, "height": 800})
    go(page, "layer0.attn.scores[1,3,2]")
    assert in_sight(page, '[data-array="layer0.attn.scores"] h2')
    assert in_sight(page, "#explained")
    page.locator('[data-key="flow layer0.mlp.up"]').click()
    assert in_sight(page, '[data-array="layer0.mlp.up"] h2')
    page.locator('[data-key="layer0.mlp.up null"]').click(position={"x": 60, "y": 40})
    assert in_sight(page, "#explained-value")
    assert in_sight(page, '[data-array="layer0.mlp.up"] h2')


def in_sight(page, selector):
    box = page.locator(selector).bounding_box()
    return box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"]


def test_axe_finds_nothing_in_the_list_of_keys(page_at, axe):
    page = page_at("trace", "emma")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    assert faults(axe, page, "dialog") == []
    page.keyboard.press("Escape")


# Of every cell that has a number in it: its colour, and that of the number, which is the least like it.
NUMBERS_IN_CELLS = """() => ["share", "signed"].map((kind) => Array.from({ length: 201 }, (_, n) => {
  const color = M.colors.colorOf(kind, kind === "share" ? n / 200 : n / 100 - 1);
  return [color, M.colors.inkOn(color) === "#fff" ? [255, 255, 255] : [0, 0, 0]];
}))"""


def test_numbers_stand_out_from_their_cells_and_colours_grow_lighter_all_the_way(page_at):
    for colors in with_modules(page_at("trace", "emma")).evaluate(NUMBERS_IN_CELLS):
        worst = min(contrast(own, ink) for own, ink in colors)
        light = [luminance(own) for own, _ in colors]
        print(f"worst contrast {worst:.2f}, from {light[0]:.3f} to {light[-1]:.3f}")
        assert worst >= 4.5
        assert all(a <= b + 1e-3 for a, b in pairwise(light))
        assert light[-1] - light[0] > 0.5


SAID = ["BOS", "Predictions", "Self-check", "gradients agree with finite differences", "4,192 parameters"]


def test_without_scripts_the_page_says_what_it_can_and_its_paper_is_light(page_of, page_file):
    path = page_file("trace", "emma")
    page, dark = (page_of(path, color_scheme=own, java_script_enabled=False) for own in ("light", "dark"))
    text = page.inner_text("body")
    for words in SAID:
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
    """What a printer gets, but for the date."""
    return re.sub(rb"D:[0-9+'-]+", b"", page.pdf())


def test_without_scripts_what_is_not_finite_is_told(page_of, page_file, checkpoints):
    page = page_of(page_file("trace", checkpoints["broken"], "emma"), java_script_enabled=False)
    assert "Not finite: embed.pos, position 2, element [2, 5] = NaN" in page.inner_text("body")
    assert "NaN" in page.inner_text("main")


def test_what_is_not_finite_is_neither_a_colour_nor_a_prediction(page_at, checkpoints):
    page = page_at("trace", checkpoints["broken"], "emma", address="layer0.attn.weights")
    assert page.inner_text(".glances").endswith("red: not finite")
    assert page.inner_text(".prediction p") == "Nothing is predicted: the probabilities are not finite."
    assert page.locator('[data-key="flow logits"]').inner_text().split() == ["logits", "⚠", "–"]


@needs_smollm2
def test_what_is_odd_is_marked_in_the_flow(page_of, page_file):
    page = page_of(page_file("trace", SMOLLM2, PROMPT, "--scale", "layer10.mlp.down=100"))
    marks = page.locator(".flow summary .odd")
    assert marks.count() == 1
    mark = page.locator('[data-layer="10"] summary .odd').get_attribute("title")
    assert mark.startswith("a layer that scales the stream unlike the others (layer 10: ")


ON_PAPER = ("#tokens", ".attention", ".prediction", "#explain .verdict", "#said .card", ".array canvas")
PRESSED = ("#flow", "#live", "#theme", "#help", "#reading", ".copy", "details.behind")


def test_on_paper_all_is_there_but_what_one_presses(page_of, page_file):
    page = page_of(page_file("trace", "emma"), "#layer0.attn.scores[1,3,2]")
    page.emulate_media(media="print")
    for shown in ON_PAPER:
        assert page.locator(shown).first.is_visible(), shown
    for hidden in PRESSED:
        assert not page.locator(hidden).first.is_visible(), hidden
    assert page.evaluate("getComputedStyle(document.querySelector('#explain')).maxHeight") == "none"


BOTH = [("trace", "emma"), ("patch", "emma", "emmy", "--target", "m", "--against", "y")]


@pytest.mark.parametrize("words", BOTH)
def test_paper_is_the_same_of_light_and_dark_screens_which_stay_as_they_are(page_of, page_file, words):
    light, dark = (page_of(page_file(*words), color_scheme=own) for own in ("light", "dark"))
    pictures = "Array.from(document.querySelectorAll('canvas'), (own) => own.toDataURL())"
    seen = dark.evaluate(pictures)
    assert seen != light.evaluate(pictures)
    paper = on_paper(light)
    assert on_paper(dark) == paper
    for _ in range(2):
        light.click("#theme")
    assert light.evaluate(pictures) == seen
    assert on_paper(light) == paper
    assert dark.evaluate(pictures) == light.evaluate(pictures) == seen


@pytest.mark.parametrize("words", BOTH)
def test_a_page_has_loaded_when_its_views_are_there(page_of, page_file, words):
    """For `chromium --print-to-pdf` prints a page as soon as it has loaded."""
    page = page_of(page_file(*words))
    page.add_init_script(
        "addEventListener('load', () => { globalThis.atLoad = document.body.dataset.ready; })"
    )
    page.reload()
    assert page.evaluate("atLoad") == "yes"
    assert page.locator("iframe").count() == 0


def test_what_the_system_asks_for_is_heeded(page_of, page_file):
    """Nothing moves for who wants no motion. Where forced colours leave no background, the border or the text
    says what is chosen."""
    wanted = {"reduced_motion": "reduce", "forced_colors": "active"}
    page = page_of(page_file("trace", "emma"), "#layer0.attn.q[1,2]", **wanted)
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"
    assert page.evaluate("document.getAnimations().length") == 0
    style = "(element) => getComputedStyle(element).borderTopColor"
    chosen, other = (f".token[aria-pressed={own}]" for own in ("true", "false"))
    assert page.locator(chosen).first.evaluate(style) != page.locator(other).first.evaluate(style)


WHOLE = ("q_rope", "k_rope", "v", "scores", "weights", "context", "out")


def tokens(count):
    return ("trace", SMOLLM2, "--tokens", ",".join(map(str, range(500, 500 + count))))


# The words of a command, and how many thousand bytes its page has at the most.
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
def test_a_page_is_as_small_as_is_promised_and_becomes_ready(page_at, page_file, name):
    words, most = SIZES[name]
    size = page_file(*words).stat().st_size / 1000
    print(f"{name}: {size:.0f} KB")
    assert size <= most
    page, layers = with_modules(page_at(*words)), 30 if words[1] == SMOLLM2 else 1
    assert page.locator(".attention canvas").count() >= 2
    heads = {1: 4, 30: 270}[layers]
    assert page.locator(".glance").get_attribute("aria-label").startswith(f"{heads} heads")
    if name == "all layers":
        names = [f"layer{layer}.attn.{own}" for layer in range(30) for own in WHOLE]
        names += [f"layer{layer}.mlp.residual" for layer in range(30)]
        exact = "(names) => names.filter((name) => shown.held(name) && !shown.held(name).exact)"
        assert page.evaluate(exact, names) == names
