"""Diagnose every fault of an independent engine: the operation is always found, the cause nearly always.

A fault counts if its effect on its event exceeds rounding. The tests print the rate and every unnamed fault.
"""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from support import engine_operations, faulty_engine
from support.faults import (
    blames,
    decoder_faults,
    generic_fault,
    generic_faults,
    microgpt_faults,
    quantised_faults,
    row_change,
)
from support.faulty_engine import decoder_run, microgpt_run
from support.foreign_dumps import write_dump
from support.sweeps import in_sweep, some_of
from support.tiny_microgpts import CASES as MICROGPTS
from support.tiny_models import CASES, SCALES, TOKENS, random_quantised_weights, write_gguf

from microgpt_trace import load
from microgpt_trace.diagnosis.diagnose import diagnose, diagnose_values
from microgpt_trace.dumps.formats import open_recording

FAMILIES = (
    "llama_gqa", "llama_mha_bias", "mistral_window", "qwen2", "qwen2_tied", "qwen3", "llama_llama3",
    "llama_yarn_attention", "llama_linear",
)  # fmt: skip
UNKNOWABLE = ("tied_head_missing",)


# The share of a row that a fault must change to be visible, by precision. An eps in a large row is not.
VISIBLE = {"f32": 1e-5, "bf16": 0.1, "f16": 0.1, "q8": 1e-3}
# Words that name an altered event or a misread matrix. A wrong row of the embedding is another token's row.
NAMED = {
    "scale": ("scale", "times", "multiplied"), "sign": ("wrong sign", "-1 times", "subtracted", "direction"),
    "nan": ("nan",), "inf": ("infinite",), "wrong_element": ("only the element",), "zeros": ("zeros",),
    "wrong_row": ("only position", "your row at position"), "noise_row": ("only position",),
    "clip": ("clipped",), "nibbles_swapped": ("high nibbles are read before",),
    "nibbles_interleaved": ("nibbles alternate",), "minimum_ignored": ("the minima are ignored",),
    "zero_point_missing": ("is not subtracted",), "zero_point_off_by_one": ("the zero point is wrong by",),
    "scale_of_next_block": ("the scale of the next",), "codebook_ignored": ("not as places in",),
}  # fmt: skip


def unnamed(model, run, faults, tokens=TOKENS, compute="f32"):
    """Diagnose the right run and every visible fault, whose events `run` returns. Return the unnamed
    faults."""
    asked = {"compute": "q8"} if compute == "q8" else {}  # the values do not show this precision
    events = run(None)
    right, count, missed = diagnose_values(model, tokens, events, **asked), 0, []
    assert (right.clean, right.compute) == (True, compute)
    for fault in faults:
        wrong, at = run(fault), fault.event
        if fault.changes.get("tokens") or row_change(wrong[at], events[at]) < VISIBLE[compute]:
            continue
        found, count = diagnose_values(model, tokens, wrong, **asked), count + 1
        assert len({f.claim for f in found.findings}) == len(found.findings)
        cause = NAMED.get(fault.id.partition("@")[0], fault.cause)
        if (found.first_wrong, found.compute) != (fault.event, compute) or not blames(found, cause):
            missed.append((fault.id, found.first_wrong, [(f.claim, f.residual) for f in found.findings]))
    print(f"{count - len(missed)} of {count} named; not: {missed}")
    assert count > 0
    return {id for id, *_ in missed}


@pytest.mark.parametrize("module", [engine_operations, faulty_engine])
def test_the_engine_imports_nothing_from_the_package(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [m for m in modules if m.startswith("microgpt_trace")]


# --- The rates ------------------------------------------------------------------------------------


def engine(made, **options):
    """Return the model of (model, config, weights), and a function that runs it with a fault."""
    return made[0], lambda fault: decoder_run(*made[1:], TOKENS, fault, **options)


def microgpt(name):
    """Return a model, a function that runs it with a fault, tokens and parameters.

    One position stays free for faults that shift the positions.
    """
    case = MICROGPTS[name]
    params = {n: np.asarray(case.model.params[n]) for n in case.model.config.shapes()}
    tokens, heads = [int(i) for i in case.ids[:-2]], case.model.config.n_head
    return case.model, lambda fault: microgpt_run(params, tokens, heads, fault), tokens, params


BF16, F16 = {"rounding": "bf16"}, {"rounding": "f16"}
SWEPT = [(case, "f32", {}) for case in FAMILIES[2::2]]
SWEPT += [("qwen3", "q8", {"inputs": "Q8_K"}), ("llama_mha_bias", "q8", {"inputs": "Q8_1"})]
SWEPT += [("qwen2", "q8", {"inputs": "Q8_0"})]
RARE = [(case, "f32", {}) for case in FAMILIES[1::2]]
RARE += [("qwen2", "bf16", BF16), ("qwen2", "f16", F16)]
ENGINES = [
    ("llama_gqa", "f32", {}, 4), ("qwen2", "f16", F16, 8), in_sweep(("qwen2", "bf16", BF16, 4)),
    in_sweep(("qwen2", "q8", {"inputs": "divided"}, 4)), in_sweep(("llama_gqa", "f32", {}, 1)),
    *(in_sweep((*engine, 8)) for engine in SWEPT),
    *(in_sweep((*engine, 1), whole=True) for engine in SWEPT + RARE),
]  # fmt: skip


@pytest.mark.parametrize(("case", "compute", "options", "every"), ENGINES, ids=str)
def test_structural_faults_of_a_decoder_are_named(decoders, case, compute, options, every):
    """Test the faults of an engine in float32 or one that rounds: all, or every nth and those that llama_gqa
    cannot have."""
    made, hidden = decoders(case), ["eps@final.norm"] * (compute == "q8")
    known = {fault.id for fault in decoder_faults(CASES["llama_gqa"])}
    faults = [f for i, f in enumerate(decoder_faults(made[1])) if i % every == 0 or f.id not in known]
    missed = unnamed(*engine(made, **options), faults, compute=compute)
    assert missed <= {*UNKNOWABLE, *hidden}


@pytest.mark.parametrize("name", [in_sweep("default"), "2 layers, 2 heads"])
def test_structural_faults_of_a_microgpt_are_named(name):
    model, run, tokens, params = microgpt(name)
    assert unnamed(model, run, microgpt_faults(params, model.config.n_head), tokens) == set()


# Of the nine kinds of faults at every event: another kind at each event, or all of them.
EVERY_GENERIC = [in_sweep(8), in_sweep(1, whole=True)]


@pytest.mark.parametrize("every", EVERY_GENERIC)
def test_generic_faults_of_a_decoder_are_named(decoders, every):
    model, run = engine(decoders("qwen3"))
    faults = [fault for fault in generic_faults(run(None)) if not fault.event.startswith("layer1")]
    assert unnamed(model, run, faults[::every]) == set()


@pytest.mark.parametrize("every", EVERY_GENERIC)
def test_generic_faults_of_a_microgpt_are_named(every):
    model, run, tokens, _ = microgpt("2 layers, 2 heads")
    assert unnamed(model, run, generic_faults(run(None))[::every], tokens) == set()


@pytest.mark.parametrize("type", some_of((*SCALES, "MXFP4"), every=11))
def test_misread_quantisation_is_named(tmp_path, type):
    """GGUF reorders the rows of q and k, so that their next block is another one."""
    config = CASES["llama_gqa"] | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    weights = random_quantised_weights(config, lambda name: type, "faults")
    model = load(write_gguf(tmp_path / "m.gguf", config, weights))
    assert model.tensors["layer0.attn_wk"].permuted
    k, down = (f"model.layers.0.{n}.weight" for n in ("self_attn.k_proj", "mlp.down_proj"))
    faults = [f for n in (k, down, "model.embed_tokens.weight") for f in quantised_faults(config, weights, n)]
    faults = [fault for fault in faults if fault.id != f"scale_of_next_block@{k}"]
    assert unnamed(*engine((model, config, weights)), faults) == set()


# --- Sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "base"), [("scale", 1), ("wrong_element", 0)])
def test_a_relative_fault_of_1e_4_is_found(decoders, kind, base):
    model, run = engine(decoders("llama_gqa"))
    for event in ("embed.tok", "layer0.attn.scores", "layer0.mlp.down", "final.norm", "logits"):
        found = diagnose_values(model, TOKENS, run(generic_fault(kind, event, base + 1e-4)))
        own = next(o for o in found.operations if o.name == event)
        print(f"{event}: {own.error:.1e} of {own.tolerance:.1e}")
        assert found.first_wrong == event


@pytest.mark.sweep
def test_ten_times_the_tolerance_is_always_found(decoders):
    model, run = engine(decoders("qwen3"))
    for operation in diagnose_values(model, TOKENS, run(None)).operations:
        fault = generic_fault("scale", operation.name, 1 + 10 * operation.tolerance)
        print(f"{operation.name}: {operation.tolerance:.1e}")
        assert diagnose_values(model, TOKENS, run(fault)).first_wrong == operation.name


# --- Dumps with gaps ------------------------------------------------------------


GAPS = {
    "layers": r"embed\.tok|.*mlp\.residual|logits",
    "modules": r"(?!.*(rope|scores|weights|probs)).*",
    "logits": "logits",
    "up to the scores": r"(?!.*(attn\.[qk]$|rope)).*",
    "up to the context": r"(?!.*(attn\.[qkv]$|rope|scores|weights)).*",
}
IN_GAPS = ("rope_interleaved", "scale_missing", "mask_missing", "kv_grouping_scores", "gelu_for_silu",
           "residual_missing@attn.residual", "bias_missing@attn.q", "rope_base")  # fmt: skip
UP_TO = [("up to the context", id) for id in ("rope_interleaved", "rope_base", "rope_missing")]


GAPS_AND_FAULTS = [
    *some_of([(gap, id) for gap in ("layers", "modules", "logits") for id in IN_GAPS], every=8, sweep=2),
    *some_of([*UP_TO, ("up to the scores", "qk_permuted")], every=3),
]


@pytest.mark.parametrize(("gap", "id"), GAPS_AND_FAULTS)
def test_faults_in_dumps_with_gaps_are_named(decoders, gap, id):
    model, config, weights = decoders("qwen2")
    fault = next(f for f in decoder_faults(config) if f.id == id)
    right, events = (decoder_run(config, weights, TOKENS, f) for f in (None, fault))
    kept = {name: value for name, value in events.items() if re.fullmatch(GAPS[gap], name)}
    first = next(name for name in kept if row_change(kept[name], right[name]) > VISIBLE["f32"])
    found = diagnose_values(model, TOKENS, kept)
    print(found.first_wrong, [(f.id, f.claim, f.residual) for f in found.findings])
    assert found.first_wrong == first
    assert blames(found, fault.cause)


@pytest.mark.parametrize("gap", GAPS)
def test_right_runs_in_dumps_with_gaps_are_clean(decoders, gap):
    """The same offset of q and k changes no score."""
    model, config, weights = decoders("qwen2")
    offset = next(f for f in decoder_faults(config) if f.id == "rope_offset")
    events = decoder_run(config, weights, TOKENS, offset)
    kept = {name: value for name, value in events.items() if re.fullmatch(GAPS[gap], name)}
    assert diagnose_values(model, TOKENS, kept).clean


# --- Folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["ours", "huggingface", "llama.cpp", "transformerlens"])
def test_a_dump_of_a_decoder_in_any_style_is_diagnosed(decoders, tmp_path, style):
    model, config, weights = decoders("qwen2")
    fault = next(f for f in decoder_faults(config) if f.id == "rope_interleaved")
    write_dump(tmp_path / style, decoder_run(config, weights, TOKENS, fault), style)
    found = diagnose(open_recording(tmp_path / style), model).diagnosis
    print(found.first_wrong, found.findings)
    assert (found.tokens, [f.id for f in found.findings]) == (TOKENS, ["rope-interleaved"])


@pytest.mark.parametrize("style", ["ours", "huggingface", "transformerlens"])
def test_a_dump_of_a_microgpt_in_any_style_is_diagnosed(tmp_path, style):
    model, run, tokens, params = microgpt("2 layers, 2 heads")
    fault = next(f for f in microgpt_faults(params, 2) if f.id == "gelu_for_relu")
    for name, events in (("right", run(None)), ("wrong", run(fault))):
        write_dump(tmp_path / name, events, style)
    assert diagnose(open_recording(tmp_path / "right"), model, tokens=tokens).diagnosis.clean
    found = diagnose(open_recording(tmp_path / "wrong"), model, tokens=tokens).diagnosis
    print(found.first_wrong, found.findings)
    assert blames(found, fault.cause)
