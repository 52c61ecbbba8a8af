"""Paths that are not files, and huge files: rejected at once with one line, and with little memory."""

import os

import numpy as np
import pytest
from attacks.formats.places import PLACES
from safetensors.numpy import save_file
from support.commands import process
from support.gguf_files import assemble, string, u32, u64
from support.hostile import SLACK, open_safely, time_limit

from microgpt_trace import load
from microgpt_trace.comparison.prompts import read_prompts
from microgpt_trace.dumps.formats import is_recording, open_recording
from microgpt_trace.errors import FileFormatError
from microgpt_trace.microgpt import checkpoint
from microgpt_trace.microgpt.documents import read_lines
from microgpt_trace.naming.user_map import read_map
from microgpt_trace.patching.pairs import read_pairs
from microgpt_trace.timeline.log import watched_before
from microgpt_trace.timeline.reading import read_timeline
from microgpt_trace.untrusted_files import MAX_BYTES, read_bytes, read_json, read_text

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes and devices as files here")

READERS = {
    "load": load, "load of a checkpoint": checkpoint.load, "data": read_lines, "a log": read_timeline,
    "prompts": read_prompts, "pairs": read_pairs, "a map": read_map, "a dump": open_recording,
    "JSON": read_json,
}  # fmt: skip
MESSAGES = {
    "fifo": "found a pipe",
    "zeros": "found a device",
    "loop": "cannot read it (Too many levels of symbolic links)",
    "dangling link": "no such",
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_rejects_what_is_not_a_file(tmp_path, read):
    for place, words in MESSAGES.items():
        PLACES[place](tmp_path / place)
        assert words in open_safely(tmp_path / place, read, room=SLACK)
    assert not is_recording(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("missing", "n" * 300, "n\0", "\udcff", "file/inside"):
        assert open_safely(tmp_path / name, read, room=SLACK)


def sparse(path, head, size=1 << 40):
    path.write_bytes(head)
    os.truncate(path, size)
    return path


HUGE = 1 << 40
LONG = assemble(string("k") + u32(8) + u64(2**32), metadata=1)
FILES = {
    "load of a checkpoint": (checkpoint.load, b"", "at most 1,073,741,824 bytes, found 1,099"),
    "data": (read_lines, b"", f"a file of names of at most {MAX_BYTES:,} bytes, found 1,099"),
    "prompts": (read_prompts, b"", "found 1,099,511,627,776"),
    "pairs": (read_pairs, b"", "found 1,099,511,627,776"),
    "a map": (read_map, b"", "at most 1,048,576 bytes, found 1,099"),
    "a document": (open_recording, b'{"schema"', "found 1,099,511,627,776"),
    "GGUF": (load, LONG, "the value of 'k' of 4,294,967,296 bytes is too long (at most"),
}


@pytest.mark.parametrize(("read", "head", "words"), FILES.values(), ids=FILES)
def test_rejects_huge_files_without_reading_them(tmp_path, read, head, words):
    assert words in open_safely(sparse(tmp_path / "x", head), read, room=SLACK)


def test_rejects_a_huge_header_without_reading_it(tmp_path):
    sparse(tmp_path / "model.safetensors", (HUGE - 8).to_bytes(8, "little") + b"{")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "header too large" in open_safely(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_rejects_a_pipe_in_the_folder_of_a_model(tmp_path, name):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert f"{name}: expected a regular file, found a pipe" in open_safely(tmp_path)


@pytest.mark.parametrize("name", ["x.npy", "embedding.bin", "manifest.json"])
def test_rejects_a_pipe_in_the_folder_of_a_dump(tmp_path, name):
    if name != "x.npy":
        (tmp_path / "attention.bin").write_bytes(b"APRT" + b"\xff" * 4 + bytes(4))
    os.mkfifo(tmp_path / name)
    with time_limit():
        assert is_recording(tmp_path)
    message = open_safely(tmp_path, open_recording, memory=2)
    assert f"{name}: expected " in message
    assert ", found a pipe" in message


def test_a_log_that_is_a_pipe_has_no_watched_name(tmp_path):
    os.mkfifo(tmp_path / "x")
    with time_limit():
        assert watched_before(tmp_path / "x") is None


SHORTER = """
import os, sys
from pathlib import Path
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.errors import FileFormatError
from microgpt_trace.readers.safetensors import read_safetensors

path = Path(sys.argv[1])
large, small = sorted(read_safetensors(path), key=lambda tensor: len(tensor.shape), reverse=True)
leftovers = open_recording(path).leftovers
os.truncate(path, 4096)
dumps = [one.recorded.read for one in leftovers]
for read in (small.read, large.read, lambda: large.rows(0, 9), lambda: large.take([7]), *dumps):
    try:
        print(read().size)
    except FileFormatError as error:
        print(error)
"""


def test_reports_a_model_that_becomes_shorter(tmp_path):
    """Without a check the system would end the process (SIGBUS)."""
    arrays = {"model.embed_tokens.weight": np.ones((300, 300), "f4"), "model.norm.weight": np.ones(300, "f4")}
    save_file(arrays, tmp_path / "x")
    done = process(tmp_path / "x", code=SHORTER)
    print(done.err)
    shorter = f"{tmp_path / 'x'}: the file became shorter while it was read"
    assert sorted(done.out.split("\n")) == sorted(["", *[shorter] * 6])


def test_rejects_text_that_is_not_utf8_or_too_long(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfab\xff")
    with pytest.raises(FileFormatError, match="found byte 0xff at offset 5"):
        read_text(tmp_path / "x")
    assert len(read_bytes(tmp_path / "x", most=6)) == 6
    with pytest.raises(FileFormatError, match="expected a map of at most 5 bytes, found 6"):
        read_bytes(tmp_path / "x", "a map", 5)
