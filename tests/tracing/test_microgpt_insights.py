"""What the trace reveals: each sentence on the untrained model, and where its predicate is false."""

import math
from dataclasses import replace

import numpy as np
import pytest

from microgpt_trace import Config, Model, init, trace, train
from microgpt_trace.arrays.norm_rows import NormRows
from microgpt_trace.microgpt.model import Schedule, TrainingState
from microgpt_trace.text.wording import at_most, counted
from microgpt_trace.tracing.microgpt_insights import ENOUGH

IDS = ["rmsnorm", "attention", "relu", "predictions", "pattern"]


def mutated(model, change):
    params = model.params.copy()
    change(params)
    return Model(params, model.tokenizer, "test")


def insight(model, identifier, text="emma"):
    return next(i for i in trace(model, text).insights if i.id == identifier)


def l2(traced, name):
    return float(np.linalg.norm(traced[name].astype(np.float64)))


@pytest.mark.parametrize(
    ("share", "printed"),
    [(0.0, "0%"), (-1e-9, "0%"), (1, "100%"), (0.00344, "0.35%"), (0.25, "25%"), (3.1e-8, "0.0000031%")],
)
def test_a_bound_is_never_below_what_it_bounds(share, printed):
    assert at_most(share) == printed


def test_one_is_not_plural():
    assert [counted(n, "step") for n in (0, 1, 5000)] == ["0 steps", "1 step", "5,000 steps"]


def test_every_trace_has_all_of_them(emma):
    assert [i.id for i in trace(emma).insights] == IDS
    assert [i.holds for i in trace(emma).insights] == [True, True, True, None, True]


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
    least = np.sqrt(np.square(traced["embed.norm"].astype(np.float64)).mean(axis=1)).min()
    assert found.text.startswith("Not every row has RMS 1")
    assert f"one after embed.norm has RMS {least:.2f}" in found.text
    assert "eps = 1e-05 counts" in found.text


def test_rmsnorm_of_one_tiny_row_among_many():
    """A hundred rows hide one of RMS 0.003 from their L2."""
    model = init(Config(block_size=128))
    model.params.wte[2] *= 1e-4
    model.params.wpe[1] *= 1e-4
    text = "b" + "a" * 120
    found, traced = insight(model, "rmsnorm", text), trace(model, text)
    rows = np.sqrt(np.square(traced["embed.norm"]).mean(axis=1))
    print(found.text, rows.min(), l2(traced, "embed.norm") / math.sqrt(121 * 16))
    assert rows.min() < 0.01
    assert found.holds is False
    assert f"after embed.norm has RMS {rows.min():.3g}" in found.text


def test_rmsnorm_of_embeddings_whose_squares_overflow(emma):
    model = mutated(emma, lambda params: np.multiply(params.wte, np.float32(1e22), params.wte))
    found = insight(model, "rmsnorm")
    assert found.holds is False
    assert "leave the range of the numbers" in found.text


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
    assert f"It adds {out / before:.0%} of the stream's L2." in found.text


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


def test_attention_beside_a_stream_of_zeros(emma, deep):
    """0/0 is no share: it is not evaluated, or the layer left out where others have one."""

    def zeros(event, value):
        return value * 0

    with emma.hooks.subscribe(zeros, "embed.norm"):
        found = insight(emma, "attention")
    assert found.holds is None
    assert found.text == "Not evaluated: attention writes zeros into a residual stream of zeros."
    assert not found.numbers
    hooks = deep.model.hooks
    with hooks.subscribe(zeros, "embed.norm"), hooks.subscribe(lambda e, v: v + 1, "layer0.mlp.residual"):
        found = insight(deep.model, "attention", deep.text)
    assert "n layer 1" in found.text, found.text


def test_relu_is_sparse_as_measured(emma):
    found, traced = insight(emma, "relu"), trace(emma)
    up, act = traced["layer0.mlp.up"], traced["layer0.mlp.act"]
    assert found.holds
    assert found.numbers["share_min"] == found.numbers["share_max"] == (act == 0).mean()
    assert f"{(act == 0).mean():.0%} of the 64 hidden units are zero" in found.text
    assert f"L2 {l2(traced, 'layer0.mlp.up'):.2f} → {l2(traced, 'layer0.mlp.act'):.2f}" in found.text
    assert f"[{up.min():.2f}, {up.max():.2f}] → [0.00, {act.max():.2f}]" in found.text


@pytest.mark.parametrize(
    ("factor", "said"), [(-1, "ReLU silences most units: 100%"), (1, "ReLU zeroes few units: 0%")]
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
    """What is true of one layer is not said of the MLPs."""
    deaf = mutated(deep.model, lambda params: params["layer0.mlp_fc1"].fill(0))
    found = insight(deaf, "relu", deep.text)
    share = (trace(deaf, deep.text)["layer1.mlp.act"] == 0).mean()
    assert found.holds is False
    lead = f"silences most units in layer 0 (100%); leaves a sparse representation in layer 1 ({share:.0%})."
    assert found.text.startswith(f"ReLU {lead}")
    assert "Layer 0: 100% of the 20 hidden units" in found.text
    assert f"Layer 1: {share:.0%} of the 20 hidden units" in found.text


@pytest.mark.parametrize("text", ["emma", "ku", "ava", ""])
def test_an_untrained_model_is_neither_praised_nor_blamed(emma, text):
    found, traced = insight(emma, "predictions", text), trace(emma, text)
    assert (found.title, found.holds) == ("Predictions", None)
    assert f"Mean loss {traced.loss:.2f} over {len(text) + 1} prediction" in found.text
    assert "against ln 27 = 3.30" in found.text
    assert f"P = {math.exp(-traced.loss):.3f} against 1/27 = 0.037" in found.text
    assert found.text.endswith("The model is untrained: it has learned nothing.")
    assert not any(word in found.text for word in ("Better", "Worse", "confident", "learned something"))


def test_what_is_known_to_be_untrained(emma):
    schedule = Schedule(steps=1)
    started = replace(emma, origin="a file", training=TrainingState(schedule, 0, "data"))
    assert (emma.untrained, started.untrained) == (True, True)
    assert not replace(started, training=TrainingState(schedule, 1, "data")).untrained
    assert not replace(emma, origin="bare.safetensors").untrained


@pytest.mark.parametrize("text", ["emma", "q", "abcdefghijklmno"])
def test_how_far_chance_scatters(emma, text):
    """Against 20,000 texts whose characters are drawn, position by position, from the model's own P."""
    found, probs = insight(emma, "predictions", text), trace(emma, text)["probs"].astype(np.float64)
    rng = np.random.default_rng(1)
    drawn = np.array([rng.choice(-np.log(p), 20_000, p=p / p.sum()) for p in probs]).mean(axis=0)
    print(found.text, drawn.mean(), drawn.std())
    assert found.numbers["own_loss"] == pytest.approx(drawn.mean(), abs=0.01)
    assert found.numbers["own_spread"] == pytest.approx(drawn.std(), rel=0.03)


@pytest.fixture(scope="module")
def knows_emma(tmp_path_factory):
    data = tmp_path_factory.mktemp("data") / "names.txt"
    data.write_text("emma\n")
    return train(steps=60, data=data)


def test_a_trained_model_beats_a_uniform_guess(knows_emma):
    found, traced = insight(knows_emma, "predictions"), trace(knows_emma)
    assert (found.title, found.holds) == ("Predictions", True)
    times = math.exp(5 * (math.log(27) - traced.loss))
    said = f"10^{math.log10(times):.1f}" if times > 1e6 else f"{times:,.1f}"
    assert found.text.startswith(
        f"Better than a uniform guess: the model makes this text {said} times as likely."
    )
    assert "learned" not in found.text


def test_predictions_worse_than_a_uniform_guess(knows_emma):
    found = insight(knows_emma, "predictions", "zzz")
    assert found.holds is False
    assert found.text.startswith("Worse than a uniform guess: the model makes this text ")
    assert "times less likely" in found.text


def test_a_text_that_tells_nothing_says_so(emma):
    found = insight(replace(emma, origin="of unknown making"), "predictions", "ku")
    times = math.exp(3 * (trace(emma, "ku").loss - math.log(27)))
    assert found.holds is None
    expected = (
        f"This text does not tell the model from a uniform guess: it is {times:.1f} times less likely, 20"
    )
    assert found.text.startswith(expected)


@pytest.mark.parametrize("text", ["", "a", "abc", "abcdefghijklmno"])
def test_chance_rarely_looks_like_evidence(knows_emma, text):
    """Of texts drawn evenly at most 1 in 20 may come out 20 times as likely, of the model's own at most 1
    in 20 as many times less likely: whatever the model and however short the text."""
    probs = trace(knows_emma, text)["probs"].astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    rng, count, size = np.random.default_rng(2), *probs.shape
    evenly = rng.integers(0, size, (20_000, count))
    own = np.stack([rng.choice(size, 20_000, p=p) for p in probs], axis=1)
    gains = [np.log(size * probs[np.arange(count), ids]).sum(axis=1) for ids in (evenly, own)]
    shares = (gains[0] >= math.log(ENOUGH)).mean(), (gains[1] <= -math.log(ENOUGH)).mean()
    print(shares)
    assert max(shares) <= 1 / ENOUGH


def test_probabilities_that_are_none_are_not_judged(emma):
    with emma.hooks.subscribe(lambda event, value: value / 2, "probs"):
        found = insight(emma, "predictions")
    assert found.holds is None
    assert "does not sum to 1" in found.text


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
    from microgpt_trace.tracing.microgpt_insights import insights_of

    traced, norms = trace(emma, values=["probs"]), NormRows(1e-5, {"embed.norm": 0.0}, {"embed.norm": 1.0})
    events = [e for e in traced if e.name != "layer0.attn.q"]
    found = insights_of(events, norms, [3.0] * 5, traced["probs"], emma)[-1]
    assert found.holds is False
    assert "attn_norm → k_proj" in found.text


def test_insights_do_not_depend_on_what_is_shown(emma):
    assert trace(emma, names=["logits"], values=False).insights == trace(emma).insights
