"""GGUF files: read as the gguf package reads them, and refused in one line where they are wrong."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.gguf_files import NEEDED, YARN, changed
from support.hostile import refuses
from support.real_model import SMOLLM2, needs_smollm2
from support.tiny_models import (
    CASES,
    TOKENS,
    random_quantised_weights,
    says_gguf,
    tiny_config,
    tiny_model,
    write_gguf,
)

from microgpt_trace import load, trace
from microgpt_trace.architecture.model import file_order
from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.arrays.stats import TensorStats
from microgpt_trace.decoder.stored_weights import tensor_stats
from microgpt_trace.readers.gguf import read_gguf_header
from microgpt_trace.readers.parameter_names import LLAMA

gguf = pytest.importorskip("gguf", reason="the judge of GGUF files is the package gguf")

QUANTISED = tiny_config(hidden_size=256, intermediate_size=256, rope_theta=10000.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Metadata and tensors of a right file (qwen2: it has biases)."""
    return read_gguf_header(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", *tiny_model("qwen2")))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


# --- As the gguf package reads it -------------------------------------------------------------


def assert_as_judged(path):
    judge, header = gguf.GGUFReader(path), read_gguf_header(path)
    judged = {key: f.contents() for key, f in judge.fields.items() if not key.startswith("GGUF.")}
    found = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in header.metadata.items()}
    print(f"{len(judged)} metadata, {len(judge.tensors)} tensors; found {len(found)}, {len(header.tensors)}")
    assert found == judged
    assert [t.name for t in header.tensors] == [t.name for t in judge.tensors]
    for ours, theirs in zip(header.tensors, judge.tensors, strict=True):
        assert ours.encoding.name == theirs.tensor_type.name
        assert list(ours.shape) == theirs.shape[::-1].tolist()
        np.testing.assert_array_equal(ours.data, theirs.data.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("case", [case for case, config in CASES.items() if says_gguf(config)])
def test_tiny_models_as_the_judge_reads_them(case, path):
    assert_as_judged(write_gguf(path, *tiny_model(case)))


@pytest.mark.parametrize("type", ["F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K"])
def test_quantised_models_as_the_judge_reads_them(type, path):
    weights = random_quantised_weights(QUANTISED, lambda name: type, type)
    assert_as_judged(write_gguf(path, QUANTISED, weights))


def test_the_writer_of_these_tests_as_the_judge_reads_it(path, whole):
    values = {"a.list": [1, 2, 3], "a.text": ["x", "ü", ""], "a.real": 0.1}
    assert_as_judged(changed(path, whole, values | {"a.flag": True, "a.small": -5, "a.huge": 2**63}))


def test_more_strings_than_are_decoded_together(path, whole):
    assert_as_judged(changed(path, whole, {"a.texts": [chr(300 + i) * (i * 997 % 30000) for i in range(99)]}))


@needs_smollm2
def test_smollm2_as_the_judge_reads_it():
    assert_as_judged(SMOLLM2)


# --- What the config says ---------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case, config in CASES.items() if says_gguf(config)])
def test_nothing_is_assumed_that_a_file_says(case, path):
    config, model = CASES[case], load(write_gguf(path, *tiny_model(case)))
    assert model.config.adjacent_pairs == (model.config.architecture == "llama")
    yarn = "yarn" in str(config) and "beta" not in str(config)
    assert len(model.assumed) == 2 * yarn + bool(
        config["model_type"] == "mistral" and config["sliding_window"]
    )


@pytest.mark.parametrize("case", ["llama_gqa", "llama_mha_bias", "mistral", "qwen2"])
def test_rows_that_a_converter_permuted_come_in_hugging_face_order(case, path):
    config, weights = tiny_model(case)
    model = load(write_gguf(path, config, weights))
    ours = {LLAMA.our_name(name): array for name, array in weights.items()}
    assert model.tensors.keys() == ours.keys()
    for name, tensor in model.tensors.items():
        turned = model.config.adjacent_pairs and name.endswith(("attn_wq", "attn_wk", "attn_bq", "attn_bk"))
        assert tensor.permuted == turned, name
        np.testing.assert_array_equal(tensor.read(), ours[name])


def test_the_order_that_an_engine_has_which_leaves_rows_as_they_are(path):
    model = load(write_gguf(path, *tiny_model("llama_gqa")))
    stored = {tensor.name: tensor.read() for tensor in read_gguf_header(path).tensors}
    for event in model.hooks.specs:
        kind, order = event.rpartition("attn.")[2], file_order(model, event)
        assert (order is None) == (kind not in ("q", "k", "q_rope", "k_rope")), event
        if order is not None:
            tensor = model.tensors[event.replace(".attn.", ".attn_w").removesuffix("_rope")]
            np.testing.assert_array_equal(stored[tensor.name][order], tensor.read())
    assert file_order(load(write_gguf(path, *tiny_model("qwen2"))), "layer0.attn.q") is None


def test_statistics_are_of_rows_as_they_lie():
    """The last bits of a sum depend on the order: files of the same bytes have the same statistics."""
    rng = np.random.default_rng(4)
    values = (rng.normal(size=(64, 64)) * 10.0 ** rng.integers(-6, 6, (64, 64))).astype(np.float32)
    tensor = StoredTensor("w", ENCODINGS["F32"], values.shape, values.view(np.uint8).ravel())
    moved = tensor.of_rows(rng.permutation(64))
    assert TensorStats.of(moved.read()) != TensorStats.of(values)
    assert tensor_stats(moved) == TensorStats.of(values)


ASSUMED = {
    "qwen2.rope.freq_base": ("theta", 10000.0, "rope.freq_base = 10,000 (what llama.cpp takes)"),
    "qwen2.rope.scaling.yarn_beta_fast": ("beta_fast", 32.0, "rope.scaling.yarn_beta_fast = 32 (what yarn's"),
    "qwen2.rope.scaling.yarn_beta_slow": ("beta_slow", 1.0, "rope.scaling.yarn_beta_slow = 1 (what yarn's"),
}


@pytest.mark.parametrize("key", ASSUMED)
def test_a_default_that_is_taken_is_noted(key, path, whole):
    name, value, note = ASSUMED[key]
    model = load(changed(path, whole, YARN | {key: None}))
    assert getattr(model.config.rope, name) == value
    assert [text for text in model.assumed if text.startswith(note)] == list(model.assumed)


ROPE = {
    "linear": ({"type": "linear", "factor": 4.0}, ("linear", 4.0)),
    "none": ({"type": "none"}, ("default", 1.0)),
    "none in spite of a factor": ({"type": "none", "factor": 4.0}, ("default", 1.0)),
    "a factor without a type": ({"factor": 4.0}, ("linear", 4.0)),
    "a factor of 1 without a type": ({"factor": 1.0}, ("default", 1.0)),
}


@pytest.mark.parametrize(("keys", "expected"), ROPE.values(), ids=ROPE)
def test_rope_scaling_as_llama_cpp_reads_it(keys, expected, path, whole):
    model = load(changed(path, whole, {f"qwen2.rope.scaling.{key}": value for key, value in keys.items()}))
    assert (model.config.rope.kind, model.config.rope.factor) == expected
    assert ("rope.scaling.type = linear" in str(model.assumed)) == (
        expected[0] == "linear" and "type" not in keys
    )


def test_the_old_name_of_a_linear_factor(path, whole):
    rope = load(changed(path, whole, {"qwen2.rope.scale_linear": 2.0})).config.rope
    assert (rope.kind, rope.factor) == ("linear", 2.0)


def test_yarn_with_an_attention_factor_multiplies_its_own(path, whole):
    rope = load(changed(path, whole, YARN | {"qwen2.rope.scaling.attn_factor": 1.5})).config.rope
    print(rope.attention_factor, 1.5 * (0.1 * math.log(8) + 1))
    assert rope.attention_factor == pytest.approx(1.5 * (0.1 * math.log(8) + 1), rel=1e-12)
    assert (rope.original_context, rope.beta_fast, rope.beta_slow) == (64, 16.0, 2.0)


def test_a_sliding_window_is_noted(path):
    model = load(write_gguf(path, *tiny_model("mistral_window")))
    assert (model.config.window, model.config.windowed_layers) == (3, (0, 1))
    assert "a sliding window of 3 in every layer" in model.assumed[0]


def test_one_value_for_all_layers_or_one_for_each(path, whole):
    keys = {"qwen2.attention.head_count": [4, 4], "qwen2.feed_forward_length": [48, 48]}
    assert load(changed(path, whole, keys)).config == load(changed(path, whole)).config
    for value in ([4, 2], []):
        message = refuses(changed(path, whole, {"qwen2.attention.head_count": value}))
        assert "qwen2.attention.head_count differs from layer to layer" in message


@pytest.mark.parametrize("key", NEEDED)
def test_what_is_missing_is_named(key, path, whole):
    message = refuses(changed(path, whole, {key: None}))
    assert (key if key != "general.architecture" else "architecture None") in message


REFUSED = {
    "mixture": ({"qwen2.expert_count": 8}, "a mixture of 8 experts"),
    "architecture": (
        {"general.architecture": "gemma3"},
        "'gemma3' is not supported; these are: llama, qwen2",
    ),
    "partial": ({"qwen2.rope.dimension_count": 4}, "rope.dimension_count 4 differs from the head's 8"),
    "value heads": (
        {"qwen2.attention.value_length": 4},
        "attention.value_length 4 differs from the head's 8",
    ),
    "longrope": (
        {"qwen2.rope.scaling.type": "longrope"},
        "RoPE scaling 'longrope' is not supported; these are",
    ),
    "no factor": ({"qwen2.rope.scaling.type": "linear"}, "RoPE scaling 'linear': cannot use factor None"),
    "yarn": (
        YARN | {"qwen2.rope.scaling.yarn_log_multiplier": 0.1},
        "yarn_log_multiplier 0.1 is not supported",
    ),
    "yarn base": (YARN | {"qwen2.rope.freq_base": 1.0}, "over a base of 1.0"),
    "layers": ({"qwen2.block_count": 3}, "expected 3 layers, found tensors of 2"),
    "many layers": ({"qwen2.block_count": 2**31 - 1}, "expected 2,147,483,647 layers, found tensors of 2"),
    "windowed layers": (
        {"qwen2.block_count": 2**30, "qwen2.attention.sliding_window": 4},
        "layers, found tensors of 2",
    ),
    "shape": ({"qwen2.feed_forward_length": 49}, "ffn_gate.weight': expected shape [49, 32], found [48, 32]"),
    "vocabulary": ({"qwen2.vocab_size": 62}, "vocab_size 62 differs from the 61 rows of token_embd.weight"),
    "attention factor": (
        {"qwen2.rope.scaling.attn_factor": 1.2},
        "rope.scaling.attn_factor is supported with yarn alone",
    ),
    "attention factor of linear": (
        {"qwen2.rope.scaling.type": "linear", "qwen2.rope.scaling.factor": 2.0}
        | {"qwen2.rope.scaling.attn_factor": 1.2},
        "rope.scaling.attn_factor is supported with yarn alone",
    ),
}
# What makes another computation of it: values that do, and values that change nothing
VARIANTS = {
    "attention.causal": ([False, 0, "yes"], [True]),
    "attention.scale": ([0.125, [0.125, 0.25]], [0.0]),
    "attention.clamp_kqv": ([8.0], [0.0]),
    "attn_logit_softcapping": ([50.0], [0.0]),
    "final_logit_softcapping": ([30.0], [0.0]),
    "logit_scale": ([0.0625, -1.0], [1.0, 0.0, 1]),
    "residual_scale": ([0.22], [1.0, 0.0]),
    "embedding_scale": ([12.0], [1.0, 0.0]),
    "use_parallel_residual": ([True], [False]),
}
REFUSED_VALUES = [(key, value) for key, (wrong, _) in VARIANTS.items() for value in wrong]
NEUTRAL_VALUES = [(key, value) for key, (_, neutral) in VARIANTS.items() for value in neutral]
NEUTRAL_VALUES += [("vocab_size", 61), ("rope.scaling.attn_factor", 1.0), ("expert_count", 0)]


@pytest.mark.parametrize(("changes", "word"), REFUSED.values(), ids=REFUSED)
def test_models_that_are_not_supported_or_contradict_themselves(changes, word, path, whole):
    assert word in refuses(changed(path, whole, changes))


@pytest.mark.parametrize(("key", "value"), REFUSED_VALUES)
def test_what_would_compute_something_else_is_refused(key, value, path, whole):
    assert f"qwen2.{key} = {value!r} is not supported" in refuses(
        changed(path, whole, {f"qwen2.{key}": value})
    )


@pytest.mark.parametrize(("key", "value"), NEUTRAL_VALUES)
def test_what_changes_nothing_is_read(key, value, path, whole):
    model = load(changed(path, whole, {f"qwen2.{key}": value}))
    assert (model.config, model.assumed) == (load(changed(path, whole)).config, ())


# --- Missing, extra and strange tensors -------------------------------------------------------


def test_a_missing_tensor_is_named_with_the_nearest(path, whole):
    tensors = [tensor for tensor in whole.tensors if tensor.name != "blk.1.ffn_up.weight"]
    message = refuses(changed(path, whole, tensors=tensors))
    assert "'layer1.mlp_wup' is missing (nearest: layer0.mlp_wup" in message


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("blk.1.attn_qq.weight", "(nearest: blk.1.attn_q.weight"),
        ("blk.0.ffn_gate_inp.weight", "(nearest: blk.0.ffn_gate.weight"),
        ("token_embedding.weight", "(nearest: token_embd.weight"),
        ("blk.01.attn_q.bias", "(nearest: blk.01.attn_q.bias"),
        ("blk.٣.attn_q.bias", "is none of a Llama or Qwen2-class decoder"),
        ("a\nb\x1b[31m", r"'a\nb\x1b[31m' is none of"),
        ("blk.9999.attn_q.bias", "tensors of layer 9999, but none of layer 2"),
    ],
)
def test_an_extra_tensor_is_named_with_the_nearest(name, word, path, whole):
    extra = replace(whole.tensors[0], name=name)
    assert word in refuses(changed(path, whole, tensors=[*whole.tensors, extra]))


def test_a_layer_too_many_is_named(path, whole):
    layer = [replace(t, name=t.name.replace("blk.1", "blk.2")) for t in whole.tensors if "blk.1" in t.name]
    message = refuses(changed(path, whole, tensors=[*whole.tensors, *layer]))
    assert "one too many for 2 layers of qwen2 (nearest: " in message


def test_rope_factors_of_another_shape_are_not_read(path):
    header = read_gguf_header(write_gguf(path, *tiny_model("llama_llama3")))
    large = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    others = [tensor for tensor in header.tensors if tensor.name != "rope_freqs.weight"]
    changed(path, header, tensors=[*others, replace(large, name="rope_freqs.weight")])
    assert "'rope_freqs.weight': expected shape [4], found [61, 32]" in refuses(path)


def test_scales_that_are_nan_load_and_are_counted(path):
    weights = random_quantised_weights(QUANTISED, lambda name: "Q8_0", "nan")
    blocks = weights["model.layers.0.mlp.up_proj.weight"].rows
    blocks[3, :2] = np.array([np.nan], np.float16).view(np.uint8)
    model = load(write_gguf(path, QUANTISED, weights))
    assert tensor_stats(model.tensors["layer0.mlp_wup"]).nan_count == 32
    result = trace(model, tokens=TOKENS, names=["layer0.mlp.up", "logits"])
    assert [event.stats.nan_count for event in result.events] == [len(TOKENS), 61 * len(TOKENS)]


# --- Split files ------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    first = write_gguf(tmp_path / "split.gguf", *tiny_model("llama_gqa"), split=8)
    return sorted(first.parent.glob("*.gguf"))


def test_any_part_opens_the_whole(parts, tmp_path):
    single = load(write_gguf(tmp_path / "one.bin", *tiny_model("llama_gqa")))
    for part in parts:
        model = load(part)
        assert model.config == single.config
        for name, tensor in single.tensors.items():
            np.testing.assert_array_equal(model.tensors[name].data, tensor.data)


@pytest.mark.parametrize("number", [0, 2, 65535])
def test_parts_that_were_merged_are_one_file(number, path, whole):
    """As tools that merge parts leave it: of no parts, and which one no longer counts."""
    keys = {"split.count": 0, "split.no": number, "split.tensors.count": len(whole.tensors)}
    model = load(changed(path, whole, keys))
    assert model.config == load(changed(path, whole)).config
    assert len(model.tensors) == len(whole.tensors)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_part_is_named(number, parts):
    parts[number].unlink()
    message = refuses(parts[number - 1])
    assert f"{parts[number].name}: no such file" in message


def test_parts_in_each_others_place(parts, tmp_path):
    parts[1].rename(tmp_path / "x")
    parts[2].rename(parts[1])
    (tmp_path / "x").rename(parts[2])
    assert "expected part 2 of 3, found part 3 of 3" in refuses(parts[0])


def test_a_part_in_every_place(parts):
    for other in parts[1:]:
        other.unlink()
        other.symlink_to(parts[0])
    assert "expected part 2 of 3, found part 1 of 3" in refuses(parts[2])


def test_the_last_part_in_the_place_of_the_first(parts):
    shutil.copy(parts[2], parts[0])
    assert "expected part 1 of 3, found part 3 of 3" in refuses(parts[0])


def test_a_part_of_another_name(parts, tmp_path):
    shutil.copy(parts[0], tmp_path / "copy.gguf")
    assert "part of 3, but is not named NAME-00001-of-00003.gguf" in refuses(tmp_path / "copy.gguf")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"split.count": 2}, "expected part 2 of 3, found part 2 of 2"),
        ({"split.count": 99999}, "expected part 2 of 3, found part 2 of 99999"),
        ({"split.count": [3, 4]}, "split.count differs"),
        ({"split.no": "1"}, "split.no: expected a whole number, found '1'"),
        ({"split.no": 2}, "expected part 2 of 3, found part 3 of 3"),
    ],
)
def test_what_a_part_says_of_itself(changes, word, parts):
    changed(parts[1], read_gguf_header_of_one(parts[1]), changes)
    assert word in refuses(parts[0])


def read_gguf_header_of_one(path):
    """The header of a part alone: under a name that says nothing of parts, as one of one."""
    content = path.read_bytes()
    alone = path.with_name("alone.gguf")
    alone.write_bytes(content.replace(b"split.", b"parts."))
    header = read_gguf_header(alone)
    metadata = {key.replace("parts.", "split."): value for key, value in header.metadata.items()}
    return replace(header, metadata=metadata)


def test_a_tensor_in_two_parts(parts):
    first, second = (read_gguf_header_of_one(part) for part in parts[:2])
    changed(parts[1], second, tensors=[*second.tensors, first.tensors[0]])
    assert f"tensor {first.tensors[0].name!r} is in another part, too" in refuses(parts[0])


def test_a_part_that_lacks_a_tensor(parts):
    second = read_gguf_header_of_one(parts[1])
    changed(parts[1], second, tensors=second.tensors[1:])
    assert "tensors in all parts, found" in refuses(parts[0])
