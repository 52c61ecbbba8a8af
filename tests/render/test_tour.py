"""Compare every number of the tour with the JSON of the command, and check what readers can see before they
answer, and how the keyboard and links lead through the tour."""

import json
import re
from functools import cache
from urllib.parse import unquote

import numpy as np
import pytest
from support.browser import CONTRAST, faults, follow, needs_browser, show_in
from support.commands import microgpt
from support.sweeps import in_sweep
from support.tiny_microgpts import CASES

from microgpt_trace import Model, init, load, save

pytestmark = needs_browser

SMALL = ("small", "emma")
TITLES = [
    "The task", "Letters", "Places", "Looking back", "Why there?", "Does it matter?", "The MLP", "The answer",
    "Writing",
]  # fmt: skip
ONE_HEAD = [title for title in TITLES if title != "Does it matter?"]
# The words after `microgpt trace`, the address of the page, and the steps that the tour must have.
RUNS = {
    "small": (SMALL, "", TITLES),
    "trained": (("trained", "olivia"), "", TITLES),
    "untrained": (("emma",), "", TITLES),
    "two layers": (("deep", "abbacife"), "", TITLES),
    "one head": (("one head", "pom"), "&position=2", ONE_HEAD),
    "one letter": (("small", "a"), "", TITLES),
    "empty": (("small", ""), "", [title for title in TITLES if title != "Why there?"]),
    "longest": (("small", "abcdefghijklmno"), "", TITLES),
    "repeated": (("small", "aaaaa"), "", TITLES),
    "head out": (SMALL, "&off=layer0.attn.head3&position=2", TITLES),
    "places out": (SMALL, "&off=embed.pos&position=2", [title for title in TITLES if title != "Places"]),
    "other name": (SMALL, "&text=mia&off=layer0.attn.head1", TITLES),
    "zero places": (("zero places", "emma"), "", TITLES),
    "ties": (("ties", "emma"), "&position=2", ["Letters", "Places", "Why there?", "The MLP", "The answer"]),
    "not finite": (("broken", "emma"), "&position=3", ["No tour"]),
}
REST = ("trained", "longest", "other name")  # other runs have the same steps and kinds of words
CARD = """() => {
  const card = document.querySelector(".tour");
  const text = (selector) => card.querySelector(selector)?.textContent ?? "";
  const options = Array.from(card.querySelectorAll("[data-key^=option]"), (button) => ({
    words: button.childNodes[1].textContent, shown: (button.querySelector("b")?.textContent ?? "").slice(3),
    best: button.classList.contains("best"),
  }));
  const [, body] = card.querySelectorAll(":scope > p");
  return { title: text("h2"), text: body.textContent, question: text(".ask p"), options,
    after: card.querySelector(".ask") ? text("[role=status]") : body.nextSibling.textContent };
}"""


@pytest.fixture(scope="session")
def models(checkpoints, tmp_path_factory):
    """Return the files of models by name: those of all tests, and three for the tour."""
    folder, one_head = tmp_path_factory.mktemp("tour"), CASES["3 layers, 1 head"].model
    zero_places, ties = load("small"), load("small")
    zero_places.params["wpe"][...] = 0
    ties.params["lm_head"][...] = ties.params["layer0.attn_wq"][...] = 0
    made = {"one head": one_head, "zero places": zero_places, "ties": ties}
    for name, model in made.items():
        save(Model(model.params.copy(np.float32), model.tokenizer, name), folder / f"{name}.safetensors")
    return {**checkpoints, **{name: folder / f"{name}.safetensors" for name in made}}


@cache
def judged(*words):
    """Return the document of a trace, and its arrays by name."""
    done = microgpt("trace", *words, "--json", "--values", "--verbose")
    document = json.loads(done.out)
    return document, {event["name"]: np.array(event["values"]) for event in document["events"]}


def assert_reads(text, value):
    """Check a written number, such as "25.0 %" or "1 in 250,000", up to its last digit and float32."""
    plain = text.removesuffix(" %").removesuffix(" times").replace("−", "-").replace(",", "")
    value *= 100 if text.endswith(" %") else 1
    if plain.startswith("1 in "):
        plain, value = plain.removeprefix("1 in "), 1 / value
        assert float(plain) == pytest.approx(value, rel=0.06), (text, value)
        return
    digits, _, power = plain.partition("e")
    unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    assert abs(float(plain) - value) <= 0.5 * unit + 3e-6 * max(1, abs(value)), (text, value)


def steps_of(page):
    """Yield each step of the tour as the page shows it, before and after "Show the numbers"."""
    for _ in TITLES:
        before = page.evaluate(CARD)
        if page.locator("[data-key=show]").count():
            page.keyboard.press("1")
        yield before, page.evaluate(CARD)
        if not page.locator("[data-key=next]").count():
            return
        page.keyboard.press("ArrowRight")


class Judge:
    """What a tour must say, from the documents of traces alone."""

    def __init__(self, page, words, address, path):
        state = dict(re.findall(r"(text|line|position)=([^&]*)", unquote(page.evaluate("location.hash"))))
        self.at = int(state["position"])
        self.layer, self.head, self.best = 0, 0, 0
        if "line" in state:
            self.layer, self.head, _, self.best = map(int, re.findall(r"\d+", state["line"]))
        self.model = load(path) if path else init()
        self.off = re.findall("off=([^&]*)", address)
        self.words = [*([path] if path else []), state.get("text", words[-1])]
        self.document, self.arrays = self.run()
        self.labels = ["the start" if label == "BOS" else label for label in self.document["input"]["labels"]]
        self.targets = self.document["input"]["targets"]

    def run(self, *off):
        return judged(*self.words, *(word for name in (*self.off, *off) for word in ("--ablate", name)))

    def chance(self, *off):
        return self.run(*off)[1]["probs"][self.at, self.targets[self.at]]

    def token(self, words):
        vocabulary = self.document["model"]["vocabulary"]
        after_bos = vocabulary["bos"] == 0
        return vocabulary["bos"] if words == "stop" else vocabulary["chars"].index(words) + after_bos

    def probs(self, at=None):
        return self.arrays["probs"][self.at if at is None else at]

    def key(self, words):
        """Return the position that the words name, such as "itself", "the e before it" or "the second a"."""
        if words in ("itself", "the start"):
            return self.at if words == "itself" else 0
        nth, letter = re.fullmatch(r"(?:the )?(\w+ )?(\w)", words.removesuffix(" before it")).groups()
        places = [at for at, label in enumerate(self.labels) if label == letter]
        order = ["first", "second", "third", "fourth", "fifth"]
        return self.at - 1 if words.endswith(" before it") else places[order.index(nth.strip()) if nth else 0]

    @property
    def name(self):
        return f"layer{self.layer}.attn."


def the_task(judge, step):
    for option in step["options"]:
        assert_reads(option["shown"], judge.probs()[judge.token(option["words"])])
    best = [option["words"] for option in step["options"] if option["best"]]
    assert [judge.token(words) for words in best] == [int(np.argmax(judge.probs()))]
    assert f"{len(judge.probs()) - 1} letters" in step["text"]
    *_, shown = re.findall(r"[\d.]+ %|1 in [\d,]+", step["after"])
    assert_reads(shown, judge.chance())


def letters(judge, step):
    rows, own = judge.model.parameter("wte"), judge.document["input"]["tokens"][judge.at]
    cosines = rows @ rows[own] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[own])
    for option in step["options"]:
        assert_reads(option["shown"], float(cosines[judge.token(option["words"])]))
    cosines[[own, judge.token("stop")]] = -2
    best = [option["words"] for option in step["options"] if option["best"]]
    assert [judge.token(words) for words in best] == [int(np.argmax(cosines))]
    is_trained = judge.document["model"]["trained_steps"] > 0
    print(step["text"], judge.document["model"]["trained_steps"])
    assert ("training did" in step["text"]) == is_trained
    assert ("No training of this model is recorded" in step["text"]) != is_trained


def places(judge, step):
    now, without = judge.chance(), judge.chance("embed.pos")
    kind = "lower" if without < now / 1.25 else "higher" if without > now * 1.25 else "about the same"
    assert [option["words"] for option in step["options"] if option["best"]] == [kind]
    values = [now, without]
    if takes := re.search(r"head \d+ takes .* from ([^,]+), with", step["after"]):
        place = (judge.head, judge.at, judge.key(takes[1]))
        values += [judge.run(*off)[1][judge.name + "weights"][place] for off in (["embed.pos"], [])]
    for shown, value in zip(re.findall(r"[\d.]+ %|1 in [\d,]+", step["after"]), values, strict=True):
        assert_reads(shown, value)


def looking_back(judge, step):
    weights = judge.arrays[judge.name + "weights"][:, judge.at]
    for option in step["options"]:
        assert_reads(option["shown"], weights[judge.head, judge.key(option["words"])])
    for option in step["options"]:
        assert option["best"] == (judge.key(option["words"]) == int(np.argmax(weights[judge.head]))), option
    for head, _, words in re.findall(r"head (\d+)( of layer \d+)? looks most at ([^.]+)\.", step["after"]):
        assert judge.key(words) == int(np.argmax(weights[int(head)])), (head, words, weights[int(head)])
    if not step["options"]:
        assert (step["after"], judge.at) == ("100 % comes from itself.", 0)


def why_there(judge, step):
    names = (judge.name + "scores", judge.name + "weights")
    scores, weights = (judge.arrays[name][judge.head, judge.at] for name in names)
    first, second = np.argsort(-weights[: judge.at + 1])[:2]
    shown = re.findall(r"scores (−?\d*\.?\d*)", step["question"])
    for text, key in zip(shown, (first, second), strict=True):
        assert_reads(text, scores[key])
    best = [option["words"] for option in step["options"] if option["best"]]
    assert len(best) == 1
    assert_reads(best[0], weights[first] / weights[second])
    assert "makes a share 2.7 times as large compared with any other share" in step["text"]
    assert "itself" not in step["question"]


def does_it_matter(judge, step):
    now = judge.chance()
    heads = [f"{judge.name}head{n}" for n in range(len(judge.arrays[judge.name + "weights"]))]
    chances = {name: judge.chance(name) for name in heads if name not in judge.off}
    told = re.findall(r"Without (?:layer \d+ )?head (\d+), it is ([\d.]+ %|1 in [\d,]+)", step["after"])
    assert [f"{judge.name}head{n}" for n, _ in told] == list(chances)
    for n, shown in told:
        assert_reads(shown, chances[f"{judge.name}head{n}"])
    change = {name: abs(np.log(p / now)) for name, p in chances.items()}
    best = [option["words"].split()[-1] for option in step["options"] if option["best"]]
    assert [f"{judge.name}head{n}" for n in best] == [max(change, key=change.get)]


def the_mlp(judge, step):
    on = judge.arrays[f"layer{judge.layer}.mlp.act"] > 0
    assert [option["words"] for option in step["options"] if option["best"]] == [str(on[judge.at].sum())]
    assert f"{on[judge.at].sum()} of {on.shape[1]} are on" in step["after"]
    assert_reads(re.search(r"(\d+ %) of the units", step["after"])[1], 1 - on.mean())


def the_answer(judge, step):
    letters = re.match(r"(\w+) has a score of (−?[\d.]+), (\w+) of (−?[\d.]+)\. H", step["question"]).groups()
    tokens = [judge.token(words) for words in letters[::2]]
    assert tokens[0] == int(np.argmax(judge.probs()))
    for shown, token in zip(letters[1::2], tokens, strict=True):
        assert_reads(shown, judge.arrays["logits"][judge.at, token])
    [best] = [option["words"] for option in step["options"] if option["best"]]
    assert_reads(best, judge.probs()[tokens[0]] / judge.probs()[tokens[1]])


def writing(judge, step):
    words, shown = re.search(r", (\w+) has (.*?)\. Is its", step["question"]).groups()
    probs = judge.probs(-1)
    assert judge.token(words) == int(np.argmax(probs))
    assert_reads(shown, probs.max())
    half = probs**2 / (probs**2).sum()
    [best] = [option for option in step["options"] if option["best"]]
    assert_reads(best["shown"], half.max())
    assert best["words"] == ("larger" if half.max() > probs.max() else "smaller")


OF_STEPS = (
    the_task, letters, places, looking_back, why_there, does_it_matter, the_mlp, the_answer, writing
)  # fmt: skip
JUDGES = dict(zip(TITLES, OF_STEPS, strict=True))


@pytest.mark.parametrize("name", [in_sweep(name, whole=True) if name in REST else name for name in RUNS])
def test_every_number_of_the_tour_is_a_number_of_the_command(page_of, page_file, models, name):
    words, address, titles = RUNS[name]
    path = models.get(words[0], "small") if len(words) > 1 else None
    file = page_file("trace", *([path] if path else []), words[-1])
    page = page_of(file, f"#{address}&tour=1")
    seen, judge = [], None
    for before, step in steps_of(page):
        print(step)
        assert all(option["shown"] == "" and not option["best"] for option in before["options"])
        assert not before["question"] or before["after"] == ""
        assert len([option for option in step["options"] if option["best"]]) == bool(step["question"])
        assert not re.search("NaN|undefined", str(step))
        seen.append(step["title"])
        if step["title"] in JUDGES:
            judge = judge or Judge(page, words, address, path)
            JUDGES[step["title"]](judge, step)
    assert seen == titles


FOCUS = "document.activeElement.dataset.key ?? document.activeElement.id"
MASKED = {1: "25.0", 4: "93 %", 5: "93 %", 7: "21 of 80", 8: "25.0"}  # by step: a number that answers it
# What a pointer, the eye or a screen reader can read: visible text, labels and titles of visible elements.
READABLE = """() => Array.from(document.body.querySelectorAll("*")).filter((element) =>
    !element.closest("script, style, noscript, .tour") && element.getClientRects().length
    && getComputedStyle(element).visibility === "visible").flatMap((element) => [
  ...Array.from(element.childNodes).filter((node) => node.nodeType === 3).map((node) => node.data),
  element.getAttribute("aria-label") ?? "", element.getAttribute("title") ?? ""]).join("\\n")"""


@pytest.mark.parametrize("width", [1280, 400])
def test_the_number_that_a_step_asks_for_is_readable_only_after_an_answer(page_of, page_file, width):
    page = page_of(page_file("trace", *SMALL))
    page.set_viewport_size({"width": width, "height": 900})
    for step, number in MASKED.items():
        follow(page, f"#tour={step}")
        before = page.evaluate(READABLE)
        assert number not in before, (step, [line for line in before.splitlines() if number in line])
        page.click("[data-key=show]")
        after = page.evaluate(READABLE)
        assert number in after, (step, number)


def test_keys_and_links_lead_through_the_tour_and_focus_is_kept(page_of, page_file):
    page = page_of(page_file("trace", *SMALL), "#tour=4")
    title, focus = lambda: page.evaluate(CARD)["title"], FOCUS
    assert (title(), page.inner_text(".tour-head .dim")) == ("Looking back", "step 4 of 9")
    page.keyboard.press("2")
    assert page.locator("[data-key='option 1'][aria-pressed=true].best").inner_text().endswith("93 %")
    for key, expected in {"ArrowRight": "Why there?", "ArrowLeft": "Looking back", "t": None}.items():
        page.keyboard.press(key)
        assert (title() if page.locator(".tour").count() else None) == expected, key
    page.keyboard.press("t")
    page.keyboard.press("Escape")
    assert page.locator(".tour").count() == 0
    page.keyboard.press("t")
    page.click("[data-key=show]")
    assert page.evaluate(focus) == "tour-title"  # the button is gone
    page.keyboard.press("ArrowRight")
    page.locator("[data-key='option 2']").focus()
    page.keyboard.press("3")
    assert (title(), page.evaluate(focus)) == ("Letters", "option 2")
    page.focus("#picture-box")
    page.keyboard.press("ArrowRight")
    assert (title(), page.evaluate(focus)) == ("Places", "picture")
    page.reload()
    assert title() == "Places"
    page.locator("[data-key=leave]").click()
    assert page.evaluate(focus) == "tour"
    follow(page, "#tour=9")
    page.focus("[data-key=temperature]")
    page.keyboard.press("ArrowLeft")  # moves the slider, not the tour
    assert (title(), page.input_value("[data-key=temperature]")) == ("Writing", "0.9")


def test_an_answer_belongs_to_its_question(page_of, page_file):
    page = page_of(page_file("trace", *SMALL), "#tour=4")
    page.keyboard.press("1")
    page.click("[data-key='token 3']")  # another lane, another question
    assert page.evaluate(CARD)["after"] == ""
    page.click("[data-key='token 2']")
    follow(page, "#tour=2&position=2")
    follow(page, "#tour=2&position=2&set=wte[13,0]=90")
    page.click("[data-key=show]")
    rows = load("small").parameter("wte").copy()
    rows[13, 0] = 90
    cosines = rows @ rows[13] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[13])
    for option in page.evaluate(CARD)["options"]:
        assert_reads(option["shown"], float(cosines["abcdefghijklmnopqrstuvwxyz".index(option["words"]) + 1]))


AXE = {"include": [[".tour"], ["#answer"], ["#picture"], ["#cards"]]}


def test_axe_finds_no_fault_in_the_tour(page_of, page_file, axe):
    page = page_of(page_file("trace", *SMALL))
    for width, step in ((400, 4), (1280, 6), (1280, 9)):
        page.set_viewport_size({"width": width, "height": 900})
        follow(page, f"#tour={step}")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert faults(axe, page, AXE) == []
        page.locator("[data-key=show]").click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        show_in(page, "dark")
        assert faults(axe, page, AXE) == []
        show_in(page, "light")
        assert faults(axe, page, ".tour", runOnly=[CONTRAST]) == []
