"""Check the insights of a microGPT, untrained and with replaced values.

`read_microgpt` compares the numbers of every sentence with the arrays. test_sentences.py does so for random
models, for which predicates are false.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.sentences import check_microgpt

from microgpt_trace import trace, train
from microgpt_trace.measuring.norm_meter import NormRows
from microgpt_trace.microgpt.model import Schedule, TrainingState
from microgpt_trace.text.wording import at_most, counted
from microgpt_trace.tracing.collector import TracedRun
from microgpt_trace.tracing.insights import insights_of
from microgpt_trace.tracing.text_insights import ENOUGH, PREDICATES

IDS = ["rmsnorm", "attention", "relu", "predictions", "pattern"]


def insights(model, text="emma", read=True):
    """Return the insights of a trace by id, after comparing their numbers with the arrays."""
    traced = trace(model, text)
    for found in traced.insights:
        print(found.holds, found.text)
    if read:
        check_microgpt(traced, model.config.n_layer)
    return {found.id: found for found in traced.insights}


@pytest.mark.parametrize(
    ("share", "printed"),
    [(0.0, "0%"), (-1e-9, "0%"), (1, "100%"), (0.00344, "0.35%"), (0.25, "25%"), (3.1e-8, "0.0000031%")],
)
def test_rounds_a_bound_up(share, printed):
    assert at_most(share) == printed


def test_writes_one_without_a_plural():
    assert [counted(n, "step") for n in (0, 1, 5000)] == ["0 steps", "1 step", "5,000 steps"]


@pytest.mark.parametrize("text", ["emma", "", "abcdefghijklmno"])
def test_every_trace_has_every_insight(emma, text):
    found, zeros = insights(emma, text), trace(emma, text)["layer0.mlp.act"] == 0
    assert [(i, found[i].holds) for i in found] == list(zip(IDS, [True, True, True, None, True], strict=True))
    assert found["rmsnorm"].numbers["expected"] == pytest.approx(math.sqrt((len(text) + 1) * 16))
    assert found["relu"].numbers == dict.fromkeys(("share_min", "share_max"), zeros.mean())
    assert found["predictions"].text.endswith("The model is untrained: it has learned nothing.")


def test_rmsnorm_of_embeddings_whose_squares_overflow(emma):
    emma.params.wte[...] *= 1e22
    found = insights(emma, read=False)["rmsnorm"]
    assert found.holds is False
    assert "overflow or underflow" in found.text


def test_names_a_replaced_norm(emma):
    with emma.hooks.subscribe(lambda event, value: value * 3, "layer0.mlp.norm"):
        found = insights(emma)["rmsnorm"]
    assert found.holds is False
    assert "hold: layer0.mlp.norm is not" in found.text


def test_attention_with_a_residual_stream_of_zeros(emma, deep):
    """0/0 is no share. The layer is left out if other layers have a share."""

    def zeros(event, value):
        return value * 0

    with emma.hooks.subscribe(zeros, "embed.norm"):
        found = insights(emma, read=False)["attention"]
    text = "Not evaluated: attention writes zeros into a residual stream of zeros."
    assert (found.holds, found.text, found.numbers) == (None, text, {})
    hooks = deep.model.hooks
    with hooks.subscribe(zeros, "embed.norm"), hooks.subscribe(lambda e, v: v + 1, "layer0.mlp.residual"):
        found = insights(deep.model, deep.text, read=False)["attention"]
    assert "In layer 1 " in found.text


@pytest.mark.parametrize(("sign", "said"), [(-1, "silences most units: 100%"), (1, "zeroes few units: 0%")])
def test_relu_with_one_sided_inputs(emma, sign, said):
    emma.params["layer0.mlp_fc1"][...] = sign * np.abs(emma.params["layer0.mlp_fc1"])
    with emma.hooks.subscribe(lambda event, value: np.ones((5, 16), np.float32), "layer0.mlp.norm"):
        found = insights(emma)["relu"]
    assert found.holds is False
    assert found.text.startswith(f"ReLU {said}")


def test_tells_untrained_models_from_others(emma):
    schedule = Schedule(steps=1)
    started = replace(emma, origin="a file", training=TrainingState(schedule, 0, "data"))
    assert (emma.untrained, started.untrained) == (True, True)
    assert not replace(started, training=TrainingState(schedule, 1, "data")).untrained
    assert not replace(emma, origin="bare.safetensors").untrained


@pytest.fixture(scope="module")
def knows_emma(tmp_path_factory):
    data = tmp_path_factory.mktemp("data") / "names.txt"
    data.write_text("emma\n")
    return train(steps=60, data=data)


@pytest.mark.parametrize(
    ("text", "holds", "lead"),
    [("emma", True, "Better than a uniform guess: "), ("zzz", False, "Worse than a uniform guess: ")],
)
def test_compares_a_trained_model_with_a_uniform_guess(knows_emma, text, holds, lead):
    found = insights(knows_emma, text)["predictions"]
    assert found.holds is holds
    assert found.text.startswith(f"{lead}the model makes this text ")


@pytest.mark.parametrize("text", ["", "abc", "abcdefghijklmno"])
def test_chance_rarely_gives_evidence(knows_emma, text):
    """Chance gives at most 1 in 20 texts a likelihood ratio of 20 in either direction."""
    probs = trace(knows_emma, text)["probs"].astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    rng, count, size = np.random.default_rng(2), *probs.shape
    evenly = rng.integers(0, size, (20_000, count))
    own = np.stack([rng.choice(size, 20_000, p=p) for p in probs], axis=1)
    gains = [np.log(size * probs[np.arange(count), ids]).sum(axis=1) for ids in (evenly, own)]
    shares = (gains[0] >= math.log(ENOUGH)).mean(), (gains[1] <= -math.log(ENOUGH)).mean()
    print(shares)
    assert max(shares) <= 1 / ENOUGH


def test_the_loss_of_sampled_texts_equals_a_simulation(emma):
    """The judge: 20,000 texts whose characters are sampled, position by position, from the model's own P."""
    numbers, probs = insights(emma)["predictions"].numbers, trace(emma)["probs"].astype(np.float64)
    rng = np.random.default_rng(1)
    losses = np.array([rng.choice(-np.log(p), 20_000, p=p / p.sum()) for p in probs]).mean(axis=0)
    print(numbers, losses.mean(), losses.std())
    assert numbers["own_loss"] == pytest.approx(losses.mean(), abs=0.01)
    assert numbers["own_spread"] == pytest.approx(losses.std(), rel=0.03)


def test_does_not_evaluate_rows_that_do_not_sum_to_one(emma):
    with emma.hooks.subscribe(lambda event, value: value / 2, "probs"):
        found = insights(emma)["predictions"]
    assert found.holds is None
    assert "does not sum to 1" in found.text


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_does_not_evaluate_values_that_are_not_finite(emma, bad):
    emma.params.wte.fill(bad)
    *found, pattern = insights(emma).values()
    said = "Not evaluated: the run contains values that are not finite."
    assert {(i.holds, i.text, len(i.numbers)) for i in found} == {(None, said, 0)}
    assert pattern.holds


def test_does_not_evaluate_an_infinite_loss(emma):
    with emma.hooks.subscribe(lambda event, value: np.full_like(value, np.inf), "loss"):
        assert [i.holds for i in trace(emma).insights] == [None, None, None, None, True]


def test_the_pattern_lists_the_events(emma, deep):
    chain = (
        "Layer 0: attn_norm → q_proj → k_proj → v_proj → attn → o_proj → residual → ffn_norm → up_proj → "
        "ReLU → ffn_down → residual"
    )
    assert insights(emma)["pattern"].text.startswith(f"{chain} (same pattern × 1 layer).")
    assert f"{chain} (same pattern × 2 layers)" in insights(deep.model, deep.text)["pattern"].text


def test_missing_events_do_not_match_the_pattern(emma):
    traced, norms = trace(emma, values=["probs"]), NormRows({}, {"embed.norm": 0.0}, {"embed.norm": 1.0})
    stats = {event.name: event.stats for event in traced if event.name != "layer0.attn.q"}
    *_, found = insights_of(
        PREDICATES, TracedRun(emma, traced.input, stats, norms, [3.0] * 5, traced["probs"], ())
    )
    assert found.holds is False
    assert "attn_norm → k_proj" in found.text


def test_insights_do_not_depend_on_what_is_shown(emma):
    assert trace(emma, names=["logits"], values=False).insights == trace(emma).insights
