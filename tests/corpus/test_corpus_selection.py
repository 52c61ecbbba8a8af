"""The documents that a selection takes, and the rows that it skips or refuses."""

import random
import sys
from contextlib import suppress

import pytest
from support.corpora import TEXTS, compress, corpus, corpus_bytes, records, table, texts, write

from microgpt_trace.corpus.corpus import Corpus, CorpusSelection
from microgpt_trace.errors import FileFormatError, InputError, MicrogptError, RunError

MOST = "9,223,372,036,854,775,807"
MANY = [f"text {i}" for i in range(1000)]


@pytest.fixture
def many(tmp_path):
    """A thousand documents in two files, with blank lines among them."""
    half = "\n\n".join(MANY[:500]).encode()
    return write(tmp_path, "a.txt", half), write(tmp_path, "b.jsonl", MANY[500:])


def test_a_limit_takes_the_first_documents(many):
    read = corpus(*many, limit=3)
    assert [d.text for d in read] == MANY[:3]
    assert (read.documents, read.skipped["blank"].rows) == (3, 2)
    assert texts(*many, limit=5000) == MANY


def test_a_limit_opens_only_the_files_that_it_needs(tmp_path, many):
    assert len(texts(*many, write(tmp_path, "c.txt", b"\xff"), limit=1000)) == 1000


@pytest.mark.parametrize("count", [1, 50, 999, 1000, 4000])
def test_a_sample_is_that_of_algorithm_s(many, count):
    """Algorithm S written differently, over Python's random(), and the same at a second reading."""
    rng, size, expected = random.Random(11), min(count, 1000), []
    for i, text in enumerate(MANY):
        if rng.random() < (size - len(expected)) / (1000 - i):
            expected.append(text)
    read = corpus(*many, sample=count, seed=11)
    documents = [*read]
    assert [d.text for d in documents] == expected
    assert [d.number for d in documents] == [*range(size)]
    assert read.skipped["blank"].rows == 499
    assert [*read] == documents


def test_refuses_a_corpus_that_shrinks_between_the_readings_of_a_sample(monkeypatch):
    rows = iter([[("a", "f", 1)] * 9, [("a", "f", 1)] * 3])
    monkeypatch.setattr(Corpus, "_texts", lambda *_: iter(next(rows)))
    with pytest.raises(RunError, match=r"f\.txt: changed while the sample was read"):
        texts("f.txt", sample=8)


@pytest.mark.parametrize(
    ("sources", "selected", "message"),
    [
        ((), {}, "expected names of files"),
        (("a", ""), {}, "expected names of files"),
        (("-", "a", "-"), {}, "can be read only once"),
        (("a",), {"limit": 0}, f"limit: expected a number from 1 to {MOST}, found a smaller number"),
        (("a",), {"sample": 10**30}, f"sample: expected a number from 1 to {MOST}, found a larger"),
        (("a",), {"limit": 10**5000}, f"limit: expected a number from 1 to {MOST}, found a larger"),
        (("a",), {"seed": -1}, f"seed: expected a number from 0 to {MOST}, found a smaller number"),
        (("a",), {"field": ""}, "field: expected the name"),
        (("a",), {"sample": 3, "limit": 3}, "give only one"),
        (("a", "-"), {"sample": 3}, r"standard input \(-\) can be read only once"),
    ],
)
def test_refuses_selections_that_are_empty_or_contradict_themselves(sources, selected, message):
    with pytest.raises(InputError, match=message):
        CorpusSelection(sources, **selected)


# --- Rows that are not texts --------------------------------------------------------------------

BAD_RECORDS = {
    b'{"text": "a\xff"}': ("not UTF-8", "expected UTF-8 text, found byte 0xff at offset 11 of the row"),
    b'{"text": "a"': ("not JSON", r"expected a JSON object \(.*\), found '{\"text\": \"a\"'"),
    b'{"text": ' + b"9" * 5000 + b"}": ("not JSON", "an integer of 5,000 digits"),
    b'["text"]': ("not a JSON object", r"expected a JSON object, found \['text'\]"),
    b'{"Text": "a", "b": 1}': ("no field 'text'", "expected a field 'text', found 'Text', 'b'"),
    b"{}": ("no field 'text'", "expected a field 'text', found none"),
    b'{"text": null}': ("field 'text' is not text", "expected text in the field 'text', found None"),
    b'{"text": "a\\ud83d"}': ("lone surrogate", r"found the lone surrogate \\ud83d"),
}


@pytest.mark.parametrize("line", BAD_RECORDS, ids=range(len(BAD_RECORDS)))
def test_a_bad_record_is_refused_or_counted(tmp_path, line):
    reason, message = BAD_RECORDS[line]
    content = records(["a", " "]) + line + b"\n\n" + records(["b"]) + line
    source = write(tmp_path, "a.jsonl.gz", compress(content, ".gz"))
    with pytest.raises(FileFormatError, match=rf"a\.jsonl\.gz:3: .*{message}"):
        texts(source)
    for selected in ({}, {"sample": 9}):
        read = corpus(source, skip_bad=True, **selected)
        assert [d.text for d in read] == ["a", "b"]
        assert read.skipped == {"blank": (2, f"{source}:2"), reason: (2, f"{source}:3")}


def test_a_surrogate_pair_is_one_character(tmp_path):
    assert texts(write(tmp_path, "a.jsonl", b'{"text": "\\ud83d\\ude00"}')) == ["😀"]


def test_a_line_that_is_not_utf8_is_refused_or_skipped(tmp_path):
    source = write(tmp_path, "a.txt", b"one\n\xe9t\xe9\ntwo")
    with pytest.raises(FileFormatError, match=r"a\.txt:2: expected UTF-8 text, found byte 0xe9 at offset 0"):
        texts(source)
    assert texts(source, skip_bad=True) == ["one", "two"]


def test_a_bad_row_of_a_parquet_file_is_refused_or_skipped(tmp_path):
    pa = pytest.importorskip("pyarrow")
    wrong = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    cells = pa.concat_arrays([pa.array(["one", None, ""]), wrong, pa.array(["two"])])
    source = write(tmp_path, "a.parquet", table(cells))
    with pytest.raises(FileFormatError, match=r"a\.parquet:2: expected text in the field 'text', found None"):
        texts(source)
    read = corpus(source, skip_bad=True)
    assert [(d.text, d.place) for d in read] == [
        ("one", f"{source}:1"), ("a", f"{source}:4"), ("two", f"{source}:6"),
    ]  # fmt: skip
    assert {reason: skipped.rows for reason, skipped in read.skipped.items()} == {
        "field 'text' is not text": 1, "blank": 1, "not UTF-8": 1,
    }  # fmt: skip


def test_reads_parquet_columns_of_every_text_type(tmp_path):
    pa = pytest.importorskip("pyarrow")
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        cells = pa.array(TEXTS).cast(kind)
        assert texts(write(tmp_path, "a.parquet", table(cells))) == TEXTS


def test_refuses_a_parquet_column_that_is_not_text(tmp_path):
    source = write(tmp_path, "a.parquet", table([1, 2]))
    with pytest.raises(FileFormatError, match="expected text in the column 'text', found int64"):
        texts(source, skip_bad=True)
    with pytest.raises(FileFormatError, match="expected one column 'body', found the columns 'n', 'text'"):
        texts(source, field="body")


def test_refuses_damaged_parquet_files(tmp_path):
    whole = table(MANY)
    for cut in (0, 3, 400, -1):
        with pytest.raises(FileFormatError, match=r"a\.parquet: expected a Parquet file \("):
            texts(write(tmp_path, "a.parquet", whole[:cut]))
    content = table(["a"], "prompt", store_schema=False).replace(b"prompt", b"p\xf9ompt")
    with pytest.raises(FileFormatError, match=r"a\.parquet: expected a Parquet file \('utf-8'"):
        texts(write(tmp_path, "a.parquet", content), field="n")


def test_the_copy_of_a_compressed_parquet_file_is_bounded(tmp_path, monkeypatch):
    source = write(tmp_path, "a.parquet.gz", MANY)
    monkeypatch.setattr("microgpt_trace.corpus.rows.LARGEST_COPY", 1000)
    with pytest.raises(FileFormatError, match="expected at most 1,000 bytes of Parquet, found more"):
        texts(source)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"a\.parquet\.gz: cannot create a temporary copy \(No such"):
        texts(source)


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
            texts(write(tmp_path, name, bytes(content)), skip_bad=True)


def test_a_dictionary_value_of_parquet_is_not_copied_for_each_row(tmp_path):
    """The dictionary holds the text once, in 5 KB compressed; its forty rows would take 160 MB."""
    pa = pytest.importorskip("pyarrow")
    cells = pa.DictionaryArray.from_arrays(pa.array([0] * 40), pa.array(["x" * (4 << 20)]))
    source = write(tmp_path, "a.parquet", table(cells, compression="zstd", store_schema=False))
    pool, sizes = pa.system_memory_pool(), []
    before = pool.bytes_allocated()
    for document in corpus(source):
        assert len(document.text) == 4 << 20
        sizes.append(pool.bytes_allocated() - before)
    assert len(sizes) == 40
    assert 0 < max(sizes) < 4 * (4 << 20)


# --- Empty corpora and missing files ------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", ""),
        (b"\xef\xbb\xbf", r" \(blank: 1 row\)"),
        (b"\n[]\n[]\n", r" \(blank: 1 row, not a JSON object: 2 rows\)"),
    ],
)
def test_refuses_a_corpus_without_documents(tmp_path, content, why):
    with pytest.raises(InputError, match=rf"a\.jsonl: expected documents, found none{why}$"):
        texts(write(tmp_path, "a.jsonl", content), skip_bad=True)


def test_refuses_a_missing_file_before_reading_another(tmp_path):
    here = write(tmp_path, "a.txt", b"\xff")
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
def test_names_a_missing_package_before_reading_a_file(tmp_path, package, name, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    source = name if "://" in name else write(tmp_path, name, b"")
    message = rf"{name}.* the package {package}: python -m pip install {package}$"
    with pytest.raises(InputError, match=message):
        texts(write(tmp_path, "a.txt", b"\xff"), source)
