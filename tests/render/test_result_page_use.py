"""Use the pages of results in a browser: by keyboard, pointer and address, on a narrow screen, without
motion or scripts, and checked by axe-core."""

import json
import re

import numpy as np
import pytest
from support.browser import axe_finds_nothing, follow, needs_browser
from support.commands import microgpt
from support.page_numbers import exact, is_exact, is_percent
from support.sweeps import in_sweep
from support.tiny_models import TOKENS

pytestmark = needs_browser
IDS = ",".join(map(str, TOKENS))


WORDS = {
    "explain": "explain layer0.attn.scores[1,3,2] emma --backward",
    "explain qwen2": f"explain qwen2 layer1.attn.q[2,3] --tokens {IDS}",
    "attribute": "attribute emma",
    "attribute qwen2": f"attribute qwen2 --tokens {IDS} --target #3",
    "patch": "patch emma emmy --target m --against y",
    "pairs": "patch --pairs pairs.txt",
    "diff": "diff one.safetensors two.safetensors emma",
    "diff port": "diff qwen2 port",
    "diagnose": "diagnose port qwen2 --verbose",
    "timeline": "timeline t.jsonl",
}
PLACES = {
    "attribute": "position-2", "patch": "layer0.mlp.residual@3", "diff": "layer0.attn.weights[2,3,1]",
    "diagnose": "layer1.mlp.up", "timeline": "step=10&position=1",
    "explain": "", "pairs": "", "diff port": "", "explain qwen2": "layer1.attn_wq[3,7]",
    "attribute qwen2": "layer1.attn.head2",
}  # fmt: skip
KINDS = list(PLACES)[:5]
OTHERS = [in_sweep(name, whole="qwen2" in name) for name in list(PLACES)[5:]]


@pytest.fixture(scope="module")
def words(results):
    """Return a function that returns the command of a page by name."""
    files = {path.name: path for path in results.iterdir()}
    return lambda name: [files.get(word, word) for word in WORDS[name].split()]


@pytest.fixture
def shown(page_at, words):
    """Return a function that opens an address in a page by name."""
    return lambda name, address="": page_at(*words(name), address=address)


@pytest.fixture
def document(words):
    """Return a function that returns the JSON document of a page's command by name."""
    return lambda name: json.loads(microgpt(*words(name), "--json").out)


@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_axe_finds_no_fault_and_no_page_is_wider_than_the_screen(shown, axe, name):
    """Half of the pages are light and half are dark, since all pages have the same colours."""
    scheme = ("light", "dark")[list(PLACES).index(name) % 2]
    axe_finds_nothing(axe, shown(name, PLACES[name]), schemes=(scheme,), widths=(400,))


WRONG = ["__proto__", "constructor", "toString[0]", "nothing&part=__proto__"]
WRONG += ["position=-1", "position=0.5", "step=1e400&position=1e400", "step=-1&position=", "%"]


@pytest.mark.parametrize("name", ["attribute", "patch", "diff", "timeline"])
def test_a_wrong_address_still_shows_the_page(page_of, page_file, words, name):
    page = page_of(page_file(*words(name)), f"#{WRONG[0]}")
    for address in WRONG[1:]:
        follow(page, f"#{address}")
        assert page.locator("#reading strong").count() == 0, address


def test_the_page_of_explain_opens_at_its_gradient(page_of, page_file, words):
    page = page_of(page_file(*words("explain")))
    assert page.inner_text("#explained") == "d loss / d layer0.attn.scores[1,3,2]"
    assert page.inner_text(".verdict") == "✓ worked out again"


def test_arrow_keys_move_in_a_map_and_enter_shows_the_command_of_a_cell(shown, document):
    page, cells = shown("patch"), {cell["site"]: cell for cell in document("patch")["cells"]}
    page.focus('[data-key="map 0"]')
    for key in ("ArrowDown", "End", "ArrowLeft"):
        page.keyboard.press(key)
    cell = cells["layer0.mlp.residual@3"]
    live = page.locator('[data-key="map 0"] >> xpath=../output').inner_text()
    print(live, cell)
    assert live.startswith("layer 0, position 3, clean m: ")
    assert float(live.removeprefix("layer 0, position 3, clean m: ").partition(",")[0]) == cell["restored"]
    page.keyboard.press("Enter")
    command = "microgpt patch emma emmy --target m --against y --sites layer0.mlp.residual@3"
    assert page.inner_text("#reading code") == command
    assert page.evaluate("location.hash") == "#layer0.mlp.residual@3"
    assert str(cell["difference"]) in page.inner_text("#reading")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.inner_text("#reading strong") == "layer0.mlp.residual@4"
    page.keyboard.press("Backspace")
    assert page.inner_text("#reading strong") == "layer0.mlp.residual@3"
    page.go_back()
    assert page.inner_text("#reading strong") == "layer0.mlp.residual@3"
    page.keyboard.press("?")
    assert "show the command of the cell" in page.inner_text("#keys")


def test_a_name_of_a_table_leads_to_its_command_and_the_back_button_goes_back(shown):
    page = shown("diagnose")
    link = page.locator("#results a", has_text="layer1.mlp.up").first
    link.click()
    assert page.inner_text("#reading code").endswith("--layer layer1.mlp.up --verbose")
    assert link.get_attribute("aria-current") is not None
    page.go_back()
    assert page.locator("#reading code").count() == 0


def test_the_page_of_a_diff_opens_at_the_first_difference(page_of, page_file, words, document):
    page = page_of(page_file(*words("diff")))
    result = document("diff")
    first = next(event for event in result["events"] if event["name"] == result["first"])
    assert page.inner_text(".sides h3").startswith(result["first"])
    looked, index = page.inner_text(".looked"), ",".join(map(str, first["index"]))
    assert looked.startswith(f"[{index}] at position {first['position']}")
    shown = re.search(r"A (\S+) · B (\S+) · B − A", looked)
    assert [exact(text) for text in shown.groups()] == [np.float32(first[side]) for side in "ab"]
    page.keyboard.press("/")
    page.keyboard.type("attn.wei")
    rows = page.locator(".compared .row:visible")
    assert rows.count() == 1
    rows.first.click()
    assert page.evaluate("location.hash").startswith("#layer0.attn.weights[")
    page.locator("button[data-key='head 3']").click()
    assert page.evaluate("location.hash").startswith("#layer0.attn.weights[3,")
    page.focus('.matrix[data-key="d"]')
    page.keyboard.press("PageDown")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#layer0.attn.weights[3,4,4]"
    assert page.evaluate("document.activeElement.dataset.key") == "d"
    values = dict(zip(("A", "B", "d"), page.inner_text(".looked").split(" · "), strict=True))
    a, b = (float(exact(values[side].rsplit(" ", 1)[1])) for side in "AB")
    assert is_exact(values["d"].rsplit(" ", 1)[1], b - a)


def test_a_slider_moves_through_the_steps(shown, document):
    page = shown("timeline", "step=10")
    assert page.inner_text(".at-step").startswith("step 10 of 20")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("location.hash") == "#step=15"
    page.focus("input[type=range]")
    page.keyboard.press("Home")
    assert page.inner_text(".at-step").startswith("step 0 of 20")
    rows = page.locator(".prediction .bars").first.locator("tr").all_inner_texts()
    print(rows)
    for row, position in zip(rows, document("timeline")["positions"], strict=True):
        _, chance, *_, rank = row.split("\t")
        assert is_percent(chance, position["p"][0])
        assert rank == f"rank {position['rank'][0]}"
    page = shown("timeline", "step=15")
    page.get_by_role("button", name="play the steps").click()
    page.locator(".at-step", has_text="step 20 of 20").wait_for()


def test_with_reduced_motion_there_is_no_play_button(page_of, page_file, words):
    page = page_of(page_file(*words("timeline")), reduced_motion="reduce")
    assert page.get_by_role("button", name="play the steps").count() == 0
    assert page.get_by_role("button", name="next step").is_visible()


def test_tabs_show_one_position_or_all(shown):
    page = shown("attribute")
    cards = page.locator("section.card:visible h2")
    assert "Position 4" in cards.all_inner_texts()[0]
    page.locator("#tabs button").nth(1).click()
    assert "Position 1" in cards.all_inner_texts()[0]
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert "Position 1" in cards.all_inner_texts()[0]
    page.get_by_role("button", name="all").click()
    assert sum("Position" in text for text in cards.all_inner_texts()) == 5


@pytest.mark.parametrize("name", [*KINDS, *OTHERS[1:]])
def test_without_scripts_the_sections_can_be_read(page_of, page_file, words, name):
    page = page_of(page_file(*words(name)), java_script_enabled=False)
    assert page.locator("section.card:visible").count() > 1
    assert not page.locator("#theme").is_visible()
    assert not page.locator("#reading").is_visible()
    if name == "patch":
        assert page.locator("table.grid").is_visible()
    if name == "attribute":
        page.locator("#tabs a").nth(1).click()
        assert page.url.endswith("#position-1")
