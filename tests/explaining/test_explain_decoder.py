"""Explanations of the events and parameters of decoders, against an independent judge."""

import numpy as np
import pytest
from support.explanations import check_steps, check_uses, check_values, elements, explainer
from support.faulty_engine import decoder_run
from support.judges import agree
from support.real_model import needs_smollm2
from support.sweeps import in_sweep, some_of
from support.tiny_gpt2 import GPT2S, gpt2_events
from support.tiny_models import CASES as DECODERS
from support.tiny_models import TOKENS, tiny_model, write_gguf

from microgpt_trace import load
from microgpt_trace.errors import InputError
from microgpt_trace.explaining.explain import explain, explain_in, keep_run
from microgpt_trace.formulas.steps import element_name

CHOSEN = (
    "llama_gqa", "llama_mha_bias", "llama_tied", "llama_yarn_attention", "mistral_window", "qwen2_window",
)  # fmt: skip


@pytest.fixture
def judged(decoders, gpt2):
    """A function that returns the model of a case, and its events by the judge."""

    def make(case):
        if case in GPT2S:
            _, model, config, weights = gpt2(case)
            return model, gpt2_events(config, weights, TOKENS)
        model, config, weights = decoders(case)
        return model, decoder_run(config, weights, TOKENS)

    return make


def check_events(model, events, count=2):
    run = keep_run(model, tokens=TOKENS)
    for name, index in elements(model.plan.shapes(len(TOKENS)), count):
        found = explain_in(run, element_name(name, index), terms=4)
        print(found.element, found.value, found.traced)
        assert found.holds
        check_steps(found)
        if name in events:
            agree(found.value, events[name][index], rtol=1e-4, atol=3e-5, what=found.element)


@pytest.mark.parametrize("case", some_of([*GPT2S, *DECODERS], every=5))
def test_every_explained_event_of_a_decoder_equals_the_judge(judged, case):
    check_events(*judged(case))


@pytest.mark.parametrize("case", ["llama_mha_bias", in_sweep("llama_gqa"), in_sweep("mistral_window")])
def test_rows_that_gguf_permutes_are_explained_in_our_order(tmp_path, judged, case):
    check_events(load(write_gguf(tmp_path / "m.gguf", *tiny_model(case))), judged(case)[1])


@pytest.mark.parametrize("case", ["llama_mha_bias", "qwen3"])
def test_a_row_or_column_that_is_read_alone_equals_that_of_the_parameter(tmp_path, case):
    model = load(write_gguf(tmp_path / "m.gguf", *tiny_model(case)))
    run = keep_run(model, tokens=TOKENS)
    for name, index in elements(model.config.shapes(), 3):
        whole = model.parameter(name)
        assert np.array_equal(
            model.parameter(name, slice(index[0], index[0] + 1)).reshape(-1), whole[index[0]].reshape(-1)
        ), name
        if len(index) == 2:
            stored = model.tensors[name]
            assert np.array_equal(stored.column(index[1]), stored.read()[:, index[1]])
        assert explain_in(run, element_name(name, index)).traced == whole[index]


def test_the_largest_use_is_found_in_rows_that_gguf_permutes(tmp_path):
    model = load(write_gguf(tmp_path / "m.gguf", *tiny_model("llama_gqa")))
    assert model.config.adjacent_pairs
    found = explain(model, "layer0.attn.norm[3,5]", tokens=TOKENS)
    for use, name in zip(found.uses, ("wq", "wk", "wv"), strict=True):
        products = found.traced * model.parameter(f"layer0.attn_{name}")[:, 5]
        best = np.abs(products).argmax()
        assert (use.name, use.count) == (f"layer0.attn.{name[1]}[3,{best}]", len(products))
        assert use.adds == pytest.approx(products[best])


@pytest.mark.parametrize("name", ["attn_wq[3,5]", "attn_bk[3]", "attn_wv[3,5]"])
def test_a_parameter_notes_rows_in_another_order(tmp_path, name):
    model = load(write_gguf(tmp_path / "m.gguf", *tiny_model("llama_mha_bias")))
    (note,) = explain(model, f"layer0.{name}", tokens=TOKENS).notes
    assert ("with rows in another order" in note) == ("_wv" not in name)


def test_context_is_used_by_its_own_head_and_the_output(decoders):
    head, out = explain(decoders("llama_gqa")[0], "layer0.attn.context[3,17]", tokens=TOKENS).uses
    assert head.name.startswith("layer0.attn.head2[3,")
    assert head.value is not None
    assert head.adds == out.adds


@pytest.mark.parametrize("case", ["qwen3", *map(in_sweep, ["gpt2", *CHOSEN])])
def test_uses_of_elements_of_a_decoder_have_them_as_terms(judged, case):
    model, _ = judged(case)
    shapes = model.plan.shapes(len(TOKENS)) | model.config.shapes()
    explained = explainer(model, 10**6, tokens=TOKENS)
    for name, index in elements(shapes, seed=4):
        found = explained(element_name(name, index), "forward")
        check_uses(found, explained)
        if not name.startswith("layer0"):
            check_values(found, explained)


def test_a_query_head_reads_its_key_value_head(decoders):
    model, config, _ = decoders("llama_gqa")
    found = explain(model, "layer1.attn.scores[3,5,2]", tokens=TOKENS)
    dim = config["hidden_size"] // config["num_attention_heads"]
    names = [factor.name for factor in found.steps[0].terms[0].factors]
    assert names == [f"layer1.attn.q_rope[5,{3 * dim}]", f"layer1.attn.k_rope[2,{1 * dim}]"]
    assert "head 3 reads the keys of key-value head 1" in found.notes


def test_a_key_outside_the_window_is_masked(decoders):
    model, _, _ = decoders("qwen2_window")
    inside, outside = (explain(model, f"layer1.attn.weights[0,5,{key}]", tokens=TOKENS) for key in (3, 2))
    assert inside.steps[0].count == 3
    assert (outside.traced, outside.value) == (0, 0)
    assert "3 positions back, and the window of this layer is 3" in outside.notes[0]
    assert explain(model, "layer0.attn.weights[0,5,2]", tokens=TOKENS).traced > 0


def test_a_replaced_head_of_a_decoder_is_a_term_of_the_output(decoders):
    model, _, _ = decoders("llama_mha_bias")
    with model.hooks.subscribe(lambda event, value: value * 2, "layer0.attn.head1"):
        head, out = (explain(model, f"layer0.attn.{n}[3,5]", tokens=TOKENS) for n in ("head1", "out"))
    assert (head.holds, out.holds) == (False, True)
    assert out.steps[0].terms[1].factors[0].name == "layer0.attn.head1[3,5]"


@pytest.mark.parametrize("case", some_of(["qwen3", "llama_yarn_attention", "gpt2", "gpt2_erf"], every=4))
def test_the_tolerance_is_wide_enough_and_no_wider(judged, case):
    """Float32 uses at most a tenth of it; an error of 1 % in the largest element of an event exceeds it."""
    model, _ = judged(case)
    run, worst = keep_run(model, tokens=TOKENS), 0.0
    for name, shape in model.plan.shapes(len(TOKENS)).items():
        for _, index in elements({name: shape}, 5, seed=2):
            found = explain_in(run, element_name(name, index))
            worst = max(worst, found.deviation / found.tolerance)
        values = np.tril(run.array(name)) if len(shape) == 3 else run.array(name)
        largest = tuple(map(int, np.unravel_index(np.abs(values).argmax(), shape))) if shape else ()
        with model.hooks.subscribe(lambda event, value: value * np.float32(1.01), name):
            wrong = explain(model, element_name(name, largest), tokens=TOKENS)
        print(wrong.element, wrong.value, wrong.traced, wrong.tolerance)
        assert not wrong.holds
    print(worst)
    assert 0 < worst < 0.1


def test_the_loss_of_a_single_token_is_refused(decoders):
    with pytest.raises(InputError, match="no loss"):
        explain(decoders("llama_gqa")[0], "loss", tokens=[3])


@needs_smollm2
def test_smollm2_explains_events_of_layer_12(smollm2):
    shapes = smollm2.plan.shapes(5)
    chosen = {n: s for n, s in shapes.items() if n.startswith("layer12.") or not n.startswith("layer")}
    explained = explainer(smollm2, 3, text="The capital of France is")
    for name, index in elements(chosen):
        found = explained(element_name(name, index), "forward")
        print(found.element, found.value, found.traced, found.tolerance)
        assert found.holds
        check_steps(found)


@needs_smollm2
def test_smollm2_names_tokens(smollm2):
    found = explain(smollm2, "probs[-1,␣Paris]", "The capital of France is")
    assert (found.element, found.steps[0].count) == ("probs[4,7042]", 49152)
    assert found.value == pytest.approx(0.7725, abs=5e-4)
    assert found.steps[0].terms[0].label == "␣Paris"
