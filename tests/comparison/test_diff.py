"""diff: the first difference is the altered event; sides that cannot be compared are refused."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.comparing import MODELS, altered, events_of, inputs_of, save_json, saved, with_nan
from support.sweeps import some_of
from support.tiny_models import TOKENS

from microgpt_trace import Config, Model, Tokenizer, init, load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.dumps.stored_arrays import save_arrays
from microgpt_trace.errors import InputError


@pytest.mark.parametrize("case", MODELS)
def test_identical_runs_are_the_same_bit_for_bit(pairs, case):
    a, b = pairs[case]
    for other in (a, b):
        found = diff(a, other, **inputs_of(a))
        assert found.same
        assert [e.name for e in found.events] == events_of(a)
        assert all(e.relative == 0 and e.max_abs == 0 and e.cosine == 1 for e in found.events)
        assert found.agreement.same_argmax == found.agreement.positions
        assert (found.agreement.mean_kl, found.jump, found.first) == (0, None, None)


def test_a_difference_has_its_place_and_values(llama):
    def change(value):
        changed = value.copy()
        changed[3, 5] += 10
        return changed

    found = altered(llama, "layer1.attn.v", change).event("layer1.attn.v")
    assert (found.position, found.head, found.index, found.max_index) == (3, None, (3, 5), (3, 5))
    assert found.b - found.a == pytest.approx(10, rel=1e-6) == found.max_abs
    assert np.flatnonzero(found.by_position).tolist() == [3]
    assert found.median == 0
    broken = altered(llama, "layer0.attn.q", with_nan).event("layer0.attn.q")
    assert (broken.index, broken.relative) == ((0, 0), np.inf)
    assert [bool(np.isnan(value)) for value in (broken.a, broken.b)] == [False, True]


def test_the_jump_and_the_events_before_the_first_difference_are_reported(llama):
    found = altered(llama, "layer1.mlp.up", lambda value: value * np.float32(1.5))
    assert (found.first, found.jump.name) == ("layer1.mlp.up", "layer1.mlp.up")
    assert (found.jump.before, found.jump.after) == (0, pytest.approx(1 / 3, rel=1e-3))
    assert (found.since, found.between) == ("layer1.mlp.gate", ())
    names = ["layer0.attn.norm", "layer0.attn.context"]
    found = altered(llama, "layer0.attn.k", lambda value: -value, names=names)
    assert (found.first, found.since) == ("layer0.attn.context", "layer0.attn.norm")
    kinds = ("q", "k", "v", "q_rope", "k_rope", "scores", "weights")
    assert found.between == tuple(f"layer0.attn.{kind}" for kind in kinds)


@pytest.mark.parametrize(("scale", "swapped"), [(1e4, False), (1e8, True), (1e30, False)])
def test_scores_of_any_size_hide_no_difference(llama, scale, swapped):
    a, b = llama
    with b.hooks.subscribe(lambda event, value: value * np.float32(scale), "layer0.attn.scores"):
        found = diff(*((b, a) if swapped else (a, b)), tokens=TOKENS)
    assert found.first == "layer0.attn.scores"


# --- Recordings ------------------------------------------------------------------------------


RECORDINGS = [(case, form) for case in MODELS for form in ("arrays", "statistics")]


@pytest.mark.parametrize(("case", "form"), some_of([*RECORDINGS, ("llama_gqa", "values")], every=3))
def test_a_recording_is_the_same_as_its_model(pairs, case, form, tmp_path):
    a, b = pairs[case]
    if form == "arrays":
        path = saved(a, tmp_path / "a.safetensors")
    else:
        path = save_json(a, tmp_path / "a.json", form == "values")
    for sides in ((path, b), (b, path), (path, path), (path, saved(b, tmp_path / "b.safetensors"))):
        found = diff(*sides)
        assert (found.agree, found.same) == (True, form != "statistics")
        assert found.tokens == tuple(trace(a, **inputs_of(a)).input.tokens)
        assert found.worst.relative < 1e-6


@pytest.mark.parametrize(("compute", "swapped"), [(None, False), ("bf16", True), ("q8", False)])
def test_a_fault_in_a_saved_trace_is_found_on_either_side(llama, tmp_path, compute, swapped):
    a, b = llama
    path = saved(a, tmp_path / "a.safetensors", lambda value: 2 * value, "layer1.mlp.up")
    found = diff(*((path, b) if swapped else (b, path)), compute=compute)
    print(found.event("layer1.mlp.up"))
    assert found.first == "layer1.mlp.up"
    if compute is None:
        found = diff(path, saved(b, tmp_path / "b.safetensors"))
        assert (found.first, found.labels) == ("layer1.mlp.up", ())


@pytest.mark.parametrize("name", ["layer0.attn.q", "layer1.attn.scores", "logits"])
def test_statistics_alone_find_a_scaled_event_and_a_nan(llama, tmp_path, name):
    a, b = llama
    path = save_json(a, tmp_path / "a.json", False)
    with b.hooks.subscribe(lambda event, value: value * np.float32(1.01), name):
        found = diff(path, b)
    assert found.first == name
    event = found.event(name)
    assert (event.median, event.cosine, event.position, event.index) == (None, None, None, ())
    assert "of the statistics" in event.measured
    with b.hooks.subscribe(lambda event, value: with_nan(value), name):
        assert diff(path, b).first == name


def test_other_tokens_are_refused(llama, tmp_path):
    path = saved(llama[0], tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="different tokens"):
        diff(path, llama[1], tokens=[1, 2, 3])
    other = tmp_path / "b.safetensors"
    save_arrays(trace(llama[0], tokens=[5, 6], values=True), other)
    with pytest.raises(InputError, match="the tokens differ"):
        diff(path, other)


def test_models_that_cannot_be_compared_are_refused(llama, decoder_folder, tmp_path):
    with pytest.raises(InputError, match=r"is a decoder, but .* is a microgpt"):
        diff(llama[0], init(), tokens=TOKENS)
    wide = load(decoder_folder("llama_gqa", intermediate_size=40))
    with pytest.raises(InputError, match=r"\[7, 48\] .*\[7, 40\].*not the same model"):
        diff(llama[0], wide, tokens=TOKENS)
    with pytest.raises(InputError, match="not the same model"):
        diff(init(), init(Config(n_embd=8, n_head=2)), "emma")
    other = Model(init().params, Tokenizer("zyxwvutsrqponmlkjihgfedcba"), "turned")
    with pytest.raises(InputError, match="the models split the text into different tokens"):
        diff(init(), other, "emma")
    save_file({"t000": np.ones((7, 32), np.float32)}, tmp_path / "d.safetensors")
    with pytest.raises(InputError, match=r"no event in common; .*t000; --suggest-map"):
        diff(llama[0], tmp_path / "d.safetensors", tokens=TOKENS)


def test_events_that_one_side_lacks_are_listed(llama, tmp_path):
    arrays = load_file(saved(llama[0], tmp_path / "a.safetensors"))
    del arrays["layer0.attn.scores"]
    save_file(arrays | {"strange": np.ones(3, np.float32)}, tmp_path / "b.safetensors")
    found = diff(llama[0], tmp_path / "b.safetensors", tokens=TOKENS)
    assert (found.agree, found.same, found.left_out) == (True, False, ("layer0.attn.scores",))
    assert "layer0.attn.scores" in [u.name for u in found.a.unpaired]
    assert "strange" in [u.name for u in found.b.unpaired]


# --- Predictions and prompts ------------------------------------------------------------------


def test_agreement_of_predictions_matches_a_calculation_by_hand(llama):
    def change(value):
        changed = value.copy()
        changed[2] = -value[2]
        return changed

    a = trace(llama[0], tokens=TOKENS, names=["probs"], values=["probs"])["probs"].astype(float)
    found = altered(llama, "logits", change, names=["logits"]).agreement
    b = 1 / a[2] / (1 / a[2]).sum()
    kl = float((a[2] * np.log(a[2] / b)).sum())
    print(found, kl)
    assert (found.positions, found.same_argmax, found.first_other) == (7, 6, 2)
    assert (found.max_kl, found.max_kl_position) == (pytest.approx(kl, rel=1e-5), 2)
    assert found.mean_kl == pytest.approx(kl / 7, rel=1e-5)
