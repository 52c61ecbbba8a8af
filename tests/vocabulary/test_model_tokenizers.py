"""Tokenizers like those of published models give the ids and chats of transformers from both formats."""

from pathlib import Path

import pytest
from support.model_tokenizers import KINDS, gguf_metadata, random_texts, write_folder
from support.sweeps import some_of

from microgpt_trace.vocabulary.huggingface import from_huggingface
from microgpt_trace.vocabulary.metadata import from_gguf

pytest.importorskip("jinja2", reason="chat templates need jinja2")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module", params=some_of(KINDS, every=3))
def tokenizer(request, tmp_path_factory):
    """The tokenizer of transformers, the two vocabularies of this package, and 400 texts."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp(request.param)
    texts = random_texts(kind, 400)
    metadata = gguf_metadata(kind, *write_folder(kind, folder, texts))
    judge = transformers.AutoTokenizer.from_pretrained(folder)
    return judge, (from_huggingface(folder), from_gguf(metadata, Path("model.gguf"))), texts


@pytest.mark.parametrize("special", [True, False])
def test_ids_of_both_formats_are_those_of_transformers(tokenizer, special):
    judge, vocabularies, texts = tokenizer
    expected = judge(texts[special::2], split_special_tokens=not special)["input_ids"]
    for vocabulary in vocabularies:
        ids = [vocabulary.encode(text, special=special) for text in texts[special::2]]
        wrong = [case for case in zip(texts[special::2], ids, expected, strict=True) if case[1] != case[2]]
        print(vocabulary.describe(), len(ids), "texts", len(wrong), "wrong", wrong[:2])
        assert not wrong


def test_both_formats_decode_alike(tokenizer):
    judge, (folder, gguf), texts = tokenizer
    for ids in judge(texts[::20])["input_ids"]:
        print(ids, folder.decode(ids), judge.decode(ids))
        assert folder.decode(ids) == gguf.decode(ids) == judge.decode(ids)


def test_chats_of_both_formats_are_those_of_transformers(tokenizer):
    judge, vocabularies, _ = tokenizer
    for text in ("Hi", " It's 12 é\n\n  <b> \n"):
        messages = [{"role": "user", "content": text}]
        chat, ids = (
            judge.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=tokenize, return_dict=False
            )
            for tokenize in (False, True)
        )
        for vocabulary in vocabularies:
            found = vocabulary.encode(vocabulary.chat(text), chat=True)
            print(chat, ids, found)
            assert (vocabulary.chat(text), found) == (chat, list(ids))
