"""`load`: any model, told apart by content, however it is named."""

import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.apr_files import METADATA, apr_bytes
from support.apr_files import tiny_model as apr_model
from support.commands import microgpt, refused
from support.hostile import fuzzing, refuses, survives
from support.tiny_models import tiny_model, write_folder, write_gguf

from microgpt_trace import init, load
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.microgpt.checkpoint import save
from microgpt_trace.readers.loading import format_of


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", *tiny_model("llama_gqa"))


def write_apr(path):
    path.write_bytes(apr_bytes(METADATA, apr_model()[0]))
    return path


WRITERS = {
    "GGUF v3": lambda path: write_gguf(path, *tiny_model("llama_gqa")),
    ".apr v2": write_apr,
}


@pytest.mark.parametrize(
    "name", ["model.gguf", "model.apr", "model.safetensors", "model.bin", "noext", "ü ß"]
)
@pytest.mark.parametrize("kind", WRITERS)
def test_content_decides_and_not_the_name(kind, name, tmp_path):
    assert load(WRITERS[kind](tmp_path / name)).format == kind


@pytest.mark.parametrize("name", ["microgpt.safetensors", "run.gguf", "config.safetensors"])
def test_a_checkpoint_still_loads(name, tmp_path):
    save(init(seed=3), tmp_path / name)
    assert load(tmp_path / name).family == "microgpt"


def test_a_checkpoint_beside_a_config_is_a_checkpoint(folder):
    save(init(seed=3), folder / "mine.safetensors")
    assert load(folder / "mine.safetensors").family == "microgpt"


@pytest.mark.parametrize("name", ["", "config.json", "model.safetensors"])
def test_a_folder_or_a_file_of_it(name, folder):
    model = load(str(folder / name))
    assert model.format == "Hugging Face folder"
    assert model.origin == str(folder / name)


def test_any_file_of_a_sharded_folder(tmp_path):
    folder = write_folder(tmp_path, *tiny_model("llama_gqa"), shards=3)
    for path in sorted(folder.iterdir()):
        assert load(path).config == load(folder).config, path


def test_another_file_of_weights_in_the_folder_is_not_taken_for_the_model(folder):
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    assert "is not a part of the model in its folder: model.safetensors is" in refuses(
        folder / "other.safetensors"
    )


def test_weights_of_a_decoder_without_config(folder):
    (folder / "config.json").unlink()
    assert "expected a config.json beside the weights" in refuses(folder / "model.safetensors")
    assert "found a folder without config.json" in refuses(folder)


def test_links(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    (tmp_path / "blob").write_bytes(b"")
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert load(tmp_path / "link").config == load(tmp_path / "link" / "model.safetensors").config
    (tmp_path / "blob").unlink()
    assert "expected model.safetensors" in refuses(folder)


def test_links_to_a_file_of_another_name(tmp_path):
    write_gguf(tmp_path / "blob", *tiny_model("qwen2"))
    (tmp_path / "model.gguf").symlink_to("blob")
    assert load(tmp_path / "model.gguf").config.architecture == "qwen2"
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot read it" in refuses(tmp_path / "loop")


@pytest.mark.parametrize("name", ["model.gguf", "model.apr", "model.safetensors", "config.json", "x"])
@pytest.mark.parametrize("content", [b"", b"\0", b"GGUF", b"APR", b"APR\0", b"{}", b"[]", b"\xff" * 100])
def test_empty_and_short_files(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert refuses(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("missing.gguf", "no such file"),
        ("missing", "no such file"),
        ("x" * 300, "cannot read it"),
        ("nul\0", "cannot read it"),
        ("file/inside", "cannot read it"),
    ],
    ids=["gguf", "any", "too long", "no name", "no folder"],
)
def test_what_is_not_there(name, word, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileFormatError, match=word):
        load(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "expected a regular file" in refuses(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_one_may_not_read(name, folder):
    (folder / name).chmod(0)
    assert "cannot read it" in refuses(folder)
    assert "cannot read it" in refuses(folder / name)


def test_options_of_another_kind_of_model(folder, tmp_path):
    for option in ({"rope_pairs": "halves"}, {"settings": {"num_heads": 4}}, {"n_head": 4}, {"bos": "last"}):
        with pytest.raises(InputError, match=r"^--.* is not for a .*, which .* is$"):
            load(folder, **option)


@pytest.mark.parametrize("command", ["trace", "inspect"])
def test_the_command_line_says_it_in_one_line(command, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 40)
    refused(microgpt(command, tmp_path / "model.gguf"), "18,446,744,073,709,551,615 tensors do not fit")


def test_kinds(folder, tmp_path):
    (tmp_path / "text").write_text("hello")
    kinds = [format_of(path) for path in (folder, folder / "config.json", write_apr(tmp_path / "a"))]
    assert kinds == ["Hugging Face", "Hugging Face", "apr"]
    with pytest.raises(FileFormatError, match=r"expected a GGUF, \.apr or safetensors file, found b'hello'"):
        format_of(tmp_path / "text")


starts = st.sampled_from(
    [b"", b"GGUF\3\0\0\0", b"GGUF", b"APR\0\2\0", b"APR2", b"\x10\0\0\0\0\0\0\0{", b'{"model.layers.']
)


@fuzzing
@given(st.sampled_from(["model", "config.json", "model.safetensors"]), starts, st.binary(max_size=400))
def test_any_bytes_are_refused(tmp_path, name, start, content):
    (tmp_path / name).write_bytes(start + content)
    assert survives(tmp_path / name)
    (tmp_path / name).unlink()
