"""Check data files: their lines, the notes on lines left out, the split, and the stream of ids."""

import numpy as np
import pytest

from microgpt_trace import Config, Tokenizer, init
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.microgpt.batch import Encoded
from microgpt_trace.microgpt.documents import Documents, default_data, held_out, read_lines


def fit(*lines, tokenizer=None, block_size=16):
    return Documents.fit(lines, tokenizer or Tokenizer(), block_size)


@pytest.mark.parametrize(
    "content",
    [b"emma\nava\n", b"emma\nava", b"emma\r\nava\r\n", b"\xef\xbb\xbfemma\nava\n"],
    ids=["LF", "no newline at the end", "CRLF", "BOM"],
)
def test_line_ends_and_bom_do_not_matter(content, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert read_lines(path) == ["emma", "ava"]


UNREADABLE = {
    "empty": (b"", "expected one name per line, found an empty file"),
    "blank": (b"\n \n\t\n", "expected one name per line, found an empty file"),
    "Latin-1": (b"emma\njos\xe9\n", "expected UTF-8 text, found byte 0xe9 at offset 8"),
    "missing": (None, "no such file"),
}


@pytest.mark.parametrize(("content", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_the_error_names_an_unreadable_file_and_the_reason(content, reason, tmp_path):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileFormatError) as error:
        read_lines(path)
    assert str(error.value).startswith(f"{path}: {reason}")
    with pytest.raises(FileFormatError, match="expected a file of names, found a folder"):
        read_lines(tmp_path)


@pytest.mark.parametrize(
    ("lines", "names", "options"),
    [
        (["emma", "ava", "emma"], ["emma", "ava", "emma"], {}),
        (["  emma ", "ava\t"], ["emma", "ava"], {}),
        (["Emma"], ["Emma"], {"tokenizer": Tokenizer("Eam")}),
    ],
)
def test_names_that_fit_are_kept_in_order_without_a_note(lines, names, options):
    documents = fit(*lines, **options)
    assert (documents.names, documents.notes, len(documents)) == (names, (), len(names))


def test_notes_count_changed_and_omitted_lines_and_quote_the_first():
    documents = fit("ava", "", "Emma", "OLA", "x1", "jo-se", "ÀB", "z" * 16, "mia", " ", "z" * 15)
    assert documents.names == ["ava", "emma", "ola", "mia", "z" * 15]
    assert documents.notes == (
        "2 lines lowercased (first: line 3: 'Emma')",
        "2 lines left out, blank (first: line 2: '')",
        "3 lines left out, with a character outside a..z (first: line 5: 'x1')",
        f"1 line left out, longer than 15 characters (first: line 8: '{'z' * 16}')",
    )
    assert fit("ava", "José").notes == (
        "1 line left out, with a character outside a..z (first: line 2: 'José')",
    )


@pytest.mark.parametrize("line", ["x" * 1_000_000, "É" * 1_000_000, "Abc" * 300_000])
def test_a_note_on_a_long_line_is_short(line):
    (note,) = fit(line, "ava", block_size=2_000_000 if line[0] == "A" else 16).notes
    assert "first: line 1: '" in note
    assert len(note) < 200


@pytest.mark.sweep
def test_the_description_of_a_huge_vocabulary_is_short():
    letters = "".join(map(chr, range(0x10000, 0x110000)))
    one_run, many_runs = Tokenizer(letters).describe_chars(), Tokenizer(letters[::-1]).describe_chars()
    assert one_run == f"{letters[0]}..\\U0010ffff"  # U+10FFFF is not a character, so it is spelled out
    assert many_runs.endswith("... (1,048,576 characters)")
    assert len(many_runs) < 300


def test_the_split_depends_only_on_the_name():
    first, second = fit("emma", "ava", "mia", "ava"), fit("zoe", "ava", "emma")
    for documents in (first, second):
        sides = {documents.names[i] for i in documents.held_out}
        assert sides == {name for name in documents.names if held_out(name)}
        assert sorted([*documents.held_out, *documents.train]) == list(range(len(documents)))


def test_the_split_never_changes():
    """Stored runs rely on these held-out names, which the hash in the docstring gave once."""
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


def test_the_fingerprint_depends_on_names_and_their_order():
    prints = {fit(*lines).fingerprint for lines in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", "b"])}
    assert len(prints) == 4
    assert fit("a", "b").fingerprint == fit(" A", "b").fingerprint
    assert fit("a", "b").fingerprint.startswith("2 names, crc32 ")


@pytest.mark.parametrize(
    ("bos", "order"), [("first", [1]), ("last", [0]), ("last", [2, 0]), ("first", [1, 1, 2])]
)
def test_a_batch_has_the_ids_of_its_names(bos, order):
    tokenizer, names = Tokenizer(bos=bos), ["emma", "a", "zo"]
    encoded = Encoded(names, tokenizer, Config())
    batch = encoded.several(np.array(order)) if len(order) > 1 else encoded.one(order[0])
    expected = [tokenizer.encode_name(n) for n in sorted((names[i] for i in order), key=len)]
    assert batch.tokens.tolist() == [i for ids in expected for i in ids[:-1]]
    assert batch.targets.argmax(axis=1).tolist() == [i for ids in expected for i in ids[1:]]
    shares = [1 / (len(ids) - 1) / len(order) for ids in expected for _ in ids[1:]]
    assert np.allclose(batch.targets.sum(axis=1), shares)
    assert batch.rows.positions.tolist() == [p for ids in expected for p in range(len(ids) - 1)]
    assert batch.tokens_onehot.argmax(axis=1).tolist() == batch.tokens.tolist()
    assert batch.rows.positions_onehot.argmax(axis=1).tolist() == batch.rows.positions.tolist()


def test_encodes_characters_beyond_the_basic_plane():
    tokenizer = Tokenizer("ab\U0001f600")
    encoded = Encoded(["a\U0001f600b"], tokenizer, Config(vocab_size=4))
    assert encoded.one(0).tokens.tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize("char", ["\0", "Ä", "A"])
def test_only_the_beginning_of_a_huge_line_is_normalized(char, monkeypatch):
    """A sparse file can have lines of any length, and lowercasing a character makes an object."""
    lengths, original = [0], Tokenizer.normalize

    def normalize(self, text):
        lengths.append(len(text))
        return original(self, text)

    monkeypatch.setattr(Tokenizer, "normalize", normalize)
    line = char * 10**6
    assert "longer than 15 characters" in Documents.fit([line, "emma"], Tokenizer(), 16).notes[0]
    with pytest.raises(InputError):
        init().read(line)
    if char != "A":
        with pytest.raises(InputError):
            Tokenizer().encode(line)
    print(max(lengths))
    assert max(lengths) <= 2000


def test_one_character_is_singular():
    assert "longer than 1 character (" in fit("a", "emma", block_size=2).notes[0]
    model = init(Config(block_size=2))
    assert model.read_many(["a", "emma"])[1] == "longer than 1 character"
    with pytest.raises(InputError, match="expected at most 1 character "):
        model.read("emma")
