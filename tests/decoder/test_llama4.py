"""Llama 4: texts of several lengths, folders that also have a model of images, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.gguf_of_torch import write_gguf_of
from support.torch_models import IN_GGUF, MODELS, torch_model, written

from microgpt_trace import load, trace
from microgpt_trace.errors import MicrogptError
from microgpt_trace.plans.rope import Rope, rope_frequencies

torch = pytest.importorskip("torch", reason="the judge of Llama 4 is transformers")
transformers = pytest.importorskip("transformers")


def distance(ours, theirs, ids):
    """Return the distance of the logits of two models, relative to the norm of the logits."""
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    found = trace(ours, tokens=ids, positions="all", names=["logits"], values=True)["logits"]
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["llama4_text", "llama4_text_own"])
def test_texts_in_one_chunk_and_in_eight_chunks(name, tmp_path):
    theirs, ids = written(name, tmp_path), np.random.default_rng(0).integers(0, 61, 40).tolist()
    ours = load(tmp_path)
    errors = [distance(ours, theirs, ids[:length]) for length in (1, 5, 40)]
    print(name, ours.config.windows, errors)
    assert max(errors) < 5e-6


def with_images(folder):
    """Write a Llama 4 with a model of images. Return the model of texts inside."""
    vision = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14, "vision_output_dim": 8}
    vision |= {"projector_input_dim": 8, "projector_output_dim": 8}
    text = torch_model("llama4_text").config
    config = transformers.Llama4Config(text_config=text.to_dict(), vision_config=vision)
    both = transformers.Llama4ForConditionalGeneration(config)
    both.language_model = torch_model("llama4_text")
    both.save_pretrained(folder)
    return both.language_model


def test_a_folder_with_a_model_of_images_opens(tmp_path):
    theirs = with_images(tmp_path)
    ours = load(tmp_path)
    error = distance(ours, theirs, list(range(19)))
    print(error, ours.assumed)
    assert error < 5e-6
    assert "left out" in ours.assumed[0]
    assert "vision_model" in ours.assumed[0]


def test_a_folder_may_have_a_matrix_for_each_expert(tmp_path):
    theirs = written("llama4_text", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for name in [name for name in stored if ".experts." in name]:
        whole, parts = stored.pop(name), ("gate", "up") if "gate_up" in name else ("down",)
        for part, matrices in zip(parts, np.split(whole, len(parts), axis=2), strict=True):
            prefix = name.rpartition(".")[0]
            for e, matrix in enumerate(matrices):
                stored[f"{prefix}.{e}.{part}_proj.weight"] = np.ascontiguousarray(matrix.T)
    save_file(stored, tmp_path / "model.safetensors")
    error = distance(load(tmp_path), theirs, list(range(19)))
    print(error)
    assert error < 5e-6


REFUSED = {
    "num_experts_per_tok": (2, "num_experts_per_tok: expected 1, as in all models, found 2"),
    "attention_chunk_size": (None, "attention_chunk_size: expected a number, because layer_types"),
    "moe_layers": ("all", "moe_layers: expected numbers of layers, found 'all'"),
    "layer_types": (["sliding_attention"] * 4, "4 full_attention or chunked_attention values"),
}


@pytest.mark.parametrize(("key", "case"), REFUSED.items(), ids=REFUSED)
def test_settings_that_are_not_computed_are_refused(key, case, tmp_path):
    written("llama4_text", tmp_path)
    value, message = case
    config = json.loads((tmp_path / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MicrogptError) as error:
        load(tmp_path)
    print(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gguf_file_with_128_experts_has_no_norms_of_queries(tmp_path):
    changes = IN_GGUF["llama4_text"] | {"num_local_experts": 128, "use_qk_norm": False}
    theirs = torch_model("llama4_text", changes)
    ours = load(write_gguf_of(theirs, tmp_path / "m.gguf"))
    error = distance(ours, theirs, list(range(19)))
    print(error, ours.assumed)
    assert error < 5e-6


def test_no_frequency_is_between_low_and_high():
    settings = MODELS["llama4_text"][1]["rope_parameters"]
    keys = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    theta, factor, low, high, context = (settings[key] for key in keys)
    rope = Rope(theta, "llama3", factor, context, low_freq_factor=low, high_freq_factor=high)
    found, _ = rope_frequencies(rope, 12)
    plain = theta ** -(np.arange(0, 12, 2) / 12)
    expected = np.where(context * plain / (2 * np.pi) > low, plain, plain / factor)
    print(found, expected)
    np.testing.assert_allclose(found, expected, 1e-12)
