"""Explanations of gradients of every architecture, against the traced backward pass."""

import pytest
from support.commands import microgpt
from support.documents import document
from support.explanations import check_steps, check_uses, check_values, elements, explainer
from support.real_model import needs_smollm2
from support.sweeps import in_sweep
from support.torch_models import MODELS, written

from microgpt_trace import load
from microgpt_trace.arrays import logits
from microgpt_trace.explaining.explain import explain, explain_in, keep_run, run_for
from microgpt_trace.formulas.steps import element_name
from microgpt_trace.formulas.traced_element import Element
from microgpt_trace.plans.plan import over_tokens

TOKENS = [17, 3, 44, 3, 60, 0]
USUAL = ("gemma2", "gpt_neox", "gpt_oss", "qwen2_moe")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A function that returns a tiny model of transformers and its folder."""
    pytest.importorskip("torch", reason="the models are made by transformers")
    models = {}

    def model(name):
        if name not in models:
            folder = tmp_path_factory.mktemp(name)
            written(name, folder)
            models[name] = load(folder), folder
        return models[name]

    return model


@pytest.mark.parametrize(
    "name", [name if name in USUAL else in_sweep(name, whole=n % 3 != 0) for n, name in enumerate(MODELS)]
)
def test_steps_and_uses_of_gradients_agree_with_the_backward_pass(made, name):
    model, _ = made(name)
    events = model.plan.shapes(len(TOKENS))
    explained = explainer(model, 10**6, tokens=TOKENS, backward=True)
    for event, index in elements(events | model.config.shapes(), seed=3):
        found = explained(element_name(event, index), "backward")
        print(found.element, found.value, found.traced, found.formula)
        assert found.holds
        check_steps(found)
        if event.startswith("layer1") and event in events:
            check_values(found, explained)
            check_uses(found, explained)


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("victim", ["attn.head1", "attn.weights", "mlp.routing", "mlp.chosen", "mlp.up"])
def test_gradients_under_a_hook(made, victim, phase):
    """A replaced event passes no gradient on; a replaced gradient is the only wrong gradient."""
    model, victim = made("gpt_oss")[0], f"layer1.{victim}"
    shapes = {
        n: s for n, s in model.plan.shapes(len(TOKENS)).items() if n.startswith(("layer1", "layer0.mlp.r"))
    }
    shapes |= {n: s for n, s in model.config.shapes().items() if n.startswith("layer1")}

    def changed(event, value):
        return 5 - value if victim.endswith("chosen") and phase == "forward" else value * 1.1 + 0.01

    with model.hooks.subscribe(changed, victim, phases=phase):
        run = keep_run(model, tokens=TOKENS, backward=True)
        for name, index in elements(shapes, seed=len(victim)):
            found = explain_in(run, element_name(name, index), backward=True)
            assert found.holds == (name != victim or phase == "forward"), (found.element, found.formula)
        for name in ("attn.context[3,5]", "attn_wo[3,15]", "mlp.router[2,1]", "mlp.norm[1,7]"):
            written = f"layer1.{name}"
            alone = explain(model, written, tokens=TOKENS, backward=True)
            assert (alone.holds, alone.formula) == (True, explain_in(run, written, backward=True).formula)


@pytest.mark.parametrize("name", ["qwen2_moe", in_sweep("gemma2")])
def test_one_explanation_equals_that_of_a_kept_run(made, name):
    model, _ = made(name)
    run = keep_run(model, tokens=TOKENS, backward=True)
    for event, index in elements(model.plan.shapes(len(TOKENS)) | model.config.shapes(), seed=6):
        if event.startswith(("layer0", "layer1")):
            continue
        written = element_name(event, index)
        alone = explain(model, written, tokens=TOKENS, backward=True)
        kept = explain_in(run, written, backward=True)
        assert (alone.steps, alone.traced, alone.notes) == (kept.steps, kept.traced, kept.notes)
        for use, other in zip(alone.uses, kept.uses, strict=True):
            assert (use.name, use.adds, use.words) == (other.name, other.adds, other.words)


@pytest.mark.parametrize("name", ["layer1.mlp.up", "layer3.mlp.residual", "wte"])
def test_a_run_for_an_element_keeps_no_logits_that_are_not_read(made, monkeypatch, name):
    model, _ = made("granite")
    written = element_name(name, (1, 2))
    kept = explain(model, written, tokens=TOKENS, backward=True)
    monkeypatch.setattr(logits, "PART", 61 * 2)
    parted = explain(model, written, tokens=TOKENS, backward=True)
    print(parted.traced, kept.traced)
    assert parted.holds
    assert parted.traced == pytest.approx(kept.traced, rel=1e-4)
    run = run_for(model, model.read(tokens=TOKENS), Element(name, (1, 2)), True)
    print(sorted(run.arrays))
    assert len(run.arrays) < 20
    assert not any(map(over_tokens, dict.fromkeys(event for _, event in run.arrays)))


def test_sinks_and_experts_say_what_their_gradients_read(made):
    run = keep_run(made("gpt_oss")[0], tokens=TOKENS, backward=True)
    number = explain_in(run, "layer1.mlp.chosen[2,1]", backward=True)
    assert number.formula == "d chosen[2,1] = 0: an expert's number is a whole number, so it has no gradient"
    router = explain_in(run, "layer1.mlp.router[2,1]", backward=True)
    assert "a small change of the logits does not change the choice + " in router.formula
    assert [term.factors[0].name for term in router.steps[-1].terms] == [
        "by way of layer1.mlp.chosen",
        "by way of layer1.mlp.routing",
    ]
    assert router.steps[2].terms[0].factors[1].name.startswith("(d layer1.mlp.routing[2,")
    sink = explain_in(run, "layer0.attn_sinks[1]", backward=True).steps[-1]
    assert sink.count == sum(min(query + 1, 5) for query in range(len(TOKENS)))  # the window is 5
    chosen = set(run.array("layer1.mlp.chosen").ravel().tolist())
    print(chosen)
    for expert in set(range(6)) - chosen:
        unread = explain_in(run, f"layer1.mlp_wup_experts[{expert},2,3]", backward=True)
        assert unread.formula.endswith("= 0: the expert was not chosen")
    assert "no next token" in explain_in(run, "layer1.attn.scores[2,5,1]", backward=True).notes[0]


def test_the_command_explains_gradients_of_a_production_model(made):
    _, folder = made("gpt_oss")
    tokens = ",".join(map(str, TOKENS))
    found = document("explain", folder, "layer1.attn_sinks[2]", "--tokens", tokens, "--backward")
    assert (found["phase"], found["holds"]) == ("backward", True)
    text = microgpt("explain", folder, "layer1.mlp.routing[2,1]", "--tokens", tokens, "--backward").out
    print(text)
    assert text.startswith("d loss / d layer1.mlp.routing[2,1] = ")
    assert "Next: microgpt explain" in text


@needs_smollm2
@pytest.mark.parametrize("written", [
    "layer3.attn.scores[2,3,1]", "layer12.mlp.norm[3,5]", "logits[1,␣France]", "embed.tok[3,7]", "wte[␣is,7]",
    "layer3.mlp_wup[5,7]",
])  # fmt: skip
def test_smollm2_explains_gradients(smollm2, written):
    found = explain(smollm2, written, "The capital of France is", backward=True)
    print(found.formula, found.value, found.traced, found.tolerance)
    assert found.holds
    assert found.traced != 0
