"""Corpus files of every format give back the texts that they were written from."""

import gzip
import io
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.corpora import NAMES, TEXTS, compress, corpus, corpus_bytes, records, table, texts, write

from microgpt_trace.corpus.rows import lines_of
from microgpt_trace.errors import FileFormatError, InputError


@pytest.mark.parametrize("name", NAMES)
def test_reads_the_written_texts(tmp_path, name):
    source = write(tmp_path, name, TEXTS)
    read = corpus(source)
    assert [*read] == [(i, text, str(source), i + 1, "") for i, text in enumerate(TEXTS)]
    assert (read.documents, read.skipped) == (len(TEXTS), {})


def test_the_fingerprint_depends_only_on_the_texts(tmp_path):
    sources = [(write(tmp_path, name, TEXTS),) for name in ("a.txt", "b.jsonl", "c.txt.gz", "d.parquet")]
    halves = write(tmp_path, "1.txt", TEXTS[:3]), write(tmp_path, "2.jsonl", TEXTS[3:])
    assert len({fingerprint(*source) for source in (*sources, halves)}) == 1


def fingerprint(*sources):
    """Read a corpus twice and return its fingerprint."""
    read = corpus(*sources)
    first = len([*read]), read.fingerprint
    assert (len([*read]), read.fingerprint) == first
    return read.fingerprint


@pytest.mark.parametrize("other", [TEXTS[:-1], TEXTS[::-1], ["emmaolivia was here", *TEXTS[2:]]])
def test_other_texts_have_another_fingerprint(tmp_path, other):
    assert fingerprint(write(tmp_path, "a.txt", TEXTS)) != fingerprint(write(tmp_path, "b.txt", other))


def test_reads_the_requested_field(tmp_path):
    for name, content in (("a.jsonl", records(TEXTS, "prompt")), ("a.parquet", table(TEXTS, "prompt"))):
        assert texts(write(tmp_path, name, content), field="prompt") == TEXTS


# --- Lines --------------------------------------------------------------------------------------

pieces = st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"a", "é".encode(), b"\xff", b"", b"bc" * 9]))


@given(pieces, st.integers(1, 7))
def test_lines_do_not_depend_on_chunks(content, size):
    whole = b"".join(content)
    ended = whole if whole.endswith(b"\n") or not whole else whole + b"\n"
    expected = ended.replace(b"\r\n", b"\n").split(b"\n")[:-1]
    assert [*lines_of(chunks(whole, size))] == expected


def chunks(content, size):
    return [content[i : i + size] for i in range(0, len(content), size)]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_line_may_end_in_crlf(tmp_path, ending):
    content = ending.join(["one", "", "two\rhalf", "  ", "\u2028three\x0b\x85"]).encode()
    read = corpus(write(tmp_path, "a.txt", content))
    assert [(d.text, d.place[-2:]) for d in read] == [
        ("one", ":1"), ("two\rhalf", ":3"), ("\u2028three\x0b\x85", ":5"),
    ]  # fmt: skip
    assert {reason: skipped.rows for reason, skipped in read.skipped.items()} == {"blank": 2}
    assert read.skipped["blank"].first.endswith("a.txt:2")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_drops_a_byte_order_mark(tmp_path, name):
    plain = corpus_bytes(TEXTS, name.removesuffix(".gz"))
    assert texts(write(tmp_path, name, compress(b"\xef\xbb\xbf" + plain, name))) == TEXTS


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_longest_line_is_read_and_a_longer_one_is_not(monkeypatch, end):
    monkeypatch.setattr("microgpt_trace.corpus.rows.LONGEST", 8)
    whole = b"12345678\n123456789\nab\n" + b"x" * 50 + b"\r\n12345678\r\n123456789\r\n12345678" + end
    for size in (1, 3, 100):
        lines = [*lines_of(chunks(whole, size))]
        assert lines == [b"12345678", None, b"ab", None, b"12345678", None, b"12345678"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_refuses_a_text_that_is_too_long(tmp_path, monkeypatch, name):
    monkeypatch.setattr("microgpt_trace.corpus.rows.LONGEST", 1000)
    with pytest.raises(FileFormatError, match=rf"{name}:3: expected a text of at most 67,108,864 bytes, "):
        texts(write(tmp_path, name, ["x" * 20, "é" * 20, "x" * 2000]))


# --- Compressed files ---------------------------------------------------------------------------


def test_reads_all_members_of_a_compressed_file(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    parts = [b"one\ntw", b"", b"o\nthree\n"]
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"  # RFC 8878, 3.1.2
    frames = skippable.join(map(zstandard.compress, parts))
    for name, content in (
        ("a.gz", b"".join(map(gzip.compress, parts))),
        ("b.gz", b"".join(map(gzip.compress, parts)) + bytes(3000)),
        ("c.zst", frames),
    ):
        assert texts(write(tmp_path, name, content)) == ["one", "two", "three"]


NUMBERS = [f"text {i * i}" for i in range(3000)]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.parquet.gz"])
def test_refuses_a_file_that_is_cut_off(tmp_path, name):
    whole = corpus_bytes(NUMBERS, name)
    for end in (0, len(whole) // 100, len(whole) // 2, -1):
        source = write(tmp_path, name, whole[:end])
        with pytest.raises(FileFormatError, match=r"^.*a\..*: expected complete .* data, found .* cut off"):
            texts(source, skip_bad=True)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_refuses_damaged_compressed_files(tmp_path, name):
    """The cases: another format, bytes after the end, damage in the middle, and a second member cut off."""
    whole = corpus_bytes(NUMBERS, name)
    damaged = bytearray(whole)
    middle = slice(len(whole) // 2, len(whole) // 2 + 40)
    damaged[middle] = (byte ^ 0x55 for byte in damaged[middle])
    for content in (b"emma\nolivia\n", whole + b"emma", bytes(damaged), whole + whole[:-1]):
        with pytest.raises(FileFormatError, match=r"a\.txt\.\w+: expected (complete )?(gzip|Zstandard) data"):
            texts(write(tmp_path, name, content))


@contextmanager
def within(limit):
    """Fail if Python allocates more than `limit` bytes here."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak:,} bytes"


def zst_bomb(size):
    """RLE blocks (RFC 8878, 3.1.1.2): 4 bytes of file become 128 KB."""
    pytest.importorskip("zstandard")
    header = b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x38"  # a window of 128 KB, no content size
    block = (1 << 1 | (1 << 17) << 3).to_bytes(3, "little") + b"x"
    return header + block * (size >> 17) + (1).to_bytes(3, "little")


@pytest.mark.parametrize("name", ["bomb.gz", "bomb.zst"])
def test_a_decompression_bomb_takes_little_memory(tmp_path, name, monkeypatch):
    monkeypatch.setattr("microgpt_trace.corpus.rows.LONGEST", 1 << 20)
    size = 1 << 25
    content = zst_bomb(size) if name.endswith("zst") else gzip.compress(bytes(size), 6)
    source = write(tmp_path, name, content)
    with within(24 << 20), pytest.raises(FileFormatError, match=r":1: expected a text of at most"):
        texts(source)


def test_lines_of_one_piece_are_split_a_few_at_a_time(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    source = write(tmp_path, "short.zst", zstandard.compress(b"ab\n" * (1 << 22)))
    with within(40 << 20):
        assert texts(source, limit=1) == ["ab"]


@pytest.mark.parametrize("name", ["long.txt", "long.jsonl.gz"])
def test_memory_does_not_grow_with_the_corpus(tmp_path, name):
    source = write(tmp_path, name, [f"{i} " * 1000 for i in range(1600)])  # 8 MB
    with within(4 << 20):
        assert sum(1 for _ in corpus(source)) == 1600


def test_a_parquet_file_is_read_piece_by_piece(tmp_path):
    content = table([f"{i} " * 1000 for i in range(1600)], compression="none")  # 8 MB in one row group
    source = write(tmp_path, "long.parquet", content)
    pool = pytest.importorskip("pyarrow").system_memory_pool()
    before = pool.bytes_allocated()
    with within(3 << 20):  # pyarrow reads a Python file through Python's memory
        peak = max(pool.bytes_allocated() - before for _ in corpus(source))
    assert peak < 4 << 20, f"{peak:,} bytes"


# --- Sources ------------------------------------------------------------------------------------


def test_sources_are_read_in_order_and_globs_are_sorted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "c.jsonl", ".hidden.txt"):
        write(tmp_path, name, [name])
    (tmp_path / "deep" / "er.txt").mkdir(parents=True)
    write(tmp_path / "deep" / "er.txt", "d.txt", ["d.txt"])
    assert texts("c.jsonl", "*.txt", "a.txt") == ["c.jsonl", "a.txt", "b.txt", "a.txt"]
    assert texts("**/*.txt") == ["a.txt", "b.txt", "d.txt"]
    assert [d.place for d in corpus("[ab].txt")] == ["a.txt:1", "b.txt:1"]
    assert texts(write(tmp_path, "[ab].txt", ["an existing path"])) == ["an existing path"]


def test_standard_input_is_text_and_can_be_read_once(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "a"}\r\nb')))
    read = corpus("-")
    assert [*read] == [(0, '{"text": "a"}', "-", 1, ""), (1, "b", "-", 2, "")]
    with pytest.raises(InputError, match=r"^-: standard input can be read only once"):
        next(iter(read))
    monkeypatch.setattr("sys.stdin", None)  # as where a shell closed it
    with pytest.raises(InputError, match="there is no standard input"):
        texts("-")
