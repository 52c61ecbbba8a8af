"""Compare the gradients in the page of a production model with the JSON documents of commands."""

import re
import shlex

import numpy as np
import pytest
from support.browser import axe_finds_nothing, go, needs_browser, with_modules
from support.commands import microgpt
from support.documents import document, parse_json
from support.page_numbers import LEFT, VERDICTS, explained_in, in_tables, is_rounded, verdict_in
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import in_sweep
from support.tiny_experts import write_experts
from support.tiny_gpt2 import tiny_gpt2
from support.tiny_models import write_folder
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import load
from microgpt_trace.render.page.page_recorder import forms_for

pytestmark = needs_browser

TOKENS = ("--tokens", "17,3,44,3,60,0")
OPTIONS = {
    "loss": ("--backward",),
    "logit": ("--backward", "--target", "#5"),
    "difference": ("--backward", "--target", "#5", "--against", "#7", "--position", "3"),
}
NAMES = {"loss": "loss", "logit": "logit(b)", "difference": "(logit(b) - logit(d))"}

# The gradients of the page, by event: the numbers, and whether the page has the values, too.
GRADIENTS = """() => Object.fromEntries(shown.events
  .map(({ name }) => [name, shown.traced.of(name, "gradient"), shown.traced.of(name, "value")])
  .filter(([, held, values]) => held || values)
  .map(([name, held, values]) => [name, [Array.from(held ?? []), Boolean(held && values)]]))"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A llama, a GPT-2 and a mixture of experts."""
    folder = tmp_path_factory.mktemp("models")
    write_tokenizer(write_folder(folder / "gpt2", *tiny_gpt2("gpt2")))
    write_tokenizer(write_experts(folder / "experts"))
    return folder


def words_of(folders, decoder_folder, model, scalar):
    return "trace", decoder_folder() if model == "llama" else folders / model, *TOKENS, *OPTIONS[scalar]


@pytest.mark.parametrize(
    ("model", "scalar"),
    [*(("llama", each) for each in OPTIONS), ("gpt2", "logit"), ("experts", "difference")],
)
def test_a_page_has_the_gradients_of_the_document(page_at, folders, decoder_folder, model, scalar):
    words = words_of(folders, decoder_folder, model, scalar)
    told = document(*words, "--verbose", "--values")
    expected = {event["name"]: event for event in told["events"] if event["phase"] == "backward"}
    page = with_modules(page_at(*words))
    held = page.evaluate(GRADIENTS)
    assert len(held) > 20
    assert all(both for _, both in held.values())
    assert page.evaluate("shown.scalar") == told["scalar"]["name"] == NAMES[scalar]
    for name, (values, _) in held.items():
        values, traced = np.array(values, np.float32), np.array(expected[name]["values"], np.float32)
        causal = np.tril(traced) if traced.ndim == 3 else traced
        assert np.array_equal(values.reshape(traced.shape), causal), name
    verdicts = page.evaluate(VERDICTS, 20)
    print(verdicts["equal"], "explained,", len(verdicts["others"]), "left to the command")
    assert [words for words in verdicts["others"] if not LEFT.search(words) and "= 0: " not in words] == []
    assert verdicts["equal"] > 300


@pytest.mark.parametrize("scalar", OPTIONS)
def test_the_inspector_shows_a_gradient_beside_its_value(page_at, folders, decoder_folder, scalar):
    words = words_of(folders, decoder_folder, "llama", scalar)
    page, name = page_at(*words), NAMES[scalar]
    go(page, "gradient layer0.mlp.act[3,5]")
    assert page.inner_text("#explained") == f"d {name} / d layer0.mlp.act[3,5]"
    assert page.inner_text(".array .figure:nth-child(2) h3") == f"gradient: d {name} / d value"
    assert page.locator(".array .figure").count() == 2
    verdict_in(page)
    line = page.inner_text("#explain .again code")
    assert line.endswith(" ".join(OPTIONS[scalar]).replace("#5", "b").replace("#7", "d"))
    told = parse_json(microgpt(*shlex.split(line)[1:], "--json").out)
    print(line, explained_in(page), told["traced"])
    assert explained_in(page) == np.float32(told["traced"]) != 0
    (event,) = (
        event
        for event in document(*words, "--layer", "layer0.mlp.act", "--values")["events"]
        if event["phase"] == "backward"
    )
    shown = in_tables(page, "gradient layer0.mlp.act")
    assert np.array_equal(shown[0], np.array(event["values"], np.float32))
    go(page, "gradient layer0.attn.q[3,5]")  # its gradient reads keys, which the page holds
    verdict_in(page)
    go(page, "gradient layer0.mlp.norm[3,5]")  # its gradient reads a matrix, which the page lacks
    assert LEFT.search(page.inner_text("#explain"))
    page.locator("#explain .buttons button").first.click()
    assert page.inner_text("#explained") == "layer0.mlp.norm[3,5]"


def test_a_page_without_gradients_shows_none(page_at, decoder_folder):
    page = with_modules(page_at("trace", decoder_folder(), *TOKENS))
    assert not any(values for values, _ in page.evaluate(GRADIENTS).values())
    assert page.evaluate("shown.events.filter((event) => event.ways.length)") == []


def test_the_gradient_of_an_experts_number_is_0_with_a_reason(page_at, folders):
    page = page_at("trace", folders / "experts", *TOKENS, *OPTIONS["logit"])
    go(page, "gradient layer0.mlp.chosen[5,1]")
    reason = "an expert's number is a whole number, so it has no gradient"
    assert page.inner_text("#explain .step") == f"= 0: {reason}"
    assert verdict_in(page) == ("0", "0")


def test_the_command_gives_the_gradient_of_chosen_positions(page_at, decoder_folder):
    """With --positions, the loss is that of some positions, which explain does not compute."""
    words = ("trace", decoder_folder(), *TOKENS, "--backward", "--positions")
    page = page_at(*words, "0,2")
    go(page, "gradient layer0.mlp.act[2,5]")
    assert "No command explains this gradient, because the loss" in page.inner_text("#explain")
    page = page_at(*words, "last")  # this position has no loss, so the gradient is that of a logit
    go(page, "gradient layer0.mlp.act[2,5]")
    told = document(*shlex.split(page.inner_text("#explain .again code"))[1:])
    assert told["scalar"]["target"] == document(*words, "last")["scalar"]["target"]
    assert explained_in(page) == np.float32(told["traced"]) != 0


@needs_smollm2
@pytest.mark.parametrize("budget", [0.5, in_sweep(1, whole=True), 2])
def test_the_budget_counts_gradients(page_file, budget):
    words = ("trace", SMOLLM2, "The capital of France is", "--backward", "--html-budget", budget)
    size = page_file(*words).stat().st_size / 1e6
    forms = forms_for(load(SMOLLM2), 5, budget, backward=True)
    values = [name for name in forms if not name.startswith("d ")]
    print(f"{size:.2f} MB, {len(values)} arrays and {len(forms) - len(values)} gradients")
    assert size <= budget
    assert {f"d {name}" for name in values} == forms.keys() - {*values}


@needs_smollm2
def test_a_page_of_smollm2_shows_the_gradient_of_a_difference(page_at, axe):
    options = ("--backward", "--target", " Paris", "--against", " Rome")
    page = page_at("trace", SMOLLM2, "The capital of France is", *options)
    go(page, "gradient layer29.mlp.act[4,7]")
    told = document("explain", SMOLLM2, "layer29.mlp.act[4,7]", "The capital of France is", *options)
    assert explained_in(page) == np.float32(told["traced"]) != 0
    assert page.inner_text("#explained").startswith("d (logit(␣Paris) - logit(␣Rome)) / d layer29")
    assert re.search(r"--target '␣Paris' --against '␣Rome'$", page.inner_text("#explain .again code"))
    verdict_in(page)
    axe_finds_nothing(axe, page, {"include": [["#explain"], ["#views"]]}, ("light", "dark"), (400, 1400))


@needs_smollm2
def test_a_long_text_has_only_the_gradients_of_the_last_position(page_at):
    tokens = ",".join(map(str, range(500, 563)))
    words = ("trace", SMOLLM2, "--tokens", tokens, "--backward", "--target", "#5")
    page = page_at(*words)
    go(page, "gradient layer29.attn.weights[2,62,40]")
    told = document(*words, "--layer", "layer29.attn.weights", "--values")
    (event,) = (event for event in told["events"] if event["phase"] == "backward")
    assert explained_in(page) == np.float32(event["values"][2][62][40]) != 0
    title, numbers = (page.locator(f".array .figure:nth-child(2) {part}") for part in ("h3", "dl"))
    assert title.inner_text().endswith("d value, only at the last position")
    assert is_rounded(numbers.inner_text().split()[1], event["stats"]["l2_norm"])
    go(page, "gradient layer29.attn.weights[2,61,40]")
    assert "The command below computes it." in page.inner_text("#explain")
