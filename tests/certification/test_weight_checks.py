"""The weights of exports: planted faults are named, each alone, and sound exports are not condemned."""

import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from support.exports import exported, side, stored, write_pair
from support.tiny_models import pair_neighbours

from microgpt_trace.certification.weight_checks import weight_checks
from microgpt_trace.decoder.problems import Problem

IDS = ("missing", "extra", "permuted", "transposed", "swapped", "scaled", "damaged", "rounded", "other")
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")
Q, K, GATE, UP = (
    "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",
    "blk.0.ffn_gate.weight",
    "blk.0.ffn_up.weight",
)
DOWN, OUT, NORM, HEAD, WTE = (
    *("blk.0.ffn_down.weight", "blk.0.attn_output.weight", "blk.0.attn_norm.weight", "output.weight"),
    "token_embd.weight",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return cache(lambda name: write_pair(name, folder))


def statuses(checks):
    for check in checks:
        if check.status != "same":
            print(f"{check.id} {check.status} {check.names}: {check.detail}")
    assert tuple(check.id for check in checks) == tuple(f"weights.{name}" for name in IDS)
    return {check.id.removeprefix("weights."): check for check in checks if check.status != "same"}


def accused(pair, tmp_path, name, type="F32", edit=None, damage=None, change=None):
    """Return the checks that found a difference in a faulty export, by name."""
    original, sound = pair(name)
    export = side(exported(sound, tmp_path / "b.gguf", type, edit, damage))
    found = statuses(weight_checks(change(export) if change else export, side(original)))
    return {key: check for key, check in found.items() if check.status == "different"}


MODELS = ("llama", "qwen2", "gpt2", "gemma2", "gemma3_text", "phi3", "mixtral", "qwen3_moe")


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("name", MODELS)
def test_sound_exports_of_every_type_are_not_condemned(pair, tmp_path, name, type):
    original, sound = pair(name)
    found = statuses(weight_checks(side(exported(sound, tmp_path / "b.gguf", type)), side(original)))
    assert set(found) == (set() if type == "F32" else {"rounded"})
    assert all(check.status == "rounded" and not check.names for check in found.values())


def rows_of(own, rows, fill=0.01):
    """Return a side whose embedding and head have `rows` rows."""

    def resized(tensor):
        array = np.full((rows, tensor.shape[1]), fill, np.float32)
        array[: tensor.shape[0]] = tensor.read()[:rows]
        return stored(tensor.name, array, "F32")

    tensors = own.tensors | {
        name: resized(own.tensors[name]) for name in ("wte", "lm_head") if name in own.tensors
    }
    return replace(own, tensors=tensors)


def with_tokens(own, count):
    return replace(own, vocabulary=SimpleNamespace(tokens=[f"t{i}" for i in range(count)]))


def head_as_embedding(own):
    return replace(own, tensors=own.tensors | {"lm_head": own.tensors["wte"]})


def padded_tokens(own):
    tokens = [*(f"t{i}" for i in range(61)), "[PAD61]", "[PAD62]", ""]
    return rows_of(replace(own, vocabulary=SimpleNamespace(tokens=tokens)), 64)


SOUND = {  # model, changes of the export and of the original
    "a tied head written out": ("qwen3", head_as_embedding, lambda own: own),
    "a head left out because it is equal": (
        "llama", lambda own: without("lm_head")(own), head_as_embedding,
    ),
    "more rows": ("llama", lambda own: rows_of(own, 64), lambda own: with_tokens(own, 61)),
    "more rows with names": ("qwen3", padded_tokens, lambda own: with_tokens(own, 61)),
    "fewer rows": ("qwen3", lambda own: rows_of(own, 60), lambda own: with_tokens(own, 58)),
}  # fmt: skip


@pytest.mark.parametrize("type", ["F32", "Q4_0"])
@pytest.mark.parametrize("case", SOUND)
def test_what_changes_nothing_is_not_a_fault(pair, tmp_path, case, type):
    name, change_export, change_original = SOUND[case]
    original, sound = (
        side(path) for path in (pair(name)[0], exported(pair(name)[1], tmp_path / "b.gguf", type))
    )
    found = statuses(weight_checks(change_export(sound), change_original(original)))
    assert set(found) == (set() if type == "F32" else {"rounded"})


@pytest.mark.parametrize("types", [("BF16", "F32"), ("F16", "F32"), ("BF16", "F16"), ("BF16", "Q8_0")])
def test_numbers_that_went_through_a_narrower_float_are_rounded(pair, tmp_path, types):
    through_, type = types

    def edit(arrays):
        for name in arrays:
            arrays[name] = (
                stored("w", np.atleast_2d(arrays[name]), through_).read().reshape(arrays[name].shape)
            )

    original, sound = pair("llama")
    found = statuses(weight_checks(side(exported(sound, tmp_path / "b.gguf", type, edit)), side(original)))
    assert {name: check.status for name, check in found.items()} == {"rounded": "rounded"}
    assert (f"{type} through {through_}" in found["rounded"].detail) == (type != "Q8_0")


def test_errors_between_two_grids_may_grow_with_the_numbers(pair):
    array = stored("w", np.random.default_rng(0).standard_normal((512, 512), np.float32), "Q4_1").read()
    sides = [replace(side(pair("llama")[0]), tensors={"wte": stored("w", array, t)}) for t in ("F16", "Q5_1")]
    found = statuses(weight_checks(sides[1], sides[0]))
    assert {name: check.status for name, check in found.items()} == {"rounded": "rounded"}


def test_the_error_and_the_allowed_error_of_each_type_are_given(pair, tmp_path):
    original, sound = pair("llama")
    found = statuses(weight_checks(side(exported(sound, tmp_path / "b.gguf", "Q4_1")), side(original)))
    words = r"Q4_1: at most \d(\.\d)?% of each tensor's size, rounding explains up to 1\d%\."
    assert re.fullmatch(words, found["rounded"].detail)


def test_problems_and_unknown_tensors_of_the_file_are_in_their_checks(pair):
    original, sound = pair("llama")
    problem = Problem("missing", "The file has no tensor for layer0.attn_wq.", ("layer0.attn_wq",))
    export = replace(side(sound), unknown=("blk.0.odd\n.weight",), problems=(problem,))
    found = statuses(weight_checks(export, side(original)))
    assert {name: check.names for name, check in found.items()} == {
        "missing": ("layer0.attn_wq",),
        "extra": (),
    }
    assert "\n" not in found["extra"].detail
    assert found["missing"].detail.startswith("The file has no tensor for layer0.attn_wq. ")


@pytest.mark.parametrize(("rows", "tokens", "check"), [(60, 61, "missing"), (64, 64, "extra")])
def test_rows_that_tokens_need_are_missing_or_extra(pair, rows, tokens, check):
    original, export = (side(path) for path in pair("qwen3"))
    found = statuses(weight_checks(with_tokens(rows_of(export, rows), tokens), with_tokens(original, 61)))
    assert {name: own.names for name, own in found.items()} == {check: ("wte",)}


def test_other_shapes_are_named(pair):
    original, export = (side(path) for path in pair("llama"))
    turned = stored("w", export.tensors["layer0.mlp_wup"].read().T, "F32")
    smaller = stored("w", np.ones((64, 32)), "F32")
    tensors = export.tensors | {"layer0.mlp_wup": turned, "layer0.attn_wo": smaller}
    found = statuses(weight_checks(replace(export, tensors=tensors), original))
    assert {name: own.names for name, own in found.items()} == {
        "transposed": ("layer0.mlp_wup",), "other": ("layer0.attn_wo",),
    }  # fmt: skip
    assert "expected shape [64, 64], found [64, 32]" in found["other"].detail


@pytest.mark.parametrize("shape", [(), (0, 64), (61, 0), (61,), (61, 64, 1)])
@pytest.mark.parametrize("name", ["wte", "layer0.attn_norm"])
def test_a_tensor_of_a_senseless_shape_is_accused(pair, name, shape):
    original, export = (side(path) for path in pair("qwen3"))
    tensors = export.tensors | {name: stored("w", np.zeros(shape or 1), "F32")}
    tensors[name] = replace(tensors[name], shape=shape)
    found = statuses(weight_checks(replace(export, tensors=tensors), original))
    assert [own.names for own in found.values()] == [(name,)]


def test_progress_is_reported_and_memory_does_not_grow_with_the_tensors(pair):
    original, export = (side(path) for path in pair("qwen3"))
    large, calls = np.random.default_rng(0).normal(size=(100_000, 64)).astype(np.float32), []
    theirs, ours = (
        replace(own, tensors=own.tensors | {"wte": stored("w", large, type)})
        for own, type in ((original, "F16"), (export, "Q8_0"))
    )
    tracemalloc.start()
    found = statuses(weight_checks(ours, theirs, lambda *progress: calls.append(progress)))
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    print(f"{peak:.1f} MB")
    assert (found["rounded"].status, peak < 15) == ("rounded", True)
    assert calls == [(i, len(calls)) for i in range(len(original.config.shapes()))]


# --- Faults ----------------------------------------------------------------------------------


def change(*names, by):
    def edit(arrays):
        for name in names:
            arrays[name] = by(arrays[name])

    return edit


def exchange(*pairs):
    def edit(arrays):
        for one, other in pairs:
            arrays[one], arrays[other] = arrays[other].copy(), arrays[one].copy()

    return edit


def copy(target, source):
    def edit(arrays):
        arrays[target] = arrays[source].copy()

    return edit


def exchange_layers(arrays):
    for name in [name for name in arrays if name.startswith("blk.0.")]:
        exchange((name, name.replace("blk.0.", "blk.1.")))(arrays)


def put(index, value):
    def by(array):
        array[index] = value
        return array

    return by


def without(*names):
    return lambda own: replace(own, tensors={n: t for n, t in own.tensors.items() if n not in names})


def with_tensor(name, array):
    return lambda own: replace(own, tensors={**own.tensors, name: stored(f"file.{name}", array, "F32")})


def through(type):
    """Return a rounding to a type of GGUF files."""

    def by(array):
        return stored("w", array, type).read()

    return by


def coarse_integers(bits):
    """Return the rounding of 32 numbers to integers of `bits` bits, with a scale."""

    def by(array):
        runs = array.reshape(-1, 32)
        scale = np.abs(runs).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 0.5)
        return (np.rint(runs / scale) * scale).reshape(array.shape)

    return by


def three_bits_of_q8_0(tensors):
    """Store integers from -3 to 3 with the scale that they need."""
    own = tensors[OUT]
    blocks, runs = own.stored.reshape(-1, 34), own.read().reshape(-1, 32)
    scale = np.abs(runs).max(axis=1, keepdims=True) / 3
    blocks[:, :2] = scale.astype(np.float16).view(np.uint8)
    blocks[:, 2:] = np.rint(runs / scale).astype(np.int8).view(np.uint8)


def low_rank(rank, size):
    def by(array):
        rng = np.random.default_rng(3)
        delta = rng.normal(size=(len(array), rank)) @ rng.normal(size=(rank, array.shape[1]))
        return array + delta * (size * np.linalg.norm(array) / np.linalg.norm(delta))

    return by


def a_little(array):
    noise = np.random.default_rng(4).normal(size=array.shape)
    return array + 0.2 * noise * np.linalg.norm(array) / np.linalg.norm(noise)


def rolled_experts(array):
    return np.roll(array, 1, axis=0)


def as_pairs(heads):
    return lambda array: pair_neighbours(array, heads)


def from_pairs(heads):
    """Undo `pair_neighbours`."""

    def by(array):
        return array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)

    return by


EXPERTS = "blk.0.ffn_gate_exps.weight"
FAULTS = {  # model, type, check, accused parameters ("": any), edits
    "q and k not permuted": (
        "llama", "Q8_0", "permuted", "layer0.attn_wq layer0.attn_wk",
        change(Q, by=from_pairs(4)), change(K, by=from_pairs(2)),
    ),
    "q and k permuted twice": (
        "llama", "F16", "permuted", "layer0.attn_wq layer0.attn_wk",
        change(Q, by=as_pairs(4)), change(K, by=as_pairs(2)),
    ),
    "biases not permuted": (
        "llama_mha", "F32", "permuted", "layer0.attn_bq",
        change("blk.0.attn_q.bias", by=from_pairs(4)),
    ),
    "permuted although it must not be": (
        "qwen2", "Q4_0", "permuted", "layer0.attn_wk",
        change(K, by=as_pairs(2)),
    ),
    "permuted with the wrong number of heads": (
        "llama", "Q4_1", "permuted", "layer0.attn_wk",
        change(K, by=from_pairs(2)), change(K, by=as_pairs(4)),
    ),
    "part of a fused matrix": (
        "phi3", "F32", "permuted", "layer0.attn_wq",
        change("blk.0.attn_qkv.weight", by=lambda w: np.concatenate([as_pairs(4)(w[:64]), w[64:]])),
    ),
    "transposed": ("llama", "Q8_0", "transposed", "layer0.attn_wo", change(OUT, by=np.transpose)),
    "transposed Conv1D": (
        "gpt2", "F16", "transposed", "layer1.attn_wo",
        change("blk.1.attn_output.weight", by=np.transpose),
    ),
    "not square": (
        "gemma2", "BF16", "transposed", "layer0.mlp_wdown",
        change(DOWN, by=lambda w: w.T.reshape(w.shape)),
    ),
    "transposed experts": (
        "mixtral", "F16", "transposed", "layer0.mlp_wgate_experts",
        change(EXPERTS, by=lambda w: w.swapaxes(1, 2).reshape(w.shape)),
    ),
    "gate and up": ("llama", "Q4_0", "swapped", "layer0.mlp_wgate layer0.mlp_wup", exchange((GATE, UP))),
    "q and k": ("llama_mha", "Q8_0", "swapped", "layer0.attn_wq layer0.attn_wk", exchange((Q, K))),
    "layers": ("qwen3", "Q4_1", "swapped", "", exchange_layers),
    "norms": (
        "gemma3_text", "Q8_0", "swapped", "layer0.attn_norm layer0.mlp_norm",
        exchange((NORM, "blk.0.ffn_norm.weight")),
    ),
    "norms of two layers": (
        "qwen2", "Q4_0", "swapped", "layer1.attn_norm layer0.mlp_norm",
        exchange(("blk.1.attn_norm.weight", "blk.0.ffn_norm.weight")),
    ),
    "experts": ("mixtral", "Q4_0", "swapped", "layer0.mlp_wgate_experts", change(EXPERTS, by=rolled_experts)),
    "head": ("llama", "Q8_0", "swapped", "lm_head", copy(HEAD, WTE)),
    "k as v": (
        "gpt2", "F32", "swapped", "layer0.attn_wv",
        change("blk.0.attn_qkv.weight", by=lambda w: np.concatenate([w[:128], w[64:128]])),
    ),
    "gate and up of a fused matrix": (
        "phi3", "Q5_1", "swapped", "layer0.mlp_wgate layer0.mlp_wup",
        change("blk.0.ffn_up.weight", by=lambda w: np.concatenate([w[96:], w[:96]])),
    ),
    "norm less 1": (
        "gemma2", "Q8_0", "scaled", "layer0.attn_norm layer1.mlp_norm",
        change(NORM, "blk.1.ffn_norm.weight", by=lambda w: w - 1),
    ),
    "scaled by sqrt(width)": ("gemma3_text", "Q4_0", "scaled", "wte", change(WTE, by=lambda w: w * 8)),
    "scaled by 1.1": ("qwen3", "Q8_0", "scaled", "layer0.attn_wo", change(OUT, by=lambda w: w * 1.1)),
    "NaN": (
        "mixtral", "F16", "damaged", "layer0.mlp_wgate_experts",
        change(EXPERTS, by=put((2, 3, 4), np.nan)),
    ),
    "infinity": ("qwen2", "F32", "damaged", "layer0.attn_norm", change(NORM, by=put(5, np.inf))),
    "zeros": ("llama", "Q4_1", "damaged", "layer0.attn_wo", change(OUT, by=np.zeros_like)),
    "a row of zeros": ("llama", "Q8_0", "damaged", "layer0.attn_wo", change(OUT, by=put(7, 0))),
    "half of zeros": ("phi3", "F32", "damaged", "layer0.mlp_wdown", change(DOWN, by=put(slice(30, None), 0))),
    "most rows zero": (
        "qwen2", "Q4_0", "damaged", "layer0.mlp_wdown",
        change(DOWN, by=put(slice(10, None), 0)),
    ),
    "an expert of zeros": (
        "qwen3_moe", "BF16", "damaged", "layer0.mlp_wgate_experts",
        change(EXPERTS, by=put(3, 0)),
    ),
    "a block": (
        "gemma2", "Q4_0", "damaged", "layer0.mlp_wdown",
        change(DOWN, by=put((5, slice(32, 64)), 0.5)),
    ),
    "rows shifted": ("llama", "Q4_0", "damaged", "wte", change(WTE, by=lambda w: np.roll(w, 1, 0))),
    "rows shifted from the middle": (
        "qwen2", "F32", "damaged", "lm_head",
        change(HEAD, by=lambda w: np.concatenate([w[:30], w[29:-1]])),
    ),
    "3 bits in Q8_0": ("qwen3", "Q8_0", "rounded", "layer0.attn_wo", change(OUT, by=coarse_integers(3))),
    "4 bits in F16": ("gpt2", "F16", "rounded", "layer0.attn_wo", change(OUT, by=through("Q4_0"))),
    "5 bits in F32": ("qwen2", "F32", "rounded", "layer0.attn_wo", change(OUT, by=through("Q5_1"))),
    "6 bits in BF16": ("phi3", "BF16", "rounded", "layer0.attn_wo", change(OUT, by=coarse_integers(6))),
    "8 bits in F32": ("phi3", "F32", "rounded", "layer0.attn_wo", change(OUT, by=through("Q8_0"))),
    "4 bits of experts in Q8_0": (
        "qwen3_moe", "Q8_0", "rounded", "layer0.mlp_wgate_experts",
        change(EXPERTS, by=through("Q4_1")),
    ),
    "2 bits in Q4_0": ("gemma2", "Q4_0", "rounded", "layer0.attn_wo", change(OUT, by=coarse_integers(2))),
    "LoRA": ("llama", "F16", "other", "layer0.attn_wq layer0.attn_wk", change(Q, K, by=low_rank(4, 0.1))),
    "a further training": ("phi3", "Q8_0", "other", "layer0.mlp_wdown", change(DOWN, by=a_little)),
    "another model": (
        "gpt2", "Q8_0", "other", "layer0.attn_wo",
        change(OUT, by=lambda w: np.random.default_rng(1).normal(size=w.shape)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_alone(pair, tmp_path, fault):
    name, type, check, names, *edits = FAULTS[fault]
    found = accused(pair, tmp_path, name, type, lambda arrays: [edit(arrays) for edit in edits])
    assert list(found) == [check]
    assert not names or sorted(found[check].names) == sorted(names.split())
    assert "{" not in found[check].detail


def test_integers_that_use_only_3_bits_of_their_type_are_named(pair, tmp_path):
    found = accused(pair, tmp_path, "llama", "Q8_0", damage=three_bits_of_q8_0)
    assert {name: check.names for name, check in found.items()} == {"rounded": ("layer0.attn_wo",)}
    assert "about 3 bits of Q8_0" in found["rounded"].detail


def one_expert(expert, by):
    def edit(experts):
        experts[expert] = by(experts[expert])
        return experts

    return edit


def cut_to_bf16(arrays):
    for name, array in arrays.items():
        arrays[name] = (np.ascontiguousarray(array).view(np.uint32) & 0xFFFF0000).view(np.float32)


def joined(*parts):
    """Return the rows of a fused matrix in another order."""
    return change("blk.0.attn_qkv.weight", by=lambda w: np.concatenate([w[part] for part in parts]))


PHI3 = slice(64, 96), slice(96, 128), slice(0, 64)  # k, v and q
HEADS = [slice(start + 16 * i, start + 16 * i + 16) for i in range(4) for start in (0, 64, 128)]
SENTENCES = {  # model, type, edit, check, words of the sentence
    "a scaled expert": (
        "mixtral", "Q8_0", change(EXPERTS, by=one_expert(2, lambda w: w * 1.02)), "scaled",
        "expert 2: scaled: the export is 1.02",
    ),
    "a transposed expert": (
        "mixtral", "F16", change(EXPERTS, by=one_expert(1, lambda w: w.T.reshape(w.shape))), "transposed",
        "expert 1: transposed: the rows of the export are the columns of the original",
    ),
    "a trained expert": (
        "mixtral", "F32", change(EXPERTS, by=one_expert(3, a_little)), "other", "expert 3: the numbers",
    ),
    "cut to BF16": ("llama", "BF16", cut_to_bf16, "rounded", "were cut to BF16, not rounded to the nearest"),
    "cut to BF16 in F32": (
        "gpt2", "F32", cut_to_bf16, "rounded", "were cut to BF16, not rounded to the nearest",
    ),
    "8 bits in BF16": ("phi3", "BF16", change(OUT, by=through("Q8_0")), "rounded", "only about 8 bits ("),
    "k, v, q": ("phi3", "Q4_0", joined(*PHI3), "swapped", "rows of the original's layer0.attn_wk and layer0"),
    "by heads": ("gpt2", "F32", joined(*HEADS), "swapped", "as if a fused matrix was in another order"),
}  # fmt: skip


@pytest.mark.parametrize("case", SENTENCES)
def test_the_sentence_names_the_cause(pair, tmp_path, case):
    name, type, edit, check, words = SENTENCES[case]
    found = accused(pair, tmp_path, name, type, edit)
    assert list(found) == [check]
    assert words in found[check].detail


def test_rows_in_another_order_are_found_if_their_squares_are_no_float32(pair, tmp_path):
    def large(arrays):
        arrays["blk.1.ffn_down.weight"] *= np.float32(1e38)

    def reordered(arrays):
        large(arrays)
        arrays["blk.1.ffn_down.weight"] = arrays["blk.1.ffn_down.weight"][::-1]

    paths = [
        exported(pair("llama")[1], tmp_path / f"{edit.__name__}.gguf", "F32", edit)
        for edit in (large, reordered)
    ]
    found = statuses(weight_checks(*map(side, reversed(paths))))
    assert {name: own.names for name, own in found.items()} == {"permuted": ("layer1.mlp_wdown",)}


def test_a_wrong_flag_for_a_tied_head_is_named(pair, tmp_path):
    original, gguf = pair("llama")
    tied = shutil.copytree(original, tmp_path / "tied")
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    found = statuses(weight_checks(side(tied), side(original)))
    assert {name: own.names for name, own in found.items()} == {"missing": ("lm_head",)}
    assert (
        "the file has this tensor, but its config has tie_word_embeddings = true" in found["missing"].detail
    )
    found = statuses(weight_checks(side(gguf), side(tied)))
    assert {name: own.names for name, own in found.items()} == {"swapped": ("lm_head",)}
    assert "contains the original's lm_head, which its config ties to wte" in found["swapped"].detail


CHANGES = {
    "missing": ("layer0.attn_wo", without("layer0.attn_wo")),
    "missing head": ("lm_head", without("lm_head")),
    "extra": ("layer0.attn_bo", with_tensor("layer0.attn_bo", np.ones(64))),
}


@pytest.mark.parametrize("case", CHANGES)
def test_missing_and_further_tensors_are_named(pair, tmp_path, case):
    name, change = CHANGES[case]
    found = accused(pair, tmp_path, "llama", "Q8_0", change=change)
    assert {check: own.names for check, own in found.items()} == {case.split()[0]: (name,)}
