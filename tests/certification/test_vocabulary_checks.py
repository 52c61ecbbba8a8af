"""Planted faults of vocabularies are named alone, and sound exports have no differences."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.export_vocabularies import EXPORTED, accused, changed_folder, exported, original, side, written
from support.model_tokenizers import DIGITS, tokenizers
from support.planted_faults import at, swapped
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import some_of

import microgpt_trace
from microgpt_trace import load
from microgpt_trace.certification.vocabulary_checks import vocabulary_checks
from microgpt_trace.vocabulary.huggingface import from_huggingface
from microgpt_trace.vocabulary.metadata import from_apr
from microgpt_trace.vocabulary.pre_tokenizers import PRE_TOKENIZERS

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

G = "tokenizer.ggml."
NAMES = ["size", "tokens", "types", "merges", "special", "encoding"]


def put(key, value):
    """Return a fault that sets a key of the metadata. A function gets the old value, None removes the key."""

    def fault(metadata):
        new = value(metadata[G + key]) if callable(value) else value
        return {k: v for k, v in (metadata | {G + key: new}).items() if v is not None}

    return fault


def retyped(spelled, kind):
    """Return a fault that changes the type of the first token whose spelling contains a text."""

    def fault(metadata):
        place = next(i for i, token in enumerate(metadata[G + "tokens"]) if spelled in token)
        return put("token_type", at(place, lambda _: kind))(metadata)

    return fault


def control(kind):
    """Return a fault that changes the type of the first control token."""
    return lambda metadata: put("token_type", at(metadata[G + "token_type"].index(3), lambda _: kind))(
        metadata
    )


def shorter(metadata):
    rows = [G + key for key in ("tokens", "token_type", "scores") if G + key in metadata]
    return metadata | {key: metadata[key][:-1] for key in rows}


BYTE_LEVEL = {
    "two merges exchanged": (put("merges", swapped(3, 9)), "merges"),
    "two late merges exchanged": (put("merges", swapped(-30, -3)), "merges"),
    "a merge missing": (put("merges", at(5, None)), "merges"),
    "the last merge missing": (put("merges", at(-1, None)), "merges"),
    "no merges": (put("merges", None), "merges"),
    "no pre-tokenizer": (put("pre", None), "encoding"),
}
SENTENCEPIECE = {
    "two scores exchanged": (put("scores", swapped(-9, -200)), "merges"),
    "a score lost": (put("scores", at(-200, lambda _: -1e6)), "merges"),
    "another space prefix": (put("add_space_prefix", lambda on: not on), "encoding"),
    "a byte token made normal": (retyped("<0x0A>", 1), "types"),
}  # fmt: skip
ANY = {
    "the bytes of a token": (put("tokens", at(-60, lambda token: token + "qq")), "tokens"),
    "two tokens exchanged": (put("tokens", swapped(-60, -90)), "tokens"),
    "another BOS": (put("bos_token_id", 70), "special"),
    "another EOS": (put("eos_token_id", 70), "special"),
    "BOS not as in the original": (put("add_bos_token", lambda on: not on), "special"),
    "EOS added": (put("add_eos_token", True), "special"),
    "a normal token made control": (put("token_type", at(-60, lambda _: 3)), "types"),
    "a control token made normal": (control(1), "types"),
    "a control token made user-defined": (control(4), "types"),
    "no types": (put("token_type", None), "types"),
    "the last token lost": (shorter, "size"),
}  # fmt: skip
FAULTS = [
    (name, fault)
    for name in ("llama-3", "llama-2", "qwen-2", "gemma-2", "smollm", "gpt-2")
    for fault in (*ANY, *(BYTE_LEVEL if EXPORTED[name].pre else SENTENCEPIECE))
]


@pytest.mark.parametrize(("name", "fault"), some_of(FAULTS, every=4, sweep=2))
def test_names_a_fault_of_a_gguf_file_alone(name, fault):
    change, expected = (ANY | BYTE_LEVEL | SENTENCEPIECE)[fault]
    checks = vocabulary_checks(exported(change(written(name)[0])), original(name))
    assert accused(checks) == [f"vocabulary.{expected}"]
    assert [check.id for check in checks] == [f"vocabulary.{name}" for name in NAMES]


@pytest.mark.parametrize(
    ("name", "pre"),
    some_of([(n, pre) for pre in PRE_TOKENIZERS for n in ("llama-3", "qwen-2", "smollm")], every=20, sweep=2),
)
def test_names_the_pre_tokenizer_that_explains_the_splits(name, pre):
    metadata, own = written(name)[0], EXPORTED[name].pre
    checks = vocabulary_checks(exported(metadata | {G + "pre": pre}), original(name))
    if replace(PRE_TOKENIZERS[pre], adds_bos=False) == replace(PRE_TOKENIZERS[own], adds_bos=False):
        assert accused(checks) == []
    else:
        assert accused(checks) == ["vocabulary.encoding"]
        assert f'tokenizer.ggml.pre = "{own}"' in checks[-1].detail


def test_an_unknown_pre_tokenizer_is_not_checked_but_the_right_one_is_named():
    checks = vocabulary_checks(exported(written("qwen-2")[0] | {G + "pre": "new"}), original("qwen-2"))
    assert accused(checks) == []
    assert checks[-1].status == "not checked"
    assert 'Write tokenizer.ggml.pre = "qwen2" into the metadata' in checks[-1].detail


def test_a_lost_merge_and_another_pre_tokenizer_are_both_named():
    metadata = put("merges", at(5, None))(written("qwen-2")[0]) | {G + "pre": "gpt-2"}
    checks = vocabulary_checks(exported(metadata), original("qwen-2"))
    assert accused(checks) == ["vocabulary.merges", "vocabulary.encoding"]
    assert checks[-1].detail.endswith("The rest follows from vocabulary.merges.")


# --- Sound exports --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some_of(EXPORTED, every=6))
def test_a_converted_or_saved_tokenizer_is_the_same_in_both_directions(name, tmp_path):
    gguf, folder = exported(written(name)[0]), original(name)
    checks = vocabulary_checks(gguf, folder, ["a text of the user"])
    assert accused(checks) == []
    assert {check.status for check in checks} == {"same"}
    assert accused(vocabulary_checks(folder, gguf)) == []
    transformers.AutoTokenizer.from_pretrained(written(name)[1]).save_pretrained(tmp_path)
    assert accused(vocabulary_checks(side(from_huggingface(tmp_path)), folder)) == []


def test_padding_is_the_same():
    metadata = written("qwen-2")[0]
    size = len(metadata[G + "tokens"])
    padded = put("tokens", lambda row: [*row, *(f"[PAD{size + i}]" for i in range(9))])(metadata)
    padded = put("token_type", lambda row: [*row, *[5] * 9])(padded)
    checks = vocabulary_checks(exported(padded), original("qwen-2"))
    assert {check.status for check in checks} == {"same"}
    assert (
        checks[0].detail
        == f"The export has {size + 9} tokens, the original {size}. The other tokens are padding."
    )


@pytest.mark.parametrize(("name", "adds"), [("qwen-2", True), ("llama-2", False)])
def test_bos_by_configuration_alone_is_the_same(name, adds, tmp_path):
    folder = changed_folder(name, tmp_path, add_bos_token=adds)
    checks = vocabulary_checks(exported(written(name)[0] | {G + "add_bos_token": adds}), folder)
    assert accused(checks) == []
    assert {check.status for check in checks} == {"same"}


def test_an_apr_file_that_does_not_say_types_is_the_same():
    own = original("qwen-2").vocabulary
    metadata = {
        "tokenizer.vocabulary": own.tokens, "tokenizer.merges": own.read_merges(), "architecture": "qwen2",
        "tokenizer.bos_token_id": own.bos_id, "tokenizer.eos_token_id": own.eos_id,
    }  # fmt: skip
    checks = vocabulary_checks(side(from_apr(metadata, Path("model.apr"))), side(own))
    assert accused(checks) == []
    assert {check.status for check in checks} == {"same"}


def test_a_user_defined_token_that_looks_special_may_become_a_control_token():
    for token, wrong in (("<|fim|>", []), ("<tool_call>", ["vocabulary.types"])):
        export = exported(retyped(token, 3)(written("qwen-2")[0]))
        assert accused(vocabulary_checks(export, original("qwen-2"))) == wrong


@pytest.mark.parametrize(
    ("change", "config", "expected"),
    [
        (lambda own: own["added_tokens"].reverse(), {}, []),
        (lambda own: own["model"].update(merges=[" ".join(m) for m in own["model"]["merges"]]), {}, []),
        (lambda own: own["model"]["merges"].pop(5), {}, ["merges"]),
        (lambda own: own["added_tokens"][1].update(special=False), {}, ["types"]),
        (lambda own: own.update(post_processor=None), {}, ["special"]),
        (lambda own: None, {"eos_token": "</s>"}, ["special"]),
        (lambda own: own.update(normalizer=None), {}, ["encoding"]),
    ],
)
def test_compares_two_folders(change, config, expected, tmp_path):
    checks = vocabulary_checks(changed_folder("llama-2", tmp_path, change, **config), original("llama-2"))
    assert accused(checks) == [f"vocabulary.{name}" for name in expected]


def test_names_the_other_pre_tokenizer_of_a_folder(tmp_path):
    def digits(own):
        own["pre_tokenizer"]["pretokenizers"][0] = {"type": "Digits", "individual_digits": True}

    checks = vocabulary_checks(changed_folder("qwen-2", tmp_path, digits), original("qwen-2"))
    assert accused(checks) == ["vocabulary.encoding"]
    assert 'original splits like tokenizer.ggml.pre = "qwen2". Copy tokenizer.json' in checks[-1].detail


# --- Tokens that end a text -----------------------------------------------------------------------

TEXT, START, TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TOKENS = {token: i for i, token in enumerate(written("qwen-2")[0][G + "tokens"])}


def ending(folder, generation, config, eos):
    """Return the side of a folder whose three files name these tokens that end a text."""
    changed_folder("qwen-2", folder, eos_token=eos)
    for file, tokens in (("generation_config", generation), ("config", config)):
        ids = [TOKENS[token] for token in tokens]
        content = {"eos_token_id": ids if len(ids) != 1 else ids[0]} if ids else {}
        (folder / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
    return side(from_huggingface(folder))


def gguf_with(**ends):
    ids = {f"{G}{name}_token_id": TOKENS[token] for name, token in ends.items()}
    return exported({k: v for k, v in written("qwen-2")[0].items() if k != G + "eos_token_id"} | ids)


FOLDERS = {  # the tokens in generation_config.json, config.json and tokenizer_config.json
    "one token": ([TURN], [TURN], TURN),
    "a list, as in Llama 3": ([TEXT, START, TURN], [TEXT, START, TURN], TURN),
    "the end of a turn only in a list, as in Gemma 3": ([TEXT, TURN], [TEXT], TEXT),
    "the tokenizer alone": ([], [], TURN),
    "an old generation_config.json": ([TEXT], [TURN], TURN),
    "no tokenizer_config.json": ([TURN], [TURN], None),
}


@pytest.mark.parametrize("case", some_of(FOLDERS, every=2))
def test_the_eos_that_the_converter_of_llama_cpp_writes_is_the_same(case, tmp_path):
    gguf = pytest.importorskip("gguf")
    folder, ids = ending(tmp_path, *FOLDERS[case]), gguf.SpecialVocab(tmp_path).special_token_ids
    print(ids)
    assert (
        accused(vocabulary_checks(gguf_with(eos=written("qwen-2")[0][G + "tokens"][ids["eos"]]), folder))
        == []
    )
    assert accused(vocabulary_checks(folder, folder)) == []


@pytest.mark.parametrize(
    ("export", "expected"),
    [
        (([TEXT], [TEXT], TEXT), "generation_config.json, config.json and tokenizer_config.json"),
        (([TEXT], [TURN], TURN), "generation_config.json"),
        (([TURN], [TEXT], TURN), "config.json"),
        (([TURN], [TURN], TEXT), "tokenizer_config.json"),
        (([], [TEXT], TURN), "config.json"),
        (([TEXT, TURN], [TURN], TURN), None),
    ],
)
def test_each_file_of_a_folder_must_name_the_eos_of_the_gguf_file(export, expected, tmp_path):
    folder = ending(tmp_path, *export)
    check = {own.id: own for own in vocabulary_checks(folder, gguf_with(eos=TURN))}["vocabulary.special"]
    print(check.detail)
    assert check.status == ("different" if expected else "same")
    if expected:
        places = f'"<|im_end|>" ({G}eos_token_id) in the original. Correct {expected} of the export.'
        assert f'"<|endoftext|>" ({expected})' in check.detail
        assert check.detail.endswith(places)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (([TURN], [TURN], TURN), ([TEXT], [TURN], TURN), "Correct generation_config.json of"),
        (([TURN], [TEXT], TURN), ([TURN], [TURN], TURN), "Correct config.json of"),
        (([TURN, TEXT], [], TURN), ([TEXT, TURN], [], TURN), ""),
        (([TURN, TEXT], [], TURN), ([TURN], [], TURN), "Correct generation_config.json of"),
        (([], [TURN], TURN), ([TURN], [], TURN), ""),
        (([], [TURN], TURN), ([TEXT], [TURN], TURN), "Correct generation_config.json of"),
        (([TEXT], [TURN], TURN), ([], [TURN], TURN), "Correct generation_config.json of"),
    ],
)
def test_two_folders_end_a_text_at_the_same_tokens(one, other, expected, tmp_path):
    folders = [ending(tmp_path / str(i), *row) for i, row in enumerate((one, other))]
    check = {own.id: own for own in vocabulary_checks(*folders)}["vocabulary.special"]
    assert (check.status == "different", expected in check.detail) == (bool(expected), True), check.detail


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"eos": TEXT}, {"eos": TURN}, f"Write {G}eos_token_id = {TOKENS[TURN]} into"),
        ({"eos": TEXT}, {"eos": TEXT, "eot": START}, f"Write {G}eot_token_id = {TOKENS[START]} into"),
        ({"eos": TEXT, "eot": START}, {"eos": TEXT}, f"Correct {G}eot_token_id of"),
        ({"eos": TEXT}, {"eos": TEXT, "eot": TURN}, ""),  # llama.cpp knows this spelling
        ({}, {"eos": START}, "is no token in the export"),
        ({"eos": START}, {}, ""),  # the original does not say it
    ],
)
def test_two_gguf_files_end_a_text_at_the_same_tokens(one, other, expected):
    check = {own.id: own for own in vocabulary_checks(gguf_with(**one), gguf_with(**other))}[
        "vocabulary.special"
    ]
    assert (check.status == "different", expected in check.detail) == (bool(expected), True), check.detail


# --- The sentence about splits ---------------------------------------------------------------------


def test_each_text_counts_once_and_the_tokens_of_a_character_are_shown_together():
    checks = vocabulary_checks(exported(written("smollm")[0] | {G + "pre": "gpt-2"}), original("smollm"))
    print(checks[-1].detail)
    assert "Texts that are split differently: 1 of 2" in checks[-1].detail  # 2 of 406 cases
    assert '"…|٦ (2 tokens)|٧٨٩ (4 tokens)" in the export' in checks[-1].detail
    assert "\\x" not in checks[-1].detail


def test_long_tokens_and_merges_are_shortened(tmp_path):
    def lengthen(own):
        own["model"]["merges"][5] = f"{'1' * 5000} 2"
        own["added_tokens"][-1]["content"] += "1" * 5000

    folder = changed_folder("smollm", tmp_path, lengthen)
    for sides in (folder, original("smollm")), (original("smollm"), folder):
        details = {check.id: check.detail for check in vocabulary_checks(*sides) if check.status != "same"}
        print(details)
        assert {*details} >= {"vocabulary.tokens", "vocabulary.merges"}
        assert max(map(len, details.values())) < 1000


def test_a_folder_is_not_asked_to_copy_a_file_that_a_gguf_file_does_not_have(tmp_path):
    def reorder(own):
        own["model"]["merges"].reverse()

    export = changed_folder("qwen-2", tmp_path, reorder)
    details = {
        end: vocabulary_checks(export, end)[3].detail
        for end in (exported(written("qwen-2")[0]), original("qwen-2"))
    }
    print(details)
    assert [detail.rpartition(". ")[2] for detail in details.values()] == [
        "Correct tokenizer.json of the export.",
        "Copy tokenizer.json from the original.",
    ]


# --- Vocabularies that cannot be read -------------------------------------------------------------


def test_without_a_vocabulary_nothing_is_checked():
    for sides in ((side(None), original("gpt-2")), (original("gpt-2"), side(None))):
        checks = vocabulary_checks(*sides)
        assert {(check.status, check.detail) for check in checks} == {
            ("not checked", "model has no vocabulary.")
        }


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        ("tokenizer.ggml.bos_token_id: expected an id below 600, found 600", "special"),
        ("tokenizer.ggml.token_type: expected 600 numbers, found 1", "types"),
        ("tokenizer.ggml.tokens: expected a list of tokens, found none", "tokens"),
    ],
)
def test_a_vocabulary_that_cannot_be_read_is_different_where_it_is_wrong(problem, expected):
    checks = vocabulary_checks(side(None, f"{problem}."), original("gpt-2"))
    assert accused(checks) == [f"vocabulary.{expected}"]
    assert {check.detail for check in checks} == {f"The vocabulary cannot be read: {problem}."}
    checks = vocabulary_checks(original("gpt-2"), side(None, problem))
    assert {check.status for check in checks} == {"not checked"}


def test_ships_200_texts():
    path = Path(microgpt_trace.__file__).parent / "certification" / "texts.json"
    texts = json.loads(path.read_text(encoding="utf-8"))
    assert len(texts) == len(set(texts)) == 200


# --- The real SmolLM2 -----------------------------------------------------------------------------


@needs_smollm2
def test_smollm2_is_the_same_as_a_folder_made_from_it(tmp_path):
    own = load(SMOLLM2).vocabulary
    merges = [tuple(merge.split(" ")) for merge in own.read_merges()]
    model = tokenizers.models.BPE({token: i for i, token in enumerate(own.tokens)}, merges)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = DIGITS
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = [own.tokens[i] for i, kind in own.types.items() if kind == 3]
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in special])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": own.tokens[own.bos_id], "eos_token": own.tokens[own.eos_id]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    checks = vocabulary_checks(side(own), side(from_huggingface(tmp_path)))
    assert accused(checks) == []
    assert {check.status for check in checks} == {"same"}
