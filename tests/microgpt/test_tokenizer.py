"""Check characters and ids with BOS first and last, and errors for characters outside the vocabulary."""

import pytest

from microgpt_trace import Tokenizer
from microgpt_trace.errors import InputError


@pytest.mark.parametrize(
    ("bos", "emma", "description"),
    [
        ("first", [0, 5, 13, 13, 1, 0], "0 = BOS and EOS, a..z = 1..26"),
        ("last", [26, 4, 12, 12, 0, 26], "26 = BOS and EOS, a..z = 0..25"),
    ],
)
def test_bos_is_the_first_or_the_last_token(bos, emma, description):
    tokenizer = Tokenizer(bos=bos)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.describe()) == (27, emma[0], description)
    assert tokenizer.encode_name("emma") == emma
    assert tokenizer.encode("emma") == emma[1:-1]
    for text in ("", "a", "zebra"):
        assert tokenizer.decode(tokenizer.encode_name(text)) == text


def test_labels_distinguish_bos_and_eos():
    tokenizer = Tokenizer(bos="last")
    assert [tokenizer.label(i) for i in (26, 0, 25)] == ["BOS", "a", "z"]
    assert tokenizer.label(26, target=True) == "EOS"
    assert tokenizer.label(3, target=True) == "d"


def test_lowercases_only_capitals_outside_the_vocabulary():
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
def test_the_error_names_an_unknown_character_and_suggests_a_spelling(text, char, position, advice):
    message = f"character '{char}' at position {position} of '{text}' is not in the vocabulary a..z{advice}"
    with pytest.raises(InputError) as error:
        Tokenizer().encode(text)
    assert str(error.value) == message


def test_the_vocabulary_of_names_has_their_characters_sorted():
    assert Tokenizer.of(["emma", "ava", ""]).chars == "aemv"
    assert Tokenizer.of([]).vocab_size == 1


@pytest.mark.parametrize(
    ("chars", "description"),
    [
        ("abcdefghij", "a..j"),
        ("abcx", "abcx"),
        ("abcdefxyz", "a..fxyz"),
        ("'-abcdef", "'-a..f"),
        ("abcde", "abcde"),
    ],
)
def test_the_description_shortens_runs_of_characters(chars, description):
    assert Tokenizer(chars).describe_chars() == description


def test_rejects_a_wrong_vocabulary():
    with pytest.raises(InputError, match="chars: expected each character once, found 'aba'"):
        Tokenizer("aba")
    with pytest.raises(InputError, match="bos: expected first or last, found 'middle'"):
        Tokenizer(bos="middle")
