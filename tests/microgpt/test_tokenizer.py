"""Characters and ids in both conventions, and what the vocabulary cannot write."""

import pytest

from microgpt_trace import Tokenizer
from microgpt_trace.errors import InputError


@pytest.mark.parametrize(
    ("bos", "emma", "described"),
    [
        ("first", [0, 5, 13, 13, 1, 0], "0 = BOS and EOS, a..z = 1..26"),
        ("last", [26, 4, 12, 12, 0, 26], "26 = BOS and EOS, a..z = 0..25"),
    ],
)
def test_bos_stands_before_or_after_the_characters(bos, emma, described):
    tokenizer = Tokenizer(bos=bos)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.describe()) == (27, emma[0], described)
    assert tokenizer.encode_name("emma") == emma
    assert tokenizer.encode("emma") == emma[1:-1]
    for text in ("", "a", "zebra"):
        assert tokenizer.decode(tokenizer.encode_name(text)) == text


def test_labels():
    tokenizer = Tokenizer(bos="last")
    assert [tokenizer.label(i) for i in (26, 0, 25)] == ["BOS", "a", "z"]
    assert tokenizer.label(26, target=True) == "EOS"
    assert tokenizer.label(3, target=True) == "d"


def test_capitals_are_lowered_only_where_the_vocabulary_has_none():
    assert Tokenizer().normalize("EmMa") == "emma"
    assert Tokenizer("aAb").normalize("AaB") == "Aab"


@pytest.mark.parametrize(
    ("text", "char", "position", "advice"),
    [
        ("emma!", "!", 4, "; try 'emma'"),
        ("josé", "é", 3, "; try 'jose'"),
        ("mary ann", " ", 4, "; try 'maryann'"),
        ("ﬁona", "ﬁ", 0, "; try 'fiona'"),
        ("Åse", "Å", 0, "; try 'ase'"),
        ("花", "花", 0, ""),
    ],
)
def test_an_unknown_character_is_named_with_the_plain_spelling(text, char, position, advice):
    said = f"character '{char}' at position {position} of '{text}' is not in the vocabulary a..z{advice}"
    with pytest.raises(InputError) as error:
        Tokenizer().encode(text)
    assert str(error.value) == said


def test_the_vocabulary_of_names_is_their_characters_sorted():
    assert Tokenizer.of(["emma", "ava", ""]).chars == "aemv"
    assert Tokenizer.of([]).vocab_size == 1


@pytest.mark.parametrize(
    ("chars", "described"),
    [
        ("abcdefghij", "a..j"),
        ("abcx", "abcx"),
        ("abcdefxyz", "a..fxyz"),
        ("'-abcdef", "'-a..f"),
        ("abcde", "abcde"),
    ],
)
def test_characters_are_described_in_runs(chars, described):
    assert Tokenizer(chars).describe_chars() == described


def test_a_vocabulary_that_is_none_is_refused():
    with pytest.raises(InputError, match="names each character once, found 'aba'"):
        Tokenizer("aba")
    with pytest.raises(InputError, match="BOS stands first or last, found 'middle'"):
        Tokenizer(bos="middle")
