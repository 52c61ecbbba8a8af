"""The coverage of a verdict: "the same" needs a comparison of all values, and NaN agrees with nothing."""

import json

import numpy as np
import pytest
from support.commands import microgpt
from support.comparing import inputs_of, recording, save_json, saved, values_of
from support.dump_writing import write_npz
from support.sweeps import some_of
from support.tiny_models import TOKENS, tiny_model, write_folder

from microgpt_trace import load
from microgpt_trace.comparison.diff import diff
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.errors import InputError

IDS = ",".join(map(str, TOKENS))


@pytest.fixture(scope="module")
def right(compared_folders):
    """A model and the right values of a dump of it."""
    model = load(compared_folders["llama_gqa"])
    return model, values_of(model)


# --- An event with other values ---------------------------------------------------------------

KINDS = (
    "embed.tok", "attn.norm", "attn.q", "attn.k", "attn.v", "attn.q_rope", "attn.k_rope", "attn.scores",
    "attn.weights", "attn.context", "attn.out", "attn.residual", "mlp.norm", "mlp.gate", "mlp.up", "mlp.act",
    "mlp.hidden", "mlp.down", "mlp.residual", "final.norm", "logits", "probs",
)  # fmt: skip
BESIDE = ("all", "layer1.mlp.residual", "nothing")  # the other events that a dump holds


def above_the_diagonal(value, constant):
    changed = value.copy()
    changed[:, np.triu(np.ones(value.shape[1:], bool), 1)] = constant
    return changed


REPLACEMENTS = {
    "NaN": lambda value: np.full_like(value, np.nan),
    "infinite": lambda value: np.full_like(value, np.inf),
    "zeros": np.zeros_like,
    "constant": lambda value: np.full_like(value, value.mean()),
    "one row zero": lambda value: np.where(np.arange(7)[:, None] == 3, 0, value),
    "one row NaN": lambda value: np.where(np.arange(7)[:, None] == 6, np.float32(np.nan), value),
    "two rows swapped": lambda value: value[..., [0, 2, 1, 3, 4, 5, 6], :],
}


def others(values, name):
    """Choose up to three other events with this shape."""
    own = values[name]
    alike = [n for n, a in values.items() if a.shape == own.shape and not np.array_equal(a, own)]
    return alike[:: max(1, len(alike) // 2)]


@pytest.mark.parametrize("kind", some_of(KINDS, every=22, sweep=6))
def test_any_other_value_of_an_event_is_a_difference(right, kind):
    model, values = right
    name = kind if kind in values else f"layer0.{kind}"
    wrong = {what: change(values[name]) for what, change in REPLACEMENTS.items()}
    wrong |= {other: values[other] for other in others(values, name)}
    if kind == "attn.weights":
        wrong |= {f"{x} above the diagonal": above_the_diagonal(values[name], x) for x in (0.5, np.nan)}
    for i, (what, value) in enumerate(wrong.items()):
        beside = BESIDE[i % len(BESIDE)]
        dump = recording({n: v for n, v in values.items() if beside in ("all", n)} | {name: value})
        found = diff(model, dump)
        assert not found.agree, (what, beside)
        assert name == found.first, (what, beside)
        judged = diagnose(dump, model).diagnosis.operations
        assert not next(o for o in judged if o.name == name).holds, (what, beside)


def test_a_whole_pass_is_the_same_whatever_its_masked_scores_are(right, tmp_path, compared_folders):
    model = compared_folders["llama_gqa"]
    path = write_npz(tmp_path / "all.npz", right[1])
    compared = microgpt("diff", model, path, "--tokens", IDS)
    assert "The same: all 41 events agree number for number" in compared.out
    assert "All 41 operations follow" in microgpt("diagnose", path, model).out
    values = right[1] | {"layer0.attn.scores": above_the_diagonal(right[1]["layer0.attn.scores"], 9)}
    path = write_npz(tmp_path / "d.npz", values)
    found = microgpt("diff", model, path, "--tokens", IDS)
    assert found.code == 0
    assert "attention scores of later keys, which the mask hides, are not compared" in found.out
    assert "layer*.attn.scores (2 layers): keys that the mask hides" in microgpt("diagnose", path, model).out


# --- A dump of few events ---------------------------------------------------------------------


def test_a_few_events_that_agree_are_not_called_the_same(right, tmp_path, compared_folders):
    """A map of five tensors, and one tensor that it does not name."""
    names = ("embed.tok", "layer0.attn.norm", "layer0.attn.q", "layer0.attn.k", "layer0.attn.v")
    arrays = {f"t{i}": right[1][name] for i, name in enumerate(names)}
    path = write_npz(tmp_path / "d.npz", arrays | {"t9": np.ones((7, 32), np.float32)})
    lines = [f'"{name}" = "t{i}"' for i, name in enumerate(names)]
    (tmp_path / "map.toml").write_text("[events]\n" + "\n".join(lines))
    model = compared_folders["llama_gqa"]
    done = microgpt("diff", model, path, "--map", tmp_path / "map.toml")
    print(done.out)
    assert (done.code, "the same:" in done.out.lower()) == (0, False)
    assert "The 5 events compared (of 41) agree number for number" in done.out
    assert "Only in A, not compared" in done.out
    document = json.loads(microgpt("diff", model, path, "--map", tmp_path / "map.toml", "--json").out)
    assert (document["agree"], document["same"], len(document["left_out"])) == (True, False, 36)
    judged = microgpt("diagnose", path, model, "--map", tmp_path / "map.toml")
    assert (judged.code, "The 5 judged operations (of 41) follow from their own" in judged.out) == (0, True)


def test_events_that_were_not_requested_are_listed(compared_folders):
    model = compared_folders["llama_gqa"]
    done = microgpt("diff", model, model, "--tokens", IDS, "--layer", "layer1.mlp.*")
    assert "The 7 events compared (of 41) agree number for number" in done.out
    assert "not requested: embed.tok, layer*.attn.norm (2 layers)" in done.out


def test_positions_that_a_dump_lacks_are_listed(llama, tmp_path):
    path = saved(llama[0], tmp_path / "a.safetensors", positions="last")
    for last in (path, save_json(llama[0], tmp_path / "a.json", False, positions="last")):
        found = diff(llama[1], last)
        assert (found.agree, found.same, found.agreement.positions if last == path else 1) == (True, False, 1)
        partly = {event.name: found.positions_of(event) for event in found.partly_compared}
        assert partly == {"logits": 1, "probs": 1}
    said = diagnose(path, llama[1]).diagnosis
    assert ("logits", "the dump contains only 1 of 7 positions") in said.untested
    with llama[1].hooks.subscribe(lambda event, value: value * np.float32(1.01), "logits"):
        event = diff(path, llama[1]).event("logits")
    assert (event.shape, event.holds, event.position) == ((1, 61), False, 6)


LAST = {"scores": 1, "weights": 1, "context": 0}  # the axis of the positions


@pytest.mark.parametrize("wrong", [None, *LAST])
def test_attention_of_the_last_query_is_judged(llama, tmp_path, wrong):
    """An engine that generates records the scores of one query [H, 1, T]."""
    names = {name: f"layer1.attn.{name}" for name in LAST}
    arrays = {name: value for name, value in values_of(llama[0]).items() if name not in names.values()}
    for name, axis in LAST.items():
        value = values_of(llama[0])[names[name]].take([-1], axis)
        arrays[names[name]] = value * np.float32(8 if name == wrong else 1)
    path = write_npz(tmp_path / "d.npz", arrays)
    found = diff(llama[1], path, tokens=TOKENS)
    said = diagnose(path, llama[1], tokens=TOKENS).diagnosis
    print([(f.claim, f.residual) for f in said.findings])
    assert {found.positions_of(event) for event in found.partly_compared} == {1}
    expected = [names[wrong]] if wrong else []
    assert [event.name for event in found.events if not event.holds] == expected
    assert [own.name for own in said.wrong][:1] == expected  # the next operation does not follow from it
    if wrong:
        assert any("8" in f.claim and f.explains for f in said.findings)


def test_events_before_the_first_divergence_are_counted(llama):
    a, b = llama
    with b.hooks.subscribe(lambda event, value: -value, "layer0.attn.context"):
        found = diff(a, b, names=["layer0.attn.q", "layer0.attn.context"], **inputs_of(a))
    assert (found.since, found.missed) == ("layer0.attn.q", 2)


# --- NaN on both sides ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Folders of a model with NaN in one channel of its last MLP, and of one with only NaN."""
    config, weights = tiny_model("llama_gqa")
    folders = {}
    for name, rows in (("model.layers.1.mlp.down_proj.weight", [3]), ("model.embed_tokens.weight", ...)):
        changed = dict(weights)
        changed[name] = weights[name].copy()
        changed[name][rows] = np.nan
        folders[name.split(".")[1]] = write_folder(tmp_path_factory.mktemp("nan"), config, changed)
    return folders


def test_nan_on_both_sides_is_not_agreement(broken):
    done = microgpt("diff", broken["layers"], broken["layers"], "--tokens", IDS)
    said = " ".join(done.out.split())
    print(said)
    assert "The 37 events compared (of 41) agree number for number" in said
    assert "layer1.mlp.residual: 7 of 224 elements not compared: NaN or the same infinity on both" in said
    assert "final.norm, logits, probs, loss: nothing to compare: all elements are NaN or infinite" in said
    assert "the same token at 0 of 7 positions (7 have no prediction: NaN), no KL" in said
    model = load(broken["layers"])
    found = diff(model, model, tokens=TOKENS)
    logits = found.event("logits")
    assert (found.agree, found.same) == (True, False)
    assert (logits.comparable, logits.median, logits.cosine) == (False, None, None)
    assert np.isnan([logits.relative, logits.a, logits.b, *logits.by_position]).all()
    assert (logits.alike, logits.count) == (7 * 61, 7 * 61)
    done = microgpt("diff", broken["embed_tokens"], broken["embed_tokens"], "--tokens", IDS)
    assert (done.code, "nothing to compare" in done.err) == (2, True)


def test_operations_without_finite_inputs_are_listed_as_not_judged(broken):
    model = load(broken["layers"])
    found = diagnose(recording(values_of(model)), model).diagnosis
    assert (found.clean, found.judged, found.of) == (True, 37, 41)
    assert dict(found.untested)["layer1.mlp.down"].startswith("7 of 224 elements")
    wholly = load(broken["embed_tokens"])
    with pytest.raises(InputError, match="no operation can be judged"):
        diagnose(recording(values_of(wholly)), wholly)


def test_finite_elements_of_a_row_with_nan_are_compared(broken):
    model = load(broken["layers"])
    values = values_of(model)
    values["layer1.mlp.down"] = values["layer1.mlp.down"] * np.float32(1.01)
    assert diff(model, recording(values)).first == "layer1.mlp.down"


def test_statistics_without_finite_values_are_not_agreement(broken, tmp_path):
    path = tmp_path / "a.json"
    microgpt("trace", broken["layers"], "--tokens", IDS, "--verbose", "--json", "--out", path)
    done = microgpt("diff", broken["layers"], path)
    assert "The statistics of the 37 events compared (of 41) agree" in done.out
    assert "final.norm, logits, probs, loss: nothing to compare" in " ".join(done.out.split())
