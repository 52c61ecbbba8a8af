"""diff: errors that nothing may hide, and differences that correct runs may have."""

import numpy as np
import pytest
from support.comparing import altered, recording, saved, with_nan
from support.dump_writing import numbers, write_npz
from support.faulty_engine import decoder_run
from support.sweeps import in_sweep
from support.tiny_models import CASES, TOKENS, random_weights, wide_model, write_folder
from support.torch_models import torch_model

from microgpt_trace import load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.comparison.differences import difference
from microgpt_trace.comparison.pairing import prepare_sides
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.dumps.recorder import record
from microgpt_trace.errors import InputError
from microgpt_trace.hooks.event import EventSpec
from microgpt_trace.interpreter.event_stream import Piece
from microgpt_trace.rounding.bands import FACTOR_OF_F32, BandMeasure, RoundedPasses
from microgpt_trace.rounding.precision import PRECISIONS
from microgpt_trace.rounding.row_differences import compare_rows

# --- Errors that nothing may hide -------------------------------------------------------------


@pytest.mark.parametrize(("name", "row"), [("attn.k", 3), ("attn.k_rope", slice(None))])
def test_an_error_of_k_is_not_hidden_by_a_huge_bias(decoder_folder, name, row):
    def enlarge(weights):
        weights["model.layers.0.self_attn.k_proj.bias"] *= 600

    folder = decoder_folder("qwen2", enlarge)
    a, b = load(folder), load(folder)
    bias = a.tensors["layer0.attn_bk"].read()

    def change(value):
        changed = value.copy()
        changed[row] = (value[row] - bias) * np.float32(1.001) + bias
        return changed

    found = altered((a, b), "layer0.attn.k", change, names=[f"*.{name}"])
    event = found.event(f"layer0.{name}")
    print(event.relative, event.tolerance)
    assert (found.first, event.measured) == (f"layer0.{name}", "without the bias")
    assert event.relative == pytest.approx(1e-3, rel=0.5)


def test_a_massive_channel_does_not_hide_an_error_of_the_others(decoder_folder):
    def enlarge(weights):
        weights["model.layers.0.mlp.down_proj.weight"][7] *= 2000

    folder = decoder_folder("llama_gqa", enlarge, hidden_size=64)

    def change(value):
        changed = value * np.float32(1.001)
        changed[:, 7] = value[:, 7]
        return changed

    found = altered((load(folder), load(folder)), "layer0.mlp.residual", change)
    event = found.event("layer0.mlp.residual")
    print(event.relative, event.tolerance)
    assert (found.first, event.measured) == ("layer0.mlp.residual", "without outlying elements")


# --- Bands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type", "inputs"), [("Q4_0", "Q8_0"), ("Q6_K", "Q8_K")])
def test_our_rounded_passes_err_as_much_as_an_engine_with_the_same_blocks(tmp_path, type, inputs):
    model, config, weights = wide_model(tmp_path, type)
    events = decoder_run(config, weights, TOKENS, inputs=inputs)
    (side,) = prepare_sides([model], None, TOKENS, None, {})
    passes = RoundedPasses(side.model, side.inputs, PRECISIONS["q8"])
    exact = trace(model, tokens=TOKENS, values=True)["layer1.mlp.down"]
    with passes.run(["layer1.mlp.down"]):
        pieces = passes.take_all(Piece("layer1.mlp.down", np.empty(0), range(len(TOKENS))))
    ours = [compare_rows(exact, piece.value).relative() for piece in pieces]
    theirs = compare_rows(exact, events["layer1.mlp.down"]).relative()
    ratio = np.median(theirs) / np.median(ours)
    print(type, np.median(theirs), np.median(ours), ratio)
    assert 0.7 < ratio < 1.4


def test_no_row_differs_too_much_if_rounding_alone_can_change_the_attention(tmp_path):
    """With scores of hundreds, the key that wins in float32 loses in eight bits, also in our own passes."""
    model, config, weights = wide_model(tmp_path, "Q4_K")
    tokens = [int(token) for token in np.random.RandomState(0).randint(0, config["vocab_size"], 50)]
    events = decoder_run(config, weights, tokens, inputs="Q8_K")
    found = diff(model, write_npz(tmp_path / "dump.npz", events), tokens=tokens, compute="q8")
    print(found.worst)
    assert found.agree


@pytest.mark.parametrize("seed", [1, 2])
def test_a_row_that_rounding_turns_over_is_right(tmp_path, seed):
    """With scores of hundreds, a row may attend to another key in bfloat16 than in our passes."""
    torch = pytest.importorskip("torch")
    engine, tokens = (
        torch_model("llama", seed=seed),
        [1, *np.random.default_rng(seed).integers(3, 61, 24).tolist()],
    )
    for layer in engine.model.layers:
        layer.self_attn.q_proj.weight.data *= 20
    engine = engine.to(torch.bfloat16)
    engine.save_pretrained(tmp_path / "model")
    with torch.no_grad(), record(engine, tmp_path / "run.safetensors"):
        engine(torch.tensor([tokens]))
    found = diff(load(tmp_path / "model"), tmp_path / "run.safetensors", tokens=tokens)
    largest = np.nanmax(np.concatenate([event.by_position for event in found.events]))
    print(found.first, largest)
    assert found.agree
    assert largest > 1.2


@pytest.mark.parametrize("size", [1e4, 1e5])
def test_float32_rounding_that_a_later_layer_amplifies_is_right(tmp_path, size):
    """PyTorch computes in float64. A massive activation cancels two layers later, but not its rounding."""
    engine = torch_model("gpt2")
    for layer, sign in ((0, 1), (2, -1)):
        engine.transformer.h[layer].mlp.c_proj.bias.data[7] = sign * size
    engine.save_pretrained(tmp_path / "model")
    with record(engine.double(), tmp_path / "run.safetensors"):
        engine(engine.dummy_inputs["input_ids"][:1])
    model, run = load(tmp_path / "model"), open_recording(tmp_path / "run.safetensors")
    found, diagnosis = diff(model, run), diagnose(run, model).diagnosis
    print(found.worst.name, found.worst.relative, found.worst.tolerance, diagnosis.first_wrong)
    assert (found.agree, diagnosis.clean, found.tolerance.factor) == (True, True, FACTOR_OF_F32)
    with model.hooks.subscribe(lambda event, value: value * np.float32(1.005), "layer1.mlp.up"):
        assert diff(model, run).first == "layer1.mlp.up"


def test_bf16_may_change_which_key_wins(tmp_path):
    """A large channel makes large scores, which bf16 rounds to other attention."""
    engine, rng = torch_model("qwen2"), np.random.default_rng(1)
    for name, parameter in engine.named_parameters():
        if "input_layernorm" in name:
            parameter.data[rng.integers(0, 32)] *= 30
    engine.bfloat16().float().save_pretrained(tmp_path / "model")
    options = {"dtype": "bfloat16", "attn_implementation": "eager"}
    rounded = type(engine).from_pretrained(tmp_path / "model", **options)
    tokens = np.random.default_rng(1).integers(0, 61, (1, 20)).tolist()
    with record(rounded, tmp_path / "run.safetensors"):
        rounded(rounded.dummy_inputs["input_ids"].new_tensor(tokens))
    model, run = load(tmp_path / "model"), open_recording(tmp_path / "run.safetensors")
    found = diff(model, run, compute="bf16")
    print(found.worst.name, found.worst.relative, found.worst.tolerance)
    assert (found.agree, diagnose(run, model, compute="bf16").diagnosis.clean) == (True, True)


@pytest.mark.parametrize("kept", ["", "mlp.down"])
def test_numbers_below_the_normal_numbers_of_f16_are_right(tmp_path, kept):
    config, weights = CASES["qwen2"], random_weights(CASES["qwen2"], "qwen2")
    small = {n: w * np.float32(1e-5 if "gate_proj" in n else 1) for n, w in weights.items()}
    small = {name: w.astype(np.float16).astype(np.float32) for name, w in small.items()}
    model = load(write_folder(tmp_path / "model", config, small))
    events = decoder_run(config, small, TOKENS, rounding="f16")
    run = recording({n: x for n, x in events.items() if not kept or n.endswith((kept, "attn.residual"))})
    found, diagnosis = diff(model, run, compute="f16"), diagnose(run, model, compute="f16").diagnosis
    print(found.worst.name, found.worst.relative, found.worst.tolerance)
    assert (found.agree, diagnosis.clean) == (True, True)


@pytest.mark.parametrize(
    ("way", "offered"), [("nearest", "f16"), in_sweep(("cut", "bf16")), ("autocast", "bf16")]
)
def test_a_precision_that_explains_tf32_and_autocast_is_offered(tmp_path, way, offered):
    torch = pytest.importorskip("torch")

    def tf32(x):
        bits = x.contiguous().view(torch.int32) + (0x1000 if way == "nearest" else 0)
        return (bits & ~0x1FFF).view(torch.float32)

    class Tf32(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            products = function.__name__ in ("linear", "matmul")
            args = [tf32(x) if products and i < 2 else x for i, x in enumerate(args)]
            return function(*args, **(kwargs or {}))

    engine, mode = torch_model("llama"), Tf32()
    mode = torch.autocast("cpu", dtype=torch.bfloat16) if way == "autocast" else mode
    engine.save_pretrained(tmp_path / "model")
    with record(engine, tmp_path / "run.safetensors"), mode, torch.no_grad():
        engine(torch.tensor([TOKENS]))
    model, run = load(tmp_path / "model"), open_recording(tmp_path / "run.safetensors")
    found, diagnosis = diff(model, run), diagnose(run, model).diagnosis
    print(found.first, found.offer, diagnosis.offer)
    assert (found.agree, found.offer.compute, diagnosis.clean, diagnosis.offer.compute) == (
        (False, offered, False, offered)
    )
    assert diff(model, run, compute=offered).agree
    assert diagnose(run, model, compute=offered).diagnosis.clean


def test_a_third_run_without_a_compared_event_is_refused(llama, tmp_path):
    """The third run has only an event of a head, which two models do not compare by default."""
    path = write_npz(tmp_path / "third.npz", {"layer0.attn.head0": numbers(len(TOKENS), 32)})
    with pytest.raises(InputError, match=r"third\.npz.*contains none of the events to compare"):
        diff(*llama, tokens=TOKENS, calibrate=path)
    assert len(diff(*llama, tokens=TOKENS, calibrate=path, names=["layer0.attn.head0"]).events) == 1


def test_rtol_is_relative_to_a_row_and_atol_is_for_an_element(llama):
    def change(value):
        changed = value.copy()
        changed[2, 3] += 0.5
        return changed

    for rtol, same in ((0.011, True), (0.009, False)):
        found = altered(llama, "logits", lambda value: value / np.float32(0.99), rtol=rtol, names=["logits"])
        assert found.agree == same
    for atol, same in ((0.6, True), (0.4, False)):
        assert altered(llama, "logits", change, atol=atol, names=["logits"]).agree == same


def test_a_nan_exceeds_any_tolerance(llama):
    assert altered(llama, "logits", with_nan, atol=1e9, rtol=1e9).first == "logits"
    event = altered(llama, "layer0.attn.q", lambda value: value * np.nan).event("layer0.attn.q")
    assert (event.holds, event.median, event.cosine) == (False, None, None)


REFUSED = [
    ({"compute": "bf16", "rtol": 0.1}, "compute and rtol or atol cannot be combined"),
    ({"compute": "bf16", "rtol": 0.0}, "cannot be combined"),
    ({"compute": "int3"}, "expected one of f32, bf16, f16, q8"), ({"factor": 2.0}, "give one of them"),
    ({"factor": -1.0, "compute": "bf16"}, "factor: expected a number"), ({"rtol": np.nan}, "rtol"),
    ({"rtol": -1.0}, "rtol"), ({"atol": np.inf}, "atol"),
    ({"names": ["nothing*"]}, "nothing"), ({"positions": [99]}, "99"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_options_that_do_not_fit_are_refused(llama, options, words):
    with pytest.raises(InputError, match=words):
        diff(*llama, tokens=TOKENS, **options)


def test_compute_needs_a_model(llama, tmp_path):
    path = saved(llama[0], tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="give a model as one of the two sides"):
        diff(path, path, compute="q8")


def test_a_difference_reports_the_row_that_is_worst_relative_to_its_band():
    a = np.ones((3, 4), np.float32)
    b = a * np.array([[1.0], [1.02], [1.1]], np.float32)
    rows = compare_rows(a, b)
    measures = [BandMeasure("", rows.strict(), np.array([0.01, 0.01, 0.5]))]
    found = difference(EventSpec("x", "head", None, ""), (3, 4), rows, measures, (0, 1, 2), 0.0)
    print(found)
    assert (found.holds, found.position, found.tolerance) == (False, 1, 0.01)
    assert found.relative == pytest.approx(0.02 / 1.02, rel=1e-5)
