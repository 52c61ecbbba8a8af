"""Use the page of a trace by keyboard, browser history and addresses, in a browser."""

import pytest
from support.browser import follow, go, needs_browser
from support.page_numbers import exact
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import in_sweep

from microgpt_trace import init, trace

pytestmark = needs_browser


# The data-key of the focused element, else its id, else its tag and text.
FOCUSED = """() => {
  const { dataset, tagName, id, textContent } = document.activeElement;
  return dataset.key ?? (id || `${tagName} ${textContent.slice(0, 20)}`);
}"""


@pytest.fixture
def page(page_at):
    page = page_at("trace", "emma")
    page.fill("#search", "")
    page.evaluate("document.activeElement.blur()")
    return page


def focused(page):
    return page.evaluate(FOCUSED)


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def tab_stops(page):
    """Press Tab until the focus leaves the page, and return every element that had it."""
    stops = []
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            return stops
        stops.append(focused(page))
    raise AssertionError("the focus never leaves the page")


AT_THE_START = """() => {
  document.body.tabIndex = -1;
  document.body.focus();
  document.body.removeAttribute("tabindex");
}"""


def test_every_matrix_is_one_tab_stop_in_the_order_of_the_page(page):
    go(page, "layer0.attn.scores")
    matrices = page.locator(".matrix").evaluate_all("(all) => all.map((each) => each.dataset.key)")
    assert len(matrices) == 9  # attention, and the scores of four heads with their gradients
    page.evaluate(AT_THE_START)  # after following an address, the browser starts somewhere inside
    stops = tab_stops(page)
    assert [key for key in stops if key in matrices] == matrices
    assert stops.index("text") < stops.index("search") < stops.index("glance") < stops.index(matrices[-1])


MOVES = {
    "ArrowDown": (1, 0), "ArrowRight": (1, 1), "End": (1, 15), "PageDown": (4, 15), "Home": (4, 0),
    "ArrowLeft": (4, 0), "PageUp": (0, 0), "ArrowUp": (0, 0),
}  # fmt: skip


def test_arrow_keys_move_in_a_matrix_and_a_live_region_reads_the_cell(page):
    go(page, "layer0.attn.q")
    array = trace(init(), "emma")["layer0.attn.q"]
    box = page.locator('[data-key="layer0.attn.q null"]')
    live = box.locator("xpath=../output")
    assert live.get_attribute("aria-live") == "polite"
    box.focus()
    for key, at in MOVES.items():
        page.keyboard.press(key)
        name, place = f"layer0.attn.q[{at[0]},{at[1]}]", f"position {at[0]} ("
        number = page.inner_text("#reading").removeprefix(f"{name} = ").partition(" · ")[0]
        assert exact(number) == array[at]
        assert page.inner_text("#reading").startswith(f"{name} = {number} · {place}")
        assert live.inner_text().startswith(f"{name} {number}, {place}")


def test_enter_explains_and_backspace_goes_back_and_the_focus_stays(page):
    go(page, "layer0.attn.q")
    page.locator('[data-key="layer0.attn.q null"]').focus()
    press(page, "ArrowDown", "ArrowRight", "Enter")
    assert (page.inner_text("#explained"), focused(page)) == ("layer0.attn.q[1,1]", "layer0.attn.q null")
    press(page, "ArrowRight", "Enter")
    assert (page.inner_text("#explained"), focused(page)) == ("layer0.attn.q[1,2]", "layer0.attn.q null")
    page.locator("button.link:has-text('norm[1,3]')").press("Enter")
    assert (page.inner_text("#explained"), focused(page)) == ("layer0.attn.norm[1,3]", "explained")
    crumbs = page.locator(".crumbs li").all_inner_texts()
    assert [text.strip() for text in crumbs] == ["q", "q[1,1]", "q[1,2]", "attn.norm[1,3]"]
    for name in ("layer0.attn.q[1,2]", "layer0.attn.q[1,1]"):
        press(page, "Backspace")
        assert (page.inner_text("#explained"), page.evaluate("location.hash")) == (name, f"#{name}")
    press(page, "Backspace", "Backspace", "Backspace")
    assert page.evaluate("location.hash") == "#layer0.attn.q"
    assert page.locator("#explained").count() == 0


def test_keys_typed_into_a_field_do_not_control_the_page(page):
    go(page, "layer0.attn.q[1,2]")
    page.focus("#text")
    press(page, "End", "Backspace")
    assert (page.input_value("#text"), focused(page)) == ("emm", "text")
    press(page, "/", "?")
    assert page.input_value("#text") == "emm/?"
    assert page.inner_text("#explained") == "layer0.attn.q[1,2]"
    page.fill("#text", "emma")
    press(page, "Home", "Delete", "a", "b")
    assert page.input_value("#text") == "abmma"
    assert page.evaluate("document.activeElement.selectionStart") == 2
    page.go_back()
    assert page.input_value("#text") == "emma"
    assert page.inner_text("#origin") == ""


def test_slash_searches_and_question_mark_lists_the_keys(page):
    press(page, "/")
    assert focused(page) == "search"
    page.keyboard.type("WEIGHTS")
    assert page.locator(".flow .row:visible").all_inner_texts()[0].split()[0] == "weights"
    assert page.locator(".flow .row").count() == 1
    press(page, "Tab", "Tab", "Enter")
    assert page.evaluate("location.hash") == "#layer0.attn.weights"
    assert focused(page) == "flow layer0.attn.weights"
    assert page.input_value("#search") == "WEIGHTS"
    press(page, "?")
    listed = page.locator("dialog[open] dt").all_inner_texts()
    assert listed.index("?") < listed.index("logits, probs")
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    press(page, "Escape")
    assert page.locator("dialog[open]").count() == 0
    assert focused(page) == "flow layer0.attn.weights"


SEARCHES = {  # the typed text: the address after Enter, and the matrix that has the focus then
    "mlp_fc": ("#layer0.mlp_fc1", "layer0.mlp_fc1 null"),
    "layer0.attn.q[1,2]": ("#layer0.attn.q[1,2]", "layer0.attn.q null"),
    "gradient logits[2,3]": ("#gradient+logits[2,3]", "gradient logits null"),
}


def test_enter_in_the_search_goes_to_the_first_array_or_the_element(page):
    page.fill("#search", "xyz")
    assert "No array name contains this text." in page.inner_text(".flow")
    page.press("#search", "Enter")
    assert page.evaluate("location.hash") == ""
    for typed, expected in SEARCHES.items():
        page.fill("#search", typed)
        page.press("#search", "Enter")
        assert (page.evaluate("location.hash"), focused(page)) == expected


MISSING = ["layer0.attn.q[0,99]", "&off=nonsense", "&set=wte[99,99]=3"]
MISSING += [in_sweep("&off=layer0.mlp.act[:,99]"), in_sweep("&set=wte[0,20]=3", whole=True)]


@pytest.mark.parametrize("part", MISSING)
def test_the_page_reports_and_ignores_parts_of_an_address_that_it_does_not_have(page_of, page_file, part):
    page = page_of(page_file("trace", "emma"), f"#{part}&off=layer0.attn.head1&off=layer0.attn.head1")
    missing = part.partition("=")[2] or part
    assert page.inner_text("#reading") == f"This page has no {missing}, which its address names."
    assert page.inner_text(".changes") == "● head 1 out undo"
    go(page, "layer0.attn.q[9,0]")
    assert page.inner_text("#reading") == "The run of this text has no layer0.attn.q[9,0]."


def test_arrow_keys_and_enter_choose_a_head(page):
    go(page, "layer0.attn.weights[0]")
    page.locator('[data-key="glance"]').focus()
    press(page, "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "Enter")
    assert page.evaluate("location.hash") == "#layer0.attn.weights[1]"
    assert page.inner_text(".attention h3") == "layer0.attn.weights[1]"
    assert focused(page) == "glance"


@needs_smollm2
def test_a_link_scrolls_to_its_head_and_a_click_does_not_scroll(page_at):
    page = page_at("trace", SMOLLM2, "The capital of France is", address="layer25.attn.weights[7,4,1]")
    box, row = page.locator(".glances").bounding_box(), page.locator(".down span").nth(25)
    assert row.inner_text() == "25"
    assert box["y"] < row.bounding_box()["y"] < box["y"] + box["height"] - row.bounding_box()["height"]
    scrolled = page.evaluate("document.querySelector('.glances').scrollTop")
    page.locator(".glance canvas").click(position={"x": 5, "y": 33 * 24 + 5})
    assert page.evaluate("location.hash") == "#layer24.attn.weights[0]"
    assert page.evaluate("document.querySelector('.glances').scrollTop") == scrolled > 0
    press(page, *["ArrowUp"] * 24)
    assert page.evaluate("document.querySelector('.glances').scrollTop") == 0


def test_back_and_forward_restore_the_element_and_its_trail(page):
    go(page, "layer0.attn.scores[1,3,2]")
    for name in ("q[3,4]", "norm[3,11]"):
        page.locator(f"button.link:has-text('{name}')").first.click()
    page.go_back()
    assert page.inner_text("#explained") == "layer0.attn.q[3,4]"
    assert page.locator(".crumbs li").count() == 2
    page.go_forward()
    assert page.locator(".crumbs li").count() == 3
    page.go_back()
    press(page, "Backspace")
    assert page.inner_text("#explained") == "layer0.attn.scores[1,3,2]"


ADDRESSES = [
    "#wte[13,4]&text=olivia&off=layer0.attn.head2&off=layer0.mlp.act[:,7]&set=wte[13,4]=-0.5",
    "#gradient+layer0.mlp.up[2,60]&position=1",
    in_sweep("#&text="),
    *(in_sweep(address, whole=True) for address in ("#layer0.attn.scores[1,3,2]", "#update+lm_head[26,15]")),
]


def contents(page):
    """Return the text and the pictures of a page."""
    pictures = page.locator("canvas").evaluate_all("(all) => all.map((each) => each.toDataURL())")
    return page.inner_text("body"), pictures


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_shows_the_same_in_a_new_page(page_of, page_file, address):
    page = page_of(page_file("trace", "emma"))
    follow(page, address)
    page.locator('[data-key="token 0"]').click()
    address = page.evaluate("location.hash")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    other = page_of(page_file("trace", "emma"), address)
    assert other.evaluate("location.hash") == address
    assert contents(page) == contents(other)


WRONG = [
    "#nothing", "#layer0.attn.q[99,0]", "#layer0.attn.q[1]", "#&off=nothing&set=wte[99,0]=1&set=x=1",
    "#gradient+nothing[0]", "#wte[0,0]&set=wte[0,0]=NaN&position=99999", "#layer0.attn.q[1,2,3]",
    "#constructor[0,0]", "#&set=toString[0]=1", "#off=%0A", "#&off=%E2%80%A8[:,1]", "#%",
]  # fmt: skip


def test_a_wrong_address_still_shows_the_page(page):
    for address in WRONG:
        follow(page, address)
        assert page.locator(".prediction").count() == 1, address
        assert page.locator(".changes").count() == 0, address
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".prediction").count() == 1


def test_a_button_switches_the_colours(page_of, page_file):
    page = page_of(page_file("trace", "emma"))
    background = "getComputedStyle(document.body).backgroundColor"
    names, colors = [], []
    for _ in range(4):
        names.append(page.inner_text("#theme"))
        colors.append(page.evaluate(background))
        page.click("#theme")
    assert names == ["colours: auto", "colours: light", "colours: dark", "colours: auto"]
    assert colors[0] == colors[1] == colors[3] != colors[2]
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) == colors[0]  # the reader's choice of light stays


def chosen_line(page):
    return page.locator("#picture .attends.chosen title").text_content()


def test_keys_of_the_picture_choose_a_lane_a_head_and_a_part_and_the_focus_stays(page):
    arrays = trace(init(), "emma", values=True).arrays
    weights = arrays["forward", "layer0.attn.weights"]
    strongest = lambda head, lane: f"layer0.attn.weights[{head},{lane},{weights[head, lane].argmax()}]"  # noqa: E731
    follow(page, "#&position=3")
    page.locator("#picture-box").focus()
    for key, at in {"ArrowUp": 2, "ArrowDown": 3}.items():
        press(page, key)
        assert page.evaluate("location.hash") == f"#&position={at}"
        assert focused(page) == "picture"
    for key, head in {"2": 2, "ArrowLeft": 1, "ArrowRight": 2, "9": 2}.items():
        press(page, key)
        assert chosen_line(page) == strongest(head, 3)
        assert focused(page) == "picture"
    before = page.inner_text("#chance")
    press(page, "o")
    assert page.evaluate("location.hash").endswith(
        f"&off={strongest(2, 3)}&line={strongest(2, 3)}&position=3"
    )
    assert page.locator("#picture .attends.cut").count() == 1
    assert (focused(page), page.inner_text("#chance") == before) == ("picture", False)
    press(page, "o")
    assert (focused(page), page.inner_text("#chance")) == ("picture", before)
    press(page, "Enter")
    assert page.inner_text("#explained") == strongest(2, 3)


@pytest.mark.parametrize(
    "key", ["part layer0.attn.head1", "cut", "next line", "token 1", "off layer0.attn.head2"]
)
def test_a_control_keeps_the_focus(page, key):
    follow(page, "#&position=3")
    page.locator(f'[data-key="{key}"]').press("Enter")
    assert page.evaluate("location.hash") != "#&position=3"
    assert focused(page) == key


def test_a_line_and_single_elements_that_are_cut_stand_in_the_address(page_at, checkpoints):
    page = page_at("trace", checkpoints["deep"], "abbacife")
    line = "layer0.attn.weights[1,4,2]"
    follow(page, f"#&off={line}&off=layer1.mlp.act[:,3]&line=layer1.attn.weights[1,5,0]")
    assert page.inner_text(".changes") == f"● {line} out, layer1.mlp.act[:,3] out undo"
    assert chosen_line(page) == "layer1.attn.weights[1,5,0]"
    assert page.locator("#picture .lane.chosen .letter").text_content() == "c"  # position 5 of ·abbacife
    page.locator("#picture .layer").click()
    assert chosen_line(page).startswith("layer0.attn.weights[")
    page.locator("#picture .attends", has_text=line.replace("4,2", "5,2")).locator(".share").click()
    assert chosen_line(page) == "layer0.attn.weights[1,5,2]"
    page.click('[data-key="undo"]')
    assert page.locator(".changes").count() == 0
    assert page.evaluate("location.hash") == "#&line=layer0.attn.weights[1,5,2]&position=5"


SELECT = """(whole) => {
  const [number] = document.querySelectorAll("#explain .step data");
  const selection = getSelection();
  if (whole) selection.selectAllChildren(document.querySelector("#explain"));
  else selection.setBaseAndExtent(number.firstChild, 1, number.firstChild, 3);
}"""


def test_x_shows_all_digits_and_a_selection_copies_them(page):
    go(page, "layer0.attn.scores[1,3,2]")
    numbers = page.locator("#explain data")
    few, digits = numbers.all_text_contents(), [each.get_attribute("value") for each in numbers.all()]
    assert len(digits) > 4
    press(page, "x")
    assert numbers.all_text_contents() == digits != few
    assert page.locator('[data-key="exact"]').get_attribute("aria-pressed") == "true"
    page.click('[data-key="exact"]')
    assert numbers.all_text_contents() == few
    for whole in (False, True):
        page.evaluate(SELECT, whole)
        press(page, "Control+c", "Control+c")
        page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
        page.fill("#search", "")
        press(page, "Control+v")
        pasted = page.input_value("#search")
        assert all(each in pasted for each in digits) if whole else pasted == digits[1], pasted
        assert numbers.all_text_contents() == few
