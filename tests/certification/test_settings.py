"""Plant wrong settings in exports, one at a time. A certificate must accuse each setting by its own check."""

import json
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from support.gguf_files import gguf_bytes, rewrite
from support.gguf_of_torch import write_gguf_of
from support.tiny_gpt2 import gpt2_config, random_gpt2, write_gpt2_gguf
from support.tiny_models import CASES, random_weights, write_folder, write_gguf
from support.torch_models import IN_GGUF, torch_model

from microgpt_trace.certification.opening import open_side
from microgpt_trace.certification.setting_checks import settings_checks
from microgpt_trace.readers.gguf import read_gguf_header

TINY = {
    "llama": "llama_gqa", "qwen2": "qwen2", "qwen3": "qwen3", "linear": "llama_linear",
    "yarn": "llama_yarn_betas", "mistral": "mistral_window",
    "llama3": "llama_llama3", "biased": "llama_mha_bias",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a function that writes a model as a folder and as a GGUF file, and opens the folder."""

    @cache
    def write(name):
        folder = tmp_path_factory.mktemp(name)
        file = folder / "model.gguf"
        if name == "gpt2":
            weights = random_gpt2(config := gpt2_config(), name)
            write_gpt2_gguf(file, config, weights)
            write_folder(folder, config, weights)
        elif name in TINY:
            weights = random_weights(config := CASES[TINY[name]], name)
            write_gguf(file, config, weights)
            write_folder(folder, config, weights)
        else:
            theirs = torch_model(name, IN_GGUF[name])
            theirs.save_pretrained(folder)
            write_gguf_of(theirs, file)
        return folder, read_gguf_header(file), open_side(folder)

    return write


def accused(path, original):
    """Return the settings that differ, without those that follow from others, and their details."""
    export = open_side(path, original)
    checks = settings_checks(export, original)
    assert len({check.id for check in checks}) == len(checks)
    wrong = {check.id.partition(".")[2]: check.detail for check in checks if check.status == "different"}
    print(*export.problems, *wrong.items(), sep="\n")
    return {name: detail for name, detail in wrong.items() if "follows from" not in detail}


@pytest.mark.parametrize("name", [*TINY, "gpt2", *(name for name in IN_GGUF if name not in TINY)])
def test_no_setting_of_a_sound_export_differs(model, name):
    folder, _, original = model(name)
    assert accused(folder / "model.gguf", original) == {}
    assert accused(folder, open_side(folder / "model.gguf")) == {}


LENGTHS = ("attention.key_length", "attention.value_length")
GGUF_FAULTS = [  # a model, changes of metadata without the prefix, and the setting that is wrong
    ("llama", {"rope.freq_base": 5e5}, "rope_base", "rope.freq_base = 10000.0"),
    ("linear", {"rope.freq_base": 5e5}, "rope_base"),
    ("qwen2", {"rope.freq_base": None}, "rope_base", "rope.freq_base = 1000000.0"),
    ("llama", {"attention.layer_norm_rms_epsilon": 1e-6}, "norm_eps", "layer_norm_rms_epsilon = 1e-05"),
    ("llama", {"attention.layer_norm_rms_epsilon": None}, "norm_eps", "layer_norm_rms_epsilon = 1e-05"),
    ("gpt2", {"attention.layer_norm_epsilon": 1e-2}, "norm_eps", "attention.layer_norm_epsilon = 1e-05"),
    ("llama", {"attention.head_count": 8, "rope.dimension_count": 4}, "n_head", "head_count = 4"),
    ("qwen3", {"attention.head_count": 3}, "n_head"),
    ("gpt2", {"attention.head_count": 2}, "n_head"),
    ("llama", {"attention.head_count_kv": None}, "n_kv_head", "attention.head_count_kv = 2"),
    ("qwen2", {"attention.head_count_kv": 1}, "n_kv_head"),
    ("phi3", {"attention.head_count_kv": 3}, "n_kv_head"),
    ("llama", {"attention.head_count_kv": "2"}, "n_kv_head"),
    ("qwen3", dict.fromkeys((*LENGTHS, "rope.dimension_count"), 8), "head_dim"),
    ("llama", {"block_count": 1}, "n_layer", "block_count = 2"),
    ("gemma2", {"block_count": 2**31 - 1}, "n_layer", "block_count = 4"),
    ("phi3", {"block_count": None}, "n_layer"),
    ("llama", {"embedding_length": 64}, "n_embd", "embedding_length = 32"),
    ("qwen2", {"embedding_length": 2**30}, "n_embd"),
    ("mixtral", {"feed_forward_length": 56}, "n_inner", "feed_forward_length = 48"),
    ("phi3", {"feed_forward_length": None}, "n_inner"),
    ("llama3", {"attention.head_count": 8, "rope.dimension_count": 4}, "n_head"),
    ("llama", {"context_length": 2048}, "context_length", "context_length = 64"),
    ("gemma2", {"context_length": None}, "context_length"),
    ("linear", {"rope.scaling.type": None, "rope.scaling.factor": None}, "rope_scaling"),
    ("linear", {"rope.scaling.type": "su"}, "rope_scaling"),
    ("linear", {"rope.scaling.factor": 2.0}, "rope_factor", "rope.scaling.factor = 4.0"),
    ("yarn", {"rope.scaling.original_context_length": 32}, "rope_original_context"),
    ("yarn", {"rope.scaling.yarn_beta_fast": 32.0}, "rope_beta_fast"),
    ("yarn", {"rope.scaling.attn_factor": 1.5}, "rope_attention_factor", "Correct llama.rope"),
("yarn", {"rope.scaling.type": "linear"}, "rope_scaling"),
    ("qwen2", {"rope.dimension_count": 4}, "rope_channels"),
    ("gpt_neox", {"rope.dimension_count": 8}, "rope_channels", "rope.dimension_count = 2"),
    ("mistral", {"attention.sliding_window": None}, "window", "attention.sliding_window = 3"),
    ("mistral", {"attention.sliding_window": 7}, "window"),
    ("gemma2", {"attention.sliding_window": 4096}, "window"),
    ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping", "attn_logit_softcapping = 3.0"),
    ("gemma2", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("gemma3_text", {"rope.freq_base_swa": 1e6}, "rope_window_base"),
    ("gemma3_text", {"rope.scaling.factor": None, "rope.scaling.type": None}, "rope_scaling"),
    ("granite", {"attention.scale": None}, "score_scale", "attention.scale = 0.2"),
    ("granite", {"logit_scale": 0.25}, "logits_multiplier", "logit_scale = 4.0"),
    ("granite", {"embedding_scale": 1.0}, "embedding_multiplier"),
    ("granite", {"residual_scale": None}, "residual_multiplier"),
    ("llama", {"logit_scale": 4.0}, "logits_multiplier"),
    ("gpt_neox", {"use_parallel_residual": False}, "parallel"),
    ("mixtral", {"expert_used_count": 2}, "experts_used", "expert_used_count = 3"),
    ("qwen3_moe", {"expert_count": 8}, "experts", "expert_count = 6"),
    ("qwen3_moe", {"expert_used_count": None}, "experts_used"),
    ("qwen3_moe", {"expert_feed_forward_length": 7}, "expert_inner"),
    ("gpt_oss", {"attention.sliding_window": None}, "window"),
    ("llama", {"general.architecture": "qwen2"}, "architecture", "general.architecture = llama"),
    ("mistral", {"general.architecture": "mistral4"}, "architecture", "general.architecture = llama"),
    ("gemma2", {"general.architecture": None}, "architecture"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "fault", "advice"), [(*row, "")[:4] for row in GGUF_FAULTS])
def test_a_wrong_setting_of_a_gguf_file_is_accused(model, tmp_path, name, changes, fault, advice):
    _, file, original = model(name)
    prefix = f"{file.metadata['general.architecture']}."
    changes = {key if key.startswith("general") else prefix + key: value for key, value in changes.items()}
    found = accused(rewrite(tmp_path / "export.gguf", file, changes), original)
    assert found.keys() == {fault}
    assert advice in found[fault]


def test_all_keys_of_another_architecture_are_one_fault(model, tmp_path):
    _, file, original = model("gemma2")
    metadata = {key.replace("gemma2.", "gemma3."): value for key, value in file.metadata.items()}
    path = tmp_path / "export.gguf"
    path.write_bytes(gguf_bytes(metadata | {"general.architecture": "gemma3"}, file.tensors))
    assert accused(path, original).keys() == {"architecture"}


@pytest.mark.parametrize(("change", "fault"), [(None, "rope_scaling"), (2.0, "rope_factors")])
def test_lost_or_wrong_divisors_of_llama3_are_accused(model, tmp_path, change, fault):
    _, file, original = model("llama3")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    factors = tensors.pop("rope_freqs.weight")
    if change:
        values = (factors.read() * np.float32(change)).view(np.uint8)
        tensors[factors.name] = replace(factors, stored=values)
    path = rewrite(tmp_path / "export.gguf", file, tensors=tensors.values())
    assert accused(path, original).keys() == {fault}


FOLDER_FAULTS = [  # a model, changes of config.json, and the setting that is wrong
    ("llama", {"hidden_act": "gelu"}, "activation", "hidden_act = silu"),
    ("qwen2", {"hidden_act": "mish"}, "activation", "hidden_act = silu"),
    ("gpt2", {"activation_function": "relu"}, "activation", "activation_function = gelu_new"),
    ("gemma2", {"hidden_activation": "silu"}, "activation"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "score_scale"),
    ("gpt2", {"n_head": 2}, "n_head", "n_head = 4"),
    ("gemma3_text", {"query_pre_attn_scalar": 256}, "score_scale", "query_pre_attn_scalar = 12"),
    ("gemma3_text", {"layer_types": ["full_attention"] * 7}, "windowed_layers"),
    ("gemma2", {"layer_types": ["full_attention", "sliding_attention"] * 2}, "windowed_layers"),
    ("gemma2", {"layer_types": ["sliding"] * 4}, "windowed_layers"),
    ("phi3", {"sliding_window": None}, "window", "sliding_window = 5"),
    ("phi3_short", {"original_max_position_embeddings": 16}, "rope_original_context"),
    ("qwen2", {"use_sliding_window": True}, "window"),
    ("qwen3_moe", {"norm_topk_prob": False}, "normalised", "norm_topk_prob = true"),
    ("qwen3_moe", {"mlp_only_layers": [0]}, "dense_layers"),
    ("qwen3_moe", {"num_experts_per_tok": 7}, "experts_used"),
    ("qwen2_moe", {"shared_expert_intermediate_size": 10}, "shared_inner"),
    ("gpt_oss", {"swiglu_limit": 6.0}, "swiglu_limit", "swiglu_limit = 7.0"),
    ("gpt_neox", {"use_parallel_residual": False}, "parallel", "use_parallel_residual = true"),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "rope_layers"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "ntk"}}, "rope_scaling"),
    ("llama", {"rope_theta": 1e300, "rope_parameters": None}, "rope_base", "found 1e+300. Write rope_theta"),
    ("linear", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_factor", "rope_scaling.factor = 4"),
    ("linear", {"rope_scaling": {"type": "linear"}}, "rope_scaling", "rope_scaling.rope_type = linear"),
    ("biased", {"attention_bias": False}, "biases"),
    ("qwen3", {"attention_bias": True}, "biases"),
    ("llama", {"num_hidden_layers": "two"}, "n_layer"),
    ("llama", {"num_hidden_layers": 3}, "n_layer", "num_hidden_layers = 2"),
    ("llama", {"num_key_value_heads": None}, "n_kv_head", "num_key_value_heads = 2"),
    ("llama", {"model_type": "llama9"}, "architecture", "model_type = llama"),
    ("qwen2", {"model_type": "qwen3"}, "architecture", "model_type = qwen2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "fault", "advice"), [(*row, "")[:4] for row in FOLDER_FAULTS])
def test_a_wrong_setting_of_a_folder_is_accused(model, tmp_path, name, changes, fault, advice):
    folder, _, _ = model(name)
    for file in folder.glob("*.safetensors*"):
        shutil.copy(file, tmp_path)
    config = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = accused(tmp_path, open_side(folder / "model.gguf"))
    assert found.keys() == {fault}
    assert advice in found[fault]


@pytest.mark.parametrize(
    ("theta", "status"), [(9984.0, "rounded"), (10000.0001, "same"), (9999.0, "different")]
)
def test_a_number_in_16_bits_is_rounded(model, tmp_path, theta, status):
    _, file, original = model("llama")
    path = rewrite(tmp_path / "export.gguf", file, {"llama.rope.freq_base": theta})
    checks = {check.id: check for check in settings_checks(open_side(path, original), original)}
    print(checks["settings.rope_base"])
    assert checks["settings.rope_base"].status == status
    assert (
        status == "same"
        or f"{theta:,.0f} in the export, 10,000 in the original" in checks["settings.rope_base"].detail
    )


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "phi3"])
def test_a_whole_number_is_never_rounded(model, tmp_path, name):
    _, file, original = model(name)
    prefix = file.metadata["general.architecture"]
    changes = {f"{prefix}.context_length": original.config.context_length + 1}
    assert accused(rewrite(tmp_path / "export.gguf", file, changes), original).keys() == {"context_length"}


def test_a_problem_of_the_original_is_told_without_advice(model, tmp_path):
    _, file, original = model("llama")
    broken = open_side(rewrite(tmp_path / "original.gguf", file, {"llama.context_length": None}))
    checks = {check.id: check for check in settings_checks(original, broken)}
    own = checks.pop("settings.context_length")
    assert own.status == "different"
    assert own.detail == "In the original: 'llama.context_length' is missing."
    assert {check.status for check in checks.values()} == {"not checked"}
    again = open_side(tmp_path / "original.gguf", original)
    assert [check for check in settings_checks(original, again) if check.status != "same"] == [own]


def test_a_problem_of_both_files_is_told_without_advice(model, tmp_path):
    folder, _, _ = model("llama")
    shutil.copytree(folder, tmp_path / "wrong")
    config = json.loads((folder / "config.json").read_text()) | {"hidden_act": "1" * 5000}
    (tmp_path / "wrong" / "config.json").write_text(json.dumps(config))
    detail = accused(tmp_path / "wrong", open_side(tmp_path / "wrong"))["activation"]
    assert "Write" not in detail
    assert "In the original: hidden_act '1" in detail


def test_an_assumed_value_is_told(model, tmp_path):
    _, file, original = model("llama")
    path = rewrite(tmp_path / "export.gguf", file, {"llama.rope.freq_base": None})
    checks = {check.id: check for check in settings_checks(open_side(path, original), original)}
    assert checks["settings.rope_base"].status == "same"
    assert "rope.freq_base = 10,000 (the default of llama.cpp)" in checks["settings.rope_base"].detail


def test_a_written_tied_head_and_padded_rows_are_no_settings(tmp_path):
    config, weights = CASES["llama_tied"], random_weights(CASES["llama_tied"], "llama_tied")
    original = open_side(write_folder(tmp_path / "original", config, weights))
    padded = np.pad(weights["model.embed_tokens.weight"], ((0, 3), (0, 0)))
    weights |= {"model.embed_tokens.weight": padded, "lm_head.weight": padded}
    path = write_gguf(tmp_path / "export.gguf", config | {"vocab_size": 64}, weights)
    assert open_side(path, original).model is not None
    assert accused(path, original) == {}


def test_a_mistral_folder_is_a_llama_in_gguf(model):
    folder, _, original = model("mistral")
    checks = {
        check.id: check for check in settings_checks(open_side(folder / "model.gguf", original), original)
    }
    assert original.config.architecture == "mistral"
    assert checks["settings.architecture"].status == "same"
