"""Hostile and damaged GGUF files: one line each, whatever is in them."""

import math
import os

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.gguf_files import (
    NEEDED,
    YARN,
    changed,
    entry,
    gguf_bytes,
    pair,
    raw,
    string,
    u32,
    u64,
)
from support.hostile import fuzzing, json_values, survives
from support.real_model import SMOLLM2, needs_smollm2
from support.tiny_models import tiny_model, write_gguf

from microgpt_trace import load
from microgpt_trace.errors import FileFormatError
from microgpt_trace.readers.gguf import read_gguf_header

pytest.importorskip("gguf", reason="the right files to be damaged are written by the package gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Metadata and tensors of a right file (qwen2: it has biases)."""
    return read_gguf_header(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", *tiny_model("qwen2")))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


# --- Values of wrong types --------------------------------------------------------------------

WRONG = ["4", "", True, -4, 0, math.nan, math.inf, 2.5, 2**31, 2**63, [], ["4"], [4, 5], [[4]], b"\xff\n"]
KEYS = [*NEEDED, "qwen2.attention.head_count_kv", "qwen2.attention.key_length", "qwen2.expert_count"]
KEYS += ["qwen2.attention.sliding_window", "qwen2.rope.freq_base", "qwen2.rope.scale_linear", *YARN]
KEYS += ["general.alignment", "split.count", "split.no", "split.tensors.count"]
KEYS += ["qwen2.rope.scaling.attn_factor", "qwen2.rope.scaling.yarn_attn_factor"]
KEYS += ["qwen2.rope.scaling.yarn_log_multiplier", "qwen2.rope.scaling.yarn_ext_factor"]


@pytest.mark.parametrize("key", KEYS)
def test_values_of_wrong_types(key, path, whole):
    for value in WRONG:
        context = YARN if ".scaling." in key else {}
        message = survives(changed(path, whole, context | {key: value}))
        if isinstance(value, str | list | bytes | bool):
            assert message, f"{key} = {value!r} was taken"


@fuzzing
@given(
    st.dictionaries(st.sampled_from(KEYS), json_values.filter(lambda v: not isinstance(v, dict)), max_size=4)
)
def test_any_values_in_the_metadata(path, whole, changes):
    try:
        changed(path, whole, changes)
    except Exception:  # what GGUF cannot say: mixed lists, integers above 64 bits
        return
    survives(path)


# --- Hostile files ----------------------------------------------------------------------------

ONE, F32 = entry("t", (4,)), bytes(16)
ALIGN = {value: pair("general.alignment", value) for value in (0, 33, True, "32", 2**40)}
HOSTILE = {
    "another magic": (b"GGML" + bytes(40), "expected a GGUF, .apr or safetensors file"),
    "no version": (b"GGUF\3", "the file ends within the version"),
    "version 1": (raw(version=1), "expected GGUF version 2 or 3, found 1"),
    "version 4": (raw(version=4), "expected GGUF version 2 or 3, found 4"),
    "big-endian": (raw(version=3 << 24), "(big-endian files are not supported)"),
    "no counts": (raw()[:12], "the file ends within the counts"),
    "2^63 tensors": (raw(ONE, data=F32, tensors=2**63), "9,223,372,036,854,775,808 tensors do not fit"),
    "2^64 - 1 metadata": (raw(ONE, metadata=2**64 - 1), "metadata pairs do not fit into the file"),
    "a tensor too many": (raw(entries=ONE, data=F32, tensors=2), "dimensions, found 0"),
    "key of 2^63": (
        raw(u64(2**63) + bytes(40), metadata=1),
        "a metadata key of 9,223,372,036,854,775,808 bytes",
    ),
    "long key": (raw(string("k" * 300) + bytes(40), metadata=1), "a metadata key of 300 bytes"),
    "string of 2^63": (
        raw(string("k") + u32(8) + u64(2**63) + bytes(40), metadata=1),
        "the value of 'k' of 9,223",
    ),
    "unknown type": (
        raw(string("k") + u32(13) + bytes(40), metadata=1),
        "'k' has a value of unknown type 13",
    ),
    "array of 2^63": (
        raw(string("k") + u32(9) + u32(4) + u64(2**63), metadata=1, tensors=0),
        "values of 'k' do not",
    ),
    "strings of 2^60": (
        raw(string("k") + u32(9) + u32(8) + u64(2**60), metadata=1, tensors=0),
        "values of 'k' do",
    ),
    "a long string in an array": (
        raw(string("k") + u32(9) + u32(8) + u64(2) + string("a") + u64(2**62), metadata=1, tensors=0),
        "a string of 'k' has 4,611,686,018,427,387,904 bytes",
    ),
    "a string past the end of an array": (
        raw(string("k") + u32(9) + u32(8) + u64(2) + string("a") + u64(999), metadata=1, tensors=0),
        "a string of 'k' does not fit into the file",
    ),
    "deep array": (raw(pair("k", [[1]]), metadata=1, tensors=0), "'k' is an array of unknown type 9"),
    "a key twice": (raw(pair("k", 1) * 2, metadata=2, tensors=0), "the metadata have 'k' twice"),
    "alignment 0": (
        raw(ALIGN[0], ONE, F32, metadata=1),
        "general.alignment: expected a power of two, found 0",
    ),
    "alignment 33": (raw(ALIGN[33], ONE, F32, metadata=1), "expected a power of two, found 33"),
    "alignment true": (raw(ALIGN[True], ONE, F32, metadata=1), "expected a power of two, found True"),
    "alignment text": (raw(ALIGN["32"], ONE, F32, metadata=1), "expected a power of two, found '32'"),
    "alignment 2^40": (raw(ALIGN[2**40], ONE, F32, metadata=1), "ends past the end of the file"),
    "name of 2^63": (
        raw(entries=u64(2**63) + bytes(40)),
        "a tensor's name of 9,223,372,036,854,775,808 bytes",
    ),
    "long name": (raw(entries=entry("t" * 300, (4,)), data=F32), "a tensor's name of 300 bytes; at most 256"),
    "no dims": (raw(entries=entry("t", ()), data=F32), "tensor 't': expected 1 to 4 dimensions, found 0"),
    "2^32 - 1 dims": (
        raw(entries=string("t") + u32(2**32 - 1), data=F32),
        "1 to 4 dimensions, found 4294967295",
    ),
    "product": (raw(entries=entry("t", (2**63,) * 4), data=F32), "ends past the end of the file"),
    "product of 2^64": (raw(entries=entry("t", (2**32, 2**32)), data=F32), "ends past the end of the file"),
    "offset": (raw(entries=entry("t", (4,), 0, 2**63), data=F32), "ends past the end of the file"),
    "offset by one": (raw(entries=entry("t", (4,), 0, 1), data=F32), "of 16 bytes at 65 ends past the end"),
    "no data": (raw(entries=ONE), "it is cut short"),
    "a row of no blocks": (
        raw(entries=entry("t", (4,), 8), data=F32),
        "rows of 4 do not divide into blocks of 32",
    ),
    "overlap": (
        raw(entries=entry("a", (4,)) + entry("b", (4,), 0, 12), data=bytes(28), tensors=2),
        "tensors 'a' and 'b' overlap",
    ),
    "one place": (raw(entries=ONE + entry("b", (4,)), data=F32, tensors=2), "tensors 't' and 'b' overlap"),
    "a tensor twice": (
        raw(entries=ONE + entry("t", (4,), 0, 16), data=bytes(32), tensors=2),
        "'t' is there twice",
    ),
    "IQ4_NL": (
        raw(entries=entry("t", (32,), 20), data=bytes(64)),
        "'t' has type IQ4_NL, which is not supported",
    ),
    "removed type": (
        raw(entries=entry("t", (32,), 4), data=bytes(64)),
        "'t' has type number 4, which is not",
    ),
    "new type": (
        raw(entries=entry("t", (32,), 2**32 - 1), data=bytes(64)),
        "has type number 4294967295, which",
    ),
}


@pytest.mark.parametrize(("content", "word"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_in_one_line(content, word, path):
    path.write_bytes(content)
    assert word in survives(path)


@pytest.mark.sweep
def test_tiny_strings_take_no_more_memory_than_the_file(path):
    """As Python's strings they would take six times as much."""
    words = [f"{i % 900:03}" for i in range(400_000)]
    path.write_bytes(raw(pair("k", words), metadata=1, tensors=0))
    assert "architecture None" in survives(path)


@pytest.mark.parametrize("kind", [0, 8], ids=["numbers", "strings"])
def test_a_list_may_end_with_the_file(path, kind):
    """Not a byte stands behind the last of its three elements: the least room that three may have."""
    elements = bytes([1, 2, 3]) if kind == 0 else u64(0) * 3
    pairs = string("list") + u32(9) + u32(kind) + u64(3) + elements
    path.write_bytes(raw(pairs, tensors=0, metadata=1, alignment=1))
    assert list(read_gguf_header(path).metadata["list"]) == ([1, 2, 3] if kind == 0 else [""] * 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="do not fit into the file"):
        read_gguf_header(path)


def test_strings_are_decoded_when_they_are_looked_at(path):
    words = [
        "a",
        b"\xff",
        "",
        "\u2581é",
        b"b\xffc",
        b"\xc3",
        "\U0001f600",
    ] * 50_000  # more than one run of them
    path.write_bytes(raw(pair("k", words), metadata=1, tensors=0))
    expected = [str(w, "utf-8", "surrogateescape") if isinstance(w, bytes) else w for w in words]
    found = read_gguf_header(path).metadata["k"]
    assert [found[1], found[-1], found[2:5]] == [expected[1], expected[-1], expected[2:5]]
    assert repr(found) == "['a', '\\udcff', '', '\u2581é', 'b\\udcffc', '\\udcc3', ...]"
    assert found == expected
    assert [found[1], found[-1], found[2:5]] == [expected[1], expected[-1], expected[2:5]]
    with pytest.raises(IndexError):
        found[len(words)]


def test_a_value_for_each_of_more_layers_than_there_can_be(path, whole):
    assert survives(changed(path, whole, {"qwen2.attention.head_count": [4] * 5})) == ""
    message = survives(changed(path, whole, {"qwen2.attention.head_count": [4] * 20_000}))
    assert "qwen2.attention.head_count differs from layer to layer" in message


@pytest.mark.parametrize("key", ["tokens", "merges"])
def test_more_tokens_than_rows_are_refused_before_they_are_made(path, whole, key):
    named = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a"],
        f"tokenizer.ggml.{key}": ["a"] * 9000,
    }
    model = load(changed(path, whole, named))
    with pytest.raises(FileFormatError, match=rf"tokenizer\.ggml\.{key}: 9,000, for [0-9]+ rows"):
        model.vocabulary  # noqa: B018


@pytest.mark.sweep
def test_a_file_cut_short_anywhere_is_refused(path, whole):
    content = gguf_bytes(whole.metadata, whole.tensors)
    last = whole.tensors[-1].data.size
    stop = len(content) - -last % 32  # the padding after the last tensor may be missing
    for size in [*range(0, stop - 1, 509), *range(stop - 40, stop)]:
        path.write_bytes(content[:size])
        assert survives(path), size


EXTREMES = [0, 1, 31, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


@fuzzing
@given(st.data())
def test_a_right_file_with_numbers_replaced(path, whole, data):
    content = bytearray(gguf_bytes(whole.metadata, whole.tensors))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(4, 2800))
        value = data.draw(st.sampled_from(EXTREMES) | st.integers(0, 2**64 - 1))
        content[at : at + 8] = u64(value)
    path.write_bytes(content)
    survives(path)


@fuzzing
@given(st.data())
def test_a_right_file_with_some_bytes_changed(path, whole, data):
    content = bytearray(gguf_bytes(whole.metadata, whole.tensors))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(4, 2800))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    survives(path)


@fuzzing
@given(st.binary(max_size=600))
def test_random_bytes_after_the_magic(path, content):
    path.write_bytes(b"GGUF\3\0\0\0" + content)
    survives(path)


@needs_smollm2
@hypothesis_settings(fuzzing, max_examples=25)
@given(st.data())
def test_the_real_header_with_numbers_replaced(path, data):
    """SmolLM2's header before a hole of the size of its tensors."""
    tensors = read_gguf_header(SMOLLM2).tensors
    size = SMOLLM2.stat().st_size
    header_size = size - sum(-(-tensor.data.size // 32) * 32 for tensor in tensors)
    with SMOLLM2.open("rb") as file:
        content = bytearray(file.read(header_size))
    places = (
        st.integers(4, 2000)
        | st.integers(4, len(content) - 8)
        | st.integers(len(content) - 16000, len(content) - 8)
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(places)
        content[at : at + 8] = u64(data.draw(st.sampled_from(EXTREMES)))
    path.write_bytes(content)
    os.truncate(path, size)
    survives(path)
