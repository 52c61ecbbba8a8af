"""llama.cpp and this program compute the same logits from a GGUF file of each architecture of the tests."""

import numpy as np
import pytest
from support.gguf_of_torch import write_gguf_of
from support.llama_cpp_logits import logits_of
from support.reference_models import IDS
from support.torch_models import IN_GGUF, torch_model

from microgpt_trace import load, trace

pytest.importorskip("llama_cpp", reason="the judge is llama-cpp-python")
pytest.importorskip("torch", reason="transformers makes the models")

UNTIED, NARROW, NO_BIAS = {"tie_word_embeddings": False}, {"head_dim": 8}, {"attention_bias": False}
# llama.cpp finds no output matrix, other widths of heads than hidden / heads, biases or norms in these files,
# or ignores these settings: windows of Phi-3, and windows of EXAONE 4 with fewer than 64 layers.
CHANGES = {
    "olmo2_wide": UNTIED | NARROW | NO_BIAS,
    "gpt_neox_sequential": UNTIED | {"attention_bias": True},
    "phi3": {"sliding_window": None},
    # llama.cpp pads its context to 256 tokens, and uses the long divisors above the original length
    "phi3_short": {
        "sliding_window": None, "max_position_embeddings": 1024, "original_max_position_embeddings": 512,
    },
    "phi3_long": {"sliding_window": None},
    "qwen3_moe": NO_BIAS,
    "deepseek_v3_yarn": NO_BIAS | {"num_hidden_layers": 27},  # a plain product for q means 26 or 27 layers
    # llama.cpp scores a group by two experts, as in DeepSeek V3; V2's groups have the score of one expert
    "deepseek_v2": {"topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "exaone4": NARROW | {"num_hidden_layers": 64, "layer_types": None},
    "gemma": NO_BIAS,
    "cohere": NO_BIAS | {"num_hidden_layers": 64},  # fewer layers have no norms of q and k
    "cohere_plain": NARROW,
    "stablelm_plain": UNTIED,
    "starcoder2_plain": NARROW | {"use_bias": True},
    "gpt_oss_plain": {"attention_bias": True},
    "gemma4_experts": {"final_logit_softcapping": 30.0},  # llama.cpp's default
    "ernie4_5_biased": {"use_bias": False},
    "hunyuan_v1_dense_alpha": NO_BIAS,
    "apertus_biased": NO_BIAS | UNTIED,
    "falcon_40b": {"bias": False},
}  # fmt: skip
SETTINGS = {"gpt_oss": {"rope_scaling.truncate": True}}  # llama.cpp rounds the bounds of YaRN's ramp
FORMS = [(name, form) for name in IN_GGUF for form in ("", *["absorbed"] * name.startswith("deepseek"))]


def by_gelu(model):
    """Return True if an MLP has a GELU, which llama.cpp reads from a table of float16 values."""
    config = model.config
    names = ("hidden_act", "hidden_activation", "activation", "activation_function")
    return config.model_type in ("mpt", "bloom") or any("gelu" in str(getattr(config, n, "")) for n in names)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_llama_cpp_has_our_logits(name, form, tmp_path):
    theirs = torch_model(name, IN_GGUF[name] | CHANGES.get(name, {}))
    path = write_gguf_of(theirs, tmp_path / "m.gguf", form)
    ours = load(path, settings=SETTINGS.get(name, {}))
    found = trace(ours, tokens=IDS, positions="all", names=["logits"], values=True)["logits"]
    expected = logits_of(path, IDS)
    norms = np.linalg.norm(found), np.linalg.norm(expected)
    error = np.linalg.norm(found - expected) / norms[1]
    print(name, form, "norms", norms, "error", error)
    assert error < (2e-3 if by_gelu(theirs) else 2e-5)
