"""Characters and ids in both conventions, and what the vocabulary cannot write."""

import pytest

from microgpt_trace import Tokenizer
from microgpt_trace.errors import InputError


def test_bos_first_counts_a_as_one():
    tokenizer = Tokenizer()
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (27, 0)
    assert tokenizer.encode("az") == [1, 26]
    assert tokenizer.encode_name("emma") == [0, 5, 13, 13, 1, 0]
    assert tokenizer.describe() == "0 = BOS and EOS, a..z = 1..26"


def test_bos_last_counts_a_as_zero():
    tokenizer = Tokenizer(bos="last")
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (27, 26)
    assert tokenizer.encode_name("emma") == [26, 4, 12, 12, 0, 26]
    assert tokenizer.describe() == "26 = BOS and EOS, a..z = 0..25"


@pytest.mark.parametrize("bos", ["first", "last"])
@pytest.mark.parametrize("text", ["", "a", "zebra"])
def test_decoding_inverts_encoding(bos, text):
    tokenizer = Tokenizer(bos=bos)
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
    ("text", "said"),
    [
        ("emma!", "character '!' at position 4 of 'emma!' is not in the vocabulary a..z; try 'emma'"),
        ("josé", "character 'é' at position 3 of 'josé' is not in the vocabulary a..z; try 'jose'"),
        (
            "mary ann",
            "character ' ' at position 4 of 'mary ann' is not in the vocabulary a..z; try 'maryann'",
        ),
        ("ﬁona", "character 'ﬁ' at position 0 of 'ﬁona' is not in the vocabulary a..z; try 'fiona'"),
        ("Åse", "character 'Å' at position 0 of 'Åse' is not in the vocabulary a..z; try 'ase'"),
        ("花", "character '花' at position 0 of '花' is not in the vocabulary a..z"),
    ],
)
def test_an_unknown_character_is_named_with_the_plain_spelling(text, said):
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
