"""Compare the first screen of a production model's page with commands: logit lens, parts and heads."""

import re

import numpy as np
import pytest
from support.browser import axe_finds_nothing, needs_browser
from support.documents import document
from support.page_numbers import is_percent, is_rounded
from support.real_model import SMOLLM2, needs_smollm2

from microgpt_trace.text.printable import shown_token

pytestmark = needs_browser

PROMPT = "The capital of France is"
LONG = ",".join(map(str, range(500, 563)))  # test_page_access.py opens the same page

# What the first screen shows.
SHOWN = """() => {
  const all = (selector, read, within = document) => Array.from(within.querySelectorAll(selector), read);
  const text = (each) => each.textContent;
  const pair = (row) => [text(row.firstChild), text(row.querySelector(".n")), text(row.children[1])];
  return {
    chance: document.querySelector("#chance").textContent,
    bands: all("#picture .lane", (lane) => all("g > title", text, lane)),
    cells: all("#picture .part-cell > title", text), lines: all("#picture .moved > title", text),
    card: document.querySelector("#cards .card")?.innerText ?? "", ranked: all("#cards .ranked li", pair),
    shares: all("#cards .shares li", pair), text: document.querySelector("#cards").innerText,
  };
}"""


def words_of(part):
    """Return the name of a head or an MLP in the page."""
    layer, head = re.fullmatch(r"layer(\d+)\.(?:attn\.head(\d+)|mlp\..+)", part).groups()
    return f"MLP of layer {layer}" if head is None else f"head {layer}.{head}"


def chance_without(words, part, position, token):
    """Return the probability of a token if a part is ablated."""
    changed = document(*words, "--ablate", part, "--layer", "probs", "--values")
    (event,) = changed["events"]
    return event["values"][position][token]


@needs_smollm2
def test_the_first_screen_has_the_numbers_of_the_commands(page_at):
    words = ("trace", SMOLLM2, PROMPT)
    shown = page_at(*words).evaluate(SHOWN)
    told = document("attribute", SMOLLM2, PROMPT)
    (explained,) = told["positions"]
    contrast, p = explained["contrast"], explained["target"]["p"]
    token, label = contrast["target"], shown_token(contrast["target_label"])
    assert is_percent(shown["chance"], p)
    # the logit lens: tokens and chances of all bands, and the rank in the card
    lens = document(*words, "--lens", "--top-k", "3", "--target", f"#{token}")
    for lane, titles in enumerate(shown["bands"]):
        for row, title in zip(lens["lens"], titles, strict=True):
            layer, listed = re.fullmatch(r"after layer (\d+): (.+)", title).groups()
            assert int(layer) == row["layer"]
            for candidate, text in zip(row["top"][lane], re.split(r"(?<= %), ", listed), strict=True):
                name, chance = re.fullmatch(r"(.+?) (\S+ %|1 in .+)", text).groups()
                assert (name, is_percent(chance, candidate["p"])) == (shown_token(candidate["label"]), True)
    # the effects of all parts, of which two are computed again by an ablation
    parts = {each["name"]: each for each in explained["parts"] if each["kind"] in ("head", "mlp")}
    without = {name: p * np.exp(-each["loss_change"]) for name, each in parts.items()}
    cells = dict(cell.split(f": {label} without it ") for cell in shown["cells"])
    assert len(cells) == len(parts) == 300
    for name, chance in without.items():
        assert is_percent(cells[words_of(name)], chance), (name, cells[words_of(name)], chance)
    heads = sorted((n for n in parts if "head" in n), key=lambda n: -abs(parts[n]["loss_change"]))[:5]
    assert [row[0] for row in shown["ranked"]] == [words_of(name) for name in heads]
    looks = {role["name"]: role["looks"][0] for role in told["roles"]}
    for name, (_, chance, look) in zip(heads, shown["ranked"], strict=True):
        ablated = chance_without(words, name, 4, token) if name in heads[:2] else without[name]
        print(name, chance, 100 * ablated)
        assert is_percent(chance, ablated)
        where = (
            "itself" if looks[name]["most_at"] == 4 else shown_token(told["labels"][looks[name]["most_at"]])
        )
        assert look == f"{where} {round(100 * looks[name]['share'])} %"
    # the card of the head that the page chose, and where this head looks
    ranks = [row["rank"] for row in lens["lens_target"] if row["layer"] in (22, 23)]
    card = " ".join(shown["card"].split())
    assert card.count(f"takes the rank of {label} from {ranks[1]:,}th to {ranks[2]:,}th.") == 1
    alone = re.search(r"Without it at this position alone, the chance falls from .+ % to (.+? %)\.", card)[1]
    assert is_percent(alone, chance_without(words, f"{heads[0]}@4", 4, token))
    first = sum(role["attention"]["first"] > 0.5 for role in told["roles"])
    assert f"In {first} of 270 heads, position 0 gets more than half" in shown["text"]
    assert is_rounded(re.search(r"takes (\S+) % from ␣France", card)[1], 100 * looks[heads[0]]["share"])
    (role,) = (role["attention"] for role in told["roles"] if role["name"] == heads[0])
    expected = [role["itself"], role["previous"], role["first"]]
    assert [text for _, text, _ in shown["shares"]] == [f"{round(100 * share)} %" for share in expected]


@needs_smollm2
def test_a_reader_can_choose_other_parts_by_mouse_and_keyboard(page_at):
    page = page_at("trace", SMOLLM2, PROMPT)
    page.locator('[data-key="part layer0.attn.head4"]').click()
    assert page.inner_text("#cards h2").startswith("Head 0.4 looks most at itself")
    assert page.evaluate("location.hash") == "#&line=layer0.attn.head4&position=4"
    page.locator("#picture-box").focus()
    for key, title in {"ArrowRight": "Head 1.4", "ArrowDown": "Head 1.5", "ArrowLeft": "Head 0.5"}.items():
        page.keyboard.press(key)
        assert page.inner_text("#cards h2").startswith(title)
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    assert page.inner_text("#cards h2").startswith("MLP of layer 0")
    page.locator("#picture .part-cell").nth(1).click()
    page.keyboard.press("Enter")
    assert page.inner_text("#explained").startswith("layer0.attn.weights[1,4,")
    page.locator('#answer [data-key="token 1"]').click()
    assert page.inner_text("#answer .choice.real .letter") == "␣of"


@needs_smollm2
def test_axe_finds_no_fault_in_the_first_screen(page_at, axe):
    page = page_at("trace", SMOLLM2, PROMPT)
    axe_finds_nothing(axe, page, {"include": [["#answer"], ["#cards"]]}, ("light", "dark"))


@needs_smollm2
def test_a_long_text_shows_what_heads_write_because_removals_would_take_too_long(page_at):
    shown = page_at("trace", SMOLLM2, "--tokens", LONG).evaluate(SHOWN)
    told = document("attribute", SMOLLM2, "--tokens", LONG, "--no-ablation")
    (explained,) = told["positions"]
    parts = {each["name"]: each["difference"] for each in explained["parts"] if each["kind"] == "head"}
    heads = sorted(parts, key=lambda name: -abs(parts[name]))[:5]
    for name, (_, added, _) in zip(heads, shown["ranked"], strict=True):
        assert is_rounded(added, parts[name])
    assert len(shown["bands"]) == 16
    assert "This text is too long to remove each part" in shown["text"]
    words = "the logit of {} minus that of {}.".format(
        *(shown_token(explained["contrast"][which]) for which in ("target_label", "against_label"))
    )
    assert words in " ".join(shown["card"].split())


@pytest.mark.parametrize("case", ["gpt2", "qwen3"])
def test_models_of_other_shapes_have_a_first_screen(page_at, decoder_folder, gpt2, case):
    file = gpt2()[0] if case == "gpt2" else decoder_folder(case)
    words = ("trace", file, "--tokens", "3,4,5,3,4")
    shown = page_at(*words).evaluate(SHOWN)
    (explained,) = document("attribute", *words[1:])["positions"]
    heads = [each for each in explained["parts"] if each["kind"] == "head"]
    mlps = [each for each in explained["parts"] if each["kind"] == "mlp"]
    assert len(shown["cells"]) == len(heads) + len(mlps)
    for name, chance, _ in shown["ranked"]:
        layer, head = name.removeprefix("head ").split(".")
        expected = chance_without(words, f"layer{layer}.attn.head{head}", 4, explained["contrast"]["target"])
        assert is_percent(chance, expected), (name, chance, expected)


def test_a_run_with_interventions_and_values_that_are_not_finite_have_no_first_screen(
    page_at, decoder_folder
):
    def broken(arrays):
        arrays["model.layers.0.mlp.down_proj.weight"][0, 0] = np.nan

    words = ("trace", decoder_folder("llama_gqa"), "--tokens", "3,4,5", "--ablate", "layer0.attn.out")
    for page in (page_at(*words), page_at("trace", decoder_folder("llama_gqa", broken), "--tokens", "3,4,5")):
        assert page.locator("#picture-box").count() == 0
        assert page.locator("#tokens .token").count() == 3
    shown = page_at(*words, "--lens").evaluate(SHOWN)
    assert (len(shown["bands"]), shown["cells"], shown["card"]) == (3, [], "")
