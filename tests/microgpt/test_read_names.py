"""Check that many texts read at once give the same tokens as texts read one at a time, in any alphabet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt_trace import Config, Tokenizer, init
from microgpt_trace.errors import InputError
from microgpt_trace.models.packs import ReadText

ALPHABETS = ["abcdefghijklmnopqrstuvwxyz", "aAbz", "αβσς", "i̇I", "日本語 x", "\U0001f680k", "ß"]
CHARS = "abzABZ αΣσς İiIK\u212a日本\U0001f680ß\u0307\x00\udc80"


@pytest.mark.parametrize("bos", ["first", "last"])
@pytest.mark.parametrize("alphabet", ALPHABETS)
@given(texts=st.lists(st.text(CHARS, max_size=7), min_size=1, max_size=6))
def test_reads_many_texts_as_it_reads_one(alphabet, bos, texts):
    tokenizer = Tokenizer(alphabet, bos=bos)
    model = init(Config(tokenizer.vocab_size, n_embd=4, block_size=6), tokenizer=tokenizer)
    for text, result in zip(texts, model.read_many(texts), strict=True):
        try:
            one = model.read(text)
        except InputError:
            assert isinstance(result, str), f"{text!r} was read as {result}"
            continue
        assert isinstance(result, ReadText), f"{text!r}: {result}"
        assert (tuple(result.tokens), tuple(result.targets)) == (one.tokens, one.targets), text
