"""Compare the arithmetic and the uses of numbers in a trace's page with `explain` and the traced values."""

import json
import math
import re

import numpy as np
import pytest
from support.browser import go, needs_browser, with_modules
from support.commands import microgpt
from support.documents import document
from support.judges import agree
from support.page_numbers import (
    LEFT,
    VERDICTS,
    command,
    exact,
    explained_in,
    is_exact,
    is_rounded,
    number,
    verdict_in,
)
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import in_sweep

from microgpt_trace import init, load, save, trace

pytestmark = needs_browser

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
        assert explained_in(page) == np.float32(explained["traced"])
        computed, in_trace = verdict_in(page)
        assert is_exact(computed, explained["value"]), (element, computed, explained["value"])
        assert exact(in_trace) == np.float32(explained["traced"])
        check_steps(page.evaluate(STEPS), explained["steps"], element)
        check_uses(page.locator(".uses li").all_inner_texts(), explained["uses"], element)


def test_a_masked_score_is_computed_and_marked_as_masked(page_at):
    explained = document("explain", "layer0.attn.scores[0,1,4]", "emma")
    page = page_at("trace", "emma", address="layer0.attn.scores[0,1,4]")
    shown = page.locator(".verdict data")
    assert (
        re.fullmatch(r"computed here (\S+); masked: .+", page.inner_text(".verdict"))[1] == shown.inner_text()
    )
    assert is_exact(shown.get_attribute("value"), explained["value"])
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
    return parts[1], (number(parts[2]), parts[3] and number(parts[3]), int(parts[4] or 1))


def check_steps(steps, expected, element):
    """Check the exact digits of sums and terms, and the four digits of factors. Of more than 16 terms,
    `explain` lists the 16 largest, and the page the 8 largest with the sum of the others."""
    assert len(steps) == len(expected)
    for (total, terms), step in zip(steps, expected, strict=True):
        assert is_exact(total, step["value"]), (element, step["label"], total, step["value"])
        known = {tuple(map(as_link, named(term))): term for term in step["terms"] if named(term)}
        shown = {tuple(name for name, _ in factors): (factors, value) for factors, value in terms if factors}
        if step["count"] > 16:
            largest = sorted(known, key=lambda names: -abs(known[names]["value"]))[:8]
            rest = step["rest"] + math.fsum(known[names]["value"] for names in known.keys() - largest)
            agree(number(terms[-1][1]), rest, rtol=1e-9, what=f"{element}: the other terms")
            known = {names: known[names] for names in largest}
        assert shown.keys() == known.keys()
        for names, (factors, value) in shown.items():
            values = [x["value"] for x in named(known[names])]
            assert all(is_rounded(x, value) for (_, x), value in zip(factors, values, strict=True)), element
            assert is_exact(value, known[names]["value"]), (element, names, value)


# The value of each step, and its terms: the names and values of their elements, and the value of the term.
STEPS = """() => Array.from(document.querySelectorAll("div.step, p.step, p.sum"), (step) => {
  const all = (part) => part.querySelector("data").value;
  const element = (link) => [link.firstChild.textContent.trim(), link.querySelector(".n").textContent];
  const factors = (part) => Array.from(part.querySelectorAll("button.link"), element);
  const value = all(step.querySelector(".total") ?? step);
  if (step.matches("p")) return [value, step.matches(".sum") ? [] : [[factors(step), value]]];
  const rows = Array.from(step.querySelectorAll("tr:not(.total)"), ({ cells }) => cells);
  return [value, rows.map((cells) => [factors(cells[0]), all(cells[1])])];
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


@pytest.mark.parametrize("name", ["trained", "deep", in_sweep("untrained", whole=True)])
def test_the_arithmetic_of_every_array_gives_what_was_traced(page_at, checkpoints, name):
    verdicts = with_modules(page_at(*command(name, checkpoints))).evaluate(VERDICTS, 20)
    print(f"{verdicts['count']} elements explained, {verdicts['masked']} of them masked")
    assert verdicts["others"] == []
    assert verdicts["equal"] + verdicts["masked"] == verdicts["count"] > 1000


def test_the_page_explains_a_nan_that_none_of_its_terms_has(page_at, checkpoints):
    """`explain` has the same note, except for a context: there it also shows the terms that are zero, and the
    values are equal."""
    verdicts = with_modules(page_at(*command("broken", checkpoints))).evaluate(VERDICTS, 20)
    pattern = r"(gradient )?(.+): ✗ computed here \S+, traced NaN: not equal; (a NaN of another head or .+)"
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
    computed, in_trace = map(number, verdict_in(page))
    assert 3.4e38 < abs(computed) < 1e41
    assert in_trace == math.copysign(math.inf, computed)


@needs_smollm2
def test_a_page_of_smollm2_explains_every_number_that_it_holds_in_full(page_at):
    """For every other number, it refers to a command."""
    page = with_modules(page_at("trace", SMOLLM2, "The capital of France is"))
    verdicts = page.evaluate(VERDICTS, 3)
    others = [words for words in verdicts["others"] if not LEFT.search(words)]
    print(verdicts["equal"], "explained,", len(verdicts["others"]), "left to the command")
    assert others == []
    assert verdicts["equal"] > 150


# The verdict on one element of each array, and the number of the element if the page has it.
OF_EACH = """([names, position]) => Object.fromEntries(names.map((name) => {
  const digits = { write: M.numbers.exact, isExact: true };
  const shape = shown.traced.shape(name);
  const index = shape.length === 3 ? [1, position, 2] : [position, 5];
  const at = { of: "value", name, index };
  const context = { page: shown, run: shown.traced, at, trail: [], go() {}, slider: null, digits };
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
        assert exact(value) == array[(1, -1, 2) if array.ndim == 3 else (-1, 5)], name
    pictures = [f"layer{n}.attn.weights" for n in (0, 5, 29)] + ["layer29.attn.scores", "layer29.mlp.act"]
    for name, (verdict, value) in page.evaluate(OF_EACH, [pictures, 40]).items():
        assert value is None, name
        assert LEFT.search(verdict), (name, verdict)
    shown = dict(re.findall(r"(\w+)\n(\S+)", page.inner_text(".array .statistics")))
    (stats,) = [event.stats for event in run.events if event.name == "layer5.attn.weights"]
    expected = {"L2": stats.l2_norm, "mean": stats.mean, "std": stats.std, "zeros": stats.zero_count}
    for term, value in expected.items():
        assert is_rounded(shown[term], value), (term, shown[term], value)
