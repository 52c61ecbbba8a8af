"""Corpora of other machines: all of them is read, or one error names the URL."""

import gzip
import sys

import pytest
from support.corpora import NAMES, TEXTS, corpus, corpus_bytes, texts
from support.file_server import served

from microgpt_trace.errors import FileFormatError, InputError, RunError

fsspec = pytest.importorskip("fsspec")
MANY = [f"text {i * i} " + "x" * 60 for i in range(1500)]
LONG = dict.fromkeys(("long.txt", "long.jsonl.gz", "long.txt.zst", "long.parquet"), MANY)


@pytest.fixture
def memory():
    """A function that puts files into fsspec's own file system."""
    files = fsspec.filesystem("memory")
    yield lambda name, content: files.pipe_file(f"/corpus/{name}", content)
    files.rm("/corpus", recursive=True)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("aiohttp")
    listing = b'<a href="/plain/b.txt">b</a> <a href="/plain/a.txt">a</a> <a href="/plain/c.csv">c</a>'
    files = {name: corpus_bytes(held, name) for name, held in LONG.items()}
    files |= {"": listing, "a.txt": b"a\n", "b.txt": b"b\n"}
    files["large.txt"] = corpus_bytes([f"{i} " * 100 for i in range(16000)], "large.txt")  # 9 MB
    with pytest.MonkeyPatch.context() as patched, served(files) as (address, requests):
        patched.setenv("NO_PROXY", "127.0.0.1")
        yield address, requests


def test_files_of_a_file_system_of_fsspec(memory):
    for name in NAMES:
        memory(name, corpus_bytes(TEXTS, name))
        url = f"memory://corpus/{name}"
        assert [*corpus(url)] == [(i, text, url, i + 1, "") for i, text in enumerate(TEXTS)]


def test_globs_of_a_file_system_of_fsspec(memory):
    for name in ("b.txt", "a.txt", "folder.txt/c.txt"):
        memory(name, name.encode())
    assert texts("memory://corpus/*.txt") == ["a.txt", "b.txt"]
    assert [d.place for d in corpus("memory://corpus/[a].txt")] == ["memory:///corpus/a.txt:1"]
    with pytest.raises(InputError, match=r"^memory://corpus/\*\.gz: no file matches"):
        texts("memory://corpus/*.gz")
    with pytest.raises(FileFormatError, match=r"folder\.txt: expected a file of documents, found a folder"):
        texts("memory://corpus/folder.txt")
    with pytest.raises(FileFormatError, match=r"^memory://corpus/c\.txt: no such file"):
        texts("memory://corpus/c.txt")


def test_a_url_of_this_machine_is_a_path(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    assert texts(f"file://{tmp_path}/*.txt") == ["a"]
    with pytest.raises(FileFormatError, match="found a device"):
        texts("file:///dev/zero")


def test_a_file_in_an_archive(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/a.jsonl", corpus_bytes(TEXTS, "a.jsonl"))
    assert texts(f"zip://in/a.jsonl::file://{tmp_path}/all.zip") == TEXTS


# --- HTTP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["plain", "ranges", "unsized"])
def test_whatever_way_a_server_has_all_is_read(server, way):
    """And no more than what is needed."""
    for name in LONG if way in ("plain", "ranges") else ("long.jsonl.gz", "long.parquet"):
        assert texts(f"{server[0]}/{way}/{name}?from=a.txt#b.parquet") == MANY
    for name in ("large.txt", "long.parquet"):
        assert len(texts(f"{server[0]}/{way}/{name}", limit=3)) == 3


def test_parts_may_be_smaller_than_what_was_asked_for(server):
    assert texts(f"{server[0]}/short-ranges/long.jsonl.gz") == MANY


def test_a_file_that_is_said_to_be_encoded_is_taken_as_it_is(server):
    assert texts(f"{server[0]}/encoded/long.jsonl.gz") == MANY


@pytest.mark.parametrize("name", ["long.txt", "long.parquet", ""])
def test_no_more_is_read_than_was_asked_for(server, name):
    address, requests = server
    url = f"{address}/endless-ranges/{name}" if name else f"{address}/endless/*.txt"
    requests.clear()
    with pytest.raises(RunError, match=r"the transfer failed \(expected at most [\d,]+ bytes, found more\)"):
        texts(url)
    assert requests.count("a megabyte") < 40


@pytest.mark.parametrize("way", ["plain", "ranges"])
def test_more_than_a_block_is_read(server, way):
    address, requests = server
    requests.clear()
    assert sum(1 for _ in corpus(f"{address}/{way}/large.txt")) == 16000
    parts = [request for request in requests if request.startswith("GET ranges bytes=")]
    assert len(parts) == (3 if way == "ranges" else 0), requests  # the question whether it gives parts


def test_a_sample_and_globs(server):
    assert len(texts(f"{server[0]}/plain/long.txt", sample=10)) == 10
    assert texts(f"{server[0]}/plain/*.txt") == ["a", "b"]


@pytest.mark.parametrize("way", ["cut", "cut-ranges", "lost-ranges"])
def test_a_transfer_that_is_cut_off_is_no_shorter_corpus(server, way):
    for name in LONG:
        url = f"{server[0]}/{way}/{name}"
        with pytest.raises((RunError, FileFormatError), match=f"^{url}: "):
            texts(url, skip_bad=True)


def test_a_packed_file_of_unknown_size_tells_its_end(server):
    with served({"a.gz": gzip.compress(b"one\n" * 9999)[:-9]}) as (address, _):
        url = f"{address}/unsized/a.gz"
        with pytest.raises(FileFormatError, match=f"^{url}: expected gzip data to its end"):
            texts(url)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [(410, FileFormatError, "no such file"), (403, RunError, r"the transfer failed \(403 Forbidden\)")],
)
def test_what_a_server_refuses(server, status, error, message):
    url = f"{server[0]}/{status}/a.txt"
    with pytest.raises(error, match=f"^{url}: {message}"):
        texts(url)


@pytest.mark.parametrize("way", ["silent/long.txt", "silent-ranges/long.parquet"])
def test_a_server_that_falls_silent(server, way, monkeypatch):
    monkeypatch.setattr("microgpt_trace.corpus.remote.SILENCE", 0.1)
    url = f"{server[0]}/{way}"
    with pytest.raises(RunError, match=f"^{url}: the transfer failed .nothing came for 0.1 seconds"):
        texts(url)


def test_a_server_that_is_not_there():
    with pytest.raises(RunError, match=r"^http://127\.0\.0\.1:1/a: the transfer failed \(Cannot connect"):
        texts("http://127.0.0.1:1/a")


# --- What is missing ----------------------------------------------------------------------------


def test_what_fsspec_does_not_open(monkeypatch):
    with pytest.raises(InputError, match=r"^nothing://a: expected a URL that fsspec opens \(Protocol not"):
        texts("nothing://a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"^s3://b/a\.txt: it needs the package s3fs: python -m pip install"):
        texts("s3://b/a.txt")


def test_a_package_for_http_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(InputError, match=r"the package aiohttp: python -m pip install aiohttp$"):
        texts("http://127.0.0.1:1/a")
