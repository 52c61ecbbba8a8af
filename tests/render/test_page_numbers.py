"""Compare the numbers of a trace's page, as a browser shows them, with the JSON documents of commands."""

import json
import math
import re

import numpy as np
import pytest
from support.browser import go, needs_browser, with_modules
from support.commands import microgpt
from support.judges import agree
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import in_sweep

from microgpt_trace import init, load, save, trace

pytestmark = needs_browser

ALL = ("--layer", "*")
PREFIX = {"forward": "", "backward": "gradient ", "update": "update "}

# The cells of "show as a table" for an array, head by head.
TABLES = """async (address) => {
  const tables = [];
  for (const box of document.querySelectorAll(`[data-key^="${CSS.escape(address)} "]`)) {
    const behind = box.parentElement.querySelector("details.behind");
    behind.open = true;
    await new Promise((resolve) => setTimeout(resolve, 0));
    const rows = behind.querySelectorAll("tbody tr");
    tables.push(Array.from(rows, (row) => Array.from(row.cells, (cell) => cell.textContent).slice(1)));
  }
  return tables;
}"""


def document(*words):
    """Return the JSON document of a command."""
    return json.loads(microgpt(*words, "--json").out)


def number(text):
    return math.nan if text == "masked" else float(text)


def in_tables(page, address):
    """Return an array from the tables behind its pictures; masked elements are NaN."""
    go(page, address)
    return np.array([[list(map(number, row)) for row in table] for table in page.evaluate(TABLES, address)])


def traced(words):
    """Return the arrays of a trace by address, as float64; masked elements are NaN."""
    arrays = {}
    for event in document(*words, "--values")["events"]:
        values = np.array(event["values"], np.float64)
        if values.ndim == 3:
            values[:, ~np.tri(values.shape[-1], dtype=bool)] = np.nan
        arrays[PREFIX[event["phase"]] + event["name"]] = values
    return arrays


def command(name, checkpoints):
    """Return the words of a trace: emma by the untrained model, or a text by one of the checkpoints."""
    texts = {"trained": "olivia", "deep": "abbacife", "broken": "emma"}
    return ("trace", "emma") if name == "untrained" else ("trace", checkpoints[name], texts[name])


# The ends of the names of arrays to compare: activations, masked arrays, probabilities, and parameters.
COMPARED = ("attn.norm", "scores", "weights", "act", "probs", "loss", "mlp_fc1", "wte")


@pytest.mark.parametrize("name", ["untrained", in_sweep("broken")])
def test_numbers_of_a_page_are_those_of_the_document(page_at, checkpoints, name):
    words = (*command(name, checkpoints), "--backward", "--step")
    page, arrays = page_at(*words), traced((*words, *ALL))
    model = init() if name == "untrained" else load(checkpoints[name])
    arrays |= {parameter: model.parameter(parameter) for parameter in model.config.shapes()}
    for address, values in arrays.items():
        if address.endswith(COMPARED):
            shown = in_tables(page, address)
            assert np.array_equal(shown.reshape(values.shape), values, equal_nan=True), address


# Six points in the picture of a matrix, each inside an area of one colour, and that colour.
SPOTS = """(box) => {
  const canvas = box.querySelector("canvas");
  const { width, height } = canvas;
  const copy = Object.assign(document.createElement("canvas"), { width, height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const spots = [];
  for (let n = 1; n < 4000 && spots.length < 6; n += 1) {
    const [x, y] = [width * ((n * 0.618034) % 1), height * ((n * 0.754878) % 1)].map(Math.floor);
    if (x < 2 || y < 2 || x + 3 > width || y + 3 > height) continue;
    const { data } = context.getImageData(x - 2, y - 2, 5, 5);
    const color = Array.from(data.slice(0, 4));
    const isPlain = data.every((part, at) => part === color[at % 4]);
    if (color[3] === 255 && isPlain) spots.push([x, y, color.slice(0, 3)]);
  }
  return spots;
}"""


@pytest.mark.parametrize("address", ["gradient layer0.mlp.act", "update wte", "probs"])
def test_the_pointer_reads_the_number_of_the_cell_under_it(page_at, address):
    words = ("trace", "emma", "--backward", "--step")
    values = traced((*words, *ALL))[address]
    page = with_modules(page_at(*words, address=address.replace(" ", "+")))
    box = page.locator(f'[data-key="{address} null"]')
    box.scroll_into_view_if_needed()
    spots = box.evaluate(SPOTS)
    assert len(spots) == 6
    kind, end = ("share", 1) if address == "probs" else ("signed", np.abs(values).max())
    for x, y, color in spots:
        box.hover(position={"x": x + 0.5, "y": y + 0.5})
        name, value, index = reading(page)
        assert name == address
        assert value == values[index], index
        root = math.copysign(math.sqrt(abs(value) / end), value)
        assert page.evaluate("([kind, share]) => M.colors.colorOf(kind, share)", [kind, root]) == color
    box.click(position={"x": x + 0.5, "y": y + 0.5})
    assert float(page.inner_text("#explained-value")) == values[index]


def reading(page):
    """Return the address, the number and the index from the line at the bottom of the page."""
    parts = re.fullmatch(r"(.+)\[([\d,]+)\] = (\S+) · .+", page.inner_text("#reading"))
    return parts[1], float(parts[3]), tuple(map(int, parts[2].split(",")))


# An element of each kind of operation, and of each event that several operations read.
ELEMENTS = ["embed.sum[4,1]", "embed.norm[2,3]", "layer0.attn.norm[0,0]", "layer0.attn.q[3,4]"]
ELEMENTS += ["layer0.attn.k[0,15]", "layer0.attn.v[2,3]", "layer0.attn.scores[1,3,2]"]
ELEMENTS += ["layer0.attn.weights[2,4,1]", "layer0.attn.context[1,6]", "layer0.mlp.up[3,1]"]
ELEMENTS += ["layer0.mlp.act[3,17]", "layer0.mlp.residual[4,15]", "probs[1,13]", "loss"]


@pytest.mark.parametrize("backward", [False, True])
def test_the_page_and_explain_show_the_same_arithmetic_and_uses(page_at, backward):
    page = page_at("trace", "emma")
    for element in ELEMENTS:
        explained = document("explain", element, "emma", *["--backward"] * backward)
        go(page, "gradient " * backward + element)
        assert float(page.inner_text("#explained-value")) == explained["traced"]
        verdict = re.fullmatch(r"computed here (\S+), traced (\S+): equal.*", page.inner_text(".verdict"))
        agree(float(verdict[1]), explained["value"], rtol=1e-12, what=element)
        assert float(verdict[2]) == explained["traced"]
        check_steps(page.evaluate(STEPS), explained["steps"], element)
        check_uses(page.locator(".uses li").all_inner_texts(), explained["uses"], element)


def test_a_masked_score_is_computed_and_marked_as_masked(page_at):
    explained = document("explain", "layer0.attn.scores[0,1,4]", "emma")
    page = page_at("trace", "emma", address="layer0.attn.scores[0,1,4]")
    verdict = re.fullmatch(r"computed here (\S+); masked: .+", page.inner_text(".verdict"))
    agree(float(verdict[1]), explained["value"], rtol=1e-12, what=explained["element"])
    assert page.locator("#explained-value").count() == page.locator(".uses").count() == 0


def check_uses(shown, expected, element):
    """Check where an element is used, what it adds there, and how many uses each array has."""
    uses = dict(map(use, shown))
    assert uses.keys() == {as_link(each) for each in expected}
    for each in expected:
        value, adds, count = uses[as_link(each)]
        agree(value, each["value"], rtol=1e-3, what=element)
        assert count == each["count"], (element, each, count)
        if each["adds"] is not None:
            agree(adds, each["adds"], rtol=1e-3, what=element)


def use(line):
    """Return the name of a use, and its value, the number that is added to it, and the count of uses."""
    parts = re.fullmatch(r"(.+\]|.*loss) (\S+?)(?: adds (\S+?))?(?:, the strongest of (\d+) uses)?", line)
    return parts[1], (float(parts[2]), parts[3] and float(parts[3]), int(parts[4] or 1))


def check_steps(steps, expected, element):
    """Check sums, which have 7 digits in the page, terms (6) and factors (5); numbers with an exponent have
    one digit less."""
    assert len(steps) == len(expected)
    for (total, terms), step in zip(steps, expected, strict=True):
        agree(total, step["value"], rtol=1e-5, what=f"{element}: {step['label']}")
        known = {tuple(map(as_link, named(term))): term for term in step["terms"] if named(term)}
        shown = {tuple(name for name, _ in factors): (factors, value) for factors, value in terms if factors}
        assert shown.keys() == known.keys()
        for names, (factors, value) in shown.items():
            agree([x for _, x in factors], [x["value"] for x in named(known[names])], rtol=1e-3, what=element)
            agree(value, known[names]["value"], rtol=1e-4, what=element)


# The value of each step, and its terms: the names and values of their elements, and the value of the term.
STEPS = """() => Array.from(document.querySelectorAll("div.step, p.step, p.sum"), (step) => {
  const number = (cell) => Number(cell.textContent);
  const element = (link) => [link.firstChild.textContent.trim(), number(link.querySelector(".n"))];
  const factors = (part) => Array.from(part.querySelectorAll("button.link"), element);
  const total = step.querySelector(".total .n");
  const value = total ? number(total) : Number(step.textContent.split(" = ").at(-1));
  if (step.matches("p")) return [value, step.matches(".sum") ? [] : [[factors(step), value]]];
  const rows = Array.from(step.querySelectorAll("tr:not(.total)"), ({ cells }) => cells);
  return [value, rows.map((cells) => [factors(cells[0]), number(cells[1])])];
})"""


def named(term):
    """Return the factors of a term that are elements."""
    return [factor for factor in term["factors"] if factor["kind"] != "constant"]


def as_link(factor):
    """Return the name of a factor without its layer, and without its stage unless several stages share the
    name."""
    name = factor["name"].removeprefix("layer0.")
    last = name.rpartition(".")[2]
    is_shared = last.partition("[")[0] in ("norm", "residual")
    return "d " * (factor["kind"] == "backward") + (name if is_shared else last)


# Explain some elements of every event and gradient, count the verdicts, and return those other than "equal".
VERDICTS = """(count) => {
  const run = shown.traced;
  const verdicts = { count: 0, equal: 0, masked: 0, others: [] };
  for (const { name } of [...shown.events, ...shown.parameters]) for (const of of ["value", "gradient"]) {
    const array = run.of(name, of);
    if (!array || (of === "value" && !shown.has(name))) continue;
    const shape = run.shape(name);
    for (let n = 0; n < Math.min(count, array.length); n += 1) {
      const flat = array.length <= count ? n : Math.floor(((n * 0.618034) % 1) * array.length);
      const at = { of, name, index: M.formulas.placeOf(flat, shape) };
      const view = M.explain_view.explainView({ page: shown, run, at, trail: [], go() {}, slider: null });
      const words = view.querySelector(".verdict")?.textContent ?? view.textContent;
      verdicts.count += 1;
      const isMasked = shown.axesOf(name).at(-1) === "key" && at.index.at(-1) > at.index.at(-2);
      const isEqual = /: equal( \\(difference \\S+, rounding explains up to \\S+\\))?$/.test(words);
      if (isMasked && / here \\S+; masked: .+/.test(words)) verdicts.masked += 1;
      else if (isEqual) verdicts.equal += 1;
      else verdicts.others.push(`${M.elements.addressOf(at)}: ${words}`);
    }
  }
  return verdicts;
}"""


@pytest.mark.parametrize("name", ["trained", "deep", in_sweep("untrained")])
def test_the_arithmetic_of_every_array_gives_what_was_traced(page_at, checkpoints, name):
    verdicts = with_modules(page_at(*command(name, checkpoints))).evaluate(VERDICTS, 20)
    print(f"{verdicts['count']} elements explained, {verdicts['masked']} of them masked")
    assert verdicts["others"] == []
    assert verdicts["equal"] + verdicts["masked"] == verdicts["count"] > 1000


def test_the_page_explains_a_nan_that_none_of_its_terms_has(page_at, checkpoints):
    """`explain` has the same note, except for a context: there it also shows the terms that are zero, and the
    values are equal."""
    verdicts = with_modules(page_at(*command("broken", checkpoints))).evaluate(VERDICTS, 20)
    pattern = r"(gradient )?(.+): computed here \S+, traced NaN: not equal; (a NaN of another head or .+)"
    matches = [re.fullmatch(pattern, other) for other in verdicts["others"]]
    assert all(matches), verdicts["others"][:5]
    assert 0 < len(matches) < verdicts["equal"]
    for match in [match for match in matches if "context" not in match[2]][::20]:
        line = ("explain", match[2], "emma", "--model", checkpoints["broken"], "--json")
        done = microgpt(*line, *["--backward"] * bool(match[1]))
        assert (done.code, json.loads(done.out)["notes"][-1]) == (1, match[3]), match[0]


def test_a_number_too_large_for_float32_equals_its_infinity(page_of, page_file, tmp_path):
    model = init()
    model.params["lm_head"][3] = 3e38
    save(model, tmp_path / "large")
    page = page_of(page_file("trace", tmp_path / "large", "emma"), "#logits[4,3]")
    verdict = re.fullmatch(r"computed here (\S+), traced (-?Infinity): equal", page.inner_text(".verdict"))
    assert 3.4e38 < abs(float(verdict[1])) < 1e41


@needs_smollm2
def test_a_page_of_smollm2_explains_every_number_that_it_holds_in_full(page_at):
    """For every other number, it refers to a command."""
    page = with_modules(page_at("trace", SMOLLM2, "The capital of France is"))
    verdicts = page.evaluate(VERDICTS, 3)
    others = [words for words in verdicts["others"] if not LEFT.search(words)]
    print(verdicts["equal"], "explained,", len(verdicts["others"]), "left to the command")
    assert others == []
    assert verdicts["equal"] > 150


LEFT = re.compile(
    r"The page (does not hold all inputs of this number\. The command below writes out its arithmetic|"
    r"holds (only an 8-bit picture of this array|no value of this number)\. The command below computes it)\."
)

# The verdict on one element of each array, and the number of the element if the page has it.
OF_EACH = """([names, position]) => Object.fromEntries(names.map((name) => {
  const shape = shown.traced.shape(name);
  const index = shape.length === 3 ? [1, position, 2] : [position, 5];
  const at = { of: "value", name, index };
  const context = { page: shown, run: shown.traced, at, trail: [], go() {}, slider: null };
  const view = M.explain_view.explainView(context);
  const value = view.querySelector("#explained-value")?.textContent ?? null;
  return [name, [view.querySelector(".verdict")?.textContent ?? view.textContent, value]];
}))"""

# Events whose last position a page holds, however long the text: one for each kind of operation.
LOCAL = ["attn.norm", "attn.q_rope", "attn.k_rope", "attn.scores", "attn.weights", "attn.context"]
LOCAL += ["attn.residual", "mlp.norm", "mlp.act", "mlp.hidden", "mlp.residual"]


@needs_smollm2
@pytest.mark.parametrize("length", [63, in_sweep(256, whole=True)])
def test_only_the_last_position_of_a_picture_is_explained(page_at, length):
    tokens = list(range(500, 500 + length))
    words = ("trace", SMOLLM2, "--tokens", ",".join(map(str, tokens)))
    page = with_modules(page_at(*words, address="layer5.attn.weights"))
    names = [f"layer29.{event}" for event in LOCAL]
    run = trace(load(SMOLLM2), tokens=tokens, values=names, names=["layer5.attn.weights"], positions=[-1])
    for name, (verdict, value) in page.evaluate(OF_EACH, [names, length - 1]).items():
        assert ": equal" in verdict, (name, verdict)
        array = run.arrays["forward", name]
        assert float(value) == array[(1, -1, 2) if array.ndim == 3 else (-1, 5)], name
    pictures = [f"layer{n}.attn.weights" for n in (0, 5, 29)] + ["layer29.attn.scores", "layer29.mlp.act"]
    for name, (verdict, value) in page.evaluate(OF_EACH, [pictures, 40]).items():
        assert value is None, name
        assert LEFT.search(verdict), (name, verdict)
    shown = dict(re.findall(r"(\w+)\n(\S+)", page.inner_text(".array .statistics")))
    (stats,) = [event.stats for event in run.events if event.name == "layer5.attn.weights"]
    expected = {"L2": stats.l2_norm, "mean": stats.mean, "std": stats.std, "zeros": stats.zero_count}
    for term, value in expected.items():
        agree(float(shown[term]), value, rtol=1e-3, what=term)


@needs_smollm2
def test_numbers_of_smollm2_are_those_of_the_document(page_at):
    words = ("trace", SMOLLM2, "The capital of France is")
    names = ("layer29.attn.k_rope", "layer29.attn.scores", "layer17.attn.weights")
    arrays = traced((*words, *(word for name in names for word in ("--layer", name))))
    page = page_at(*words)
    for name in names:
        shown = in_tables(page, name)
        assert np.array_equal(shown.reshape(arrays[name].shape), arrays[name], equal_nan=True), name
