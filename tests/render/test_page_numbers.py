"""The numbers of a trace's page, as a browser shows them, against the command's documents."""

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

# What "as a table" has of an array, head by head.
TABLES = """async (address) => {
  const found = [];
  for (const box of document.querySelectorAll(`[data-key^="${CSS.escape(address)} "]`)) {
    const behind = box.parentElement.querySelector("details.behind");
    behind.open = true;
    await new Promise((resolve) => setTimeout(resolve, 0));
    const rows = behind.querySelectorAll("tbody tr");
    found.push(Array.from(rows, (row) => Array.from(row.cells, (cell) => cell.textContent).slice(1)));
  }
  return found;
}"""


def document(*words):
    """What the command says of the same, with all arrays."""
    done = microgpt(*words, "--json")
    return json.loads(done.out)


def number(text):
    return math.nan if text == "masked" else float(text)


def in_tables(page, address):
    """The array of an address, as the tables behind its pictures have it; NaN where it is masked."""
    go(page, address)
    return np.array([[list(map(number, row)) for row in table] for table in page.evaluate(TABLES, address)])


def traced(words):
    """The arrays that a trace shows, by their address, as float64, NaN where attention is masked."""
    found = {}
    for event in document(*words, "--values")["events"]:
        values = np.array(event["values"], np.float64)
        if values.ndim == 3:
            values[:, ~np.tri(values.shape[-1], dtype=bool)] = np.nan
        found[PREFIX[event["phase"]] + event["name"]] = values
    return found


def command(name, checkpoints):
    """The words of a trace: emma by the untrained model, or a text by one of the checkpoints."""
    texts = {"trained": "olivia", "deep": "abbacife", "broken": "emma"}
    return ("trace", "emma") if name == "untrained" else ("trace", checkpoints[name], texts[name])


# Of each kind of array one that the page restores, one that it holds, and those with a mask.
SHOWN = ("attn.norm", "scores", "weights", "act", "probs", "loss", "mlp_fc1", "wte")


@pytest.mark.parametrize("name", ["untrained", in_sweep("broken")])
def test_numbers_of_a_page_are_those_of_the_document(page_at, checkpoints, name):
    words = (*command(name, checkpoints), "--backward", "--step")
    page, arrays = page_at(*words), traced((*words, *ALL))
    model = init() if name == "untrained" else load(checkpoints[name])
    arrays |= {own: model.parameter(own) for own in model.config.shapes()}
    for address, values in arrays.items():
        if address.endswith(SHOWN):
            shown = in_tables(page, address)
            assert np.array_equal(shown.reshape(values.shape), values, equal_nan=True), address


# Places of a matrix around which its picture has one colour, and that colour.
SPOTS = """(box) => {
  const canvas = box.querySelector("canvas");
  const { width, height } = canvas;
  const copy = Object.assign(document.createElement("canvas"), { width, height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const found = [];
  for (let n = 1; n < 4000 && found.length < 6; n += 1) {
    const [x, y] = [width * ((n * 0.618034) % 1), height * ((n * 0.754878) % 1)].map(Math.floor);
    if (x < 2 || y < 2 || x + 3 > width || y + 3 > height) continue;
    const { data } = context.getImageData(x - 2, y - 2, 5, 5);
    const own = Array.from(data.slice(0, 4));
    if (own[3] === 255 && data.every((part, at) => part === own[at % 4])) found.push([x, y, own.slice(0, 3)]);
  }
  return found;
}"""


@pytest.mark.parametrize("address", ["gradient layer0.mlp.act", "update wte", "probs"])
def test_the_pointer_reads_the_number_of_the_cell_that_is_painted_there(page_at, address):
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
        own, shown, index = reading(page)
        assert own == address
        assert shown == values[index], (own, index)
        root = math.copysign(math.sqrt(abs(shown) / end), shown)
        assert page.evaluate("([kind, share]) => M.colors.colorOf(kind, share)", [kind, root]) == color
    box.click(position={"x": x + 0.5, "y": y + 0.5})
    assert float(page.inner_text("#explained-value")) == values[index]


def reading(page):
    """Address, number and index of the line that tells where the cursor is."""
    said = re.fullmatch(r"(.+)\[([\d,]+)\] = (\S+) · .+", page.inner_text("#reading"))
    return said[1], float(said[3]), tuple(map(int, said[2].split(",")))


# An element of each kind of operation, and of each that several operations read.
ELEMENTS = ["embed.sum[4,1]", "embed.norm[2,3]", "layer0.attn.norm[0,0]", "layer0.attn.q[3,4]"]
ELEMENTS += ["layer0.attn.k[0,15]", "layer0.attn.v[2,3]", "layer0.attn.scores[1,3,2]"]
ELEMENTS += ["layer0.attn.weights[2,4,1]", "layer0.attn.context[1,6]", "layer0.mlp.up[3,1]"]
ELEMENTS += ["layer0.mlp.act[3,17]", "layer0.mlp.residual[4,15]", "probs[1,13]", "loss"]


@pytest.mark.parametrize("backward", [False, True])
def test_an_element_is_worked_out_and_goes_where_explain_says(page_at, backward):
    page = page_at("trace", "emma")
    for element in ELEMENTS:
        said = json.loads(microgpt("explain", element, "emma", "--json", *["--backward"] * backward).out)
        go(page, "gradient " * backward + element)
        assert float(page.inner_text("#explained-value")) == said["traced"]
        verdict = re.fullmatch(r"worked out here (\S+), traced (\S+): equal.*", page.inner_text(".verdict"))
        agree(float(verdict[1]), said["value"], rtol=1e-12, what=element)
        assert float(verdict[2]) == said["traced"]
        check_steps(page.evaluate(STEPS), said["steps"], element)
        check_uses(page.locator(".uses li").all_inner_texts(), said["uses"], element)


def test_a_masked_score_is_worked_out_and_said_to_be_masked(page_at):
    said = json.loads(microgpt("explain", "layer0.attn.scores[0,1,4]", "emma", "--json").out)
    page = page_at("trace", "emma", address="layer0.attn.scores[0,1,4]")
    worked = re.fullmatch(r"worked out here (\S+); masked: .+", page.inner_text(".verdict"))
    agree(float(worked[1]), said["value"], rtol=1e-12, what=said["element"])
    assert page.locator("#explained-value").count() == page.locator(".uses").count() == 0


def check_uses(shown, expected, element):
    """Where an element goes, what it adds there, and how many elements the strongest is one of."""
    found = dict(map(use, shown))
    assert found.keys() == {as_link(own) for own in expected}
    for own in expected:
        value, adds, count = found[as_link(own)]
        agree(value, own["value"], rtol=1e-3, what=element)
        assert count == own["count"], (element, own, count)
        if own["adds"] is not None:
            agree(adds, own["adds"], rtol=1e-3, what=element)


def use(said):
    """The name of where an element goes: its number, what is added to it, and how many there are of them."""
    found = re.fullmatch(r"(.+\]|.*loss) (\S+?)(?: adds (\S+?))?(?:, the strongest of (\d+))?", said)
    return found[1], (float(found[2]), found[3] and float(found[3]), int(found[4] or 1))


def check_steps(steps, expected, element):
    """Sums have 7 digits in the page, terms 6 and factors 5; of powers of ten one less."""
    assert len(steps) == len(expected)
    for (total, terms), step in zip(steps, expected, strict=True):
        agree(total, step["value"], rtol=1e-5, what=f"{element}: {step['label']}")
        known = {tuple(map(as_link, named(term))): term for term in step["terms"] if named(term)}
        shown = {tuple(name for name, _ in factors): (factors, value) for factors, value in terms if factors}
        assert shown.keys() == known.keys()
        for names, (factors, value) in shown.items():
            agree([x for _, x in factors], [x["value"] for x in named(known[names])], rtol=1e-3, what=element)
            agree(value, known[names]["value"], rtol=1e-4, what=element)


# Of each step what it comes to, and its terms: the names and numbers of elements, and its number.
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
    """The factors of a term that are elements."""
    return [factor for factor in term["factors"] if factor["kind"] != "constant"]


def as_link(factor):
    """A name without its layer, and without its stage where no other stage has one of that name."""
    own = factor["name"].removeprefix("layer0.")
    last = own.rpartition(".")[2]
    is_shared = last.partition("[")[0] in ("norm", "residual")
    return "d " * (factor["kind"] == "backward") + (own if is_shared else last)


# What the explanation of some elements of every event and every gradient ends with, where it is not "equal".
VERDICTS = """(count) => {
  const run = shown.traced;
  const found = { asked: 0, equal: 0, masked: 0, others: [] };
  for (const { name } of [...shown.events, ...shown.parameters]) for (const of of ["value", "gradient"]) {
    const array = run.of(name, of);
    if (!array || (of === "value" && !shown.has(name))) continue;
    const shape = run.shape(name);
    for (let n = 0; n < Math.min(count, array.length); n += 1) {
      const flat = array.length <= count ? n : Math.floor(((n * 0.618034) % 1) * array.length);
      const at = { of, name, index: M.formulas.placeOf(flat, shape) };
      const view = M.explain_view.explainView({ page: shown, run, at, trail: [], go() {}, slider: null });
      const said = view.querySelector(".verdict")?.textContent ?? view.textContent;
      found.asked += 1;
      const isMasked = shown.axesOf(name).at(-1) === "key" && at.index.at(-1) > at.index.at(-2);
      if (isMasked && / here \\S+; masked: .+/.test(said)) found.masked += 1;
      else if (/: equal( \\(off by \\S+, rounding explains up to \\S+\\))?$/.test(said)) found.equal += 1;
      else found.others.push(`${M.elements.addressOf(at)}: ${said}`);
    }
  }
  return found;
}"""


@pytest.mark.parametrize("name", ["trained", "deep", in_sweep("untrained")])
def test_the_arithmetic_of_every_array_gives_what_was_traced(page_at, checkpoints, name):
    found = with_modules(page_at(*command(name, checkpoints))).evaluate(VERDICTS, 20)
    print(f"{found['asked']} elements explained, {found['masked']} of them masked")
    assert found["others"] == []
    assert found["equal"] + found["masked"] == found["asked"] > 1000


def test_a_nan_that_is_none_of_the_terms_is_told(page_at, checkpoints):
    """As `explain` tells it, which of a context shows the terms of zero too, and says equal."""
    found = with_modules(page_at(*command("broken", checkpoints))).evaluate(VERDICTS, 20)
    told = r"(gradient )?(.+): worked out here \S+, traced NaN: not equal; (a NaN of another head or .+)"
    said = [re.fullmatch(told, other) for other in found["others"]]
    assert all(said), found["others"][:5]
    assert 0 < len(said) < found["equal"]
    for own in [own for own in said if "context" not in own[2]][::20]:
        line = ("explain", own[2], "emma", "--model", checkpoints["broken"], "--json")
        done = microgpt(*line, *["--backward"] * bool(own[1]))
        assert (done.code, json.loads(done.out)["notes"][-1]) == (1, own[3]), own[0]


def test_what_a_float32_does_not_hold_is_equal_to_its_infinity(page_of, page_file, tmp_path):
    model = init()
    model.params["lm_head"][3] = 3e38
    save(model, tmp_path / "large")
    page = page_of(page_file("trace", tmp_path / "large", "emma"), "#logits[4,3]")
    said = re.fullmatch(r"worked out here (\S+), traced (-?Infinity): equal", page.inner_text(".verdict"))
    assert 3.4e38 < abs(float(said[1])) < 1e41


@needs_smollm2
def test_what_a_page_of_smollm2_explains_is_what_was_traced(page_at):
    """Of what its page holds in full; the rest is told to be left out."""
    page = with_modules(page_at("trace", SMOLLM2, "The capital of France is"))
    found = page.evaluate(VERDICTS, 3)
    others = [said for said in found["others"] if not LEFT.search(said)]
    print(found["equal"], "explained,", len(found["others"]), "left to the command")
    assert others == []
    assert found["equal"] > 150


LEFT = re.compile(
    r"(What it is worked out from is not in this page: the|This number is not in the page; the|"
    r"Of this array the page holds a picture, not the number; the) command below w"
)

# Of each array: what is said of one element of it, and its number if that is there.
OF_EACH = """([names, position]) => Object.fromEntries(names.map((name) => {
  const shape = shown.traced.shape(name);
  const index = shape.length === 3 ? [1, position, 2] : [position, 5];
  const at = { of: "value", name, index };
  const how = { page: shown, run: shown.traced, at, trail: [], go() {}, slider: null };
  const view = M.explain_view.explainView(how);
  const value = view.querySelector("#explained-value")?.textContent ?? null;
  return [name, [view.querySelector(".verdict")?.textContent ?? view.textContent, value]];
}))"""

# What has to be there of the last position, however long the text: an element of each kind of operation.
LOCAL = ["attn.norm", "attn.q_rope", "attn.k_rope", "attn.scores", "attn.weights", "attn.context"]
LOCAL += ["attn.residual", "mlp.norm", "mlp.act", "mlp.hidden", "mlp.residual"]


@needs_smollm2
@pytest.mark.parametrize("length", [63, in_sweep(256, whole=True)])
def test_a_picture_gives_no_number_and_the_last_position_is_explained(page_at, length):
    tokens = list(range(500, 500 + length))
    words = ("trace", SMOLLM2, "--tokens", ",".join(map(str, tokens)))
    page = with_modules(page_at(*words, address="layer5.attn.weights"))
    asked = [f"layer29.{own}" for own in LOCAL]
    run = trace(load(SMOLLM2), tokens=tokens, values=asked, names=["layer5.attn.weights"], positions=[-1])
    last = page.evaluate(OF_EACH, [asked, length - 1])
    for name in asked:
        said, value = last[name]
        assert ": equal" in said, (name, said)
        array = run.arrays["forward", name]
        assert float(value) == array[(1, -1, 2) if array.ndim == 3 else (-1, 5)], name
    pictures = [f"layer{n}.attn.weights" for n in (0, 5, 29)] + ["layer29.attn.scores", "layer29.mlp.act"]
    for name, (said, value) in page.evaluate(OF_EACH, [pictures, 40]).items():
        assert value is None, name
        assert LEFT.search(said), (name, said)
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
