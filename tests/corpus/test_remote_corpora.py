"""A corpus on another machine is read completely, or one error names the URL."""

import gzip
import sys

import pytest
from support.corpora import NAMES, TEXTS, corpus, corpus_bytes, texts
from support.file_server import serving

from microgpt_trace.errors import FileFormatError, InputError, RunError

fsspec = pytest.importorskip("fsspec")
MANY = [f"text {i * i} " + "x" * 60 for i in range(1500)]
LONG = ("long.txt", "long.jsonl.gz", "long.txt.zst", "long.parquet")


@pytest.fixture
def memory():
    """Return a function that puts files into fsspec's in-memory file system."""
    files = fsspec.filesystem("memory")
    yield lambda name, content: files.pipe_file(f"/corpus/{name}", content)
    files.rm("/corpus", recursive=True)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("aiohttp")
    listing = b'<a href="/plain/b.txt">b</a> <a href="/plain/a.txt">a</a> <a href="/plain/c.csv">c</a>'
    files = {name: corpus_bytes(MANY, name) for name in LONG}
    files |= {"": listing, "a.txt": b"a\n", "b.txt": b"b\n"}
    files["large.txt"] = corpus_bytes([f"{i} " * 100 for i in range(16000)], "large.txt")  # 9 MB
    with pytest.MonkeyPatch.context() as patched, serving(files) as (address, requests):
        patched.setenv("NO_PROXY", "127.0.0.1")
        yield address, requests


def test_reads_files_through_fsspec(memory):
    for name in NAMES:
        memory(name, corpus_bytes(TEXTS, name))
        url = f"memory://corpus/{name}"
        assert [*corpus(url)] == [(i, text, url, i + 1, "") for i, text in enumerate(TEXTS)]


def test_expands_globs_through_fsspec(memory):
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


def test_reads_file_urls_as_paths(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    assert texts(f"file://{tmp_path}/*.txt") == ["a"]
    with pytest.raises(FileFormatError, match="found a device"):
        texts("file:///dev/zero")


def test_reads_a_file_in_an_archive(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/a.jsonl", corpus_bytes(TEXTS, "a.jsonl"))
    assert texts(f"zip://in/a.jsonl::file://{tmp_path}/all.zip") == TEXTS


# --- HTTP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["plain", "ranges", "unsized"])
def test_reads_all_of_a_file_from_every_kind_of_server(server, way):
    for name in LONG if way in ("plain", "ranges") else ("long.jsonl.gz", "long.parquet"):
        assert texts(f"{server[0]}/{way}/{name}?from=a.txt#b.parquet") == MANY
    for name in ("large.txt", "long.parquet"):
        assert len(texts(f"{server[0]}/{way}/{name}", limit=3)) == 3


@pytest.mark.parametrize("way", ["short-ranges", "encoded"])
def test_accepts_short_ranges_and_ignores_content_encoding(server, way):
    assert texts(f"{server[0]}/{way}/long.jsonl.gz") == MANY


@pytest.mark.parametrize("name", ["long.txt", "long.parquet", ""])
def test_refuses_more_bytes_than_were_requested(server, name):
    address, requests = server
    url = f"{address}/endless-ranges/{name}" if name else f"{address}/endless/*.txt"
    requests.clear()
    with pytest.raises(RunError, match=r"the transfer failed \(expected at most [\d,]+ bytes, found more\)"):
        texts(url)
    assert requests.count("a megabyte") < 40


@pytest.mark.parametrize("way", ["plain", "ranges"])
def test_reads_a_large_file_in_one_request_or_by_ranges(server, way):
    address, requests = server
    requests.clear()
    assert sum(1 for _ in corpus(f"{address}/{way}/large.txt")) == 16000
    parts = [request for request in requests if request.startswith("GET ranges bytes=")]
    assert len(parts) == (3 if way == "ranges" else 0), requests  # one asks whether the server has ranges


def test_samples_and_expands_globs_over_http(server):
    assert len(texts(f"{server[0]}/plain/long.txt", sample=10)) == 10
    assert texts(f"{server[0]}/plain/*.txt") == ["a", "b"]


@pytest.mark.parametrize("way", ["cut", "cut-ranges", "lost-ranges"])
def test_a_transfer_that_is_cut_off_is_an_error(server, way):
    for name in LONG:
        url = f"{server[0]}/{way}/{name}"
        with pytest.raises((RunError, FileFormatError), match=f"^{url}: "):
            texts(url, skip_bad=True)


def test_a_compressed_file_of_unknown_size_that_is_cut_off_is_an_error(server):
    with serving({"a.gz": gzip.compress(b"one\n" * 9999)[:-9]}) as (address, _):
        url = f"{address}/unsized/a.gz"
        with pytest.raises(FileFormatError, match=f"^{url}: expected complete gzip data"):
            texts(url)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [(410, FileFormatError, "no such file"), (403, RunError, r"the transfer failed \(403 Forbidden\)")],
)
def test_reports_the_status_of_a_refused_request(server, status, error, message):
    url = f"{server[0]}/{status}/a.txt"
    with pytest.raises(error, match=f"^{url}: {message}"):
        texts(url)


@pytest.mark.parametrize("way", ["silent/long.txt", "silent-ranges/long.parquet"])
def test_gives_up_a_silent_transfer(server, way, monkeypatch):
    monkeypatch.setattr("microgpt_trace.corpus.remote.SILENCE", 0.1)
    url = f"{server[0]}/{way}"
    with pytest.raises(RunError, match=f"^{url}: the transfer failed .no data arrived for 0.1 seconds"):
        texts(url)


def test_reports_a_server_that_does_not_exist():
    with pytest.raises(RunError, match=r"^http://127\.0\.0\.1:1/a: the transfer failed \(Cannot connect"):
        texts("http://127.0.0.1:1/a")


# --- Missing packages ---------------------------------------------------------------------------


def test_refuses_unknown_protocols_and_names_missing_packages(monkeypatch):
    with pytest.raises(InputError, match=r"^nothing://a: expected a URL that fsspec opens \(Protocol not"):
        texts("nothing://a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"^s3://b/a\.txt: it needs the package s3fs: python -m pip install"):
        texts("s3://b/a.txt")

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(InputError, match=r"the package aiohttp: python -m pip install aiohttp$"):
        texts("http://127.0.0.1:1/a")
