"""`microgpt trace` with interventions, from the shell."""

import json
import re

import numpy as np
import pytest
from support.commands import microgpt, refusal
from support.documents import valid, valid_lines
from support.sweeps import some_of

from microgpt_trace import init, trace
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.interventions.interventions import Intervention


def run(folder, *arguments, **options):
    return microgpt("trace", *arguments, cwd=folder, **options)


def document(folder, *arguments):
    result = run(folder, *arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_shows_the_interventions_and_the_events_that_they_change(tmp_path):
    result = run(tmp_path, "emma", "--ablate", "layer0.attn.head2", "--scale", "layer0.mlp.act@3:5=0.5")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines.index("Interventions") < lines.index("Stage 1: Embedding")
    assert "layer0.mlp.act@3:5  × 0.5         1         1" in lines
    (head,) = (line for line in lines if line.startswith("head_2_out"))
    assert head.split()[-2:] == ["*", "100.0%"]
    (tok,) = (line for line in lines if line.startswith("tok_emb"))
    assert "→" not in tok
    assert "mean loss 3.1700 → 3.1665 (-0.0035), mean KL 0.0001" in lines
    assert max(map(len, lines)) <= 80


def test_the_document_has_the_effects_and_fits_its_schema(tmp_path):
    found = valid(run(tmp_path, "emma", "--ablate", "layer0.attn.head2", "--json").out, "trace")
    expected = trace(init(), "emma", interventions=[Intervention("ablate", "layer0.attn.head2")]).intervened
    assert found["intervened"]["kl"] == list(expected.kl)
    assert found["intervened"]["loss_before"] == expected.loss_before
    assert valid_lines(run(tmp_path, "emma", "--ablate", "logits", "--jsonl").out, "trace")
    run(tmp_path, "emma", "--ablate", "layer0.attn.head2", "--save", "changed.safetensors")
    source = open_recording(tmp_path / "changed.safetensors")
    assert source.notes == ("the run had an intervention: layer0.attn.head2 zero",)


def test_interventions_are_made_in_the_documented_order(tmp_path):
    name = "layer0.mlp.residual"
    np.save(tmp_path / "v.npy", np.ones(16, np.float32))
    run(tmp_path, "anna", "--layer", name, "--save", "anna.safetensors")
    given = ["--ablate", f"{name}@0", "--ablate-mean", f"{name}@1", "--scale", f"{name}@2=2"]
    given += ["--patch", f"{name}@3=anna.safetensors", "--add", f"{name}@4=v.npy"]
    found = document(tmp_path, "emma", *given)
    made = [(applied["kind"], applied["target"][-1]) for applied in found["intervened"]["interventions"]]
    assert made == [("patch", "3"), ("add", "4"), ("scale", "2"), ("ablate-mean", "1"), ("ablate", "0")]
    said = found["intervened"]["interventions"][0]["text"]
    assert said == "from anna.safetensors, which read other tokens"
    assert None not in found["intervened"]["kl"]
    assert min(found["intervened"]["kl"]) > 0  # each changes its position


@pytest.mark.parametrize("spelled", ["layer0.attn.out", "attn_out"])
def test_scale_multiplies_an_addition_for_any_spelling_of_the_event(tmp_path, spelled):
    vector = np.random.default_rng(1).normal(size=16).astype(np.float32)
    np.save(tmp_path / "happy.npy", vector)
    found = document(tmp_path, "emma", "--add", "layer0.attn.out=happy.npy", "--scale", f"{spelled}=-3")
    expected = trace(init(), "emma", interventions=[Intervention("add", "layer0.attn.out", -3, vector)])
    assert found["loss"] == expected.loss
    (applied,) = found["intervened"]["interventions"]
    assert applied["text"] == "+ -3 × happy.npy"


UNUSABLE = {
    ("--ablate", "probs"): "0 for every token", ("--scale", "probs=-1"): r"-[0-9.e-]+ for token 0",
    ("--add", "probs@:7=nan.npy"): "nan for token 7", ("--add", "probs@:7=inf.npy"): "inf for token 7",
}  # fmt: skip


ODDS = [[], ["--temperature", "0.7"]]


@pytest.mark.parametrize("more", some_of([*ODDS, ["--positions", "0"]], every=3), ids=str)
@pytest.mark.parametrize("change", UNUSABLE, ids=str)
def test_refuses_to_sample_from_invalid_probabilities(tmp_path, monkeypatch, decoder_folder, change, more):
    monkeypatch.chdir(tmp_path)
    for name in ("nan", "inf"):
        np.save(f"{name}.npy", np.full(61, float(name), np.float32))
    said = refusal("trace", decoder_folder(), "ab", *change, "--generate", 2, *more)
    told = "step 1: no token can be sampled from the replaced probs, found "
    assert re.fullmatch(told + UNUSABLE[change], said)


@pytest.mark.parametrize("more", ODDS, ids=str)
def test_samples_from_the_remaining_probabilities(decoder_folder, more):
    change = ["--ablate", "probs@:0-30,32-60", "--generate", 2, *more]
    _, out, err = microgpt("trace", decoder_folder(), "ab", *change, "--json")
    assert ([step["token"]["token"] for step in json.loads(out)["generation"]], err) == ([31, 31], "")


@pytest.mark.parametrize("options", ["--backward --step", "--json --values --verbose"])
@pytest.mark.parametrize(
    "change", ["--ablate *", "--ablate probs", "--scale logits=1e38", "--scale probs=-1"]
)
def test_a_microgpt_runs_with_unusable_values(options, change):
    code, _, err = microgpt(f"trace emma {options} {change}")
    assert (code in (0, 1), err) == (True, "")


def test_a_loss_is_added_from_a_trace_or_a_number(tmp_path, monkeypatch, decoder_folder):
    monkeypatch.chdir(tmp_path)
    run = ["trace", decoder_folder(), "--tokens", "3,4,5"]
    microgpt(*run, "--layer", "*", "--save", "other.safetensors")
    np.save("one.npy", np.float32(1))
    before, doubled, more = (
        json.loads(microgpt(*run, "--json", *change).out)["loss"]
        for change in ([], ["--add", "loss=other.safetensors"], ["--add", "loss=one.npy"])
    )
    assert (doubled, more) == pytest.approx((2 * before, 1 + before), rel=1e-6)
