"""What the page of a microGPT page computes itself, against the command's float32 and float64."""

import shlex
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from support.browser import follow, go, needs_browser, with_modules
from support.commands import microgpt

from microgpt_trace import Intervention, Model, init, load, trace

pytestmark = needs_browser

# All numbers of the page's own runs: of texts, with what is taken out and the parameters that are changed.
RUNS = """(asked) => asked.map(({ text, off, parameters }) => {
  const { tokens, targets } = shown.read(text);
  const run = shown.ownRun(tokens, targets, M.live_view.changesOf(shown, { off, parameters }));
  const numbers = Float64Array.from(shown.events.flatMap(({ name }) => Array.from(run.of(name, "value"))));
  const bytes = new Uint8Array(numbers.buffer);
  const part = (n) => String.fromCharCode(...bytes.subarray(n, n + 3000));
  return btoa(Array.from({ length: Math.ceil(bytes.length / 3000) }, (_, n) => part(3000 * n)).join(""));
})"""


def own_runs(page, model, asked):
    """The arrays of the page's own runs by name."""
    for own, found in zip(asked, page.evaluate(RUNS, asked), strict=True):
        numbers, arrays = np.frombuffer(b64decode(found), np.float64), {}
        for name, shape in model.plan.shapes(len(own["text"]) + 1).items():
            size = int(np.prod(shape))
            arrays[name], numbers = numbers[:size].reshape(shape), numbers[size:]
        assert not len(numbers)
        yield arrays


def in_float64(model):
    return Model(model.params.copy(np.float64), model.tokenizer, "the same in float64")


def values(model, text, off):
    """All arrays of a trace."""
    changes = [Intervention("ablate", name) for name in off]
    return trace(model, text, names=["*"], values=True, interventions=changes).arrays


def check(page, model, asked):
    """Every event as near to float64 as rounding in float64 lets it, and probabilities within 1e-6 of the
    command's."""
    exact, worst = in_float64(model), {"page": 0.0, "command": 0.0, "probs": 0.0}
    for own, arrays in zip(asked, own_runs(page, model, asked), strict=True):
        theirs, truth = (values(each, own["text"], own["off"]) for each in (model, exact))
        for (_, name), true in truth.items():
            size = np.abs(true).max() or 1.0
            for who, array in (("page", arrays[name]), ("command", theirs["forward", name])):
                worst[who] = max(worst[who], float(np.abs(array - true).max() / size))
            assert worst["page"] <= 1e-12, (own, name, worst)
        apart = np.abs(arrays["probs"] - theirs["forward", "probs"]).max()
        worst["probs"] = max(worst["probs"], float(apart))
        assert worst["probs"] <= 1e-6, (own, worst)
    print(f"{len(asked)} runs, farthest from float64 for an array's size:", worst)


def runs_of(texts, off=()):
    return [{"text": text, "off": [*off], "parameters": {}} for text in texts]


def some_names(count, seed=0):
    names = Path(__file__).parents[2].joinpath("names.txt").read_text("utf-8").split()
    return np.random.default_rng(seed).choice(names, count, replace=False).tolist()


HEADS = [f"layer0.attn.head{head}" for head in range(4)]
UNITS = ["layer0.mlp.act[:,7]", "layer0.mlp.act[:,63]"]
RUN = {  # by a page: its command's text, the texts that it runs, and what is taken out
    "trained": ("olivia", some_names(40), [[]]),
    "trained, in part": ("olivia", ["emma", *some_names(3, seed=1)],
                         [*([head] for head in HEADS), HEADS[1:3], [HEADS[0], UNITS[0]], [UNITS[1]]]),
    "deep": ("abbacife", ["abc", "iiiiiiii", ""],
             [[], ["layer1.attn.head0"], ["layer0.attn.head1", "layer1.mlp.act[:,3]"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", RUN)
def test_what_runs_in_the_page_is_what_the_command_runs(page_at, checkpoints, name):
    (text, texts, off), path = RUN[name], checkpoints[name.partition(",")[0]]
    page = with_modules(page_at("trace", path, text))
    check(page, load(path), [own for each in off for own in runs_of(texts, each)])


# --- By hand, as a reader does it ---------------------------------------------------------------


def bars(page):
    """The chances of all tokens that are shown, and those of the untouched run beside them."""
    cells = "(row) => Array.from(row.cells, (cell) => cell.textContent)"
    rows = page.evaluate(f"Array.from(document.querySelectorAll('.bars tbody tr'), {cells})")
    return {row[0]: float(row[1]) for row in rows}, {row[0]: float(row[3]) for row in rows if len(row) > 3}


def said_of(model, run, position):
    """The same of a trace."""
    probs = run["forward", "probs"][position]
    return {model.label(token, target=True): p for token, p in enumerate(probs.tolist())}


def assert_shown(found, expected):
    assert found.keys() == expected.keys()
    for label, p in expected.items():
        assert abs(found[label] - p) <= (0.0005 if p >= 0.0005 else 0.06 * p), (label, found[label], p)


@pytest.fixture
def olivia(page_at, checkpoints):
    """The page of a trained model, all its predictions shown, and the model."""
    page = page_at("trace", checkpoints["trained"], "olivia")
    details = page.locator(".prediction details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    return page, load(checkpoints["trained"])


def test_another_name_is_run_and_every_view_follows(olivia):
    page, model = olivia
    go(page, "layer0.attn.q[1,2]")
    assert page.inner_text("#origin") == "Numbers: traced by microgpt, float32."
    assert_shown(bars(page)[0], said_of(model, values(model, "olivia", []), 6))
    for name in some_names(4, seed=5):
        page.fill("#text", name)
        run = values(in_float64(model), name, [])
        assert page.inner_text("#origin").startswith("Numbers: run in this page, float64. ")
        assert page.locator(".token").count() == len(name) + 1
        explained = run["forward", "layer0.attn.q"][1, 2]
        assert float(page.inner_text("#explained-value")) == pytest.approx(explained)
        assert ": equal" in page.inner_text(".verdict")
        assert page.inner_text("h2:has-text('layer0.attn.q')").endswith(f"[{len(name) + 1}, 16]")
        assert_shown(bars(page)[0], said_of(model, run, len(name)))
        assert page.locator("#views h3").filter(has_text="d loss").count() == 0
    page.locator("button:has-text('back to olivia')").click()
    assert page.inner_text("#origin") == "Numbers: traced by microgpt, float32."
    assert page.locator("#views h3").filter(has_text="d loss").count() == 1


@pytest.mark.parametrize("off", [HEADS[2], UNITS[0]])
def test_a_head_or_unit_taken_out_moves_the_predictions_beside_the_untouched_ones(olivia, off):
    page, model = olivia
    go(page, "layer0.mlp.act[1,7]" if "mlp" in off else "")
    page.click(f'[data-key="off {off}"]')
    changed, untouched = (said_of(model, values(model, "olivia", own), 6) for own in ([off], []))
    shown = bars(page)
    assert_shown(shown[0], changed)
    assert_shown(shown[1], untouched)
    assert page.locator('.row:has-text("(changed)")').count() == 1
    losses = (values(model, "olivia", own)["forward", "loss"] for own in ([off], []))
    assert page.inner_text(".prediction > p") == "mean loss {:.5g}, untouched {:.5g}".format(*losses)
    page.fill("#text", "mia")
    shown = bars(page)
    assert_shown(shown[0], said_of(model, values(model, "mia", [off]), 3))
    assert_shown(shown[1], said_of(model, values(model, "mia", []), 3))
    page.click(f'button:text-is("{off} taken out ×")')
    assert bars(page)[1] == {}


def test_the_flow_shows_sizes_and_shares_of_the_run(olivia):
    page, model = olivia
    for text, off in (("olivia", []), ("mia", ["layer0.attn.head1"])):
        follow(page, "".join([f"#&text={text}", *(f"&off={own}" for own in off)]))
        assert page.inner_text("h1") == text
        arrays = values(model, text, off)
        sizes = page.locator(".flow li").all_inner_texts()
        shown = dict(zip(model.plan, (float(row.split()[-1]) for row in sizes), strict=False))
        for name, row in model.plan.items():
            array = arrays["forward", name]
            counted = np.tril(array) if row.kind.causal else array
            assert shown[name] == pytest.approx(np.linalg.norm(counted), rel=6e-3, abs=1e-9), name
        said = page.locator(".flow .share").evaluate_all("(all) => all.map((own) => own.title)")
        for words, (write, stream) in zip(said, model.plan.branches.items(), strict=True):
            norms = [np.linalg.norm(arrays["forward", name], axis=1) for name in (write, stream)]
            share = 100 * float(np.median(norms[0] / norms[1]))
            print(words, share)
            assert float(words.split()[2]) == pytest.approx(share, rel=6e-3)


def test_a_command_shows_the_number_of_a_run_with_a_head_taken_out_and_none_does_of_a_changed_parameter(
    olivia,
):
    page, _ = olivia
    follow(page, "#logits[3,2]&text=mia&off=layer0.attn.head1")
    words = shlex.split(page.inner_text(".again code"))
    assert words[:2] == ["microgpt", "trace"]
    shown = microgpt(*words[1:]).out.split("\n\n")[1].split()
    print(page.inner_text("#explained-value"), shown)
    assert shown[0] == "logits[3,2]"
    assert float(page.inner_text("#explained-value")) == pytest.approx(float(shown[-1]), rel=1e-3)
    follow(page, "#logits[3,2]&set=wte[1,2]=0.5")
    assert "No command shows this number" in page.inner_text(".explain")
    assert page.locator(".again").count() == 0


def test_a_page_of_a_run_with_interventions_shows_that_run_and_no_other(page_of, page_file):
    words = ("trace", "emma", "--ablate", "layer0.attn.head2", "--scale", "layer0.mlp.act=2")
    page = page_of(page_file(*words), "#layer0.attn.q[1,2]&text=olivia&off=layer0.attn.head1")
    assert page.inner_text("#live") == "Traced with interventions: the page shows this run and runs no other."
    assert page.locator("#text, .taken, #slider").count() == 0
    follow(page, "#logits[3,2]")
    changes = [Intervention("ablate", "layer0.attn.head2"), Intervention("scale", "layer0.mlp.act", 2.0)]
    logits = trace(init(), "emma", interventions=changes)["logits"]
    assert float(page.inner_text("#explained-value")) == logits[3, 2]
    assert page.inner_text(".explain").endswith("--show 'logits[3,2]' in place of --html shows the number.")


def test_what_is_composed_is_taken_when_it_is_done(page_at):
    page = page_at("trace", "emma")
    page.focus("#text")
    page.keyboard.press("End")
    keyboard = page.context.new_cdp_session(page)
    for part in ("n", "na"):
        keyboard.send("Input.imeSetComposition", {"text": part, "selectionStart": 2, "selectionEnd": 2})
    keyboard.send("Input.insertText", {"text": "na"})
    page.keyboard.type("h")
    assert page.input_value("#text") == "emmanah"
    assert page.inner_text("h1") == "emmanah"


def test_the_command_above_is_that_of_what_is_shown(page_at):
    page = page_at("trace", "emma")
    command = page.locator("header p.command")
    own = command.inner_text()
    assert own.startswith("microgpt trace emma --html")
    page.fill("#text", "mia")
    assert command.inner_text() == "microgpt trace miacopy"
    page.click("text=head 1")
    assert command.inner_text() == "microgpt trace mia --ablate layer0.attn.head1copy"
    follow(page, "#&set=wte[1,2]=0.5")
    assert command.inner_text().startswith("No command shows this run: a parameter is changed")
    follow(page, "#")
    assert command.inner_text() == own


def test_a_slider_is_dragged_all_the_way_and_changes_one_parameter(page_of, page_file):
    page, model = page_of(page_file("trace", "emma"), "#wte[13,4]"), init()
    box = page.locator("#slider").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(1, 5):
        page.mouse.move(box["x"] + box["width"] * (0.5 + step / 10), box["y"] + box["height"] / 2)
    page.mouse.up()
    assert float(page.inner_text("#explained-value")) == pytest.approx(0.8, abs=0.1)
    assert page.inner_text("output[for=slider]") == page.inner_text("#explained-value")
    page.go_back()
    assert page.locator(".chip").count() == 0
    page.locator("#slider").fill("0.75")
    model.params["wte"][13, 4] = 0.75
    for _ in range(2):
        shown = bars(page)
        assert_shown(shown[0], said_of(model, values(model, "emma", []), 4))
        assert_shown(shown[1], said_of(init(), values(init(), "emma", []), 4))
        assert (page.inner_text("#explained-value"), page.input_value("#slider")) == ("0.75", "0.75")
        page.reload()
        page.wait_for_selector("body[data-ready]")
    page.click("text=wte[13,4] = 0.75 ×")
    assert float(page.inner_text("#explained-value")) == float(init().params["wte"][13, 4])


REFUSED = {
    "José": '"é" is not in the vocabulary: a..z; try "jose".',
    "中": '"中" is not in the vocabulary: a..z.',
    "emma7": '"7" is not in the vocabulary',
    "a" * 16: "expected at most 15 characters, found 16",
}


def test_a_text_that_does_not_fit_is_told_in_words(page_at):
    page = page_at("trace", "emma")
    before = bars(page)
    for text, said in REFUSED.items():
        page.fill("#text", text)
        assert page.inner_text("#origin").startswith(said)
        assert page.inner_text("#origin").endswith("Shown is what was traced.")
        assert page.input_value("#text") == text
        assert bars(page) == before
        page.fill("#text", "")
        assert page.inner_text("#origin").startswith("Numbers: run in this page")
        assert page.locator(".token").count() == 1
