"""Compare the first screen of a microGPT's page with the command: answer bar, picture and cards."""

import json
import re

import numpy as np
import pytest
from support.browser import needs_browser, wait_for, with_modules
from support.commands import microgpt
from support.corpora import some_names
from support.page_numbers import is_percent, is_rounded
from support.sweeps import in_sweep
from support.tiny_microgpts import CASES

from microgpt_trace import Intervention, Model, init, load, save, trace

pytestmark = needs_browser

# The model of a page and its text.
SCREENS = {
    "untrained": (None, "emma"), "trained": ("trained", "olivia"), "two layers": ("deep", "abbacife"),
    "one letter": ("trained", "a"), "the longest name": ("trained", "maximillianaaaa"),
    "one head": ("one head", "pom"), "only BOS": ("trained", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def screen(checkpoints, tmp_path_factory):
    """Return a function that returns the words of a trace and its model in float64."""
    one_head, path = CASES["3 layers, 1 head"].model, tmp_path_factory.mktemp("models") / "one"
    save(Model(one_head.params.copy(np.float32), one_head.tokenizer, "one head"), path)
    files = {**checkpoints, "one head": path}

    def words_and_model(name):
        file, text = SCREENS[name]
        model = load(files[file]) if file else init()
        model = Model(model.params.copy(np.float64), model.tokenizer, "the same in float64")
        return ("trace", *([files[file]] if file else []), text), model

    return words_and_model


def traced(words, *ablated):
    """Return the JSON document of a trace with its probabilities and attention weights, as arrays by name."""
    off = (part for name in ablated for part in ("--ablate", name))
    events = ("--layer", "probs", "--layer", "layer*.attn.weights", "--values")
    document = json.loads(microgpt(*words, *off, *events, "--json").out)
    return document, {event["name"]: np.array(event["values"]) for event in document["events"]}


# The visible numbers of the first screen, each with its name.
NUMBERS = """() => {
  const all = (selector, read, within = document) => Array.from(within.querySelectorAll(selector), read);
  const text = (selector, within = document) => within.querySelector(selector)?.textContent;
  const choice = (each) => [text(".letter, .answer", each), text(".n", each)];
  return {
    chance: text("#chance"), facts: document.querySelector(".verdicts p").innerText,
    choices: all("#answer .choice", choice),
    lines: all("#picture .attends", (line) => [text("title", line), text(".share", line)]),
    chosen: text("#picture .attends.chosen title"),
    lanes: all("#picture .lane", (lane) => all("g:has(> .answer)", choice, lane)),
    card: text("#cards section p:not(.dim)"), chosenBy: text("#cards section p.dim") ?? "",
    parts: all("#cards li", (row) => [row.firstChild.dataset.key.replace("part ", ""), text(".n", row)]),
  };
}"""


def labels_of(model):
    shown = {"EOS": "stop", "BOS": "·"}
    size = model.config.vocab_size
    labels = [model.label(token, target=True) for token in range(size)]
    return [shown.get(label, label) for label in labels]


def check_choices(shown, labels, p, target, counts):
    """Check the likeliest tokens and their chances. The real next token is always among them."""
    assert len(shown) in counts
    expected = np.argsort(-p, kind="stable")[: len(shown)]
    if target not in expected:
        expected[-1] = target
    assert [letter for letter, _ in shown] == [labels[token] for token in expected]
    for (_, chance), token in zip(shown, expected, strict=True):
        assert is_percent(chance, p[token]), (chance, p[token])


def check_card(card, words, line, lane, target, before, labels):
    """Check what the card says about the line: its share, and what happens without it."""
    share = re.search(r"takes (\S+) % from", card)[1]
    head, _, key = map(int, re.search(r"\[(.+)\]", line)[1].split(","))
    assert is_rounded(share, 100 * before[line.partition("[")[0]][head, lane, key])
    after = traced(words, line)[1]["probs"][lane]
    p = before["probs"][lane, target]
    moved = re.search(r"(falls|rises) from (.+ %) to (.+ %); the five likeliest letters become (.+)\.", card)
    if moved:
        assert (after[target] < p) == (moved[1] == "falls")
        assert is_percent(moved[2], p), (moved[2], p)
        assert is_percent(moved[3], after[target]), (moved[3], after[target])
        listed = moved[4]
    else:
        same, listed = re.search(r"stays at (.+ %); the five likeliest letters become (.+)\.", card).groups()
        assert is_percent(same, p)
        assert is_percent(same, after[target])
    assert listed.split() == [labels[token] for token in np.argsort(-after, kind="stable")[:5]]


def check_lane(shown, words, lane, labels, before, after):
    """Check all numbers of the first screen when a lane is chosen."""
    document, arrays = before
    targets, p = document["input"]["targets"], arrays["probs"]
    target = targets[lane]
    assert is_percent(shown["chance"], p[lane, target])
    rank, of, loss = re.search(r"\n(\d+)(?:st|nd|rd|th) of (\d+) · mean loss (\S+)$", shown["facts"]).groups()
    assert (int(rank), int(of)) == (document["predictions"][lane]["rank"], len(labels))
    assert is_rounded(loss, document["loss"])
    check_choices(shown["choices"], labels, p[lane], target, (5, 6))
    for at, choices in enumerate(shown["lanes"]):
        check_choices(choices, labels, p[at], targets[at], (5,) if at == lane else (1, 2))
    layer = shown["lines"][0][0].partition("[")[0]
    weights = arrays[layer][:, lane, : lane + 1]
    expected = {f"{layer}[{head},{lane},{key}]": w for (head, key), w in np.ndenumerate(weights)}
    assert dict(shown["lines"]).keys() == expected.keys()
    for name, share in shown["lines"]:
        assert abs(float(share.removesuffix(" %")) - 100 * expected[name]) <= 0.50001, name
    for part, chance in shown["parts"]:
        assert is_percent(chance, after[part][1]["probs"][lane, target]), part
    check_card(shown["card"], words, shown["chosen"], lane, target, arrays, labels)


@pytest.mark.parametrize("name", [in_sweep(name) if name == "only BOS" else name for name in SCREENS])
def test_the_first_screen_has_the_numbers_of_the_command(page_at, screen, name):
    words, model = screen(name)
    check_screen(page_at(*words), words, model)


@pytest.mark.parametrize("part", [in_sweep(part, whole=part > 0) for part in range(10)])
def test_the_first_screen_has_the_numbers_of_the_command_for_other_names(page_at, screen, checkpoints, part):
    page, (_, model) = page_at("trace", checkpoints["trained"], "olivia"), screen("trained")
    for name in some_names(50, seed=2)[part::10]:
        page.fill("#text", name)
        check_screen(page, ("trace", checkpoints["trained"], name), model)


def check_screen(page, words, model):
    """Check all numbers of the first screen, lane by lane."""
    before = traced(words)
    layers, heads = range(model.config.n_layer), range(model.config.n_head)
    parts = [f"layer{layer}.{part}" for layer in layers
             for part in (*(f"attn.head{head}" for head in heads), "mlp.down")]  # fmt: skip
    parts.append("embed.pos")
    after = {part: traced(words, part) for part in parts}
    for lane in range(len(before[0]["input"]["tokens"])):
        page.locator(f'[data-key="token {lane}"]').click()
        shown = page.evaluate(NUMBERS)
        assert [part for part, _ in shown["parts"]] == parts
        assert len(shown["lanes"]) == len(before[0]["input"]["tokens"])
        check_lane(shown, words, lane, labels_of(model), before, after)


NARROW = """() => Array.from(document.querySelectorAll("#picture g:has(> .answer)"), (each) =>
  [".answer", ".n"].map((selector) => each.querySelector(selector).textContent))"""


def test_a_narrow_screen_shows_the_same_numbers_of_the_chosen_lane(page_at, screen):
    page = page_at(*screen("trained")[0])
    for lane in (0, 3, 6):
        page.set_viewport_size({"width": 1400, "height": 1000})
        page.locator(f'#answer [data-key="token {lane}"]').click()
        wait_for(page, "document.querySelector('#picture .narrow') === null")
        wide = page.evaluate(NUMBERS)
        page.set_viewport_size({"width": 400, "height": 1000})
        wait_for(page, "document.querySelector('#picture .narrow') !== null")
        narrow = page.evaluate(NUMBERS)
        head = re.search(r"\[\d+,", narrow["chosen"])[0]
        assert narrow["lines"] == [line for line in wide["lines"] if head in line[0]]
        assert page.evaluate(NARROW) == wide["lanes"][lane]
        assert (narrow["chosen"], narrow["card"], narrow["parts"]) == (
            wide["chosen"],
            wide["card"],
            wide["parts"],
        )


@pytest.mark.parametrize("off", ["layer0.attn.head2", "layer0.mlp.down", "layer0.attn.weights[1,4,2]"])
def test_the_answer_bar_shows_the_numbers_before_and_after_a_change(page_at, screen, off):
    words, _ = screen("trained")
    page, before, after = page_at(*words, address=f"&off={off}"), traced(words), traced(words, off)
    for lane, target in enumerate(before[0]["input"]["targets"]):
        page.locator(f'[data-key="token {lane}"]').click()
        was, now = (arrays["probs"][lane, target] for _, arrays in (before, after))
        shown = page.evaluate(NUMBERS)
        assert all(map(is_percent, shown["chance"].split(" → "), (was, now))), (shown["chance"], was, now)
        pattern = r"(÷|×) (\S+)\n(\d+).. → (\d+).. of 27 · mean loss (\S+) → (\S+)$"
        sign, factor, *ranks, loss_before, loss_after = re.search(pattern, shown["facts"]).groups()
        assert is_rounded(factor, max(was / now, now / was), 3)
        assert (sign == "÷") == (was > now)
        documents = before[0], after[0]
        assert [int(rank) for rank in ranks] == [each["predictions"][lane]["rank"] for each in documents]
        assert is_rounded(loss_before, before[0]["loss"])
        assert is_rounded(loss_after, after[0]["loss"])


def effects_of(model, text):
    """Return the change of log P of its lane's next letter for each line of attention, if only it is cut."""
    tokens = model.tokenizer.encode_name(text)
    lanes, targets = range(len(tokens) - 1), tokens[1:]

    def log_p(*changes):
        probs = trace(model, text, names=["probs"], values=True, interventions=changes).arrays
        return np.log(probs["forward", "probs"][lanes, targets])

    before, effects = log_p(), {}
    for layer, head, query in np.ndindex(model.config.n_layer, model.config.n_head, len(lanes)):
        for key in range(query + 1):
            name = f"layer{layer}.attn.weights[{head},{query},{key}]"
            effects[name] = abs(log_p(Intervention("ablate", name))[query] - before[query])
    return effects


STARTS = ["untrained", "trained", "two layers", in_sweep("the longest name", whole=True)]


@pytest.mark.parametrize("name", STARTS)
def test_the_line_chosen_at_the_start_moves_its_letter_most(page_at, screen, name):
    words, model = screen(name)
    shown = page_at(*words).evaluate(NUMBERS)
    effects = effects_of(model, words[-1])
    largest = max(effects.values())
    print(shown["chosen"], effects[shown["chosen"]], sorted(effects.values())[-3:])
    assert effects[shown["chosen"]] == pytest.approx(largest, abs=1e-12)
    no_line = "No line stands out: whichever is cut, its letter's chance hardly changes."
    chosen = (
        f"Chosen by the page: none of the other {len(effects) - 1} lines changes its letter's chance as much."
    )
    assert shown["chosenBy"] == (no_line if largest < 0.05 else chosen)


# The largest differences between effects that the page finds row by row and those of whole runs.
DIFFERENCES = """(off) => {
  const { tokens, targets } = shown.read(shown.text);
  const state = { text: null, off, parameters: {} };
  const changesOf = (parts) => M.changes.changesOf(shown, { ...state, off: parts });
  const runOf = (parts) => shown.ownRun(tokens, targets, changesOf(parts));
  const run = runOf(off);
  const lines = M.changes.linesOf(shown, state, run).filter(({ after }) => after);
  const worst = [0, 0];
  for (const { name, query, after } of lines) {
    const full = M.changes.chancesAfter(shown, runOf([...off, name]), query);
    worst[0] = Math.max(worst[0], ...full.map((p, token) => Math.abs(p - after[token])));
  }
  for (const { name } of M.changes.partsOf(shown)) tokens.forEach((_, at) => {
    const others = off.includes(name) ? off.filter((other) => other !== name) : [...off, name];
    const full = M.changes.chancesAfter(shown, runOf(others), at)[targets[at]];
    worst[1] = Math.max(worst[1], Math.abs(full - M.changes.chanceWith(shown, state, run, name, at)));
  });
  return [lines.length, ...worst];
}"""


@pytest.mark.parametrize("off", [[], ["layer0.attn.head1", "layer1.attn.weights[0,5,2]"]])
def test_effects_found_row_by_row_are_those_of_whole_runs(page_at, screen, off):
    words, _ = screen("two layers")
    page = with_modules(page_at(*words))
    count, lines, parts = page.evaluate(DIFFERENCES, off)
    print(f"{count} lines, largest differences {lines} of lines and {parts} of parts")
    assert count == 2 * 2 * 45 - sum("weights" in part for part in off)  # a line that is cut has no effect
    assert max(lines, parts) <= 1e-12


def test_values_that_are_not_finite_leave_the_first_screen_whole(page_at, checkpoints):
    page = page_at("trace", checkpoints["broken"], "emma")
    for width in (1400, 400):
        page.set_viewport_size({"width": width, "height": 1000})
        for lane in range(5):
            page.locator(f'#answer [data-key="token {lane}"]').click()
            assert page.inner_text("#chance") == "NaN"
            assert page.inner_text(".verdicts p").endswith("which really follows\nmean loss NaN")
            assert "The chances are not finite." in page.inner_text("#cards")
