"""Every fault of the independent engine, diagnosed: the operation is found each time, the cause nearly so.

A fault counts where what it changes at its event is above float32 rounding; the tests print the rate and
every fault that is not named.
"""

import re

import numpy as np
import pytest
from support.faults import (
    UNKNOWABLE,
    changed,
    decoder_faults,
    generic_fault,
    generic_faults,
    microgpt_faults,
    names,
    quantised_faults,
)
from support.faulty_engine import decoder_run, microgpt_run
from support.foreign_dumps import write_dump
from support.sweeps import some_of
from support.tiny_microgpts import CASES as MICROGPTS
from support.tiny_models import CASES, SCALES, TOKENS, random_quantised_weights, write_gguf

from microgpt_trace import load
from microgpt_trace.diagnosis.diagnose import diagnose_values
from microgpt_trace.diagnosis.dump import diagnose
from microgpt_trace.dumps.formats import open_recording

FAMILIES = (
    "llama_gqa", "llama_mha_bias", "mistral_window", "qwen2", "qwen2_tied", "qwen3", "llama_llama3",
    "llama_yarn_attention", "llama_linear",
)  # fmt: skip
VISIBLE = 1e-5  # of a row is changed at least: eps beside a large row is not
# What an altered event may be called. A token's row is what a wrong row of the embedding is.
NAMED = {
    "scale": ("scale", "times", "multiplied"),
    "sign": ("wrong sign", "-1 times", "subtracted", "direction"),
    "nan": ("nan",),
    "inf": ("infinite",),
    "wrong_element": ("only the element",),
    "wrong_row": ("only position", "your row of position"),
    "noise_row": ("only position",),
    "zeros": ("zeros",),
    "clip": ("clipped",),
}
MISREAD = {
    "nibbles_swapped": "high nibbles come before",
    "nibbles_interleaved": "as neighbours",
    "minimum_ignored": "the minima are ignored",
    "zero_point_missing": "is not subtracted",
    "zero_point_off_by_one": "the zero point is off",
    "scale_of_next_block": "the scale of the next",
}
# Nothing tells an untrained head from any other wrong matrix.


def rate(model, run, faults, words, tokens=TOKENS, at_least=0.95):
    """Diagnose every visible fault; `run` gives the events of a fault. The event must always be right."""
    right, count, missed = run(None), 0, []
    for fault in faults:
        events = run(fault)
        if fault.changes.get("tokens") or changed(events[fault.event], right[fault.event]) < VISIBLE:
            continue
        found, count = diagnose_values(model, tokens, events), count + 1
        assert found.first_wrong == fault.event, fault
        assert len({f.claim for f in found.findings}) == len(found.findings)
        if not names(found, words(fault)):
            missed.append((fault.id, [(f.claim, f.residual) for f in found.findings]))
    print(f"{count - len(missed)} of {count} named; not: {missed}")
    assert count - len(missed) >= at_least * count
    return [id for id, _ in missed]


# --- The rates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", some_of(FAMILIES, every=9, sweep=2))
def test_structural_faults_of_a_decoder_are_named(decoders, case):
    model, config, weights = decoders(case)
    faults = decoder_faults(config)
    run = lambda fault: decoder_run(config, weights, TOKENS, fault)  # noqa: E731
    assert diagnose_values(model, TOKENS, run(None)).clean
    assert set(rate(model, run, faults, lambda fault: fault.cause)) <= set(UNKNOWABLE)


def microgpt(name):
    """(model, parameters, tokens): a position is left for those that come one late."""
    case = MICROGPTS[name]
    params = {n: np.asarray(case.model.params[n]) for n in case.model.config.shapes()}
    return case.model, params, [int(i) for i in case.ids[:-2]]


@pytest.mark.parametrize("name", ["default", "2 layers, 2 heads"])
def test_structural_faults_of_a_microgpt_are_named(name):
    model, params, tokens = microgpt(name)
    heads = model.config.n_head
    run = lambda fault: microgpt_run(params, tokens, heads, fault)  # noqa: E731
    assert rate(model, run, microgpt_faults(params, heads), lambda f: f.cause, tokens) == []


@pytest.mark.sweep
def test_whatever_happens_to_an_event_of_a_decoder_is_named(decoders):
    model, config, weights = decoders("qwen3")
    run = lambda fault: decoder_run(config, weights, TOKENS, fault)  # noqa: E731
    faults = [f for f in generic_faults(run(None)) if not f.event.startswith("layer1")]
    assert rate(model, run, faults, lambda fault: NAMED[fault.cause[0]]) == []


@pytest.mark.sweep
def test_whatever_happens_to_an_event_of_a_microgpt_is_named():
    model, params, tokens = microgpt("2 layers, 2 heads")
    run = lambda fault: microgpt_run(params, tokens, model.config.n_head, fault)  # noqa: E731
    assert rate(model, run, generic_faults(run(None)), lambda f: NAMED[f.cause[0]], tokens) == []


@pytest.mark.parametrize("type", some_of(SCALES, every=4))
def test_misread_quantisation_is_named(tmp_path, type):
    config = CASES["qwen2"] | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    weights = random_quantised_weights(config, lambda name: type, "faults")
    model = load(write_gguf(tmp_path / "m.gguf", config, weights))
    matrices = [f"model.layers.0.{n}.weight" for n in ("self_attn.k_proj", "mlp.down_proj")]
    faults = [
        fault
        for name in (*matrices, "model.embed_tokens.weight")
        for fault in quantised_faults(config, weights, name)
    ]
    run = lambda fault: decoder_run(config, weights, TOKENS, fault)  # noqa: E731
    assert rate(model, run, faults, lambda fault: [MISREAD[fault.cause[1]]]) == []


# --- Tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "text", "own"), [("bos_added", TOKENS, (1, *TOKENS)), ("bos_missing", (1, *TOKENS), TOKENS)]
)
def test_a_bos_too_many_or_missing_is_named(decoders, id, text, own):
    model, config, weights = decoders("llama_gqa")
    fault = next(f for f in decoder_faults(config) if f.id == id)
    found = diagnose_values(model, own, decoder_run(config, weights, text, fault), text_tokens=text)
    assert found.first_wrong is None
    assert names(found, [id.replace("_", "-")])


# --- Sizes ----------------------------------------------------------------------------------------


def smallest(model, config, weights, kind, event, base):
    """The smallest size of a fault, of powers of 10^(1/4), that is found."""
    for size in 10.0 ** np.arange(-8, 0, 0.25):
        fault = generic_fault(kind, event, base + size)
        if diagnose_values(model, TOKENS, decoder_run(config, weights, TOKENS, fault)).first_wrong == event:
            return size
    return np.inf


@pytest.mark.parametrize(
    ("kind", "base", "most"), some_of([("scale", 1, 1e-4), ("wrong_element", 0, 1e-4)], every=2)
)
def test_the_smallest_fault_that_is_found(decoders, kind, base, most):
    model, config, weights = decoders("llama_gqa")
    events = ("embed.tok", "layer0.attn.q", "layer0.attn.scores", "layer0.mlp.down", "final.norm", "logits")
    sizes = {event: smallest(model, config, weights, kind, event, base) for event in events}
    print({event: f"{size:.1e}" for event, size in sizes.items()})
    assert max(sizes.values()) <= most


@pytest.mark.sweep
def test_ten_times_the_tolerance_is_always_found(decoders):
    model, config, weights = decoders("qwen3")
    right = diagnose_values(model, TOKENS, decoder_run(config, weights, TOKENS))
    for operation in right.operations:
        fault = generic_fault("scale", operation.name, 1 + 10 * operation.tolerance)
        found = diagnose_values(model, TOKENS, decoder_run(config, weights, TOKENS, fault))
        print(f"{operation.name}: {operation.tolerance:.1e}")
        assert found.first_wrong == operation.name


# --- Engines that round, dumps with gaps ------------------------------------------------------------


@pytest.mark.parametrize("rounding", some_of(["bf16", "f16"], every=2))
def test_structural_faults_of_an_engine_that_rounds(decoders, rounding):
    model, config, weights = decoders("qwen2")
    right = decoder_run(config, weights, TOKENS, rounding=rounding)
    assert diagnose_values(model, TOKENS, right).clean
    for fault in decoder_faults(config):
        events = decoder_run(config, weights, TOKENS, fault, rounding=rounding)
        if fault.changes.get("tokens") or changed(events[fault.event], right[fault.event]) < 0.1:
            continue
        found = diagnose_values(model, TOKENS, events)
        print(fault.id, found.first_wrong, [(f.id, f.residual) for f in found.findings])
        assert (found.compute, found.first_wrong) == (rounding, fault.event)
        assert names(found, fault.cause)


GAPS = {
    "layers": r"embed\.tok|.*mlp\.residual|logits",
    "modules": r"(?!.*(rope|scores|weights|probs)).*",
    "logits": "logits",
}
# Of q and k alike, an offset leaves every score as it is.
IN_GAPS = ("rope_interleaved", "scale_missing", "mask_missing", "kv_grouping_scores", "gelu_for_silu",
           "residual_missing@attn.residual", "bias_missing@attn.q", "rope_base")  # fmt: skip


@pytest.mark.parametrize(
    ("gap", "id"), some_of([(gap, id) for gap in GAPS for id in IN_GAPS], every=5, sweep=2)
)
def test_faults_in_dumps_with_gaps(decoders, gap, id):
    model, config, weights = decoders("qwen2")
    fault = next(f for f in decoder_faults(config) if f.id == id)
    events = decoder_run(config, weights, TOKENS, fault)
    kept = {name: value for name, value in events.items() if re.fullmatch(GAPS[gap], name)}
    order = list(events)
    first = next(name for name in kept if order.index(name) >= order.index(fault.event))
    found = diagnose_values(model, TOKENS, kept)
    print(found.first_wrong, [(f.id, f.claim, f.residual) for f in found.findings])
    assert found.first_wrong == first
    assert names(found, fault.cause)


def test_an_offset_of_q_and_k_cannot_be_seen_in_the_scores(decoders):
    model, config, weights = decoders("qwen2")
    fault = next(f for f in decoder_faults(config) if f.id == "rope_offset")
    events = decoder_run(config, weights, TOKENS, fault)
    assert diagnose_values(model, TOKENS, {n: v for n, v in events.items() if "rope" not in n}).clean


# --- Folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["ours", "huggingface", "llama.cpp", "transformerlens"])
def test_a_decoders_dump_of_another_engine(decoders, tmp_path, style):
    model, config, weights = decoders("qwen2")
    fault = next(f for f in decoder_faults(config) if f.id == "rope_interleaved")
    write_dump(tmp_path / style, decoder_run(config, weights, TOKENS, fault), style)
    found = diagnose(open_recording(tmp_path / style), model).diagnosis
    print(found.first_wrong, found.findings)
    assert found.tokens == TOKENS
    assert [f.id for f in found.findings] == ["rope-interleaved"]


@pytest.mark.parametrize("style", ["ours", "huggingface", "transformerlens"])
def test_a_microgpts_dump_of_another_engine(tmp_path, style):
    model, params, tokens = microgpt("2 layers, 2 heads")
    fault = next(f for f in microgpt_faults(params, 2) if f.id == "gelu_for_relu")
    right, wrong = (microgpt_run(params, tokens, 2, f) for f in (None, fault))
    for name, events in (("right", right), ("wrong", wrong)):
        write_dump(tmp_path / name, events, style)
    assert diagnose(open_recording(tmp_path / "right"), model, tokens=tokens).diagnosis.clean
    found = diagnose(open_recording(tmp_path / "wrong"), model, tokens=tokens).diagnosis
    print(found.first_wrong, found.findings)
    assert names(found, fault.cause)
