"""Models in .apr format: their metadata, what follows from shapes, and what the user must give."""

import numpy as np
import pytest
from attacks.formats.apr import FULL, LLAMA3, SLIDING, WINDOW, Q
from support.apr_files import (
    BIASES,
    GGUF,
    HF,
    METADATA,
    QK_NORMS,
    QUIET,
    SHAPES,
    f32,
    read,
    read_refusal,
    tiny_model,
    without,
)

from microgpt_trace.errors import FileFormatError, InputError

LLAMA = tiny_model(layer=SHAPES)[0]
QWEN_OF_GGUF = tiny_model(GGUF)[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.apr"


def llama(path, metadata, **options):
    return read(path, {"architecture": "llama"} | metadata, LLAMA, **options)


@pytest.mark.parametrize("names", [HF, GGUF], ids=["Hugging Face", "GGUF"])
def test_reads_a_model_with_either_names(names, path):
    tensors, arrays = tiny_model(names)
    file = read(path, tensors=tensors)
    config = file.config
    assert (config.n_layer, config.n_embd, config.n_head, config.n_kv_head) == (2, 8, 4, 2)
    assert (config.head_dim, config.n_inner, config.vocab_size, config.context_length) == (4, 12, 10, 64)
    assert (config.norm_eps, config.rope.theta, config.tied) == (1e-6, 10000.0, False)
    assert (config.biases, config.adjacent_pairs) == (tuple(BIASES), False)
    assert file.assumed == (f"the tensors are named as in {'GGUF' if names is GGUF else 'Hugging Face'}",)
    assert file.tensors.keys() == arrays.keys() == config.shapes().keys()
    for name, array in arrays.items():
        assert np.array_equal(file.tensors[name].read(), array)


def test_a_model_without_a_head_is_tied(path):
    tensors, _ = tiny_model(head=False)
    assert read(path, tensors=tensors).config.tied
    assert read(path, METADATA | {"tie_word_embeddings": True}, tensors).config.tied
    assert not read(path, METADATA | {"tie_word_embeddings": False}).config.tied


def test_reads_the_gains_of_q_and_k_of_a_qwen3(path):
    tensors, _ = tiny_model(layer=SHAPES | QK_NORMS)
    metadata = without("num_heads", "head_dim", "num_kv_heads", architecture="qwen3")
    file = read(path, metadata, tensors)
    assert (file.config.qk_norm, file.config.head_dim, file.config.n_head) == (True, 4, 4)
    assert "head_dim 4, from the shape [4] of model.layers.0.self_attn.q_norm.weight" in file.assumed


ALIASES = {
    "hidden_size": "hidden_dim d_model n_embd", "num_layers": "num_hidden_layers n_layers n_layer",
    "num_heads": "num_attention_heads n_heads n_head", "num_kv_heads": "num_key_value_heads n_kv_heads",
    "vocab_size": "n_vocab", "intermediate_size": "ffn_dim intermediate_dim n_inner",
    "max_position_embeddings": "max_seq_len context_length n_ctx", "rms_norm_eps": "layer_norm_eps norm_eps",
}  # fmt: skip


@pytest.mark.parametrize("name", ALIASES)
def test_reads_every_alias_and_rejects_contradictions(name, path):
    for alias in ALIASES[name].split():
        file = read(path, without(name, **{alias: METADATA[name], name: None}))
        assert (file.config, file.assumed) == (read(path).config, QUIET)
        message = read_refusal(path, METADATA | {alias: METADATA[name] * 2})
        assert name in message
        assert alias in message


def test_numbers_agree_after_rounding_to_float32(path):
    eps = float(np.float32(1e-6))
    assert read(path, METADATA | {"norm_eps": eps}).config.norm_eps == 1e-6
    assert read(path, overrides={"rms_norm_eps": eps}).config.norm_eps == eps


# --- Missing metadata -------------------------------------------------------------------------

K = Q.replace("q_proj", "k_proj")
SHAPED = {
    "hidden_size": "hidden_size 8, from the shape [10, 8] of model.embed_tokens.weight",
    "vocab_size": "vocab_size 10, from the shape [10, 8] of model.embed_tokens.weight",
    "intermediate_size": f"intermediate_size 12, from the shape [12, 8] of model.layers.0.{HF['mlp_wgate']}",
    "num_layers": "num_layers 2, from the names of the tensors",
    "num_heads": f"num_heads 4, from the shape [16, 8] of {Q} with head_dim 4",
    "num_kv_heads": f"num_kv_heads 2, from the shape [8, 8] of {K} with head_dim 4",
    "head_dim": f"head_dim 4, from num_heads and the shape [16, 8] of {Q}",
}


@pytest.mark.parametrize("name", SHAPED)
def test_reads_and_notes_missing_sizes_from_shapes(name, path):
    for metadata in (without(name), METADATA | {name: None}):
        file = read(path, metadata)
        assert file.config == read(path).config
        assert set(file.assumed) - set(QUIET) == {SHAPED[name]}
    wrong = {name: METADATA[name] * 2}
    assert "contradicts" in read_refusal(path, METADATA | wrong)
    kind = FileFormatError if name == "head_dim" else InputError  # it needs num_heads too
    message = read_refusal(path, without(name), overrides=wrong, error=kind)
    assert name in message
    assert "contradicts" in message


def test_reads_the_heads_from_key_value_heads(path):
    file = read(path, without("num_heads", "head_dim"))
    assert file.config == read(path).config
    assert any(note.startswith("head_dim 4, from num_kv_heads") for note in file.assumed)


@pytest.mark.parametrize("name", ["max_position_embeddings", "rope_theta", "rms_norm_eps"])
def test_accepts_settings_that_shapes_do_not_show_from_the_user(name, path):
    config = read(path, without(name), overrides={name: METADATA[name]}).config
    assert config == read(path).config
    twice = read_refusal(path, overrides={name: METADATA[name] * 2}, error=InputError)
    assert f"--set {name}=" in twice
    assert "contradicts" in twice


def test_asks_for_all_missing_settings_at_once(path):
    message = read_refusal(path, {"architecture": "qwen2"}, error=InputError)
    assert "--set num_heads=N --set max_position_embeddings=N" in message
    assert "--set rms_norm_eps=N --set rope_theta=N" in message
    answers = {"n_head": 4, "n_ctx": 64, "rope_theta": 10000, "norm_eps": 1e-6}
    assert read(path, {"architecture": "qwen2"}, overrides=answers).config == read(path).config


def test_rejects_an_unknown_or_wrong_override(path):
    with pytest.raises(InputError, match="--set colour: expected one of architecture, hidden_size"):
        read(path, overrides={"colour": 3})
    with pytest.raises(InputError, match="--set num_heads: expected a whole number above 0 and below"):
        read(path, overrides={"num_heads": "four"})


def test_reads_the_architecture_under_several_keys(path):
    for changes in (
        {"hf_model_type": "qwen2"},
        {"hf_architecture": "Qwen2ForCausalLM"},
        {"model_type": "qwen2"},
        {"architecture": "auto", "hf_model_type": "qwen2", "model_type": "transformer_lm"},
    ):
        assert read(path, without("architecture", **changes)).config == read(path).config
    overrides = {"architecture": "qwen2"}
    assert read(path, without("architecture"), overrides=overrides).config == read(path).config


# --- RoPE -------------------------------------------------------------------------------------

ADD_PAIRS = "add --rope-pairs adjacent or --rope-pairs halves"


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
def test_asks_for_the_pairs_of_a_llama_of_unknown_origin(pairs, path):
    tensors, arrays = tiny_model(layer=SHAPES)
    metadata = without("rope_type", architecture="llama")
    for origin in ("gguf", None, "mystery"):
        changed = metadata | {"original_format": origin}
        assert ADD_PAIRS in read_refusal(path, changed, tensors, error=InputError)
        file = read(path, changed, tensors, rope_pairs=pairs)
        assert file.config.adjacent_pairs == (pairs == "adjacent")
    for name, array in arrays.items():
        if pairs == "adjacent" and name.endswith(("attn_wq", "attn_wk")):
            array = array.reshape(-1, 4, 8)[:, [0, 2, 1, 3]].reshape(array.shape)
        assert np.array_equal(file.tensors[name].read(), array), name


def test_reads_the_pairs_from_rope_type_or_origin(path):
    assert llama(path, without("architecture", rope_type=0)).config.adjacent_pairs
    assert not llama(path, without("architecture", rope_type=2)).config.adjacent_pairs
    file = llama(path, without("architecture", "rope_type", original_format="SafeTensors"))
    assert not file.config.adjacent_pairs
    note = "RoPE pairs: halves, as in every llama from 'SafeTensors'; the file has no rope_type"
    assert file.assumed[1:] == (note,)
    file = read(path, without("rope_type", original_format="gguf"))
    assert not file.config.adjacent_pairs
    assert file.assumed[1:] == ("RoPE pairs: halves, as in every qwen2; the file has no rope_type",)
    assert not read(path, METADATA | {"rope_type": 2}, QWEN_OF_GGUF).config.adjacent_pairs


@pytest.mark.parametrize(
    ("names", "changes", "words"),
    [
        (HF, {"rope_type": 0, "original_format": "safetensors"}, "a llama from 'safetensors' are halves"),
        (HF, {"rope_type": 2, "original_format": "GGUF"}, "llama from 'GGUF' are adjacent"),
        # rope_type is often set by the name of the architecture alone
        (GGUF, {"rope_type": 2}, "2 (halves), but the RoPE pairs of a llama from None are adjacent"),
        (GGUF, {"rope_type": None, "original_format": "safetensors"}, ADD_PAIRS),
    ],
)
def test_asks_if_rope_type_and_origin_disagree(names, changes, words, path):
    tensors, _ = tiny_model(names, layer=SHAPES)
    metadata = METADATA | {"architecture": "llama"} | changes
    assert words in read_refusal(path, metadata, tensors, error=InputError)
    for pairs in ("adjacent", "halves"):
        file = read(path, metadata, tensors, rope_pairs=pairs)
        assert file.config.adjacent_pairs == (pairs == "adjacent")
        assert f"RoPE pairs: {pairs}, from --rope-pairs" in file.assumed


def test_rejects_an_option_that_contradicts_the_file(path):
    message = read_refusal(path, rope_pairs="adjacent", error=InputError)
    assert "--rope-pairs adjacent contradicts" in message
    assert not read(path, rope_pairs="halves").config.adjacent_pairs


def test_reads_rope_scaling(path):
    rope = read(path, METADATA | {"rope_scaling": LLAMA3}).config.rope
    assert (rope.kind, rope.factor, rope.original_context, rope.low_freq_factor) == ("llama3", 8.0, 32, 1.0)
    yarn = read(path, METADATA | {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 16.0}})
    assert (yarn.config.rope.kind, yarn.config.rope.beta_fast) == ("yarn", 16.0)
    assert yarn.assumed[1].startswith("original_max_position_embeddings = 64 (the default of transformers")
    silent = read(path, without("rope_scaling"))
    assert silent.config.rope.kind == "default"
    assert "rope_scaling is not in the file: no scaling is applied" in silent.assumed


def test_reads_the_frequency_factors_of_a_gguf(path):
    two = QWEN_OF_GGUF | {"rope_freqs.weight": f32([1, 8])}
    assert read(path, tensors=two).config.rope.factors == (1.0, 8.0)
    three = QWEN_OF_GGUF | {"rope_freqs.weight": f32([1, 8, 9])}
    assert "expected shape [2]" in read_refusal(path, METADATA, three)
    assert "contradict" in read_refusal(path, METADATA | {"rope_scaling": LLAMA3}, two)
    parameters = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}
    assert "contradict" in read_refusal(path, METADATA | parameters, two)


UNUSED = "use_sliding_window = false (the default of transformers, since the config has no value)"
NONE = "sliding_window is not used by a llama"
WINDOWS = [
    ({"architecture": "mistral", "sliding_window": 4}, (4, (0, 1)), None),
    ({"architecture": "mistral"}, (None, ()), "sliding_window is not in the file: no window is applied"),
    ({"architecture": "llama", "sliding_window": 4}, (None, ()), NONE),
    ({"sliding_window": 4}, (None, ()), UNUSED),
    (WINDOW, (4, (1,)), None),
    (WINDOW | {"layer_types": [SLIDING, FULL]}, (4, (0,)), None),
]


@pytest.mark.parametrize(("changes", "window", "note"), WINDOWS)
def test_reads_which_layers_have_a_sliding_window(changes, window, note, path):
    tensors = LLAMA if changes.get("architecture") else None
    file = read(path, METADATA | changes, tensors)
    assert (file.config.window, file.config.windowed_layers) == window
    assert file.assumed == (*QUIET, *([note] if note else []))


def test_ignores_frequencies_of_old_files(path):
    old = tiny_model()[0] | {"model.layers.0.self_attn.rotary_emb.inv_freq": f32([1, 0.1])}
    assert read(path, tensors=old).tensors.keys() == read(path).tensors.keys()
