"""Hostile tokenizer.json files: rules that expand text, patterns that do not end, panics of Rust code."""

import json
import sys

import pytest
from support.hostile import rejection
from support.sweeps import in_sweep

from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.vocabulary.huggingface import from_huggingface
from microgpt_trace.vocabulary.sandbox import MIB, Limits

tokenizers = pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")


def folder(path, **parts):
    """Write and read a tokenizer.json with the tokens a, b, c and space, and other parts as given."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, " ": 3}, "merges": []}
    (path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, **parts}))
    return from_huggingface(path)


def limited(path, **parts):
    vocabulary = folder(path, **parts)
    vocabulary.encoder.args[0].limits = Limits(20, 200 * MIB)
    return vocabulary


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def refusal(vocabulary, text="a" * 30, kind=FileFormatError):
    with pytest.raises(kind, match=r"tokenizer\.json: ") as caught:
        vocabulary.encode(text)
    print(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value).split("tokenizer.json: ")[1]


def test_ids_are_those_of_tokenizers(tmp_path):
    vocabulary = folder(tmp_path, normalizer={"type": "Lowercase"}, pre_tokenizer=split(" +"))
    judge = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("abc", "A  cB", "", " ", "a b" * 2000):
        print(vocabulary.encode(text)[:8], judge.encode(text).ids[:8])
        assert vocabulary.encode(text) == judge.encode(text).ids


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
@pytest.mark.parametrize("pattern", [{"String": "a"}, in_sweep({"Regex": "[a-z]"}), in_sweep({"Regex": ""})])
def test_limits_the_memory_of_rules_that_expand_text(tmp_path, capfd, pattern):
    rule = {"type": "Replace", "pattern": pattern, "content": "aaaaaaaaaa"}
    rules = {"type": "Sequence", "normalizers": [*[rule] * 12, {"type": "NFC"}]}
    line = refusal(limited(tmp_path, normalizer=rules), kind=(FileFormatError, InputError))
    assert line == "its tokenizer takes more than 200 MiB of memory" or "fail to memory allocation" in line
    assert capfd.readouterr().err == ""


def test_an_endless_pattern_is_an_error_and_the_next_text_is_encoded(tmp_path, capfd):
    vocabulary = limited(tmp_path, pre_tokenizer=split("(a+)+$"))
    line = refusal(vocabulary, "a" * 40 + "b", kind=InputError)
    assert line.startswith("cannot encode 'aaaaaaaaaaaa")
    assert "retry-limit-in-match over" in line
    assert capfd.readouterr().err == ""
    assert vocabulary.encode("cab") == [2, 0, 1]


@pytest.mark.parametrize("pattern", ["(", "(?=" * 3000 + ")" * 3000])
def test_refuses_an_invalid_pattern(tmp_path, capfd, pattern):
    assert refusal(folder(tmp_path, pre_tokenizer=split(pattern))).startswith("not a valid tokenizer: ")
    assert capfd.readouterr().err == ""


def test_a_relative_path_stays_valid_after_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    vocabulary = folder((tmp_path / "model").relative_to(tmp_path))
    monkeypatch.chdir("/")
    assert vocabulary.encode("cab") == [2, 0, 1]


def test_ignores_truncation_and_padding(tmp_path):
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    vocabulary = folder(tmp_path, truncation=truncation, padding=padding)
    assert vocabulary.encode("cab") == [2, 0, 1]


LONG = "x" * 9999


@pytest.mark.parametrize(
    ("parts", "config", "message"),
    [
        ({"model": {"vocab": LONG}}, {}, "expected a vocabulary under model.vocab, found"),
        ({"model": 5}, {}, "expected a vocabulary under model.vocab, found None"),
        ({"model": {"vocab": {"a": "b"}}}, {}, "expected a vocabulary of tokens and ids"),
        (
            {"model": {"vocab": {"a": 999999}}},
            {},
            "expected ids from 0 to about 1 for 1 tokens, found 999,999 to 999,999",
        ),
        ({"added_tokens": [1]}, {}, "added_tokens: expected a list"),
        ({"added_tokens": [{"content": LONG, "id": LONG}]}, {}, "expected a vocabulary of tokens and ids"),
        ({"decoder": {"type": "Sequence", "decoders": LONG}}, {}, "decoders: expected a list"),
        ({"pre_tokenizer": {"pretokenizers": 5}}, {}, "pretokenizers: expected a list"),
        ({"post_processor": {"cls": [LONG, 0], "sep": ["a", 0]}}, {}, "expected one token as BOS"),
        ({"post_processor": {"cls": {LONG: 0}, "sep": 0}}, {}, "post_processor: cannot be read"),
        ({}, {"bos_token": LONG}, "bos_token: expected a token of the vocabulary"),
        ({}, {"chat_template": [1]}, "chat_template: expected templates"),
        ({}, {"chat_template": [{"name": "n", "template": [LONG]}]}, "chat_template: expected text"),
    ],
    ids=range(13),
)
def test_refuses_broken_folders_with_short_messages(tmp_path, parts, config, message):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    line = rejection(tmp_path, lambda path: folder(path, **parts))
    assert line.startswith(f"{tmp_path / ('tokenizer_config.json' if config else 'tokenizer.json')}: ")
    assert message in line
    assert len(line) < 300 + len(str(tmp_path))


def test_shortens_values_of_the_file_in_a_description(tmp_path):
    for type, config in ((LONG, {}), ({"a": LONG}, {"add_bos_token": [[LONG]] * 99})):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        described = folder(tmp_path, model={"type": type, "vocab": {"a": 0}}).describe()
        print(described)
        assert len(described) < 700
