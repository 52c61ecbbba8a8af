"""A dump compared with a model or another dump: names, layouts, tokens, shapes and values."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.comparing import recording, save_json, saved, values_of
from support.faulty_engine import decoder_run
from support.foreign_dumps import write_dump
from support.sweeps import in_sweep
from support.tiny_models import TOKENS, random_weights, tiny_model, write_folder, write_gguf
from support.torch_models import written

from microgpt_trace import load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.comparison.read_tokens import recognise
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.aprt_writing import write_aprt
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.errors import InputError


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    return load(write_folder(tmp_path_factory.mktemp("qwen2"), *tiny_model("qwen2")))


def npy(folder, **arrays):
    """Write a folder of .npy files; __ in a name stands for a dot."""
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name.replace('__', '.')}.npy", np.asarray(array, np.float32))
    return folder


def traced(model):
    return trace(model, tokens=TOKENS, values=True, names=["*"])


def reasons(side):
    return {unpaired.name: unpaired.reason for unpaired in side.unpaired}


# --- Names that are ambiguous ------------------------------------------------------------------


def test_rows_in_gguf_order_are_reordered(tmp_path):
    config, weights = tiny_model("llama_gqa")
    model = load(write_gguf(tmp_path / "m.gguf", config, weights))
    write_dump(tmp_path / "d", decoder_run(config, weights, TOKENS), "llama.cpp", adjacent=True)
    found = diff(model, tmp_path / "d")
    assert (found.agree, found.event("layer0.attn.q_rope").holds) == (True, True)
    assert any("Hugging Face order" in note for note in found.b.notes)


@pytest.mark.parametrize("case", ["qwen2", "llama_gqa"])
def test_a_product_without_its_bias_is_not_compared(tmp_path, case):
    config, weights = tiny_model(case)
    model = load(write_folder(tmp_path / "m", config, weights))
    events = traced(model)
    fused = np.concatenate([events[f"layer0.attn.{name}"] for name in "qkv"], axis=1)
    folder = npy(tmp_path / "d", embed__tok=events["embed.tok"])
    (folder / "layer-0").mkdir()
    np.save(folder / "layer-0" / "qkv_matmul.npy", fused)
    found = diff(model, folder)
    compared = "layer0.attn.k" in [event.name for event in found.events]
    assert compared == (case == "llama_gqa")
    assert compared or "without the bias" in " ".join(reasons(found.b).values())


def test_padding_of_attention_weights_is_removed(qwen2, tmp_path):
    events = traced(qwen2)
    weights = events["layer0.attn.weights"]
    padded = np.zeros((*weights.shape[:2], 32), np.float32)
    padded[..., : len(TOKENS)] = weights
    folder = npy(tmp_path / "d", inp_embd=events["embed.tok"], **{"kq_soft_max-0": padded})
    assert diff(qwen2, folder).event("layer0.attn.weights").holds
    padded[0, 0, 20] = 0.1
    np.save(folder / "kq_soft_max-0.npy", padded)
    with pytest.raises(InputError, match="expected attention weights of 7 keys, found more"):
        diff(qwen2, folder)


# --- Tokens --------------------------------------------------------------------------------------


def test_tokens_are_recognised_by_their_embedding(qwen2, tmp_path):
    events = traced(qwen2)
    folder = npy(tmp_path / "d", embed__tok=events["embed.tok"], final__norm=events["final.norm"])
    assert diff(qwen2, folder).tokens == TOKENS
    with pytest.raises(InputError, match="contains the embedding of"):
        diff(qwen2, folder, tokens=[17, 3, 44, 3, 60, 0, 30])


def test_rows_that_match_no_embedding_give_no_tokens(qwen2, decoder_folder, tmp_path):
    def recognised(model, name, rows):
        return recognise(model, open_recording(npy(tmp_path / name, embed__tok=rows)).tensors["embed.tok"])

    for value in (np.nan, np.inf, 3e38):
        rows = traced(qwen2)["embed.tok"].copy()
        rows[2] = value
        assert recognised(qwen2, str(value), rows) is None
    huge = load(decoder_folder("qwen2", lambda w: w["model.embed_tokens.weight"].__imul__(np.float32(1e30))))
    far = -huge.tensors["wte"].take(np.array(TOKENS))  # its distance exceeds the range of float32
    assert recognised(huge, "far", far) is None


def test_a_single_row_gives_no_tokens(qwen2, tmp_path):
    events = traced(qwen2)
    folder = npy(tmp_path / "d", embed__tok=events["embed.tok"][-1:], final__norm=events["final.norm"][-1:])
    assert recognise(qwen2, open_recording(folder).tensors["embed.tok"]) is None
    with pytest.raises(InputError, match="has no token ids"):
        diff(qwen2, folder)
    assert diff(qwen2, folder, tokens=TOKENS).agree


# --- Layouts -------------------------------------------------------------------------------------


def test_a_layout_applies_to_all_events_of_a_glob(tmp_path):
    config = tiny_model("llama_gqa")[0] | {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 4}
    model = load(write_folder(tmp_path / "m", config, random_weights(config, "square")))
    tokens = list(range(8))  # as many as there are heads
    events = trace(model, tokens=tokens, values=True, names=["*"])
    heads = {f"layer{i}__attn__q": events[f"layer{i}.attn.q"].reshape(8, 8, 4).swapaxes(0, 1) for i in (0, 1)}
    folder = npy(tmp_path / "d", embed__tok=events["embed.tok"], **heads)
    with pytest.raises(InputError, match="--layout"):
        diff(model, folder)
    assert diff(model, folder, layouts={"*.attn.q": "HTD"}).agree
    assert not diff(model, folder, layouts={"*.attn.q": "THD"}).agree
    with pytest.raises(InputError, match=r"layer0\.atn\.q"):
        diff(model, folder, layouts={"layer0.atn.q": "HTD"})


# --- Two dumps without a model -------------------------------------------------------------------


def test_two_folders_of_aprt_are_compared(qwen2, tmp_path):
    for name in "ab":
        write_aprt(traced(qwen2), tmp_path / name)
    found = diff(tmp_path / "a", tmp_path / "b")
    assert found.agree
    assert "in one tensor with layer0.attn.k, layer0.attn.v" in reasons(found.a)["layer0.attn.q"]
    for name in "ab":
        (tmp_path / name / "manifest.json").unlink()
    with pytest.raises(InputError, match="has no token ids"):
        diff(tmp_path / "a", tmp_path / "b")
    found = diff(tmp_path / "a", tmp_path / "b", tokens=TOKENS)
    assert found.agree
    assert found.event("layer0.attn.scores").shape == (4, 7, 7)


def test_dumps_with_different_layouts_are_compared(qwen2, tmp_path):
    events = traced(qwen2)
    q = events["layer0.attn.q"]
    one = npy(tmp_path / "a", layer0__attn__q=q)
    other = npy(tmp_path / "b", layer0__attn__q=q.reshape(7, 4, 8).swapaxes(0, 1)[None])
    for sides in ((one, other), (other, one)):
        assert diff(*sides, tokens=TOKENS).event("layer0.attn.q").shape == (7, 32)


@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (2, 3, 5, 5)])
def test_arrays_that_do_not_fit_the_tokens_are_refused(tmp_path, shape):
    folders = [npy(tmp_path / name, final__norm=np.ones(shape)) for name in "ab"]
    with pytest.raises(InputError, match=r"final\.norm"):
        diff(*folders, tokens=TOKENS)


@pytest.mark.parametrize("positions", [([0, 2], [2, 3]), ([1], [2]), ("last", "all")])
def test_different_positions_are_refused(qwen2, tmp_path, positions):
    one, other = (saved(qwen2, tmp_path / f"{i}.safetensors", positions=p) for i, p in enumerate(positions))
    if positions != ("last", "all"):
        with pytest.raises(InputError, match="logits: expected the same positions on both sides"):
            diff(one, other)
    both = [save_json(qwen2, tmp_path / f"{i}.json", False, positions=p) for i, p in enumerate(positions)]
    for sides in (both, both[::-1]):
        with pytest.raises(InputError, match="the positions of logits differ"):
            diff(*sides)


# --- Bands and values ----------------------------------------------------------------------------


def test_distances_beyond_float64_are_differences(tmp_path):
    for name, value in (("a", 1e200), ("b", 3e200)):
        save_file({"final.norm": np.full((2, 4), value)}, tmp_path / f"{name}.safetensors")
    assert not diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors", tokens=[1, 2]).agree


def test_differences_of_tiny_probabilities_do_not_count(tmp_path):
    weights = np.tri(7, dtype=np.float32)[None].repeat(4, 0) / np.arange(1, 8, dtype=np.float32)[:, None]
    weights[0, 6] = [1.0, 0, 0, 0, 0, 0, 1e-20]
    for name in ("b", "c"):
        save_file({"layer0.attn.weights": weights}, tmp_path / f"{name}.safetensors")
        weights[0, 6, 6] *= np.float32(1.1)
    assert diff(tmp_path / "b.safetensors", tmp_path / "c.safetensors", tokens=TOKENS).agree


def test_events_that_the_third_run_lacks_are_listed(qwen2, tmp_path):
    arrays = load_file(saved(qwen2, tmp_path / "a.safetensors"))
    del arrays["layer0.attn.q"]
    save_file(arrays, tmp_path / "third.safetensors")
    third = replace(open_recording(tmp_path / "third.safetensors"), tokens=TOKENS)
    found = diff(qwen2, tmp_path / "a.safetensors", calibrate=third)
    assert "which sets the band" in reasons(found.a)["layer0.attn.q"]
    assert "layer0.attn.q" not in reasons(found.b)


@pytest.mark.parametrize("compute", ["bf16", in_sweep("f16")])
def test_diff_and_diagnose_recognise_the_same_precision_of_a_dump(qwen2, tmp_path, compute):
    config, weights = tiny_model("qwen2")
    write_dump(tmp_path / "d", decoder_run(config, weights, TOKENS, rounding=compute), "ours")
    found = diff(qwen2, tmp_path / "d")
    told = diagnose(tmp_path / "d", qwen2, tokens=TOKENS).diagnosis
    note = f"computes in {compute}: {told.compute_how}"
    assert (found.agree, found.tolerance.kind, told.clean) == (True, compute, True)
    assert note in found.b.notes
    strict = diff(qwen2, tmp_path / "d", compute="f32")
    assert (strict.agree, diagnose(tmp_path / "d", qwen2, compute="f32").diagnosis.clean) == (False, False)
    assert diff(qwen2, tmp_path / "d", rtol=1.0).tolerance.kind == "given"


@pytest.mark.parametrize("compute", [in_sweep(None), "bf16"])
def test_logits_before_a_factor_are_compared_without_the_logits(tmp_path, compute):
    written("granite", tmp_path)
    model = load(tmp_path)
    values = values_of(model, TOKENS)
    dump = recording({name: values[name] for name in ("layer0.attn.q", "logits.raw")})
    found = diff(model, dump, tokens=TOKENS, compute=compute)
    assert (found.agree, found.event("logits.raw").positions) == (True, tuple(range(len(TOKENS))))
    wrong = recording({"logits.raw": values["logits.raw"] * np.float32(1.5)})
    assert diff(model, wrong, compute=compute).first == "logits.raw"
