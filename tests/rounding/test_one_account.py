"""diff and diagnose give the same verdict about a dump.

The engines are right and wrong, in float32, bfloat16, float16 and with 8-bit products.
"""

import re
from itertools import product

import numpy as np
import pytest
from support.commands import microgpt
from support.faults import generic_fault
from support.faulty_engine import Fault, decoder_run, rounded_to
from support.foreign_dumps import write_dump
from support.sweeps import in_sweep, some_of
from support.terminal import rendered
from support.tiny_gpt2 import GPT2S, gpt2_events, random_gpt2
from support.tiny_models import (
    CASES,
    TOKENS,
    random_quantised_weights,
    random_weights,
    write_folder,
    write_gguf,
)
from support.torch_models import torch_model

from microgpt_trace import load, record
from microgpt_trace.comparison.diff import diff
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.layouts import OWN, Recorded
from microgpt_trace.dumps.recording import Recording
from microgpt_trace.render.numbers import distance
from microgpt_trace.render.results.diagnosis_sections import diagnosis_sections
from microgpt_trace.render.results.diff_sections import comparison_sections
from microgpt_trace.rounding.judging import OVER_THE_PASS

TEXTS = {"plain": (1, *TOKENS), "repeated": (1, *[5] * 9)}
FACTORS = {"f32": (1.001,), "bf16": (1.01, 1.005), "f16": (1.001,), "q8": (1.004,)}
PRECISIONS = ("bf16", "f16", "f32")
PRODUCTS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.down", "logits")
SCORES = [*product(["f16"], [1.003, 1, 0.997]), *product(["bf16"], [1.02, 1, 0.98])]
UP = "model.layers.1.mlp.up_proj.weight"


def scaled(factor):
    """Return the fault that multiplies every product by a factor."""
    return Fault("scaled", "", (), None, {name: {"times": factor} for name in PRODUCTS})


def recording(events, tokens):
    tensors = {name: Recorded(name, x.shape, lambda x=x: x, OWN) for name, x in events.items()}
    return Recording("engine", "events", tensors, tokens)


def judged(model, tokens, events, compute):
    """Return the results of diff and of diagnose for the same events."""
    dump = recording(events, tokens)
    compared, diagnosis = diff(model, dump, compute=compute), diagnose(dump, model, compute=compute).diagnosis
    print(f"{compute}: diff {compared.first}, diagnose {diagnosis.first_wrong}")
    return compared, diagnosis


def assert_agree(model, right, tokens, events, compute):
    """Check that both accept the events of a right engine, and that both reject those of a wrong one."""
    compared, diagnosis = judged(model, tokens, events, compute)
    first, order = next((o.name for o in diagnosis.operations if not o.holds), None), list(model.plan)
    assert (compared.first is None, first is None) == (right, right)
    assert right or order.index(first) <= order.index(compared.first)
    assert str(compared.unseen) == str(diagnosis.unseen)


@pytest.mark.parametrize(
    ("case", "compute"),
    some_of(product(["llama_gqa", "mistral_window", "qwen3", "qwen2"], PRECISIONS), every=12, sweep=4),
)
def test_both_commands_agree_about_decoders(decoders, case, compute):
    model, config, weights = decoders(case)
    matrix = Fault("matrix", "", (), weights={UP: weights[UP] * np.float32(1.05)})
    for text, tokens in TEXTS.items():
        wrong = [matrix] if text == "repeated" else map(scaled, FACTORS[compute])
        for fault in (None, *wrong):
            print(text, fault)
            rounding = None if compute == "f32" else compute
            events = decoder_run(config, weights, tokens, fault, rounding=rounding)
            asked = compute if text == "repeated" else None  # without --compute, both recognise the precision
            assert_agree(model, fault is None, tokens, events, asked)


HIDDEN, MODULES = r"embed\.tok|.*mlp\.residual|logits", r"(?!.*(rope|scores|weights|probs)).*"


@pytest.mark.parametrize("kept", [HIDDEN, MODULES])
def test_both_commands_agree_about_dumps_with_gaps(decoders, kept):
    """Rounding in the operations that a dump lacks may hide an error that shows over the whole pass."""
    model, config, weights = decoders("qwen2")
    name, tokens = UP.replace(".1.", ".0."), TEXTS["plain"]
    for fault in (None, Fault("matrix", "", (), weights={name: weights[name] * np.float32(1.05)})):
        events = decoder_run(config, weights, tokens, fault, rounding="bf16")
        shown = {name: x for name, x in events.items() if re.fullmatch(kept, name)}
        assert_agree(model, fault is None, tokens, shown, "bf16")
        over = diagnose(recording(shown, tokens), model, compute="bf16")
        if over.diagnosis.wrong and {o.measured for o in over.diagnosis.wrong} == {OVER_THE_PASS}:
            assert "no judged operation adds an error of its own" in rendered(diagnosis_sections(over), 200)
            assert "First difference: " in rendered(diagnosis_sections(over), 200)


@pytest.mark.parametrize("compute", some_of(reversed(PRECISIONS), every=3))
def test_both_commands_agree_about_gpt2(tmp_path, compute):
    config = GPT2S["gpt2"]
    weights = random_gpt2(config, "gpt2")
    model = load(write_folder(tmp_path / "gpt2", config, weights))
    wrong = {
        "plain": {"layer0.mlp.act": {"kind": "gelu_quick"}},
        "repeated": {"layer0.attn.norm": {"divisor": config["n_embd"] - 1}},  # an unbiased variance
    }
    for text, tokens in TEXTS.items():
        for instead in (None, wrong[text]):
            events = gpt2_events(config, weights, tokens, instead, rounding=compute)
            assert_agree(model, instead is None, tokens, events, compute)


@pytest.mark.parametrize(
    ("type", "inputs"), [*map(in_sweep, [("Q4_1", "Q8_1"), ("Q8_0", "Q8_0"), ("Q6_K", "Q8_K")])]
)
def test_both_commands_agree_about_8_bit_products(tmp_path, type, inputs):
    config = CASES["qwen2"] | {"hidden_size": 256, "intermediate_size": 256}
    weights = random_quantised_weights(config, lambda name: type, "one account")
    model = load(write_gguf(tmp_path / "m.gguf", config, weights))
    for tokens, fault in product(TEXTS.values(), (None, scaled(1.004))):
        events = decoder_run(config, weights, tokens, fault, inputs=inputs)
        assert_agree(model, fault is None, tokens, events, "q8")
    compared, diagnosis = judged(model, tokens, decoder_run(config, weights, tokens, inputs=inputs), None)
    print(compared.offer, diagnosis.offer)
    assert (compared.agree, diagnosis.clean, compared.offer.compute) == (False, False, "q8")
    assert compared.offer == diagnosis.offer
    strict, _ = judged(model, tokens, decoder_run(config, weights, tokens, inputs=inputs), "f32")
    assert strict.offer is None


def test_a_factor_of_all_rows_is_named_as_the_cause(decoders):
    model, config, weights = decoders("llama_gqa")
    events = decoder_run(config, weights, TEXTS["plain"], scaled(1.005), rounding="bf16")
    compared, diagnosis = judged(model, TEXTS["plain"], events, "bf16")
    wrong = next(o for o in diagnosis.operations if o.measured)
    print(wrong.name, wrong.error, wrong.tolerance, [finding.claim for finding in diagnosis.findings])
    assert wrong.measured == "in length of all rows"
    assert wrong.error == pytest.approx(0.005, rel=0.3)
    assert any("1.005" in finding.claim for finding in diagnosis.findings)
    assert compared.event(wrong.name).measured == "in length of all rows given its own inputs"


@pytest.mark.parametrize(("part", "size"), some_of(product(["up", "v"], [1e-7, 1e-5]), every=4))
def test_numbers_near_0_have_fewer_digits_in_float16(tmp_path, part, size):
    """The distance of such numbers is 2^-24: 5.5 times this distance may become 6 times this distance."""
    config, event = CASES["llama_gqa"], {"v": "layer0.attn.v", "up": "layer0.mlp.up"}[part]
    weights = random_weights(config, "near 0")
    weights = {n: x * np.float32(size) if f"{part}_proj" in n else x for n, x in weights.items()}
    model = load(write_folder(tmp_path / "model", config, weights))
    for factor in (1.0, 1.5):
        fault = Fault("scaled", "", (), 0, {event.split(".", 1)[1]: {"times": factor}})
        events = decoder_run(config, weights, TEXTS["plain"], fault, rounding="f16")
        compared, diagnosis = judged(model, TEXTS["plain"], events, "f16")
        expected = None if factor == 1 else event
        assert (compared.first, diagnosis.first_wrong) == (expected, expected)


def test_with_factor_or_rtol_only_the_band_counts(decoders):
    """With `factor` or `rtol` diff does not judge by the recording's own inputs."""
    model, config, weights = decoders("llama_gqa")
    events = decoder_run(config, weights, TEXTS["plain"], scaled(1.005), rounding="bf16")
    dump = recording(events, TEXTS["plain"])
    assert not diff(model, dump, compute="bf16").agree
    assert diff(model, dump, compute="bf16", factor=1e6).agree
    assert diff(model, dump, rtol=0.5).agree


def test_a_wrong_row_within_its_band_is_located(decoders):
    """Differences of earlier layers hide 1.2 % of noise in one row, but its own inputs reveal it."""
    model, config, weights = decoders("llama_gqa")
    rng, tokens, located = np.random.default_rng(0), TEXTS["plain"], 0
    for row, event in ((0, "layer1.mlp.up"), (3, "layer1.attn.out"), (7, "layer1.mlp.up")):
        noise = 1 + 0.012 * rng.standard_normal(48 if "up" in event else 32)

        def alter(x, row=row, noise=noise):
            return np.where(np.arange(len(x))[:, None] == row, x * noise, x)

        fault = Fault("row", event, (), alter=alter)
        events = decoder_run(config, weights, tokens, fault, rounding="bf16")
        compared, diagnosis = judged(model, tokens, events, "bf16")
        own = next(o for o in diagnosis.operations if o.name == event)
        found = compared.event(event)
        print(row, found.position, own.position, found.measured)
        assert (compared.first, diagnosis.first_wrong, own.position) == (event, event, row)
        if "given" in found.measured:
            same = (found.position, found.index, found.a, found.b)
            assert same == (row, own.element, own.expected, own.found)
            located += 1
    assert located


@pytest.mark.parametrize("size", some_of([7e-7, 3e-7, 1e-6], every=3))
def test_both_commands_find_small_errors_that_add_up(tmp_path, size):
    """In float32 every event has noise that is allowed for one operation."""
    config, tokens = CASES["llama_gqa"] | {"num_hidden_layers": 8}, TEXTS["plain"]
    weights = random_weights(config, "deep")
    model = load(write_folder(tmp_path / "deep", config, weights))
    rng = np.random.default_rng(1)

    def alter(_, x):
        return x * (1 + size * rng.standard_normal(x.shape))

    events = decoder_run(config, weights, tokens, alter=alter)
    for kept in (".*", HIDDEN):
        shown = {name: x for name, x in events.items() if re.fullmatch(kept, name)}
        compared, diagnosis = judged(model, tokens, shown, "f32")
        assert compared.first == diagnosis.first_wrong


def test_a_norm_with_a_rounded_root_is_right(decoders):
    """The root may be rounded in the same way in all rows, if there is one row or rows are equal."""
    model, config, weights = decoders("llama_gqa")

    def instead(s, options, right):
        x, gain = s[options["of"]], s.weight(f"{options['gain']}.weight")
        root = rounded_to(1 / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5), "bf16").astype(np.float64)
        return x * root * gain

    norms = {name: {"instead": instead} for name in ("attn.norm", "mlp.norm", "final.norm")}
    for tokens in ((3,), (4,), (9,) * 6):
        events = decoder_run(config, weights, tokens, Fault("root", "", (), None, norms), rounding="bf16")
        compared, diagnosis = judged(model, tokens, events, "bf16")
        assert (compared.first, diagnosis.first_wrong) == (None, None)


def test_attention_weights_that_are_off_by_5_percent_are_found(decoders):
    model, config, weights = decoders("qwen3")
    fault = Fault("weights", "layer0.attn.weights", (), alter=lambda x: x * np.float32(1.05))
    events = decoder_run(config, weights, TEXTS["plain"], fault, rounding="bf16")
    compared, diagnosis = judged(model, TEXTS["plain"], events, "bf16")
    own = next(o for o in diagnosis.operations if o.name == "layer0.attn.weights")
    print(own.error, own.tolerance)
    assert compared.first == diagnosis.first_wrong == own.name
    assert (own.measured != OVER_THE_PASS, own.tolerance < 0.05) == (True, True)


@pytest.mark.parametrize(("compute", "factor"), some_of(SCORES, every=6))
def test_a_factor_of_all_scores_is_found_without_scores(decoders, compute, factor):
    """The rows of the attention weights differ by less than their tolerance."""
    model, config, weights = decoders("llama_gqa")
    for tokens in TEXTS.values():
        fault = Fault("scale", "", (), 1, {"attn.weights": {"times": factor}})
        events = decoder_run(config, weights, tokens, fault, rounding=compute)
        shown = {name: x for name, x in events.items() if not name.endswith("scores")}
        compared, diagnosis = judged(model, tokens, shown, compute)
        if factor == 1:
            assert (compared.first, diagnosis.first_wrong) == (None, None)
            continue
        own = next(o for o in diagnosis.operations if o.name == "layer1.attn.weights")
        print(own.error, own.tolerance, own.measured, [finding.claim for finding in diagnosis.findings])
        assert compared.first == diagnosis.first_wrong == own.name
        assert own.measured == "in a factor of all scores"
        assert own.error == pytest.approx(abs(factor - 1), rel=0.2)
        line = f"off by {distance(own.error)} in a factor of all scores given its own inputs"
        assert line in rendered(comparison_sections(compared), 200)
        assert any(re.search("softmax-scaled|scale", finding.id) for finding in diagnosis.findings)


@pytest.mark.parametrize("compute", ["bf16", "f16"])
def test_another_cap_of_the_scores_is_found_without_scores(tmp_path, compute):
    """Some rows of layer 0 agree within their tolerance, and a cap is not the same factor of all scores."""
    torch = pytest.importorskip("torch")
    tokens = [1, *np.random.default_rng(4).integers(3, 61, 15).tolist()]
    peer = torch_model("gemma2", {"attn_logit_softcapping": 5.0})
    peer = peer.to({"bf16": torch.bfloat16, "f16": torch.float16}[compute])
    peer.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model")
    for cap in (5.0, 6.0):
        for layer in peer.model.layers:
            layer.self_attn.attn_logit_softcapping = cap
        with torch.no_grad(), record(peer, tmp_path / f"{cap}.safetensors"):
            peer(torch.tensor([tokens]))
        dump = tmp_path / f"{cap}.safetensors"
        diagnosis, compared = diagnose(dump, model).diagnosis, diff(model, dump, tokens=tokens)
        first = "layer0.attn.weights" if cap == 6 else None
        assert (diagnosis.compute, diagnosis.first_wrong, compared.first) == (compute, first, first)
    assert "the cap of the attention scores is 6, not 5" in diagnosis.findings[0].claim


def test_diagnose_ignores_hooks_of_the_model(decoders):
    """diff runs the model with its hooks; diagnose runs it without."""
    model, config, weights = decoders("llama_gqa")
    with model.hooks.subscribe(lambda event, value: value * np.float32(1.5), "layer0.mlp.down"):
        events = decoder_run(config, weights, TOKENS, generic_fault("scale", "layer0.mlp.down", 1.5))
        compared, diagnosis = judged(model, TOKENS, events, "f32")
    assert (compared.first, diagnosis.first_wrong) == (None, "layer0.mlp.down")


@pytest.mark.parametrize("options", some_of([{"inputs": "Q8_0"}, {"rounding": "bf16"}], every=2))
def test_both_commands_report_hidden_differences_in_the_same_words(decoders, tmp_path, options):
    """The limits are the smallest and the largest tolerance of a row, and neither is 0."""
    model, config, weights = decoders("llama_gqa")
    write_dump(tmp_path / "dump", decoder_run(config, weights, TOKENS, **options), "ours")
    compute = options.get("rounding", "q8")
    tokens = ["--tokens", ",".join(map(str, TOKENS)), "--compute", compute]
    sides = (("diff", model.origin, tmp_path / "dump"), ("diagnose", tmp_path / "dump", model.origin))
    told = [microgpt(*side, *tokens, width=400).out for side in sides]
    said = [
        next(line.strip() for line in out.splitlines() if "cannot be distinguished from" in line)
        for out in told
    ]
    print(said[0])
    assert said[0] == said[1]
    operations = diagnose(tmp_path / "dump", model, tokens=TOKENS, compute=compute).diagnosis.operations
    limits = sorted(operations, key=lambda o: o.tolerance)
    low, high = (re.search(rf"{word} ([0-9.]+)% .([a-z._]+). ?", said[0]) for word in ("below", "to"))
    for limit, (found, name) in ((limits[0], low.groups()), (limits[-1], high.groups())):
        assert limit.tolerance <= float(found) / 100 <= 1.1 * limit.tolerance
        assert limit.name.endswith(name)
