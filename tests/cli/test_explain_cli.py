"""`microgpt explain` from the shell: its output, its document and exit codes."""

import shlex
from dataclasses import replace
from importlib import import_module

import pytest
from support.commands import microgpt
from support.documents import valid
from support.terminal import rendered

from microgpt_trace import init
from microgpt_trace.explaining.explain import explain
from microgpt_trace.explaining.explanation import Explanation
from microgpt_trace.render.results.explanation_sections import explanation_sections

explaining = import_module("microgpt_trace.explaining.explain")
SCORE = "layer0.attn.scores[1,3,2]"
OF_MICROGPT = [
    ("embed.norm[3,5]",), (SCORE,), ("layer0.attn.weights[1,3,2]",), ("layer0.attn.residual@3:5",), ("loss",),
    ("layer0.mlp.act[3,1]",), ("probs[-1,EOS]",), ("layer0.attn_wq[5,3]",), (SCORE, "--backward"),
    ("wte[e,3]", "--backward"), ("logits[-1,EOS]", "--backward"),
]  # fmt: skip
OF_DECODER = [
    "layer1.attn.q_rope[3,12]", "layer1.attn.norm[3,12]", "layer1.attn.head2[3,12]", "layer1.mlp.act[3,12]",
    "layer1.mlp.hidden[3,12]", "logits[-1,7]", "layer1.attn_wk[3,4]",
]  # fmt: skip


def said(*args, **options):
    done = microgpt("explain", *args, **options)
    assert done.code == 0, done.err
    return done.out


def test_next_leads_back_without_a_loop():
    """Each step is one operation earlier, down to an embedding."""
    for options, last in (([], "embed.tok"), (["--backward"], "logits")):
        element, seen = ("layer0.mlp.act[3,5]", [])
        while element:
            assert element not in seen
            seen.append(element)
            lines = said(element, "emma", *options).splitlines()
            following = [line for line in lines if line.startswith("Next: ")]
            element = shlex.split(following[0].removeprefix("Next: "))[2] if following else ""
        print(seen)
        assert seen[-1].startswith(last)


def test_a_probability_came_from_its_own_logit():
    lines = said("probs[-1,a]", "--terms", "2").splitlines()
    at = lines.index("Came from")
    assert lines[at + 2].split()[0] == "logits[4,1]"
    assert lines[at + 2].endswith("and its row (27 elements)")


@pytest.mark.parametrize("args", [*OF_MICROGPT, *((element, None) for element in OF_DECODER)])
def test_text_and_document_say_that_the_values_are_equal(decoder, args):
    if None in args:
        args = (decoder, args[0], "--tokens", "17,3,44,3,60")
    text = said(*args)
    assert "equal" in text or "stored" in text
    document = valid(said(*args, "--json", "--terms", "3"), "explain")
    assert document["schema"] == Explanation.SCHEMA
    assert document["holds"] is True
    assert all(len(step["terms"]) <= 3 for step in document["steps"])


def test_values_that_are_not_finite_fit_the_schema(decoder_folder):
    def spoil(weights):
        weights["model.layers.0.mlp.up_proj.weight"][5, 3] = float("nan")

    spoiled = decoder_folder(edit=spoil)
    document = valid(said(spoiled, "layer0.mlp.up[2,5]", "--tokens", "1,2,3", "--json"), "explain")
    assert (document["traced"], document["value"]) == ("NaN", "NaN")


def test_an_unequal_result_shows_both_numbers():
    model = init()
    with model.hooks.subscribe(lambda event, value: value * 1.001, "layer0.attn.q"):
        found = explain(model, "layer0.attn.q[3,5]")
    said = rendered(explanation_sections(found))
    assert not found.holds
    for part in ("NOT EQUAL", f"{found.value:.9g}", f"{found.traced:.9g}"):
        assert part in said


def test_an_unequal_result_exits_with_1(monkeypatch):
    right = explaining.worked_out

    def wrong(at):
        return replace(right(at), stored=right(at).value + 1)

    monkeypatch.setattr(explaining, "worked_out", wrong)
    assert microgpt("explain", "layer0.attn.q[3,5]", "emma").code == 1


def test_a_model_after_the_element_is_refused(checkpoints):
    for text in ([], ["emma"]):
        done = microgpt("explain", "logits[0,0]", checkpoints["trained"], *text)
        print(done.err)
        assert (done.code, done.out) == (2, "")
        assert f"the model comes first: {checkpoints['trained']} 'logits[0,0]'" in done.err.replace("\n", "")
