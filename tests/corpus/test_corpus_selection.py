"""Which documents are taken: the first, a sample, and none of what is no document."""

import random
import sys
from contextlib import suppress

import pytest
from support.corpora import TEXTS, corpus, corpus_bytes, packed, records, table, texts, written

from microgpt_trace.corpus.corpus import Corpus, CorpusSelection
from microgpt_trace.errors import FileFormatError, InputError, MicrogptError, RunError

MANY = [f"text {i}" for i in range(1000)]


@pytest.fixture
def many(tmp_path):
    """A thousand documents in two files, with blank lines among them."""
    half = "\n\n".join(MANY[:500]).encode()
    return written(tmp_path, "a.txt", half), written(tmp_path, "b.jsonl", MANY[500:])


def test_a_limit_takes_the_first(many):
    read = corpus(*many, limit=3)
    assert [d.text for d in read] == MANY[:3]
    assert (read.documents, read.skipped["blank"].rows) == (3, 2)
    assert texts(*many, limit=5000) == MANY


def test_a_limit_opens_no_file_that_it_does_not_need(tmp_path, many):
    assert len(texts(*many, written(tmp_path, "c.txt", b"\xff"), limit=1000)) == 1000


@pytest.mark.parametrize("count", [1, 50, 999, 1000, 4000])
def test_a_sample_is_chosen_by_random_numbers_alone(many, count):
    """Algorithm S in other words, over Python's guaranteed random(); and the same when it is read again."""
    rng, wanted, expected = random.Random(11), min(count, 1000), []
    for i, text in enumerate(MANY):
        if rng.random() < (wanted - len(expected)) / (1000 - i):
            expected.append(text)
    read = corpus(*many, sample=count, seed=11)
    found = [*read]
    assert [d.text for d in found] == expected
    assert [d.number for d in found] == [*range(wanted)]
    assert read.skipped["blank"].rows == 499
    assert [*read] == found


def test_a_corpus_that_shrinks_under_a_sample_is_noticed(tmp_path, monkeypatch):
    rows = iter([[("a", "f", 1)] * 9, [("a", "f", 1)] * 3])
    monkeypatch.setattr(Corpus, "_texts", lambda *_: iter(next(rows)))
    with pytest.raises(RunError, match=r"f\.txt: changed while the sample was read"):
        texts("f.txt", sample=8)


@pytest.mark.parametrize(
    ("sources", "selected", "message"),
    [
        ((), {}, "expected names of files"),
        (("a", ""), {}, "expected names of files"),
        (("-", "a", "-"), {}, "can be read once"),
        (("a",), {"limit": 0}, "limit: expected at least 1, found 0"),
        (("a",), {"sample": 10**30}, "sample: expected at most 9,223,372,036,854,775,807, found a larger"),
        (("a",), {"limit": 10**5000}, "limit: expected at most 9,223,372,036,854,775,807, found a larger"),
        (("a",), {"seed": -1}, "seed: expected at least 0, found -1"),
        (("a",), {"field": ""}, "field: expected the name"),
        (("a",), {"sample": 3, "limit": 3}, "give one of the two"),
        (("a", "-"), {"sample": 3}, "- can be read once"),
    ],
)
def test_what_asks_for_nothing_is_refused(sources, selected, message):
    with pytest.raises(InputError, match=message):
        CorpusSelection(sources, **selected)


# --- Rows that are no documents -----------------------------------------------------------------

BAD_RECORDS = {
    b'{"text": "a\xff"}': ("not UTF-8", "expected UTF-8 text, found byte 0xff at offset 11 of it"),
    b'{"text": "a"': ("no JSON", r"expected a JSON object \(.*\), found '{\"text\": \"a\"'"),
    b'{"text": ' + b"9" * 5000 + b"}": ("no JSON", "an integer of 5,000 digits"),
    b'["text"]': ("no JSON object", r"expected a JSON object, found \['text'\]"),
    b'{"Text": "a", "b": 1}': ("no field 'text'", "expected a field 'text', found 'Text', 'b'"),
    b"{}": ("no field 'text'", "expected a field 'text', found none"),
    b'{"text": null}': ("field 'text' is no text", "expected text in the field 'text', found None"),
    b'{"text": "a\\ud83d"}': ("half a surrogate pair", r"found \\ud83d by itself"),
}


@pytest.mark.parametrize("line", BAD_RECORDS, ids=range(len(BAD_RECORDS)))
def test_a_bad_record_is_refused_with_its_place_or_counted(tmp_path, line):
    reason, message = BAD_RECORDS[line]
    content = records(["a", " "]) + line + b"\n\n" + records(["b"]) + line
    source = written(tmp_path, "a.jsonl.gz", packed(content, ".gz"))
    with pytest.raises(FileFormatError, match=rf"a\.jsonl\.gz:3: .*{message}"):
        texts(source)
    for selected in ({}, {"sample": 9}):
        read = corpus(source, skip_bad=True, **selected)
        assert [d.text for d in read] == ["a", "b"]
        assert read.skipped == {"blank": (2, f"{source}:2"), reason: (2, f"{source}:3")}


def test_surrogate_pairs_are_a_character(tmp_path):
    assert texts(written(tmp_path, "a.jsonl", b'{"text": "\\ud83d\\ude00"}')) == ["😀"]


def test_a_bad_line_of_text(tmp_path):
    source = written(tmp_path, "a.txt", b"one\n\xe9t\xe9\ntwo")
    with pytest.raises(FileFormatError, match=r"a\.txt:2: expected UTF-8 text, found byte 0xe9 at offset 0"):
        texts(source)
    assert texts(source, skip_bad=True) == ["one", "two"]


def test_a_bad_row_of_a_table(tmp_path):
    pa = pytest.importorskip("pyarrow")
    wrong = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    cells = pa.concat_arrays([pa.array(["one", None, ""]), wrong, pa.array(["two"])])
    source = written(tmp_path, "a.parquet", table(cells))
    with pytest.raises(FileFormatError, match=r"a\.parquet:2: expected text in the field 'text', found None"):
        texts(source)
    read = corpus(source, skip_bad=True)
    assert [(d.text, d.place) for d in read] == [
        ("one", f"{source}:1"), ("a", f"{source}:4"), ("two", f"{source}:6"),
    ]  # fmt: skip
    assert {reason: skipped.rows for reason, skipped in read.skipped.items()} == {
        "field 'text' is no text": 1, "blank": 1, "not UTF-8": 1,
    }  # fmt: skip


def test_columns_of_text_of_every_type(tmp_path):
    pa = pytest.importorskip("pyarrow")
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        cells = pa.array(TEXTS).cast(kind)
        assert texts(written(tmp_path, "a.parquet", table(cells))) == TEXTS


def test_a_column_of_something_else_is_refused(tmp_path):
    source = written(tmp_path, "a.parquet", table([1, 2]))
    with pytest.raises(FileFormatError, match="expected text in the column 'text', found int64"):
        texts(source, skip_bad=True)
    with pytest.raises(FileFormatError, match="expected one column 'body', found the columns 'n', 'text'"):
        texts(source, field="body")


def test_a_table_that_is_damaged_is_refused(tmp_path):
    whole = table(MANY)
    for cut in (0, 3, 400, -1):
        with pytest.raises(FileFormatError, match=r"a\.parquet: expected a Parquet file \("):
            texts(written(tmp_path, "a.parquet", whole[:cut]))


def test_a_packed_table_is_copied_within_bounds(tmp_path, monkeypatch):
    source = written(tmp_path, "a.parquet.gz", MANY)
    monkeypatch.setattr("microgpt_trace.corpus.rows.LARGEST_COPY", 1000)
    with pytest.raises(FileFormatError, match="expected Parquet of at most 1,000 bytes, found more"):
        texts(source)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"a\.parquet\.gz: cannot copy it to a temporary file \(No such"):
        texts(source)


def test_a_name_of_a_column_that_is_no_utf8(tmp_path):
    content = table(["a"], "prompt", store_schema=False).replace(b"prompt", b"p\xf9ompt")
    with pytest.raises(FileFormatError, match=r"a\.parquet: expected a Parquet file \('utf-8'"):
        texts(written(tmp_path, "a.parquet", content), field="n")


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.zst", "a.txt.zst", "a.jsonl.gz", "a.jsonl"])
@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_read_or_refused(tmp_path, name, seed):
    rng, whole = random.Random(seed), corpus_bytes(MANY[:60], name)
    for _ in range(20):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with suppress(MicrogptError):
            texts(written(tmp_path, name, bytes(content)), skip_bad=True)


def test_a_long_text_of_a_table_is_not_copied_for_each_of_its_rows(tmp_path):
    """A dictionary has it once, 5 KB packed; forty rows of it would be 160 MB."""
    pa = pytest.importorskip("pyarrow")
    cells = pa.DictionaryArray.from_arrays(pa.array([0] * 40), pa.array(["x" * (4 << 20)]))
    source = written(tmp_path, "a.parquet", table(cells, compression="zstd", store_schema=False))
    pool, held = pa.system_memory_pool(), []
    before = pool.bytes_allocated()
    for document in corpus(source):
        assert len(document.text) == 4 << 20
        held.append(pool.bytes_allocated() - before)
    assert len(held) == 40
    assert 0 < max(held) < 4 * (4 << 20)


# --- Nothing to read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", ""),
        (b"\xef\xbb\xbf", r" \(1 row blank\)"),
        (b"\n[]\n[]\n", r" \(1 row blank, 2 rows no JSON object\)"),
    ],
)
def test_a_corpus_without_a_document_is_refused(tmp_path, content, why):
    with pytest.raises(InputError, match=rf"a\.jsonl: expected documents, found none{why}$"):
        texts(written(tmp_path, "a.jsonl", content), skip_bad=True)


def test_what_is_no_file_is_refused_before_anything_is_read(tmp_path):
    here = written(tmp_path, "a.txt", b"\xff")
    (tmp_path / "pipe").symlink_to("/dev/null")
    for name, message in (
        ("none.txt", "no such file"),
        ("none*.txt", "no file matches"),
        ("pipe", "found a device"),
        (".", "found a folder"),
        ("a.txt/b", "no such file"),
        ("n\0ul", "cannot read it"),
        ("long*" * 200, "no file matches|cannot read it"),
    ):
        with pytest.raises(MicrogptError, match=message):
            texts(here, str(tmp_path / name))


@pytest.mark.parametrize(
    ("package", "name"), [("pyarrow", "b.parquet"), ("zstandard", "b.zst"), ("fsspec", "memory://b")]
)
def test_a_package_that_is_missing_is_named_before_anything_is_read(tmp_path, package, name, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    source = name if "://" in name else written(tmp_path, name, b"")
    said = rf"{name}.* the package {package}: python -m pip install {package}$"
    with pytest.raises(InputError, match=said):
        texts(written(tmp_path, "a.txt", b"\xff"), source)
