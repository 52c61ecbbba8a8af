"""For a folder with another tokenizer than a tokenizer.json, the error prints a command that converts it."""

import json
import re
import shlex

import pytest
from support.commands import microgpt, refusal
from support.sweeps import in_sweep
from support.tiny_models import tiny_model, write_folder
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import load

TEXT = "The cat is\n  in Paris"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "a model", *tiny_model("llama_gqa"))


def put_bpe(folder):
    """Write vocab.json and merges.txt, as GPT-2 and Qwen have them."""
    pieces = ["<|endoftext|>", *"TheĠcatisinPrĊ", "he", "Ġc", "at"]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(dict.fromkeys(pieces))}))
    (folder / "merges.txt").write_text("#version: 0.2\nh e\nĠ c\na t\n")
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def put_sentencepiece(folder):
    """Write tokenizer.model, as Llama 2 and Mistral have it."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    words = folder / "words.txt"
    words.write_text(f"{TEXT} and The cat sat in the house\n" * 50)
    options = {"vocab_size": 60, "model_type": "bpe", "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=words, model_prefix=folder / "tokenizer", **options)
    for spare in (words, folder / "tokenizer.vocab"):
        spare.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))


@pytest.mark.parametrize(
    ("files", "put"),
    [("vocab.json and merges.txt", put_bpe), in_sweep(("tokenizer.model", put_sentencepiece))],
)
def test_the_printed_command_makes_a_tokenizer_json(folder, files, put, monkeypatch):
    """The command runs in this process, since transformers takes seconds to import."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    put(folder)
    line = refusal("trace", folder, TEXT)
    assert f"found {files} but no tokenizer.json, which transformers" in line
    command = re.search(r"can write: (python -c .*); or give the prompt as --tokens", line)[1]
    python, option, code = shlex.split(command)
    assert (python, option) == ("python", "-c")
    exec(code, {})
    vocabulary = load(folder).vocabulary
    judge = transformers.AutoTokenizer.from_pretrained(folder)
    print(vocabulary.encode(TEXT), judge(TEXT)["input_ids"])
    assert vocabulary.encode(TEXT) == judge(TEXT)["input_ids"]
    assert vocabulary.decode(vocabulary.encode(TEXT)).split() == TEXT.split()


@pytest.mark.parametrize("path", [".", "model.safetensors"])
@pytest.mark.parametrize("names", [["tokenizer.model"], ["vocab.json", "merges.txt"]])
def test_the_header_names_tokenizers_that_are_not_read(folder, names, path):
    for name in names:
        (folder / name).write_text("{}")
    out = " ".join(microgpt("trace", folder / path, "--tokens", "1,2").out.split())
    assert f"expected a tokenizer.json, found {' and '.join(names)}: tokens are shown as numbers" in out
    command = shlex.split(re.search(r"can write: (.*); or", refusal("trace", folder / path, "a"))[1])
    assert command[:2] == ["python", "-c"]
    assert command[2].count(json.dumps(str(folder))) == 2


def test_suggests_token_ids_if_there_is_no_tokenizer(folder):
    (folder / "vocab.json").write_text("{}")  # without merges.txt it is no tokenizer
    assert refusal("trace", folder, "a").endswith("found no tokenizer; give the prompt as --tokens 1,2,3")


def test_survey_does_not_suggest_token_ids(folder, tmp_path):
    (tmp_path / "texts.txt").write_text("a\n")
    words = ("survey", folder, tmp_path / "texts.txt")
    assert refusal(*words).endswith("found no tokenizer; this model cannot read texts")
    (folder / "tokenizer.model").write_text("{}")
    assert "found tokenizer.model but no tokenizer.json, which" in refusal(*words)
    assert "--tokens" not in refusal(*words)


def test_reads_a_tokenizer_json_beside_other_files(folder):
    put_bpe(folder)
    write_tokenizer(folder)
    done = microgpt("trace", folder, "Ann")
    assert done.code == 0
    assert "not read" not in done.out
