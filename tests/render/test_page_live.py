"""Compare the runs that the page of a microGPT computes itself with the command's runs in float32 and
float64."""

import shlex
from base64 import b64decode

import numpy as np
import pytest
from support.browser import follow, go, needs_browser, with_modules
from support.commands import microgpt
from support.corpora import some_names
from support.page_numbers import exact, is_percent, is_rounded, number

from microgpt_trace import Intervention, Model, init, load, trace

pytestmark = needs_browser

# All numbers of runs in the page: of texts, with ablations and changed parameters.
RUNS = """(runs) => runs.map(({ text, off, parameters }) => {
  const { tokens, targets } = shown.read(text);
  const run = shown.ownRun(tokens, targets, M.changes.changesOf(shown, { off, parameters }));
  const numbers = Float64Array.from(shown.events.flatMap(({ name }) => Array.from(run.of(name, "value"))));
  const bytes = new Uint8Array(numbers.buffer);
  const part = (n) => String.fromCharCode(...bytes.subarray(n, n + 3000));
  return btoa(Array.from({ length: Math.ceil(bytes.length / 3000) }, (_, n) => part(3000 * n)).join(""));
})"""


def runs_in_page(page, model, runs):
    """Yield the arrays of each run by name, as the page computes them."""
    for run, result in zip(runs, page.evaluate(RUNS, runs), strict=True):
        numbers, arrays = np.frombuffer(b64decode(result), np.float64), {}
        for name, shape in model.plan.shapes(len(run["text"]) + 1).items():
            size = int(np.prod(shape))
            arrays[name], numbers = numbers[:size].reshape(shape), numbers[size:]
        assert not len(numbers)
        yield arrays


def in_float64(model):
    return Model(model.params.copy(np.float64), model.tokenizer, "the same in float64")


def values(model, text, off):
    """Return all arrays of a trace with ablations."""
    changes = [Intervention("ablate", name) for name in off]
    return trace(model, text, names=["*"], values=True, interventions=changes).arrays


def check(page, model, runs):
    """Check that every event of the page agrees with float64 up to its rounding, and its probabilities with
    those of the command within 1e-6."""
    exact, worst = in_float64(model), {"page": 0.0, "command": 0.0, "probs": 0.0}
    for run, arrays in zip(runs, runs_in_page(page, model, runs), strict=True):
        theirs, truth = (values(each, run["text"], run["off"]) for each in (model, exact))
        for (_, name), true in truth.items():
            size = np.abs(true).max() or 1.0
            for who, array in (("page", arrays[name]), ("command", theirs["forward", name])):
                worst[who] = max(worst[who], float(np.abs(array - true).max() / size))
            assert worst["page"] <= 1e-12, (run, name, worst)
        difference = np.abs(arrays["probs"] - theirs["forward", "probs"]).max()
        worst["probs"] = max(worst["probs"], float(difference))
        assert worst["probs"] <= 1e-6, (run, worst)
    print(f"{len(runs)} runs, largest difference from float64 relative to the size of an array:", worst)


HEADS = [f"layer0.attn.head{head}" for head in range(4)]
UNITS = ["layer0.mlp.act[:,7]", "layer0.mlp.act[:,63]"]
RUN = {  # by page: the text of its command, the texts that it runs, and the ablations
    "trained": ("olivia", some_names(40), [[]]),
    "trained, ablated": ("olivia", ["emma", *some_names(3, seed=1)],
                         [*([head] for head in HEADS), HEADS[1:3], [HEADS[0], UNITS[0]], [UNITS[1]]]),
    "deep": ("abbacife", ["abc", "iiiiiiii", ""],
             [[], ["layer1.attn.head0"], ["layer0.attn.head1", "layer1.mlp.act[:,3]"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", RUN)
def test_a_run_in_the_page_is_the_run_of_the_command(page_at, checkpoints, name):
    (text, texts, offs), path = RUN[name], checkpoints[name.partition(",")[0]]
    page = with_modules(page_at("trace", path, text))
    check(page, load(path), [{"text": own, "off": off, "parameters": {}} for off in offs for own in texts])


def bars(page):
    """Return the probabilities of all tokens as shown, and those of the original run next to them."""
    cells = "(row) => Array.from(row.cells, (cell) => cell.textContent)"
    rows = page.evaluate(f"Array.from(document.querySelectorAll('.bars tbody tr'), {cells})")
    return {row[0]: row[1] for row in rows}, {row[0]: row[3] for row in rows if len(row) > 3}


def probabilities(model, run, position):
    """Return the probabilities after a position of a trace, by label of the token."""
    probs = run["forward", "probs"][position]
    return {model.label(token, target=True): p for token, p in enumerate(probs.tolist())}


def assert_shown(shown, expected):
    assert shown.keys() == expected.keys()
    for label, p in expected.items():
        assert is_percent(shown[label], p), (label, shown[label], p)


def explained_in(page):
    """Return all digits of the explained number."""
    return page.locator("#explained-value").get_attribute("value")


@pytest.fixture
def olivia(page_at, checkpoints):
    """Return the page of a trained model, which shows all predictions, and the model."""
    page = page_at("trace", checkpoints["trained"], "olivia")
    details = page.locator(".prediction details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    return page, load(checkpoints["trained"])


def test_the_page_runs_another_name_and_updates_every_view(olivia):
    page, model = olivia
    go(page, "layer0.attn.q[1,2]")
    page.locator('[data-key="token 6"]').click()
    assert page.inner_text("#origin") == ""
    assert_shown(bars(page)[0], probabilities(model, values(model, "olivia", []), 6))
    for name in some_names(4, seed=5):
        page.fill("#text", name)
        run, last = values(in_float64(model), name, []), min(6, len(name))
        assert page.inner_text("#origin") == IN_PAGE
        assert page.locator(".token").count() == len(name) + 1
        explained = run["forward", "layer0.attn.q"][1, 2]
        assert number(explained_in(page)) == pytest.approx(explained, rel=1e-12)
        assert is_rounded(page.inner_text("#explained-value"), explained)
        assert page.inner_text(".verdict") == "✓ worked out again"
        assert ": equal" in page.locator(".verdict").get_attribute("title")
        assert page.inner_text("h2:has-text('layer0.attn.q')").endswith(f"[{len(name) + 1}, 16]")
        assert_shown(bars(page)[0], probabilities(model, run, last))
        assert page.locator("#views h3").filter(has_text="d loss").count() == 0
    page.locator("button:has-text('back to olivia')").click()
    assert page.inner_text("#origin") == ""
    assert page.locator("#views h3").filter(has_text="d loss").count() == 1


@pytest.mark.parametrize("off", [HEADS[2], UNITS[0]])
def test_an_ablation_shows_its_predictions_next_to_the_original_ones(olivia, off):
    page, model = olivia
    go(page, "layer0.mlp.act[1,7]" if "mlp" in off else "")
    page.locator('[data-key="token 6"]').click()
    page.click(f'[data-key="off {off}"]')
    changed, original = (probabilities(model, values(model, "olivia", own), 6) for own in ([off], []))
    shown = bars(page)
    assert_shown(shown[0], changed)
    assert_shown(shown[1], original)
    assert page.locator('.row:has-text("(changed)")').count() == 1
    losses = (float(values(model, "olivia", own)["forward", "loss"]) for own in ([off], []))
    assert page.inner_text(".prediction > p") == "mean loss {:.5g}, original {:.5g}".format(*losses)
    page.fill("#text", "mia")
    shown = bars(page)
    assert_shown(shown[0], probabilities(model, values(model, "mia", [off]), 3))
    assert_shown(shown[1], probabilities(model, values(model, "mia", []), 3))
    page.click('[data-key="undo"]')
    assert bars(page)[1] == {}


def test_the_flow_shows_the_norms_and_shares_of_the_run(olivia):
    page, model = olivia
    for text, off in (("olivia", []), ("mia", ["layer0.attn.head1"])):
        follow(page, "".join([f"#&text={text}", *(f"&off={own}" for own in off)]))
        assert page.inner_text("h1") == text
        arrays = values(model, text, off)
        sizes = page.locator(".flow li").all_inner_texts()
        shown = dict(zip(model.plan, (number(row.split()[-1]) for row in sizes), strict=False))
        for name, row in model.plan.items():
            array = arrays["forward", name]
            counted = np.tril(array) if row.kind.causal else array
            assert shown[name] == pytest.approx(np.linalg.norm(counted), rel=6e-3, abs=1e-9), name
        titles = page.locator(".flow .share").evaluate_all("(all) => all.map((own) => own.title)")
        for words, (write, stream) in zip(titles, model.plan.branches.items(), strict=True):
            norms = [np.linalg.norm(arrays["forward", name], axis=1) for name in (write, stream)]
            share = 100 * float(np.median(norms[0] / norms[1]))
            print(words, share)
            assert float(words.split()[2]) == pytest.approx(share, rel=6e-3)


def test_a_command_shows_the_number_of_an_ablated_run_but_not_of_a_changed_parameter(olivia):
    page, _ = olivia
    follow(page, "#logits[3,2]&text=mia&off=layer0.attn.head1")
    words = shlex.split(page.inner_text(".again code"))
    assert words[:2] == ["microgpt", "trace"]
    shown = microgpt(*words[1:]).out.split("\n\n")[1].split()
    print(explained_in(page), shown)
    assert shown[0] == "logits[3,2]"
    assert number(explained_in(page)) == pytest.approx(float(shown[-1]), rel=1e-3)
    follow(page, "#logits[3,2]&set=wte[1,2]=0.5")
    assert "No command shows this number" in page.inner_text(".explain")
    assert page.locator(".again").count() == 0


def test_the_page_of_a_run_with_interventions_shows_only_that_run(page_of, page_file):
    words = ("trace", "emma", "--ablate", "layer0.attn.head2", "--scale", "layer0.mlp.act=2")
    page = page_of(page_file(*words), "#layer0.attn.q[1,2]&text=olivia&off=layer0.attn.head1")
    only = "This run was traced with interventions. Its page cannot run other texts."
    assert page.inner_text("#live") == only
    assert page.locator("#text, .ablations, #slider").count() == 0
    follow(page, "#logits[3,2]")
    changes = [Intervention("ablate", "layer0.attn.head2"), Intervention("scale", "layer0.mlp.act", 2.0)]
    logits = trace(init(), "emma", interventions=changes)["logits"]
    assert exact(explained_in(page)) == logits[3, 2]
    assert page.inner_text(".explain").endswith("replace --html by --show 'logits[3,2]'.")


def test_text_from_an_input_method_is_run_when_it_is_complete(page_at):
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


def test_the_header_shows_the_command_of_the_run(page_at):
    page = page_at("trace", "emma")
    command = page.locator("#all p.command")
    traced = command.inner_text()
    assert traced.startswith("microgpt trace emma --html")
    page.fill("#text", "mia")
    assert command.inner_text() == "microgpt trace miacopy"
    page.click('[data-key="off layer0.attn.head1"]')
    assert command.inner_text() == "microgpt trace mia --ablate layer0.attn.head1copy"
    page.click('[data-key="off layer0.attn.head1"]')
    assert command.inner_text() == "microgpt trace miacopy"
    follow(page, "#&set=wte[1,2]=0.5")
    assert command.inner_text().startswith("No command shows this run, because a parameter was changed")
    follow(page, "#")
    assert command.inner_text() == traced


def test_dragging_a_slider_changes_one_parameter(page_of, page_file):
    page, model = page_of(page_file("trace", "emma"), "#wte[13,4]"), init()
    box = page.locator("#slider").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(1, 5):
        page.mouse.move(box["x"] + box["width"] * (0.5 + step / 10), box["y"] + box["height"] / 2)
    page.mouse.up()
    assert number(explained_in(page)) == pytest.approx(0.8, abs=0.1)
    assert page.inner_text("output[for=slider]") == page.inner_text("#explained-value")
    page.go_back()
    assert page.locator(".changes").count() == 0
    page.locator('[data-key="token 4"]').click()
    page.locator("#slider").fill("0.75")
    model.params["wte"][13, 4] = 0.75
    for _ in range(2):
        shown = bars(page)
        assert_shown(shown[0], probabilities(model, values(model, "emma", []), 4))
        assert_shown(shown[1], probabilities(init(), values(init(), "emma", []), 4))
        assert (page.inner_text("#explained-value"), page.input_value("#slider")) == ("0.7500", "0.75")
        page.reload()
        page.wait_for_selector("body[data-ready]")
    assert page.inner_text(".changes") == "● wte[13,4] = 0.7500 undo"
    page.click('[data-key="undo"]')
    assert exact(explained_in(page)) == init().params["wte"][13, 4]


IN_PAGE = "computed in this page in float64; only the traced run has gradients"
REFUSED = {
    "José": '"é" is not in the vocabulary: a..z; try "jose".',
    "中": '"中" is not in the vocabulary: a..z.',
    "emma7": '"7" is not in the vocabulary',
    "a" * 16: "expected at most 15 characters, found 16",
}


def test_the_page_explains_why_it_cannot_run_a_text(page_at):
    page = page_at("trace", "emma", address="&position=4")
    before = bars(page)
    for text, reason in REFUSED.items():
        page.fill("#text", text)
        assert page.inner_text("#origin").startswith(reason)
        assert page.inner_text("#origin").endswith("The page shows the traced text.")
        assert page.input_value("#text") == text
        assert bars(page) == before
        page.fill("#text", "")
        assert page.inner_text("#origin") == IN_PAGE
        assert page.locator(".token").count() == 1
