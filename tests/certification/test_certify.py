"""Judge whole certificates: faults planted in exports, each alone, and exports with nothing wrong."""

import json
import shutil
from functools import cache

import numpy as np
import pytest
from support.export_vocabularies import written
from support.exports import exported, write_pair
from support.planted_faults import (
    WEIGHT_FAULTS,
    T,
    at,
    copy,
    every,
    meta,
    swapped,
    template,
    through,
    voc,
    weight,
)
from support.sweeps import in_sweep

from microgpt_trace.certification.certify import certify

pytest.importorskip("tokenizers", reason="tokenizers writes the vocabularies")
VOCABULARIES = {
    "llama": "smollm", "llama_mha": "smollm", "llama_tied": "llama-3", "llama3": "llama-3",
    "qwen2": "qwen-2", "qwen3": "qwen-2",
    "mistral": "llama-2", "gpt2": "gpt-2", "gemma2": "gemma-2", "gemma3_text": "gemma-3", "phi3": "phi-3",
    "mixtral": "mixtral", "qwen3_moe": "qwen-3-moe", "granite": "granite", "gpt_neox": "pythia",
    "gpt_oss": "gpt-oss", "olmo2": "olmo-2", "smollm3": "smollm-3", "qwen2_moe": "qwen-2",
}  # fmt: skip
TEXTS = (
    "Hello, world! don't",
    "def f(x):\n    return x+12345",
    "été 日本語 🎉  two",
    "a" * 5,
    "I'LL We've 3.14",
)
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return a function that writes a model in a type with a vocabulary as a GGUF file, changed by edits. It
    returns the file and the folder of the original."""
    root = tmp_path_factory.mktemp("pairs")

    @cache
    def sources(name):
        vocabulary, source = written(VOCABULARIES[name])
        ends = {key: vocabulary[f"{T}{key}"] for key in ("bos_token_id", "eos_token_id")}
        folder, file = write_pair(name, root, **ends, vocab_size=len(vocabulary[f"{T}tokens"]))
        for part in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / part, folder / part)
        return folder, file, {k: v for k, v in vocabulary.items() if k != "general.architecture"}

    def write(path, name, type="F32", *edits):
        folder, file, vocabulary = sources(name)
        return exported(file, path, type, *edits, vocabulary=vocabulary), folder

    return write


def shown(certificate):
    """Return the ids of a certificate that differ, without those that follow from others. Print them."""
    for check in certificate.checks:
        if check.status in ("different", "not checked"):
            print(check.id, check.status, check.names, check.detail)
    ids = [check.id for check in certificate.checks]
    assert len(set(ids)) == len(ids)
    return [
        check.id for check in certificate.checks
        if check.status == "different" and "ollows from" not in check.detail
    ]  # fmt: skip


def control_as_normal(types):
    return at(list(types).index(3), lambda _: 1)(types)


def without_last_token(metadata, arrays):
    for key in ("tokens", "token_type", "scores"):
        if T + key in metadata:
            metadata[T + key] = list(metadata[T + key])[:-1]


# --- Faults -----------------------------------------------------------------------------------

EPS = "attention.layer_norm_rms_epsilon"
FAULTS = [  # the id that must be accused, or its beginning, model, type, edits. Other tests have more
    ("settings.rope_base", "llama", "Q8_0", meta("rope.freq_base", 5e5)),
    ("settings.norm_eps", "qwen3", "F16", meta(EPS, 1e-2)),
    ("settings.n_layer", "gpt2", "Q5_0", meta("block_count", 1)),
    ("settings.window", "mistral", "F16", meta("attention.sliding_window", None)),
    ("settings.rope_", "llama3", "Q4_0", weight("rope_freqs.weight", None)),
    ("settings.experts_used", "mixtral", "Q4_0", meta("expert_used_count", 2)),
    ("settings.architecture", "llama", "F16", meta("general.architecture", "mistral4")),
    ("vocabulary.merges", "llama", "Q8_0", voc("merges", swapped(3, 9))),
    ("vocabulary.tokens", "qwen3", "Q4_0", voc("tokens", swapped(-60, -90))),
    ("vocabulary.types", "llama", "Q4_1", voc("token_type", control_as_normal)),
    ("vocabulary.special", "mistral", "Q8_0", voc("add_bos_token", False)),
    ("vocabulary.encoding", "llama", "F32", voc("pre", "gpt-2")),
    ("vocabulary.size", "qwen3", "F32", without_last_token),
    ("template.", "llama", "Q8_0", template("helpful", "useful")),
    ("template.bos", "mistral", "F32", template("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}")),
    ("template.missing", "qwen3", "Q8_0", meta("tokenizer.chat_template", None)),
    ("settings.rope_factor", "gpt_oss", "F32", meta("rope.scaling.factor", 2.0)),
    *((f"weights.{check}", *rest) for check, _, *rest in WEIGHT_FAULTS),
]  # fmt: skip
ALWAYS = ("llama", "qwen2", "gpt2")


def seldom(cases, every):
    """Return parameters: every `every`-th case that needs no torch always runs, the others in the sweep."""
    return [
        case if case[1] in ALWAYS and i % every == 0 else in_sweep((case,)) for i, case in enumerate(cases)
    ]


@pytest.mark.parametrize("fault", seldom(FAULTS, 10), ids=lambda own: f"{own[0]}-{own[1]}-{own[2]}")
def test_a_fault_of_an_export_is_accused_alone(pair, tmp_path, fault):
    check, name, type, *edits = fault
    found = certify(*pair(tmp_path / "export.gguf", name, type, *edits), texts=TEXTS)
    accused = shown(found)
    print(f"{check} planted, {accused} accused")
    assert found.verdict == "different"
    assert accused
    assert all(own == check or (check.endswith(("_", ".")) and own.startswith(check)) for own in accused)


# --- Sound exports ----------------------------------------------------------------------------


def more_rows(metadata, arrays):
    for name in {"token_embd.weight", "output.weight"} & arrays.keys():
        arrays[name] = np.pad(arrays[name], ((0, 7), (0, 0)))
    metadata.pop(f"{metadata['general.architecture']}.vocab_size", None)


def rows_with_names(metadata, arrays):
    more_rows(metadata, arrays)
    count = len(metadata[f"{T}tokens"])
    metadata[f"{T}tokens"] = [*metadata[f"{T}tokens"], *(f"[PAD{count + i}]" for i in range(7))]
    metadata[f"{T}token_type"] = [*metadata[f"{T}token_type"], *[5] * 7]
    if f"{T}scores" in metadata:
        metadata[f"{T}scores"] = [*metadata[f"{T}scores"], *[-1000.0] * 7]


SOUND = [  # what is special, model, type, edits
    *(("every type", name, type) for type in TYPES for name in ("llama", "gpt2", "qwen2")),
    *(("every architecture", name, "Q8_0") for name in VOCABULARIES),
    *(("four bits", name, "Q4_0") for name in VOCABULARIES),
    *(("bf16 in F32", name, "F32", every(through("BF16"))) for name in ("llama", "gemma2", "gpt2")),
    ("f16 in F32", "mistral", "F32", every(through("F16"))),
    *(("padded rows", name, "Q8_0", more_rows) for name in ("llama", "qwen3", "gemma2")),
    *(("padded rows with names", name, "F16", rows_with_names) for name in ("llama", "qwen3", "mistral")),
    *(("a tied head written out", name, type, copy("output.weight", "token_embd.weight"))
      for name, type in (("qwen3", "F32"), ("llama_tied", "Q8_0"), ("gemma2", "F16"))),
    ("the default base of RoPE left out", "llama", "F16", meta("rope.freq_base", None)),
    ("RoPE's channels left out", "qwen2", "F32", meta("rope.dimension_count", None)),
    ("the size of the vocabulary left out", "qwen2", "Q8_0", meta("vocab_size", None)),
    ("BOS by default of the type", "mistral", "F32", voc("add_bos_token", None)),
    ("EOS by default", "llama", "F32", voc("add_eos_token", None)),
    ("BOS of llama-bpe", "llama3", "F32", voc("add_bos_token", None)),
    ("BOS of Gemma", "gemma2", "F32", voc("add_bos_token", None)),
    ("no BOS in gpt-2", "gpt2", "F32", voc("add_bos_token", None)),
    ("a comment in the template", "qwen2", "F16", meta("tokenizer.chat_template", lambda t: "{# x #}" + t)),
]  # fmt: skip


@pytest.mark.parametrize("case", seldom(SOUND, 12), ids=lambda own: f"{own[0]}-{own[1]}-{own[2]}")
def test_a_sound_export_is_the_same_model(pair, tmp_path, case):
    what, name, type, *edits = case
    found = certify(*pair(tmp_path / "export.gguf", name, type, *edits), texts=TEXTS)
    assert shown(found) == []
    print(what, found.verdict)
    assert found.verdict == "same"


# --- Folders ----------------------------------------------------------------------------------


def edited(file, change):
    """Return an edit of a JSON file of a folder."""

    def edit(folder):
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        change(content)
        (folder / file).write_text(json.dumps(content), encoding="utf-8")

    return edit


def config(**changes):
    return edited("config.json", lambda own: own.update(changes))


def tokenizer_config(**changes):
    return edited("tokenizer_config.json", lambda own: own.update(changes))


def swap_merges(tokenizer):
    merges = tokenizer["model"]["merges"]
    merges[3], merges[9] = merges[9], merges[3]


FOLDERS = [  # the id that must be accused or "", model, changes of the folder
    ("", "llama", lambda folder: None),
    ("", "gpt2", lambda folder: None),
    ("settings.activation", "llama", config(hidden_act="gelu")),
    ("settings.n_layer", "qwen3", config(num_hidden_layers=3)),
    ("vocabulary.merges", "qwen2", edited("tokenizer.json", swap_merges)),
    ("template.missing", "qwen2", tokenizer_config(chat_template=None)),
]  # fmt: skip


@pytest.mark.parametrize("of_file", [False, True])
@pytest.mark.parametrize("case", seldom(FOLDERS, 99), ids=lambda own: f"{own[0]}-{own[1]}")
def test_a_folder_is_compared_with_a_file_and_with_a_folder(pair, tmp_path, case, of_file):
    check, name, edit = case
    file, folder = pair(tmp_path / "file.gguf", name)
    export = shutil.copytree(folder, tmp_path / "export")
    edit(export)
    found = certify(export, file if of_file else folder, texts=TEXTS)
    accused = shown(found)
    print(f"{check} planted, {accused} accused")
    assert found.verdict == ("different" if check else "same")
    assert accused if check else not accused
    assert all(own == check or (check.endswith(("_", ".")) and own.startswith(check)) for own in accused)


@pytest.mark.parametrize("change", [None, in_sweep(lambda w: w[::-1])])
def test_divisors_that_a_requantised_file_lost_are_accused(pair, tmp_path, change):
    original, _ = pair(tmp_path / "original.gguf", "llama3", "F16")
    export, _ = pair(tmp_path / "export.gguf", "llama3", "Q4_0", weight("rope_freqs.weight", change))
    assert shown(certify(export, original, texts=TEXTS)) == ["settings.rope_factors"]
    assert shown(certify(original, original, texts=TEXTS)) == []
