"""GGUF files are read as the gguf package reads them."""

import math

import numpy as np
import pytest
from attacks.formats.gguf import VARIANTS
from support.gguf_files import YARN, assemble, pair, rewrite, string, u32, u64
from support.real_model import SMOLLM2, needs_smollm2
from support.tiny_models import (
    CASES,
    TOKENS,
    fits_gguf,
    random_quantised_weights,
    tiny_config,
    tiny_model,
    write_gguf,
)

from microgpt_trace import load, trace
from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.arrays.stats import TensorStats
from microgpt_trace.decoder.architectures.llama import NAMES
from microgpt_trace.errors import FileFormatError
from microgpt_trace.models.language_model import file_order
from microgpt_trace.readers.gguf import read_gguf_header
from microgpt_trace.tracing.inspection import tensor_stats

gguf = pytest.importorskip("gguf", reason="the judge of GGUF files is the package gguf")

QUANTISED = tiny_config(hidden_size=256, intermediate_size=256, rope_theta=10000.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The header of a good file, of a qwen2 because it has biases."""
    return read_gguf_header(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", *tiny_model("qwen2")))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


# --- Compared with the gguf package -----------------------------------------------------------


def assert_equal_to_judge(path):
    judge, header = gguf.GGUFReader(path), read_gguf_header(path)
    expected = {key: f.contents() for key, f in judge.fields.items() if not key.startswith("GGUF.")}
    found = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in header.metadata.items()}
    print(f"{len(expected)} keys, {len(judge.tensors)} tensors; found {len(found)}, {len(header.tensors)}")
    assert found == expected
    assert [t.name for t in header.tensors] == [t.name for t in judge.tensors]
    for ours, theirs in zip(header.tensors, judge.tensors, strict=True):
        assert ours.encoding.name == theirs.tensor_type.name
        assert list(ours.shape) == theirs.shape[::-1].tolist()
        np.testing.assert_array_equal(ours.data, theirs.data.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("case", [case for case, config in CASES.items() if fits_gguf(config)])
def test_reads_tiny_models_as_the_judge_does(case, path):
    assert_equal_to_judge(write_gguf(path, *tiny_model(case)))


READ = ("F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")


@pytest.mark.parametrize("type", READ)
def test_reads_quantised_models_as_the_judge_does(type, path):
    weights = random_quantised_weights(QUANTISED, lambda name: type, type)
    assert_equal_to_judge(write_gguf(path, QUANTISED, weights))


def test_the_judge_reads_files_of_our_test_writer(path, whole):
    values = {"a.list": [1, 2, 3], "a.text": ["x", "ü", ""], "a.real": 0.1}
    assert_equal_to_judge(rewrite(path, whole, values | {"a.flag": True, "a.small": -5, "a.huge": 2**63}))


@needs_smollm2
@pytest.mark.sweep
def test_reads_smollm2_as_the_judge_does():
    assert_equal_to_judge(SMOLLM2)


# --- The config -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case, config in CASES.items() if fits_gguf(config)])
def test_notes_only_values_that_the_file_lacks(case, path):
    config, model = CASES[case], load(write_gguf(path, *tiny_model(case)))
    assert model.config.adjacent_pairs == (model.config.architecture == "llama")
    yarn = "yarn" in str(config) and "beta" not in str(config)
    window = config["model_type"] == "mistral" and bool(config["sliding_window"])
    assert len(model.assumed) == 2 * yarn + window


@pytest.mark.parametrize("case", ["llama_gqa", "llama_mha_bias", "mistral", "qwen2"])
def test_returns_permuted_rows_in_hugging_face_order(case, path):
    config, weights = tiny_model(case)
    model = load(write_gguf(path, config, weights))
    ours = {NAMES.our_name(name): array for name, array in weights.items()}
    assert model.tensors.keys() == ours.keys()
    for name, tensor in model.tensors.items():
        rotated = name.endswith(("attn_wq", "attn_wk", "attn_bq", "attn_bk"))
        assert tensor.permuted == (model.config.adjacent_pairs and rotated), name
        np.testing.assert_array_equal(tensor.read(), ours[name])


def test_file_order_is_the_order_of_rows_in_the_file(path):
    model = load(write_gguf(path, *tiny_model("llama_gqa")))
    stored = {tensor.name: tensor.read() for tensor in read_gguf_header(path).tensors}
    for event in model.hooks.specs:
        kind, order = event.rpartition("attn.")[2], file_order(model, event)
        assert (order is None) == (kind not in ("q", "k", "q_rope", "k_rope")), event
        if order is not None:
            tensor = model.tensors[event.replace(".attn.", ".attn_w").removesuffix("_rope")]
            np.testing.assert_array_equal(stored[tensor.name][order], tensor.read())
    assert file_order(load(write_gguf(path, *tiny_model("qwen2"))), "layer0.attn.q") is None


def test_statistics_use_the_order_of_rows_in_the_file():
    """The last bits of a sum depend on the order. Files with the same bytes have the same statistics."""
    rng = np.random.default_rng(4)
    values = (rng.normal(size=(64, 64)) * 10.0 ** rng.integers(-6, 6, (64, 64))).astype(np.float32)
    tensor = StoredTensor("w", ENCODINGS["F32"], values.shape, values.view(np.uint8).ravel())
    moved = tensor.of_rows(rng.permutation(64))
    assert TensorStats.of(moved.read()) != TensorStats.of(values)
    assert tensor_stats(moved) == TensorStats.of(values)


AUTHORS = "(the value that yarn's authors recommend)"
ASSUMED = {
    "qwen2.rope.freq_base": ("theta", 10000.0, "rope.freq_base = 10,000 (the default of llama.cpp)"),
    "qwen2.rope.scaling.yarn_beta_fast": ("beta_fast", 32.0, f"rope.scaling.yarn_beta_fast = 32 {AUTHORS}"),
    "qwen2.rope.scaling.yarn_beta_slow": ("beta_slow", 1.0, f"rope.scaling.yarn_beta_slow = 1 {AUTHORS}"),
}


@pytest.mark.parametrize("key", ASSUMED)
def test_notes_a_default(key, path, whole):
    name, value, note = ASSUMED[key]
    model = load(rewrite(path, whole, YARN | {key: None}))
    assert getattr(model.config.rope, name) == value
    assert [text for text in model.assumed if text.startswith(note)] == list(model.assumed)


ROPE = [
    ({"scaling.type": "linear", "scaling.factor": 4.0}, ("linear", 4.0)),
    ({"scaling.type": "none"}, ("default", 1.0)),
    ({"scaling.type": "none", "scaling.factor": 4.0}, ("default", 1.0)),
    ({"scaling.factor": 4.0}, ("linear", 4.0)),
    ({"scaling.factor": 1.0}, ("default", 1.0)),
    ({"scale_linear": 2.0}, ("linear", 2.0)),  # the old name
]


@pytest.mark.parametrize(("keys", "expected"), ROPE)
def test_reads_rope_scaling_as_llama_cpp_does(keys, expected, path, whole):
    model = load(rewrite(path, whole, {f"qwen2.rope.{key}": value for key, value in keys.items()}))
    assert (model.config.rope.kind, model.config.rope.factor) == expected
    is_default = expected[0] == "linear" and "scaling.type" not in keys
    assert ("rope.scaling.type = linear" in str(model.assumed)) == is_default


def test_an_attention_factor_multiplies_the_factor_of_yarn(path, whole):
    rope = load(rewrite(path, whole, YARN | {"qwen2.rope.scaling.attn_factor": 1.5})).config.rope
    print(rope.attention_factor, 1.5 * (0.1 * math.log(8) + 1))
    assert rope.attention_factor == pytest.approx(1.5 * (0.1 * math.log(8) + 1), rel=1e-12)
    assert (rope.original_context, rope.beta_fast, rope.beta_slow) == (64, 16.0, 2.0)


def test_notes_a_sliding_window(path):
    model = load(write_gguf(path, *tiny_model("mistral_window")))
    assert (model.config.window, model.config.windowed_layers) == (3, (0, 1))
    assert "a sliding window of 3 in every layer" in model.assumed[0]


def test_reads_one_value_or_equal_values_for_all_layers(path, whole):
    for heads in ([4, 4], [4] * 5):
        keys = {"qwen2.attention.head_count": heads, "qwen2.feed_forward_length": [48, 48]}
        assert load(rewrite(path, whole, keys)).config == load(rewrite(path, whole)).config


@pytest.mark.parametrize("key", VARIANTS)
def test_accepts_values_that_change_nothing(key, path, whole):
    for value in VARIANTS[key][1]:
        model = load(rewrite(path, whole, {f"qwen2.{key}": value}))
        assert (model.config, model.assumed) == (load(rewrite(path, whole)).config, ())


def test_loads_scales_that_are_nan(path):
    weights = random_quantised_weights(QUANTISED, lambda name: "Q8_0", "nan")
    blocks = weights["model.layers.0.mlp.up_proj.weight"].rows
    blocks[3, :2] = np.array([np.nan], np.float16).view(np.uint8)
    model = load(write_gguf(path, QUANTISED, weights))
    assert tensor_stats(model.tensors["layer0.mlp_wup"]).nan_count == 32
    result = trace(model, tokens=TOKENS, names=["layer0.mlp.up", "logits"])
    assert [event.stats.nan_count for event in result.events] == [len(TOKENS), 61 * len(TOKENS)]


# --- Split files ------------------------------------------------------------------------------


def test_opens_a_split_model_by_any_part(tmp_path):
    single = load(write_gguf(tmp_path / "one.bin", *tiny_model("llama_gqa")))
    write_gguf(tmp_path / "split.gguf", *tiny_model("llama_gqa"), split=8)
    for part in sorted(tmp_path.glob("*.gguf")):
        model = load(part)
        assert model.config == single.config
        for name, tensor in single.tensors.items():
            np.testing.assert_array_equal(model.tensors[name].data, tensor.data)


@pytest.mark.parametrize("number", [0, 2, 65535])
def test_opens_a_file_of_merged_parts(number, path, whole):
    """Tools that merge parts write a count of 0, and any part number."""
    keys = {"split.count": 0, "split.no": number, "split.tensors.count": len(whole.tensors)}
    model = load(rewrite(path, whole, keys))
    assert model.config == load(rewrite(path, whole)).config
    assert len(model.tensors) == len(whole.tensors)


# --- Lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 8], ids=["numbers", "strings"])
def test_a_list_may_end_with_the_file(path, kind):
    """Its three elements have the smallest possible size, and no byte follows them."""
    elements = bytes([1, 2, 3]) if kind == 0 else u64(0) * 3
    pairs = string("list") + u32(9) + u32(kind) + u64(3) + elements
    path.write_bytes(assemble(pairs, tensors=0, metadata=1, alignment=1))
    assert list(read_gguf_header(path).metadata["list"]) == ([1, 2, 3] if kind == 0 else [""] * 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="do not fit into the file"):
        read_gguf_header(path)


def test_decodes_strings_at_the_first_access(path):
    words = ["a", b"\xff", "", "\u2581é", b"b\xffc", b"\xc3", "\U0001f600"]
    path.write_bytes(assemble(pair("k", words), metadata=1, tensors=0))
    expected = [str(w, "utf-8", "surrogateescape") if isinstance(w, bytes) else w for w in words]
    found = read_gguf_header(path).metadata["k"]
    assert "_decoded" not in vars(found)
    assert (list(found), found[2:5], len(found)) == (expected, expected[2:5], 7)
    assert repr(found) == "['a', '\\udcff', '', '\u2581é', 'b\\udcffc', '\\udcc3', ...]"


@pytest.mark.parametrize("key", ["tokens", "merges"])
def test_rejects_too_many_tokens_before_decoding_them(path, whole, key):
    named = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"]}
    model = load(rewrite(path, whole, named | {f"tokenizer.ggml.{key}": ["a"] * 9000}))
    message = rf"ggml\.{key}: expected at most [0-9]+ entries, because .* has [0-9]+ rows, found 9,000"
    with pytest.raises(FileFormatError, match=message):
        model.vocabulary  # noqa: B018
