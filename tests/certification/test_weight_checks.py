"""The weights of exports: planted faults are named, each alone, and sound exports are not condemned."""

import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from support.exports import exported, side, stored, write_pair
from support.planted_faults import (
    EXPERTS,
    OUT,
    QKV,
    WEIGHT_FAULTS,
    every,
    noisy,
    through,
    transposed,
    weight,
)
from support.sweeps import some_of

from microgpt_trace.certification.weight_checks import weight_checks
from microgpt_trace.decoder.problems import Problem

IDS = ("missing", "extra", "permuted", "transposed", "swapped", "scaled", "damaged", "rounded", "other")
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")


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


def accused(pair, tmp_path, name, type, *edits, damage=None):
    """Return the checks that found a difference in a faulty export, by name."""
    original, sound = pair(name)
    export = side(exported(sound, tmp_path / "b.gguf", type, *edits, damage=damage))
    found = statuses(weight_checks(export, side(original)))
    return {key: check for key, check in found.items() if check.status == "different"}


MODELS = ("llama", "qwen2", "gpt2", "gemma2", "gemma3_text", "phi3", "mixtral", "qwen3_moe")


@pytest.mark.parametrize(("name", "type"), some_of([*product(MODELS, TYPES)], every=5))
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
    narrow, type = types
    original, sound = pair("llama")
    path = exported(sound, tmp_path / "b.gguf", type, every(through(narrow)))
    found = statuses(weight_checks(side(path), side(original)))
    assert {name: check.status for name, check in found.items()} == {"rounded": "rounded"}
    assert (f"{type} through {narrow}" in found["rounded"].detail) == (type != "Q8_0")


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


def test_a_written_head_may_have_other_rows_than_the_embedding_that_the_original_uses(pair):
    original, export = (with_tokens(side(path), 58) for path in pair("qwen3"))
    longer, shorter = rows_of(head_as_embedding(export), 64), rows_of(export, 60)
    both = replace(longer, tensors=longer.tensors | {"wte": shorter.tensors["wte"]})
    assert statuses(weight_checks(both, original)) == {}


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


def without(*names):
    return lambda own: replace(own, tensors={n: t for n, t in own.tensors.items() if n not in names})


def three_bits_of_q8_0(tensors):
    """Store integers from -3 to 3 with the scale that they need."""
    own = tensors[OUT]
    blocks, runs = own.stored.reshape(-1, 34), own.read().reshape(-1, 32)
    scale = np.abs(runs).max(axis=1, keepdims=True) / 3
    blocks[:, :2] = scale.astype(np.float16).view(np.uint8)
    blocks[:, 2:] = np.rint(runs / scale).astype(np.int8).view(np.uint8)


@pytest.mark.parametrize(
    ("check", "names", "name", "type", "edits"), [(*row[:4], row[4:]) for row in WEIGHT_FAULTS]
)
def test_a_fault_is_named_alone(pair, tmp_path, check, names, name, type, edits):
    found = accused(pair, tmp_path, name, type, *edits)
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


def cut_to_bf16(array):
    return (np.ascontiguousarray(array).view(np.uint32) & 0xFFFF0000).view(np.float32)


def joined(*parts):
    """Return the rows of a fused matrix in another order."""
    return weight(QKV, lambda w: np.concatenate([w[part] for part in parts]))


DOWN_1 = "blk.1.ffn_down.weight"
PHI3 = slice(64, 96), slice(96, 128), slice(0, 64)  # k, v and q
HEADS = [slice(start + 16 * i, start + 16 * i + 16) for i in range(4) for start in (0, 64, 128)]
SENTENCES = {  # model, type, edit, check, words of the sentence
    "a scaled expert": (
        "mixtral", "Q8_0", weight(EXPERTS, one_expert(2, lambda w: w * 1.02)), "scaled",
        "expert 2: scaled: the export is 1.02",
    ),
    "a transposed expert": (
        "mixtral", "F16", weight(EXPERTS, one_expert(1, transposed)), "transposed",
        "expert 1: transposed: the rows of the export are the columns of the original",
    ),
    "a trained expert": (
        "mixtral", "F32", weight(EXPERTS, one_expert(3, noisy)), "other", "expert 3: the numbers",
    ),
    "cut to BF16": ("llama", "BF16", every(cut_to_bf16), "rounded", "were cut to BF16, not rounded to the"),
    "cut to BF16 in F32": (
        "gpt2", "F32", every(cut_to_bf16), "rounded", "were cut to BF16, not rounded to the nearest",
    ),
    "8 bits in BF16": ("phi3", "BF16", weight(OUT, through("Q8_0")), "rounded", "only about 8 bits ("),
    "k, v, q": ("phi3", "Q4_0", joined(*PHI3), "swapped", "rows of the original's layer0.attn_wk and layer0"),
    "by heads": ("gpt2", "F32", joined(*HEADS), "swapped", "as if a fused matrix was in another order"),
}  # fmt: skip


@pytest.mark.parametrize("case", SENTENCES)
def test_the_sentence_names_the_cause(pair, tmp_path, case):
    name, type, edit, check, words = SENTENCES[case]
    found = accused(pair, tmp_path, name, type, edit)
    assert list(found) == [check]
    assert words in found[check].detail


@pytest.mark.parametrize(
    ("rank", "words"), [(3, "has rank 3,"), (32, "has rank 32,"), (33, "all numbers differ")]
)
def test_a_merged_lora_is_named_up_to_half_of_the_largest_rank(pair, tmp_path, rank, words):
    left, right = (np.random.default_rng(rank).standard_normal(shape) for shape in ((64, rank), (rank, 96)))
    update = (1e-3 * left @ right).astype(np.float32)
    found = accused(pair, tmp_path, "llama", "F32", weight(DOWN_1, lambda w: w + update))
    assert words in found["other"].detail


def test_rows_in_another_order_are_found_if_their_squares_are_no_float32(pair, tmp_path):
    large = weight(DOWN_1, lambda w: w * np.float32(1e38))
    edits = [large], [large, weight(DOWN_1, lambda w: w[::-1])]
    paths = [exported(pair("llama")[1], tmp_path / f"{len(own)}.gguf", "F32", *own) for own in edits]
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
