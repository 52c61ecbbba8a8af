"""Models in .apr format: what a file says, what it leaves open, and what it may not say."""

import numpy as np
import pytest
from support.apr_files import (
    BIASES,
    GGUF,
    HF,
    METADATA,
    QK_NORMS,
    QUIET,
    SHAPES,
    apr_bytes,
    f32,
    read,
    refused,
    refuses,
    tiny_model,
    without,
)

from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.readers.apr import read_apr


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.apr"


def llama(path, metadata, **options):
    tensors, _ = tiny_model(layer=SHAPES)
    return read(path, {"architecture": "llama"} | metadata, tensors, **options)


@pytest.mark.parametrize("names", [HF, GGUF], ids=["Hugging Face", "GGUF"])
def test_a_model_is_read_under_either_naming(names, path):
    tensors, arrays = tiny_model(names)
    file = read(path, tensors=tensors)
    config = file.config
    assert (config.n_layer, config.n_embd, config.n_head, config.n_kv_head) == (2, 8, 4, 2)
    assert (config.head_dim, config.n_inner, config.vocab_size, config.context_length) == (4, 12, 10, 64)
    assert (config.norm_eps, config.rope.theta, config.tied) == (1e-6, 10000.0, False)
    assert (config.biases, config.adjacent_pairs) == (tuple(BIASES), False)
    assert file.notes == (f"tensors have the names of {'GGUF' if names is GGUF else 'Hugging Face'}",)
    assert file.tensors.keys() == arrays.keys() == config.shapes().keys()
    for name, array in arrays.items():
        assert np.array_equal(file.tensors[name].read(), array)


def test_without_a_head_it_is_tied(path):
    tensors, _ = tiny_model(head=False)
    assert read(path, tensors=tensors).config.tied
    said = METADATA | {"tie_word_embeddings": False}
    assert "'lm_head' is missing" in refuses(path, said, tensors)
    assert read(path, METADATA | {"tie_word_embeddings": True}, tensors).config.tied


def test_a_head_beside_tied_embeddings_is_refused(path):
    message = refuses(path, METADATA | {"tie_word_embeddings": True})
    assert "tie_word_embeddings is true, but there is a tensor 'lm_head' of its own" in message
    assert not read(path, METADATA | {"tie_word_embeddings": False}).config.tied


def test_qwen3_has_gains_of_q_and_k(path):
    tensors, _ = tiny_model(layer=SHAPES | QK_NORMS)
    metadata = without("num_heads", "head_dim", "num_kv_heads", architecture="qwen3")
    file = read(path, metadata, tensors)
    assert (file.config.qk_norm, file.config.head_dim, file.config.n_head) == (True, 4, 4)
    assert "head_dim 4, from the shape [4] of model.layers.0.self_attn.q_norm.weight" in file.notes
    tensors, _ = tiny_model(layer=SHAPES)
    assert "attn_q_norm' is missing" in refuses(path, METADATA | {"architecture": "qwen3"}, tensors)


ALIASES = {
    "hidden_size": "hidden_dim d_model n_embd",
    "num_layers": "num_hidden_layers n_layers n_layer",
    "num_heads": "num_attention_heads n_heads n_head",
    "num_kv_heads": "num_key_value_heads n_kv_heads",
    "vocab_size": "n_vocab",
    "intermediate_size": "ffn_dim intermediate_dim n_inner",
    "max_position_embeddings": "max_seq_len context_length n_ctx",
    "rms_norm_eps": "layer_norm_eps norm_eps",
}
PAIRS = [(name, alias) for name, aliases in ALIASES.items() for alias in aliases.split()]


@pytest.mark.parametrize(("name", "alias"), PAIRS)
def test_every_alias_is_known(name, alias, path):
    file = read(path, without(name, **{alias: METADATA[name], name: None}))
    assert file.config == read(path).config
    assert file.notes == QUIET


@pytest.mark.parametrize(("name", "alias"), PAIRS)
def test_aliases_that_contradict_each_other_are_refused(name, alias, path):
    message = refuses(path, METADATA | {alias: METADATA[name] * 2})
    assert name in message
    assert alias in message


def test_numbers_that_went_through_float32_agree(path):
    eps = float(np.float32(1e-6))
    assert read(path, METADATA | {"norm_eps": eps}).config.norm_eps == 1e-6
    assert read(path, overrides={"rms_norm_eps": eps}).config.norm_eps == eps


# What the metadata leave open


Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
SHAPED = {
    "hidden_size": "hidden_size 8, from the shape [10, 8] of model.embed_tokens.weight",
    "vocab_size": "vocab_size 10, from the shape [10, 8] of model.embed_tokens.weight",
    "intermediate_size": f"intermediate_size 12, from the shape [12, 8] of model.layers.0.{HF['mlp_wgate']}",
    "num_layers": "num_layers 2, from the numbering of the tensors",
    "num_heads": f"num_heads 4, from the shape [16, 8] of {Q} with head_dim 4",
    "num_kv_heads": f"num_kv_heads 2, from the shape [8, 8] of {K} with head_dim 4",
    "head_dim": f"head_dim 4, from num_heads and the shape [16, 8] of {Q}",
}


@pytest.mark.parametrize("how", ["missing", "null"])
@pytest.mark.parametrize(("name", "note"), SHAPED.items(), ids=SHAPED)
def test_what_shapes_can_tell_is_taken_from_them_and_noted(name, note, how, path):
    metadata = without(name) if how == "missing" else METADATA | {name: None}
    file = read(path, metadata)
    assert file.config == read(path).config
    assert set(file.notes) - set(QUIET) == {note}


@pytest.mark.parametrize("name", [*SHAPED])
def test_what_contradicts_the_shapes_is_refused(name, path):
    wrong = {name: METADATA[name] * 2}
    message = refuses(path, METADATA | wrong)
    assert name in message
    assert "contradicts" in message
    path.write_bytes(apr_bytes(without(name), tiny_model()[0]))
    kind = FileFormatError if name == "head_dim" else InputError  # which shapes tell with num_heads only
    message = refused(path, lambda: read_apr(path, overrides=wrong), kind)
    assert name in message
    assert "contradicts" in message


def test_heads_must_divide_the_rows(path):
    message = refuses(path, without("head_dim", num_heads=3))
    assert f"num_heads 3 does not divide the 16 rows of '{Q}'" in message


def test_heads_are_told_by_key_value_heads_too(path):
    file = read(path, without("num_heads", "head_dim"))
    assert file.config == read(path).config
    assert any(note.startswith("head_dim 4, from num_kv_heads") for note in file.notes)


@pytest.mark.parametrize("name", ["max_position_embeddings", "rope_theta", "rms_norm_eps"])
def test_what_shapes_cannot_tell_is_asked_for(name, path):
    message = refuses(path, without(name), error=InputError)
    assert f"--set {name}=N" in message
    config = read(path, without(name), overrides={name: METADATA[name]}).config
    assert config == read(path).config
    twice = refuses(path, overrides={name: METADATA[name] * 2}, error=InputError)
    assert f"--set {name}=" in twice
    assert "contradicts" in twice


def test_all_that_is_open_is_asked_for_at_once(path):
    message = refuses(path, {"architecture": "qwen2"}, error=InputError)
    assert "--set num_heads=N --set max_position_embeddings=N" in message
    assert "--set rms_norm_eps=N --set rope_theta=N" in message
    answers = {"n_head": 4, "n_ctx": 64, "rope_theta": 10000, "norm_eps": 1e-6}
    assert read(path, {"architecture": "qwen2"}, overrides=answers).config == read(path).config


def test_an_override_must_be_known_and_of_its_kind(path):
    path.write_bytes(apr_bytes(METADATA, tiny_model()[0]))
    with pytest.raises(InputError, match="--set colour: expected one of architecture, hidden_size"):
        read_apr(path, overrides={"colour": 3})
    with pytest.raises(InputError, match="--set num_heads='four': expected a whole number"):
        read_apr(path, overrides={"num_heads": "four"})


def test_the_architecture_is_named_by_several_keys(path):
    for changes in (
        {"hf_model_type": "qwen2"},
        {"hf_architecture": "Qwen2ForCausalLM"},
        {"model_type": "qwen2"},
        {"architecture": "auto", "hf_model_type": "qwen2", "model_type": "transformer_lm"},
    ):
        assert read(path, without("architecture", **changes)).config == read(path).config
    message = refuses(path, METADATA | {"hf_model_type": "llama"})
    assert "architecture 'qwen2' and hf_model_type 'llama' contradict each other" in message


def test_an_unknown_architecture_is_refused_and_a_missing_one_asked_for(path):
    message = refuses(path, METADATA | {"architecture": "gpt2"}, {"h.0.attn.weight": f32([1])})
    assert "'gpt2' is not supported; these are: llama, mistral, qwen2, qwen3" in message
    message = refuses(path, {"model_type": "linear_regression"}, {"bias": f32([0.125])}, error=InputError)
    assert "'linear_regression'" in message
    assert "--set architecture=" in message
    overrides = {"architecture": "qwen2"}
    assert read(path, without("architecture"), overrides=overrides).config == read(path).config


@pytest.mark.parametrize(
    "changes",
    [{"num_experts": 8}, {"hidden_act": "gelu"}, {"partial_rotary_factor": 0.5}],
    ids=["experts", "activation", "partial RoPE"],
)
def test_what_would_compute_something_else_is_refused(changes, path):
    assert next(iter(changes)) in refuses(path, METADATA | changes)


def test_values_of_a_wrong_kind_are_refused(path):
    for name in SHAPED:
        for value in ("8", 8.5, True, [8], 0, -1, 2**70):
            assert name in refuses(path, METADATA | {name: value})
    for value in ("1", 0, -1.0, float("nan"), float("inf"), 10**60):
        assert "rope_theta" in refuses(path, METADATA | {"rope_theta": value})


# RoPE


def test_rope_type_says_the_pairs(path):
    assert llama(path, without("architecture", rope_type=0)).config.adjacent_pairs
    assert not llama(path, without("architecture", rope_type=2)).config.adjacent_pairs
    assert "rope_type 8" in refuses(path, METADATA | {"rope_type": 8})


@pytest.mark.parametrize("origin", ["gguf", None, "mystery"])
def test_the_pairs_of_a_llama_of_unknown_origin_are_asked_for(origin, path):
    metadata = without("architecture", "rope_type", original_format=origin)
    message = refused(path, lambda: llama(path, metadata), InputError)
    assert "--rope-pairs adjacent|halves" in message
    assert llama(path, metadata, rope_pairs="adjacent").config.adjacent_pairs
    assert not llama(path, metadata, rope_pairs="halves").config.adjacent_pairs


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
def test_rows_of_adjacent_pairs_come_in_halves(pairs, path):
    tensors, arrays = tiny_model(layer=SHAPES)
    metadata = without("rope_type", architecture="llama", original_format="mystery")
    file = read(path, metadata, tensors, rope_pairs=pairs)
    for name, array in arrays.items():
        if pairs == "adjacent" and name.endswith(("attn_wq", "attn_wk")):
            array = array.reshape(-1, 4, 8)[:, [0, 2, 1, 3]].reshape(array.shape)
        assert np.array_equal(file.tensors[name].read(), array), name


def test_a_llama_from_safetensors_has_halves_which_is_noted(path):
    file = llama(path, without("architecture", "rope_type", original_format="SafeTensors"))
    assert not file.config.adjacent_pairs
    assert file.notes[1:] == (
        "RoPE pairs: halves, as in llama from 'SafeTensors'; the file has no rope_type",
    )
    tensors, _ = tiny_model(GGUF, layer=SHAPES)
    both = without("rope_type", architecture="llama", original_format="safetensors")
    assert "--rope-pairs" in refuses(path, both, tensors, error=InputError)


def test_qwen_has_halves_wherever_it_comes_from(path):
    file = read(path, without("rope_type", original_format="gguf"))
    assert not file.config.adjacent_pairs
    assert file.notes[1:] == ("RoPE pairs: halves, as in qwen2; the file has no rope_type",)


def test_a_rope_type_against_the_origin_is_asked_about(path):
    message = refuses(path, METADATA | {"rope_type": 0}, error=InputError)
    assert "says rope_type 0 (adjacent), but qwen2 has its rows in halves" in message
    metadata = without("architecture", rope_type=0, original_format="safetensors")
    message = refused(path, lambda: llama(path, metadata), InputError)
    assert "llama from 'safetensors' has its rows in halves" in message
    for pairs in ("adjacent", "halves"):
        assert llama(path, metadata, rope_pairs=pairs).config.adjacent_pairs == (pairs == "adjacent")


def test_an_option_against_the_file_is_refused(path):
    message = refuses(path, rope_pairs="adjacent", error=InputError)
    assert "--rope-pairs adjacent contradicts" in message
    assert not read(path, rope_pairs="halves").config.adjacent_pairs


def test_a_llama_with_the_names_of_gguf_has_its_rows_permuted(path):
    """Whatever rope_type says: it is often set by the architecture's name alone."""
    tensors, _ = tiny_model(GGUF, layer=SHAPES)
    metadata = METADATA | {"architecture": "llama", "rope_type": 2}
    message = refuses(path, metadata, tensors, error=InputError)
    assert "says rope_type 2 (halves), but llama from None has its rows in adjacent" in message
    assert "--rope-pairs adjacent|halves" in message
    assert read(path, metadata | {"rope_type": 0}, tensors).config.adjacent_pairs
    for pairs in ("adjacent", "halves"):
        file = read(path, metadata, tensors, rope_pairs=pairs)
        assert file.config.adjacent_pairs == (pairs == "adjacent")
        assert f"RoPE pairs: {pairs}, as --rope-pairs says" in file.notes


def test_a_llama_from_a_gguf_has_its_rows_permuted(path):
    metadata = without("architecture", rope_type=2, original_format="GGUF")
    message = refused(path, lambda: llama(path, metadata), InputError)
    assert "llama from 'GGUF' has its rows in adjacent" in message


def test_a_qwen_with_the_names_of_gguf_has_halves(path):
    tensors, _ = tiny_model(GGUF)
    assert not read(path, METADATA | {"rope_type": 2}, tensors).config.adjacent_pairs


def test_rope_parameters_are_refused(path):
    message = refuses(path, METADATA | {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})
    assert "rope_parameters are not supported" in message


def test_rope_parameters_are_refused_beside_factors_too(path):
    tensors, _ = tiny_model(GGUF)
    changes = METADATA | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}
    assert "rope_parameters" in refuses(path, changes, tensors | {"rope_freqs.weight": f32([1, 8])})


YARN = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
}
YARN_DEFAULTS = {
    "original_max_position_embeddings": ("original_context", 64),
    "beta_fast": ("beta_fast", 32.0),
    "beta_slow": ("beta_slow", 1.0),
}


@pytest.mark.parametrize("key", YARN_DEFAULTS)
def test_what_yarn_leaves_open_is_noted(key, path):
    name, value = YARN_DEFAULTS[key]
    left = {k: v for k, v in YARN.items() if k != key}
    file = read(path, METADATA | {"rope_scaling": left})
    assert (file.config.rope.kind, getattr(file.config.rope, name)) == ("yarn", value)
    assert file.notes == (*QUIET, f"{key} = {value:g} (what yarn's authors recommend)")
    whole = read(path, METADATA | {"rope_scaling": YARN})
    assert (whole.notes, getattr(whole.config.rope, name)) == (QUIET, YARN[key])


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def test_scaling_is_read_where_a_file_has_it(path):
    rope = read(path, METADATA | {"rope_scaling": LLAMA3}).config.rope
    assert (rope.kind, rope.factor, rope.original_context, rope.low_freq_factor) == ("llama3", 8.0, 32, 1.0)
    rope = read(path, METADATA | {"rope_scaling": {"type": "linear", "factor": 2}}).config.rope
    assert (rope.kind, rope.factor) == ("linear", 2)
    silent = read(path, without("rope_scaling"))
    assert silent.config.rope.kind == "default"
    assert "rope_scaling: the file does not say; none is applied" in silent.notes


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear"},
        {"type": "dynamic", "factor": 2},
        {"type": [1]},
        LLAMA3 | {"factor": "8"},
        LLAMA3 | {"mscale": 1},
        LLAMA3 | {"low_freq_factor": None},
    ],
)
def test_scaling_that_is_incomplete_or_unknown_is_refused(scaling, path):
    assert "RoPE scaling" in refuses(path, METADATA | {"rope_scaling": scaling})


def test_frequency_factors_of_a_gguf_are_kept(path):
    tensors, _ = tiny_model(GGUF)
    file = read(path, tensors=tensors | {"rope_freqs.weight": f32([1, 8])})
    assert file.config.rope.factors == (1.0, 8.0)
    assert "expected shape [2]" in refuses(path, METADATA, tensors | {"rope_freqs.weight": f32([1, 8, 9])})
    scaled = METADATA | {"rope_scaling": LLAMA3}
    assert "contradict" in refuses(path, scaled, tensors | {"rope_freqs.weight": f32([1, 8])})


def test_sliding_windows(path):
    mistral = {"architecture": "mistral", "sliding_window": 4}
    config = llama(path, METADATA | mistral).config
    assert (config.window, config.windowed_layers) == (4, (0, 1))
    silent = llama(path, METADATA | {"architecture": "mistral"})
    assert silent.config.window is None
    assert "sliding_window: the file does not say; none is applied" in silent.notes
    assert read(path, METADATA | {"sliding_window": 4}).config.window is None
    qwen = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}
    config = read(path, METADATA | qwen).config
    assert (config.window, config.windowed_layers) == (4, (1,))
    assert "max_window_layers" in refuses(path, METADATA | qwen | {"max_window_layers": None})


@pytest.mark.parametrize("changes", [{}, {"use_sliding_window": False, "max_window_layers": 0}])
def test_a_window_that_no_layer_has_is_noted(changes, path):
    file = read(path, METADATA | {"sliding_window": 4} | changes)
    assert (file.config.window, file.config.windowed_layers) == (None, ())
    assert file.notes == (*QUIET, "sliding_window 4 is not used: no layer is said to have it")
    assert read(path, METADATA | {"sliding_window": None} | changes).notes == QUIET


def test_a_window_of_a_llama_is_noted(path):
    file = llama(path, METADATA | {"architecture": "llama", "sliding_window": 4})
    assert file.config.window is None
    assert file.notes == (*QUIET, "sliding_window 4 is not used: a llama has none")


FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}


@pytest.mark.parametrize("kinds", [[SLIDING, FULL], [FULL, SLIDING], [SLIDING, SLIDING]])
def test_layer_types_say_which_layers_have_the_window(kinds, path):
    config = read(path, METADATA | WINDOW | {"layer_types": kinds}).config
    assert (config.window, config.windowed_layers) == (4, tuple(i for i in (0, 1) if kinds[i] == SLIDING))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (WINDOW | {"layer_types": [SLIDING]}, "layer_types: expected 2 of full_attention and sliding"),
        (WINDOW | {"layer_types": [FULL, "linear_attention"]}, "layer_types: expected 2 of"),
        (WINDOW | {"layer_types": "sliding_attention"}, "layer_types: expected 2 of"),
        (WINDOW | {"layer_types": [SLIDING, FULL], "use_sliding_window": False}, "contradict"),
        ({"sliding_window": 4, "layer_types": [FULL, SLIDING]}, "contradict"),
        ({"architecture": "mistral", "sliding_window": 4, "layer_types": [FULL, FULL]}, "contradict"),
        ({"architecture": "llama", "sliding_window": 4, "layer_types": [FULL, SLIDING]}, "contradict"),
    ],
)
def test_layer_types_must_agree_with_the_rest(changes, words, path):
    assert words in refuses(path, METADATA | changes)


@pytest.mark.parametrize("changes", [{"layer_types": [FULL, SLIDING]}, {"layer_types": [FULL]}])
def test_layer_types_without_a_window_are_refused(changes, path):
    assert "layer_types" in refuses(path, METADATA | changes)


# Tensors that are missing, strange or of another shape


def test_missing_and_extra_tensors_are_named(path):
    tensors, _ = tiny_model()
    for gone, named in (
        (HF["wte"], "'wte'"),
        (f"model.layers.0.{HF['mlp_wgate']}", "'layer0.mlp_wgate' is missing (nearest: layer1.mlp_wgate"),
        (f"model.layers.1.{HF['mlp_wup']}", "'layer1.mlp_wup' is missing (nearest: layer0.mlp_wup"),
        (f"model.layers.1.{HF['attn_bk']}", "'layer1.attn_bk' is missing"),
    ):
        assert named in refuses(path, tensors={name: t for name, t in tensors.items() if name != gone})
    assert "'surplus'" in refuses(path, tensors=tensors | {"surplus": f32([1])})
    gain = {"model.layers.0.self_attn.q_norm.weight": f32([1] * 4)}
    assert "q_norm" in refuses(path, tensors=tensors | gain)


def test_qwen2_needs_its_biases(path):
    layer = SHAPES | {"attn_bq": BIASES["attn_bq"]}
    assert "'layer0.attn_bk' is missing" in refuses(path, tensors=tiny_model(layer=layer)[0])


def test_a_matrix_must_be_one(path):
    tensors, _ = tiny_model()
    for name in (HF["wte"], Q):
        message = refuses(path, tensors=tensors | {name: f32([1, 2])})
        assert f"'{name}': expected a matrix, found shape [2]" in message


def test_a_tensor_under_both_names_is_refused(path):
    tensors, _ = tiny_model()
    twice = tensors | {"token_embd.weight": tensors[HF["wte"]]}
    assert "are the same" in refuses(path, tensors=twice)


def test_dims_in_the_order_of_ggml_are_refused(path):
    tensors, _ = tiny_model()
    dtype, shape, content = tensors[HF["wte"]]
    message = refuses(path, tensors=tensors | {HF["wte"]: (dtype, shape[::-1], content)})
    assert "hidden_size 8 contradicts the shape [8, 10]" in message


def test_frequencies_that_old_files_carry_are_left_out(path):
    tensors, _ = tiny_model()
    old = tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": f32([1, 0.1])}
    assert read(path, tensors=old).tensors.keys() == read(path).tensors.keys()
