"""Data files: what is read, what is left out and said, the split, and the stream of ids."""

import numpy as np
import pytest

from microgpt_trace import Config, Tokenizer, init
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.microgpt.documents import Documents, Encoded, default_data, held_out, read_lines


def fit(*lines, tokenizer=None, block_size=16):
    return Documents.fit(lines, tokenizer or Tokenizer(), block_size)


@pytest.mark.parametrize(
    "content",
    [b"emma\nava\n", b"emma\nava", b"emma\r\nava\r\n", b"\xef\xbb\xbfemma\nava\n"],
    ids=["LF", "no newline at the end", "CRLF", "BOM"],
)
def test_lines_are_read_the_same(content, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert read_lines(path) == ["emma", "ava"]


UNREADABLE = {
    "empty": (b"", "expected one name a line, found an empty file"),
    "blank": (b"\n \n\t\n", "expected one name a line, found an empty file"),
    "Latin-1": (b"emma\njos\xe9\n", "expected UTF-8 text, found byte 0xe9 at offset 8"),
    "binary": (b"\xff\xfe\x00", "expected UTF-8 text, found byte 0xff at offset 0"),
}


@pytest.mark.parametrize(("content", "said"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_file_is_named_with_the_reason(content, said, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as error:
        read_lines(path)
    assert str(error.value) == f"{path}: {said}"


def test_the_offset_counts_the_byte_order_mark(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfab\xff")
    with pytest.raises(FileFormatError, match="found byte 0xff at offset 5"):
        read_lines(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"none\.txt: no such file"):
        read_lines(tmp_path / "none.txt")
    with pytest.raises(FileFormatError, match="expected a file of names, found a folder"):
        read_lines(tmp_path)


def test_names_that_fit_are_kept_in_order_with_repetitions():
    documents = fit("emma", "ava", "emma")
    assert documents.names == ["emma", "ava", "emma"]
    assert documents.notes == ()
    assert len(documents) == 3


def test_what_surrounds_a_name_is_stripped_without_a_note():
    assert fit("  emma ", "ava\t").names == ["emma", "ava"]
    assert fit("  emma ").notes == ()


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        (["ava", "Emma", "OLA"], "2 lines lowered (first: line 2: 'Emma')"),
        (["ava", "aVa"], "1 line lowered (first: line 2: 'aVa')"),
        (["ava", "", " "], "2 lines left out, blank (first: line 2: '')"),
        (["ava", "jo-se"], "1 line left out, with a character outside a..z (first: line 2: 'jo-se')"),
        (["José", "ava"], "1 line left out, with a character outside a..z (first: line 1: 'José')"),
        (
            ["ava", "a" * 16, "b" * 20],
            f"2 lines left out, longer than 15 characters (first: line 2: '{'a' * 16}')",
        ),
    ],
)
def test_what_was_changed_or_left_out_is_counted_with_the_first_example(lines, note):
    assert note in fit(*lines).notes


@pytest.mark.parametrize("line", ["x" * 1_000_000, "É" * 1_000_000, "Abc" * 300_000])
def test_a_note_is_short_however_long_the_line_is(line):
    (note,) = fit(line, "ava", block_size=2_000_000 if line[0] == "A" else 16).notes
    assert "first: line 1: '" in note
    assert len(note) < 200


@pytest.mark.sweep
def test_a_vocabulary_of_a_million_characters_is_described_in_short():
    letters = "".join(map(chr, range(0x10000, 0x110000)))
    said = Tokenizer(letters).describe_chars(), Tokenizer(letters[::-1]).describe_chars()
    assert said[0] == f"{letters[0]}..\\U0010ffff"  # the last one is no character
    assert said[1].endswith("... (1,048,576 characters)")
    assert len(said[1]) < 300


def test_every_line_is_kept_or_noted():
    lines = ["ava", "", "Emma", "x1", "y2", "z" * 99, "mia"]
    documents = fit(*lines)
    assert documents.names == ["ava", "emma", "mia"]
    assert [note.split(" (")[0] for note in documents.notes] == [
        "1 line lowered",
        "1 line left out, blank",
        "2 lines left out, with a character outside a..z",
        "1 line left out, longer than 15 characters",
    ]


def test_a_line_that_is_left_out_counts_once():
    assert [note.split(" (")[0] for note in fit("ÀB").notes] == [
        "1 line left out, with a character outside a..z"
    ]


def test_the_longest_name_fills_the_block():
    assert fit("abc", "abcd", block_size=4).names == ["abc"]


def test_a_vocabulary_with_capitals_keeps_them():
    documents = fit("Emma", tokenizer=Tokenizer("Eam"))
    assert (documents.names, documents.notes) == (["Emma"], ())


def test_the_split_depends_on_the_name_alone():
    first, second = fit("emma", "ava", "mia", "ava"), fit("zoe", "ava", "emma")
    for documents in (first, second):
        sides = {documents.names[i] for i in documents.held_out}
        assert sides == {name for name in documents.names if held_out(name)}
        assert sorted([*documents.held_out, *documents.train]) == list(range(len(documents)))


def test_the_split_is_fixed_for_all_time():
    """A stored run relies on these: they were computed once, from the hash named in the docstring."""
    names = read_lines(default_data())
    assert [name for name in names[:40] if held_out(name)] == ["isabella", "ella", "madison", "luna"]


def test_about_a_tenth_of_the_packaged_names_is_held_out():
    documents = Documents.fit(read_lines(default_data()), Tokenizer(), 16)
    assert (len(documents), documents.notes) == (32257, ())
    assert 0.09 < len(documents.held_out) / len(documents) < 0.11
    inside = {documents.names[i] for i in documents.held_out}
    outside = {documents.names[i] for i in documents.train}
    assert not inside & outside
    assert len(inside | outside) == 29693


def test_the_fingerprint_tells_names_and_order():
    prints = {fit(*lines).fingerprint for lines in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", "b"])}
    assert len(prints) == 4
    assert fit("a", "b").fingerprint == fit(" A", "b").fingerprint
    assert fit("a", "b").fingerprint.startswith("2 names, crc32 ")


@pytest.mark.parametrize("bos", ["first", "last"])
def test_a_batch_of_one_name_is_its_ids(bos):
    tokenizer = Tokenizer(bos=bos)
    names = ["emma", "a", "zoe"]
    encoded = Encoded(names, tokenizer, Config())
    for index, name in enumerate(names):
        batch, ids = encoded.one(index), tokenizer.encode_name(name)
        assert batch.tokens.tolist() == ids[:-1]
        assert batch.targets.argmax(axis=1).tolist() == ids[1:]
        assert np.allclose(batch.targets.sum(axis=1), 1 / len(ids[1:]))
        assert batch.rows.positions.tolist() == list(range(len(ids) - 1))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1, 1, 2]])
def test_a_batch_of_several_names_holds_their_ids(order):
    tokenizer = Tokenizer(bos="last")
    names = ["emma", "a", "zo"]
    batch = Encoded(names, tokenizer, Config()).several(np.array(order))
    expected = [tokenizer.encode_name(n) for n in sorted((names[i] for i in order), key=len)]
    assert batch.tokens.tolist() == [i for ids in expected for i in ids[:-1]]
    assert batch.targets.argmax(axis=1).tolist() == [i for ids in expected for i in ids[1:]]
    assert batch.rows.positions.tolist() == [p for ids in expected for p in range(len(ids) - 1)]
    assert batch.tokens_onehot.argmax(axis=1).tolist() == batch.tokens.tolist()
    assert batch.rows.positions_onehot.argmax(axis=1).tolist() == batch.rows.positions.tolist()


def test_characters_beyond_the_basic_plane_are_encoded():
    tokenizer = Tokenizer("ab\U0001f600")
    encoded = Encoded(["a\U0001f600b"], tokenizer, Config(vocab_size=4))
    assert encoded.one(0).tokens.tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize("char", ["\0", "Ä", "A"])
def test_of_a_line_of_a_megabyte_little_is_looked_at(char, monkeypatch):
    """A sparse file has lines of any length, and a character made small costs an object."""
    looked, whole = [0], Tokenizer.normalize

    def normalize(self, text):
        looked.append(len(text))
        return whole(self, text)

    monkeypatch.setattr(Tokenizer, "normalize", normalize)
    line = char * 10**6
    assert "longer than 15 characters" in Documents.fit([line, "emma"], Tokenizer(), 16).notes[0]
    with pytest.raises(InputError):
        init().read(line)
    if char != "A":
        with pytest.raises(InputError):
            Tokenizer().encode(line)
    print(max(looked))
    assert max(looked) <= 2000
