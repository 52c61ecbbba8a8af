"""GPT-2: every event of every variant, backwards and with faults, against independent judges."""

from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
from support.backward_runs import Run
from support.explanations import sampled
from support.faults import names
from support.judges import agree
from support.other_plans import of_arrays
from support.recorded_references import WHOLE, assert_agree, assert_far, gap, reference, run
from support.sweeps import in_sweep, some_of
from support.tiny_gpt2 import (
    GPT2_FAULTS,
    GPT2S,
    IN_GGUF,
    gpt2_events,
    quantised_gpt2,
    random_gpt2,
    scale_of,
    tiny_gpt2,
    write_gpt2_gguf,
)
from support.tiny_models import TOKENS, rounded, scales, write_folder

from microgpt_trace import load, trace
from microgpt_trace.architecture.steps import element_name
from microgpt_trace.diagnosis.diagnose import diagnose_values
from microgpt_trace.explaining.explain import explain_in, keep_run
from microgpt_trace.tracing.validation import validate

# --- Right ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GPT2S)
def test_folder_and_gguf(gpt2, case, tmp_path):
    """The formulas in float64 too, which judge heads and the loss."""
    found, judged, expected = run(gpt2(case)[0]), gpt2_events(*tiny_gpt2(case), TOKENS), reference(case)
    assert {n for n in judged if n not in expected} == {*(n for n in judged if ".head" in n), "loss"}
    assert_agree({n: judged[n] for n in expected}, expected)
    assert_agree(found, expected)
    assert [event.name for event in found] == [*judged]
    for name, value in judged.items():
        agree(found[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), what=name)
    if case in IN_GGUF and find_spec("gguf"):
        assert_agree(run(write_gpt2_gguf(tmp_path / "m.gguf", *tiny_gpt2(case))), expected)


@pytest.mark.parametrize("type", ["Q4_0", "Q4_K", "F16"])
def test_gguf_whose_fused_matrices_are_quantised(type, tmp_path):
    pytest.importorskip("gguf")
    config, stored, plain = quantised_gpt2(type)
    expected = gpt2_events(config, plain, TOKENS)
    found = run(write_gpt2_gguf(tmp_path / "m.gguf", config, stored))
    assert_agree(found, {name: value for name, value in expected.items() if name != "loss"})


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision(dtype, tmp_path):
    config, weights = tiny_gpt2("gpt2")
    expected = gpt2_events(config, rounded(weights, dtype), TOKENS)
    found = run(write_folder(tmp_path, config, weights, dtype))
    assert_agree(found, {name: expected[name] for name in reference("gpt2")})


def test_old_files_without_prefix_and_with_masks(tmp_path):
    config, weights = tiny_gpt2("gpt2")
    weights = {name.removeprefix("transformer."): array for name, array in weights.items()}
    for i in range(config["n_layer"]):
        weights[f"h.{i}.attn.bias"] = np.tri(16, dtype=np.float32)[None, None]
        weights[f"h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
    said = {name: value for name, value in config.items() if not name.startswith(("scale", "n_inner", "act"))}
    said |= {"n_ctx": 16, "attn_pdrop": 0.1}
    del said["tie_word_embeddings"]
    assert_agree(run(write_folder(tmp_path, said, weights)), reference("gpt2"))


# --- Wrong, and seen to be wrong ----------------------------------------------------------------


def thirds(order):
    """What puts q, k and v of a fused matrix or bias in another order."""
    return lambda array: np.concatenate([np.split(array, 3, -1)[i] for i in order], -1)


WRONG = {  # a case, what changes in its config, and which weights change how
    "eps": ("gpt2_untied", {"layer_norm_epsilon": 1e-5}),
    "not by layer": ("gpt2_by_layer", {"scale_attn_by_inverse_layer_idx": False}),
    "scaled": ("gpt2_unscaled", {"scale_attn_weights": True}),
    "tied": ("gpt2_untied", {"tie_word_embeddings": True}),
    "transposed": ("gpt2", {}, "attn.c_proj.weight", np.transpose),
    "q and k swapped": ("gpt2", {}, "attn.c_attn.weight", thirds((1, 0, 2))),
    "k and v swapped": ("gpt2", {}, "attn.c_attn.weight", thirds((0, 2, 1))),
    "biases of q and k swapped": ("gpt2", {}, "attn.c_attn.bias", thirds((1, 0, 2))),
    "no bias of a norm": ("gpt2", {}, "ln_1.bias", np.zeros_like),
    "no bias of the last norm": ("gpt2", {}, "ln_f.bias", np.zeros_like),
    "no bias of a matrix": ("gpt2", {}, "mlp.c_proj.bias", np.zeros_like),
    "no positions": ("gpt2", {}, "wpe.weight", np.zeros_like),
    "positions one late": ("gpt2", {}, "wpe.weight", lambda a: np.roll(a, 1, 0)),
}


@pytest.mark.parametrize("what", some_of(WRONG, every=4))
def test_what_is_wrong_is_far_from_the_reference(what, tmp_path):
    case, change, *edit = WRONG[what]
    config, weights = tiny_gpt2(case)
    for name in [name for name in weights if edit and name.endswith(edit[0])]:
        weights[name] = np.ascontiguousarray(edit[1](weights[name]))
    found = run(write_folder(tmp_path, config | change, weights))
    assert_far(found["logits"], reference(case)["logits"])


@pytest.mark.parametrize(("case", "other"), [("gpt2_erf", "gelu_new"), ("gpt2", "gelu")])
def test_two_gelus_are_nearly_one(case, other, tmp_path):
    config, weights = tiny_gpt2(case)
    found = run(write_folder(tmp_path, config | {"activation_function": other}, weights))
    distance, _ = gap(found["layer0.mlp.act"], reference(case)["layer0.mlp.act"])
    print(f"distance {distance:.1e}, the tolerance is {WHOLE:.1e}")
    assert 2 * WHOLE < distance < 1e-3


# --- Backwards ------------------------------------------------------------------------------------


def torch_gradients(folder):
    """Gradients of events and of parameters, by our and by their names, by transformers in float64."""
    torch = pytest.importorskip("torch", reason="the judge of gradients is torch with transformers")
    pytest.importorskip("transformers")
    from support import record_references as recorder
    from transformers import GPT2LMHeadModel

    seen = {}

    def keep(names, tensor):
        tensor.retain_grad()
        seen[tuple(names)] = tensor

    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    recorder.hook_modules(model, keep)
    for i, block in enumerate(model.transformer.h):
        name = f"layer{i}.attn.weights"
        block.attn.register_forward_hook(lambda _m, _x, y, name=name: keep([name], y[1]))
    tokens = torch.tensor(TOKENS)
    logits = model(tokens[None], use_cache=False).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], tokens[1:]).backward()  # their loss is float32
    events = {}
    for own, tensor in seen.items():
        whole = "weights" in own[0]
        events |= {own[0]: tensor.grad[0].numpy()} if whole else recorder.split_rows(tensor.grad, own)
    return events, {name: p.grad.numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("case", GPT2S)
def test_gradients_are_those_of_transformers(gpt2, case):
    folder, model, _, _ = gpt2(case)
    events, parameters = torch_gradients(folder)
    wide = of_arrays(model.plan, {name: model.parameter(name) for name in model.plan.parameters})
    found = Run(wide)
    for name, expected in events.items():
        agree(found.gradients[name], expected, rtol=1e-8, atol=1e-10, what=f"d {name}")
    for name, own in found.parameters.items():
        theirs = model.tensors[name].name
        expected = parameters[theirs]
        if "c_attn" in theirs:
            expected = np.split(expected, 3, -1)["qkv".index(name[-1])]
        expected = expected.T if ".h." in theirs else expected
        agree(own, expected, rtol=1e-8, atol=1e-10, what=f"d {name}")
    rest = {name for name in model.plan if name not in events and ".head" not in name}
    print(f"{len(events)} events and {len(found.parameters)} parameters, not: {sorted(rest)}")
    assert rest == {"layer0.attn.scores", "layer1.attn.scores", "probs", "loss"}


# --- Faults ---------------------------------------------------------------------------------------


def test_faults_are_named(gpt2):
    _, model, config, weights = gpt2()
    assert diagnose_values(model, TOKENS, gpt2_events(config, weights, TOKENS)).clean
    missed = []
    for what, (event, fault, words) in GPT2_FAULTS.items():
        found = diagnose_values(model, TOKENS, gpt2_events(config, weights, TOKENS, {event: fault}))
        assert found.first_wrong == event, what
        if not names(found, words):
            missed.append((what, [finding.claim for finding in found.findings]))
    print(f"{len(GPT2_FAULTS) - len(missed)} of {len(GPT2_FAULTS)} named; not: {missed}")
    assert not missed


SCALED = [("gpt2", 1.0), ("gpt2_by_layer", 8**-0.5), ("gpt2_by_layer", 0.25), ("gpt2_unscaled", 8**-0.5)]


@pytest.mark.parametrize(("case", "scale"), [*SCALED, *map(in_sweep, product(GPT2S, [1.0, 8**-0.5, 0.25]))])
def test_another_scale_of_the_scores(gpt2, case, scale):
    _, model, config, weights = gpt2(case)
    own = scale_of(config, 1)
    fault = {"layer1.attn.scores": lambda s: s.right * scale / own}
    found = diagnose_values(model, TOKENS, gpt2_events(config, weights, TOKENS, fault))
    print(own, scale, [finding.claim for finding in found.findings])
    assert found.clean == np.isclose(own, scale)
    if not found.clean:
        said = "1/sqrt(8)" if np.isclose(own, 8**-0.5) else f"{own:.6g}"
        by = "1/sqrt(8)" if np.isclose(scale, 8**-0.5) else f"{scale:.6g}"
        assert names(found, (f"by {by}, not by {said}", f"by {by}, not multiplied by {said}", "not scaled"))
        assert names(found, (f"by {said}",))


# --- Weights of any size --------------------------------------------------------------------------


def odd_gpt2(seed, folder):
    """A GPT-2 of 1 to 8 layers whose tensors are of any size or zero, and tokens for it."""
    rng = np.random.default_rng(seed)
    case = str(rng.choice(list(GPT2S)))
    config = GPT2S[case] | {"n_layer": int(rng.integers(1, 9))}
    config["layer_norm_epsilon"] = float(rng.choice([1e-6, 1e-5, 1e-2]))
    weights = random_gpt2(config, f"{case}{seed}")
    for name, factor in scales(rng, weights).items():
        weights[name] = weights[name] * np.float32(0 if rng.random() < 0.04 else factor)
    tokens = rng.integers(0, config["vocab_size"], int(rng.integers(1, 16)))
    return load(write_folder(folder, config, weights)), tokens.tolist()


# They did not for scores that are all far below 0, a mean next to 0, a large bias, GELU's tail.
FOUND = (7, 11, 13, 14, 19, 37)


@pytest.mark.parametrize("seed", [*FOUND, *some_of(range(100, 200), every=100, sweep=3)])
def test_a_second_computation_agrees_whatever_the_weights(tmp_path, seed):
    model, tokens = odd_gpt2(seed, tmp_path)
    traced, kept = trace(model, tokens=tokens, names=["*"], values=True), keep_run(model, tokens=tokens)
    values = {event.name: traced[event.name] for event in traced}
    assert all(np.isfinite(value).all() for value in values.values())
    assert [
        verdict for verdict in validate(model, tokens=tokens).verdicts if verdict.verdict == "failed"
    ] == []
    assert diagnose_values(model, tokens, values).clean
    for name, index in sampled({name: value.shape for name, value in values.items()}):
        found = explain_in(kept, element_name(name, index))
        assert found.holds, (found.element, found.value, found.traced)
