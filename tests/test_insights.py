"""What the trace reveals: each sentence on the untrained model, and where its predicate is false."""

import math

import numpy as np
import pytest

from microgpt_trace import Model, trace, train

IDS = ["rmsnorm", "attention", "relu", "predictions", "pattern"]


def mutated(model, change):
    params = model.params.copy()
    change(params)
    return Model(params, model.tokenizer, "test")


def insight(model, identifier, text="emma"):
    return next(i for i in trace(model, text).insights if i.id == identifier)


def l2(traced, name):
    return float(np.linalg.norm(traced[name].astype(np.float64)))


def test_every_trace_has_all_of_them(emma):
    assert [i.id for i in trace(emma).insights] == IDS
    assert [i.holds for i in trace(emma).insights] == [True, True, True, False, True]


def test_rmsnorm_names_the_invariant_and_what_went_in(emma):
    found, traced = insight(emma, "rmsnorm"), trace(emma)
    assert found.holds
    assert f"{l2(traced, 'layer0.mlp.norm'):.2f}" in found.text
    assert f"({l2(traced, 'embed.sum'):.2f} before the first)" in found.text
    assert "√(5·16) = 8.94" in found.text
    assert "after each of the 3 norms" in found.text
    assert found.numbers["expected"] == pytest.approx(math.sqrt(80))


@pytest.mark.parametrize("text", ["", "abcdefghijklmno"])
def test_rmsnorm_counts_the_rows(emma, text):
    rows = len(text) + 1
    assert f"√({rows}·16) = {math.sqrt(rows * 16):.2f}" in insight(emma, "rmsnorm", text).text


def test_rmsnorm_of_tiny_embeddings(emma):
    def tiny(params):
        params.wte[...] *= 1e-3
        params.wpe[...] *= 1e-3

    model = mutated(emma, tiny)
    found, traced = insight(model, "rmsnorm"), trace(model)
    assert found.holds is False
    assert "The invariant does not hold" in found.text
    assert f"L2 = {l2(traced, 'embed.norm'):.3g} after embed.norm" in found.text
    assert f"L2 {l2(traced, 'embed.sum'):.3g} before the first norm" in found.text


def test_rmsnorm_of_embeddings_whose_squares_overflow(emma):
    model = mutated(emma, lambda params: np.multiply(params.wte, np.float32(1e22), params.wte))
    found = insight(model, "rmsnorm")
    assert found.holds is False
    assert "so small" not in found.text


def test_a_norm_that_was_replaced_is_named(emma):
    with emma.hooks.subscribe(lambda event, value: value * 3, "layer0.mlp.norm"):
        found = insight(emma, "rmsnorm")
    assert found.holds is False
    assert "after layer0.mlp.norm" in found.text


def test_attention_is_a_small_perturbation(emma):
    found, traced = insight(emma, "attention"), trace(emma)
    assert found.holds
    assert found.text.startswith("Attention is a small perturbation")
    heads = sorted(l2(traced, f"layer0.attn.head{h}") for h in range(4))
    before, out, after = (l2(traced, n) for n in ("embed.norm", "layer0.attn.out", "layer0.attn.residual"))
    assert f"L2 {heads[0]:.2f} to {heads[-1]:.2f} each, together {out:.2f}" in found.text
    assert f"{before:.2f} → {after:.2f}" in found.text
    assert f"{out / before:.0%} of the stream at most" in found.text


def test_attention_with_a_large_projection(emma):
    model = mutated(emma, lambda params: np.multiply(params["layer0.attn_wo"], 50, params["layer0.attn_wo"]))
    found, traced = insight(model, "attention"), trace(model)
    assert found.holds is False
    share = l2(traced, "layer0.attn.out") / l2(traced, "embed.norm")
    assert share > 0.25
    assert "no small perturbation" in found.text
    assert f"In layer 0 it writes {share:.0%}" in found.text


def test_attention_in_the_second_layer(deep):
    model = mutated(deep.model, lambda params: np.multiply(params.flat, 1 / 4, params.flat))
    small = insight(model, "attention", deep.text)
    loud = mutated(model, lambda params: np.multiply(params["layer1.attn_wo"], 50, params["layer1.attn_wo"]))
    found = insight(loud, "attention", deep.text)
    assert (small.holds, found.holds) == (True, False)
    traced = trace(loud, deep.text)
    share = l2(traced, "layer1.attn.out") / l2(traced, "layer0.mlp.residual")
    assert f"In layer 1 it writes {share:.0%}" in found.text


def test_relu_is_sparse_as_measured(emma):
    found, traced = insight(emma, "relu"), trace(emma)
    up, act = traced["layer0.mlp.up"], traced["layer0.mlp.act"]
    assert found.holds
    assert found.numbers["share_min"] == found.numbers["share_max"] == (act == 0).mean()
    assert f"{(act == 0).mean():.0%} of the 64 hidden units are zero" in found.text
    assert f"L2 {l2(traced, 'layer0.mlp.up'):.2f} → {l2(traced, 'layer0.mlp.act'):.2f}" in found.text
    assert f"[{up.min():.2f}, {up.max():.2f}] → [0.00, {act.max():.2f}]" in found.text


@pytest.mark.parametrize(
    ("factor", "said"), [(-1, "silences almost everything (100%)"), (1, "zeroes little (0%)")]
)
def test_relu_with_one_sided_inputs(emma, factor, said):
    ones = np.ones((5, 16), np.float32)

    def one_sided(params):
        params["layer0.mlp_fc1"][...] = factor * np.abs(params["layer0.mlp_fc1"])

    with emma.hooks.subscribe(lambda event, value: ones, "layer0.mlp.norm"):
        assert insight(emma, "relu").holds
    model = mutated(emma, one_sided)
    with model.hooks.subscribe(lambda event, value: ones, "layer0.mlp.norm"):
        found = insight(model, "relu")
    assert found.holds is False
    assert said in found.text


def test_relu_speaks_of_every_layer(deep):
    text = insight(deep.model, "relu", deep.text).text
    assert "Layer 0: " in text
    assert "Layer 1: " in text
    assert "of the 20 hidden units" in text


def test_untrained_predictions_are_at_chance_level(emma):
    found, traced = insight(emma, "predictions"), trace(emma)
    assert (found.title, found.holds) == ("Predictions", False)
    assert f"mean loss {traced.loss:.2f} against ln 27 = 3.30" in found.text
    assert f"P = {math.exp(-traced.loss):.3f} against 1/27 = 0.037" in found.text


def test_a_trained_model_has_learned(tmp_path):
    data = tmp_path / "names.txt"
    data.write_text("emma\n")
    model = train(steps=60, data=data)
    found = insight(model, "predictions")
    assert (found.title, found.holds) == ("Predictions", True)
    assert f"mean loss {trace(model).loss:.2f}" in found.text
    assert "has learned something" in found.text


def test_predictions_worse_than_chance(tmp_path, emma):
    data = tmp_path / "names.txt"
    data.write_text("emma\n")
    found = insight(train(steps=60, data=data), "predictions", "zzz")
    assert (found.title, found.holds) == ("Predictions", False)
    assert found.text.startswith("Worse than chance")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_is_not_finite_is_not_evaluated(emma, bad):
    model = mutated(emma, lambda params: params.wte.fill(bad))
    found = {i.id: i for i in trace(model).insights}
    for identifier in IDS[:-1]:
        assert found[identifier].holds is None
        assert found[identifier].text == "Not evaluated: the run holds values that are not finite."
        assert found[identifier].numbers == {}
    assert found["pattern"].holds


def test_an_infinite_loss_is_not_evaluated(emma):
    with emma.hooks.subscribe(lambda event, value: np.full_like(value, np.inf), "loss"):
        assert [i.holds for i in trace(emma).insights] == [None, None, None, None, True]


def test_the_pattern_is_that_of_the_events(emma, deep):
    chain = (
        "Layer 0: attn_norm → q_proj → k_proj → v_proj → attn → o_proj → residual → ffn_norm → up_proj → "
        "ReLU → ffn_down → residual"
    )
    assert insight(emma, "pattern").text.startswith(f"{chain} (same pattern × 1 layer).")
    assert f"{chain} (same pattern × 2 layers)" in insight(deep.model, "pattern", deep.text).text


def test_another_order_of_events_is_not_the_pattern(emma):
    from microgpt_trace.insights import insights_of

    events = [e for e in trace(emma) if e.name != "layer0.attn.q"]
    found = insights_of(events, [3.0] * 5, emma.config)[-1]
    assert found.holds is False
    assert "attn_norm → k_proj" in found.text


def test_insights_do_not_depend_on_what_is_shown(emma):
    assert trace(emma, names=["logits"], values=False).insights == trace(emma).insights
