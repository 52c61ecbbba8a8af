"""Check trace --validate: sound models pass, dead events are found, and unused or wrong events fail."""

import numpy as np
import pytest
from support.commands import microgpt as microgpt_command
from support.commands import refusal
from support.documents import valid
from support.real_model import needs_smollm2

from microgpt_trace import load, save
from microgpt_trace.decoder import decoder as shared
from microgpt_trace.errors import InputError
from microgpt_trace.interpreter import run as interpreter
from microgpt_trace.operations import context, norm, rotation, scores, softmax
from microgpt_trace.plans import rope
from microgpt_trace.tracing import predicting
from microgpt_trace.tracing.trace import trace
from microgpt_trace.tracing.validation import validate

TOKENS = [17, 3, 44, 3, 60, 0]


def verdicts(found):
    return {verdict.name: verdict.verdict for verdict in found.verdicts}


def names_with(found, verdict):
    return [name for name, said in verdicts(found).items() if said == verdict]


def test_every_event_of_a_microgpt_is_used(case):
    found = validate(case.model, case.text)
    assert found.ok
    assert [v.name for v in found.verdicts] == list(case.model.plan)
    assert {v.by_itself for v in found.verdicts} == {0.0}
    if case.text:
        assert names_with(found, "dead") == []


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral_window"])
def test_every_event_of_a_decoder_is_used(decoders, name):
    model = decoders(name)[0]
    found = validate(model, tokens=TOKENS)
    assert [v.name for v in found.verdicts if v.verdict != "used"] == []
    assert [v.name for v in found.verdicts] == list(model.plan)


def test_scores_of_a_single_position_are_dead(decoders, emma):
    found = validate(emma, "")
    assert names_with(found, "dead") == [f"layer0.attn.{n}" for n in ("q", "k", "scores")]
    found = validate(decoders("llama_gqa")[0], tokens=[17])
    kinds = ("q", "k", "q_rope", "k_rope", "scores")
    assert names_with(found, "dead") == [f"layer{i}.attn.{n}" for i in (0, 1) for n in kinds]
    assert "loss" not in verdicts(found)


def test_silent_units_are_dead(emma):
    """The ReLU passes nothing on if every unit is below zero, whatever mlp.up is."""
    emma.params["layer0.mlp_fc1"][...] = 0
    emma.params["layer0.mlp_fc2"][...] = 0
    found = validate(emma, "emma")
    assert found.ok
    assert "layer0.mlp.act" in names_with(found, "dead")
    assert "layer0.mlp.down" not in names_with(found, "dead")


def test_a_head_with_a_zero_matrix_is_used(emma):
    """The head writes zeros, but a value in its place would have an effect."""
    emma.params["layer0.attn_wo"][:, :4] = 0
    found = validate(emma, "emma")
    assert verdicts(found)["layer0.attn.head0"] == "used"


class Deaf:
    """A tap that ignores the replacement of one event."""

    def __init__(self, tap, name):
        self.tap, self.name = tap, name

    def emit(self, name, value):
        used = self.tap.emit(name, value)
        return value if name == self.name else used

    def wants(self, name):
        return self.tap.wants(name)


class Doubled(Deaf):
    """A tap that doubles one event if hooks do not replace it."""

    def emit(self, name, value):
        used = self.tap.emit(name, value)
        return value * 2 if name == self.name and used is value else used


def with_tap(monkeypatch, kind, name):
    """Run the pass of traces under a wrapped tap."""
    plain = interpreter.forward

    def forward(model, tokens, tap=interpreter.SILENT, cache=None, **options):
        return plain(model, tokens, kind(tap, name), cache, **options)

    monkeypatch.setattr("microgpt_trace.tracing.traced_run.forward", forward)


def test_an_event_that_changes_when_copied_fails(decoders, monkeypatch):
    with_tap(monkeypatch, Doubled, "layer1.mlp.act")
    (failed,) = (v for v in validate(decoders("qwen2")[0], tokens=TOKENS).verdicts if v.verdict == "failed")
    assert failed.name == "layer1.mlp.act"
    assert failed.by_itself > 0


READERS = {
    "embed.tok": "layer0.attn.norm", "layer1.attn.scores": "layer1.attn.weights",
    "layer1.attn.head1": "layer1.attn.out", "layer1.mlp.down": "layer1.mlp.residual", "final.norm": "logits",
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_an_event_that_the_model_does_not_use_fails(decoders, name, monkeypatch):
    with_tap(monkeypatch, Deaf, name)
    found = validate(decoders("qwen2")[0], tokens=TOKENS)
    assert {v.name: v.reason for v in found.verdicts if v.verdict == "failed"} == {
        name: f"{READERS[name]} is computed from another value, not from this event"
    }


def louder(y):
    return (louder(y[0]), *y[1:]) if isinstance(y, tuple) else y * np.float32(1.01)


WRONG_OPERATIONS = {
    "rmsnorm": (norm, louder, ["norm", "q_norm", "k_norm"]),
    "turn_heads": (rotation, louder, ["_rope"]),
    "scores_forward": (scores, np.negative, ["attn.scores"]),
    "softmax_forward": (softmax, louder, ["attn.weights"]),
    "context_forward": (context, louder, ["attn.context"]),
    "linear": (shared, louder, ["attn.q", "mlp.down", "logits"]),
}


@pytest.mark.parametrize("name", WRONG_OPERATIONS)
def test_an_event_of_a_wrong_operation_fails(decoders, name, monkeypatch):
    module, change, hit = WRONG_OPERATIONS[name]
    plain = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: change(plain(*args)))
    failed = names_with(validate(decoders("qwen3")[0], tokens=TOKENS), "failed")
    print(failed)
    assert failed
    assert all(any(event.endswith(kind) for event in failed) for kind in hit)


@pytest.mark.parametrize(
    ("case", "change"),
    [("qwen3", lambda f, c: (f, c * 1.01)), ("llama_yarn_betas", lambda f, c: (f * 1.01, c))],
)
def test_a_wrong_rotation_fails(decoders, case, change, monkeypatch):
    plain = rope.rope_frequencies
    monkeypatch.setattr(rope, "rope_frequencies", lambda *args: change(*plain(*args)))
    failed = names_with(validate(decoders(case)[0], tokens=TOKENS), "failed")
    assert failed == [f"layer{i}.attn.{n}_rope" for i in (0, 1) for n in "qk"]


def test_probs_that_the_predictions_do_not_use_fail(decoders, monkeypatch):
    plain = predicting.predictions_of

    def wrong_predictions(model, inputs, rows, logits, probs, *rest):
        return plain(model, inputs, rows, logits, predicting.softmax(logits), *rest)

    monkeypatch.setattr(predicting, "predictions_of", wrong_predictions)
    assert "probs" in names_with(validate(decoders("llama_gqa")[0], tokens=TOKENS), "failed")


def test_an_unobserved_run_with_other_logits_fails(decoders, monkeypatch):
    plain = interpreter.layer_forward

    def layer_forward(x, index, run):
        out = plain(x, index, run)
        return out if run.tap.wants(f"layer{index}.mlp.residual") else out * np.float32(1.01)

    monkeypatch.setattr(interpreter, "layer_forward", layer_forward)
    found = validate(decoders("llama_gqa")[0], tokens=TOKENS)
    assert names_with(found, "failed") == ["logits"]


@pytest.mark.parametrize("seed", range(5))
def test_sound_models_of_any_scale_are_valid(decoder_folder, seed):
    """With weights 0.01 to 100 times as large as usual, nothing fails, and dead events have a reason."""
    rng = np.random.default_rng(seed)
    case = ("llama_gqa", "qwen2", "qwen3", "mistral_window", "llama_mha_bias")[seed]

    def scale(weights):
        for name in weights:
            weights[name] *= np.float32(10 ** rng.uniform(-2, 2))

    found = validate(load(decoder_folder(case, scale)), tokens=rng.integers(0, 61, 5).tolist())
    assert [v for v in found.verdicts if v.verdict == "failed"] == []
    assert all(v.reason for v in found.verdicts if v.verdict == "dead")


def test_a_model_with_vanishing_probabilities_is_valid(emma):
    """Perturbed probabilities stay positive."""
    for name in emma.params:
        emma.params[name][...] *= 12
    assert names_with(validate(emma, "qxzq"), "failed") == []


def test_an_event_with_a_small_effect_is_used(decoder_folder):
    """The MLP writes values that are hardly larger than rounding."""

    def shrink(weights):
        weights["model.layers.1.mlp.down_proj.weight"] *= 1e-4

    found = validate(load(decoder_folder("llama_gqa", shrink)), tokens=[3, 4, 5, 3])
    assert names_with(found, "used") == [v.name for v in found.verdicts]
    assert min(v.perturbed for v in found.verdicts) < 1e-5


def test_the_inputs_of_a_zero_head_are_dead(emma):
    emma.params["lm_head"][...] = 0
    found = validate(emma, "emma")
    assert found.ok
    assert names_with(found, "used") == ["logits", "probs", "loss"]


def test_a_loss_that_ignores_its_inputs_fails(emma, monkeypatch):
    untouched = trace(emma).loss

    def deaf(*args):
        return plain(*args)._replace(loss=untouched)

    plain = predicting.predict
    monkeypatch.setattr("microgpt_trace.tracing.traced_run.predict", deaf)
    assert names_with(validate(emma, "emma", names=["loss"]), "failed") == ["loss"]


def test_names_choose_events_and_are_checked(emma):
    assert [v.name for v in validate(emma, "emma", names=["*.mlp.*"]).verdicts] == [
        f"layer0.mlp.{n}" for n in ("norm", "up", "act", "down", "residual")
    ]
    with pytest.raises(InputError, match="matches no event"):
        validate(emma, "emma", names=["mlp.upp"])


@needs_smollm2
@pytest.mark.sweep
def test_smollm2_is_valid(smollm2):
    found = validate(smollm2, "The capital of France is", names=["layer3.*"])
    assert {v.verdict for v in found.verdicts} == {"used"}


def test_the_command_prints_a_table_and_a_document():
    for encoding in ("utf-8", "ascii"):
        result = microgpt_command("trace emma --validate", encoding=encoding)
        assert (result.code, result.err) == (0, "")
        assert "25 of 25 events are used by the computation" in result.out
        assert max(map(len, result.out.splitlines())) <= 80
    assert result.out.isascii()
    document = valid(microgpt_command("trace emma --validate --json").out, "trace", "--validate")
    assert document["ok"]
    assert len(document["verdicts"]) == 25


def test_values_that_are_not_finite_fail_with_exit_code_1(emma, tmp_path):
    emma.params["wte"][5, 0] = np.nan
    assert not validate(emma, "emma").ok
    save(emma, tmp_path / "nan.safetensors")
    result = microgpt_command("trace", "emma", "--validate", "--model", tmp_path / "nan.safetensors")
    assert result.code == 1
    assert "FAILED" in result.out


@pytest.mark.parametrize(
    "options", ["--step", "--backward", "--jsonl", "--show logits", "--top-k 3", "--time", "--values --json"]
)
def test_refuses_options_that_would_be_ignored(options):
    assert "--validate" in refusal(f"trace emma --validate {options}")
