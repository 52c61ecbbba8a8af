"""Hostile and damaged .apr files: one line each, whatever is in them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.apr_files import (
    METADATA,
    apr_bytes,
    entry,
    f32,
    header,
    refuses,
    refuses_bytes,
    tiny_model,
    up64,
)

from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.readers.apr import read_apr


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.apr"


def raw(index, *, count=None, metadata=(64, 2), index_at=128, data_at=None, data=bytes(64)):
    """A file around an index, with checksums of zero."""
    at = up64(128 + len(index)) if data_at is None else data_at
    head = header(count=count or 1, metadata=metadata, index=index_at, data=at, checksum=0)
    return head + b"{}".ljust(64) + index.ljust(up64(len(index)), b"\0") + data


ONE = entry("t", 0, (4,), 0, 16)
HOSTILE = {
    "count": (raw(ONE, count=2**32 - 1), "4,294,967,295 tensors"),
    "count by one": (raw(ONE, count=2), "entry 1 of 2 in the tensor index: expected a name"),
    "offset": (raw(entry("t", 0, (4,), 2**63, 16)), "cut short"),
    "offset at the end": (raw(entry("t", 0, (4,), 52, 16)), "cut short: tensor 't' ends at byte 260 of 256"),
    "size": (raw(entry("t", 0, (4,), 0, 2**63)), "expected 16 (F32) bytes, found 9,223,372,036,854,775,808"),
    "product": (raw(entry("t", 0, (2**63, 2**63, 4), 0, 16)), "bytes, found 16"),
    "product of 2^64": (raw(entry("t", 0, (2**32, 2**32), 0, 0)), "bytes, found 0"),
    "empty dims": (raw(entry("t", 0, (0, 5), 0, 0)), "no elements"),
    "no dims": (raw(entry("t", 0, (), 0, 4)), "1 to 8 dims, found 0"),
    "many dims": (raw(entry("t", 0, (1,) * 9, 0, 4)), "1 to 8 dims, found 9"),
    "long name": (raw(entry("t" * 257, 0, (4,), 0, 16)), "found 257"),
    "name past the end": (raw(ONE)[:128] + b"\xff\0" + b"t" * 60, "ends within"),
    "name in no UTF-8": (raw(entry(b"\xff\xfe", 0, (4,), 0, 16)), "not UTF-8"),
    "index past the end": (raw(ONE, index_at=2**63), "cannot be in an index"),
    "index in the header": (raw(ONE, index_at=0), "bytes"),
    "data past the end": (raw(ONE, data_at=2**64 - 1), "cut short"),
    "data over the index": (raw(ONE, data_at=128), "overlap at byte 128"),
    "data over the header": (raw(ONE, data_at=0), "tensor 't' and the header overlap"),
    "metadata past the end": (raw(ONE, metadata=(2**63, 2)), "past the file's"),
    "metadata of 4 GB": (raw(ONE, metadata=(64, 2**32 - 1)), "past the file's"),
    "tensors overlap": (
        raw(entry("a", 0, (4,), 0, 16) + entry("b", 0, (4,), 12, 16), count=2),
        "tensor 'a' and tensor 'b' overlap",
    ),
    "tensors at one place": (
        raw(entry("a", 0, (4,), 0, 16) + entry("b", 0, (2,), 0, 8), count=2),
        "overlap",
    ),
    "a tensor twice": (raw(ONE + entry("t", 0, (4,), 16, 16), count=2), "is there twice"),
}


@pytest.mark.parametrize(("content", "word"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_in_one_line(content, word, path):
    assert word in refuses_bytes(path, content)


def test_a_name_cannot_break_the_line(path):
    assert r"'a\nb\x1b[31m'" in refuses(path, tensors={"a\nb\x1b[31m": f32([1])})


def test_a_file_cut_short_anywhere_is_refused_or_lacks_its_checksum_only(path):
    whole = apr_bytes(METADATA, tiny_model()[0])
    for size in [*range(0, len(whole), 97), *range(len(whole) - 140, len(whole))]:
        path.write_bytes(whole[:size])
        try:
            notes = read_apr(path).notes
        except FileFormatError:
            continue
        assert size > len(whole) - 64
        assert notes[0] == "the file has no checksum at its end"


fuzzing = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def survives(path, content):
    """Reads, or is refused on purpose, in one line."""
    path.write_bytes(content)
    message = ""
    try:
        for tensor in read_apr(path).tensors.values():
            tensor.read()
    except (FileFormatError, InputError) as error:
        message = str(error)
    assert "\n" not in message


@fuzzing
@given(st.binary(max_size=600))
def test_random_bytes_after_the_magic(path, content):
    survives(path, b"APR\0\2\0" + content)


@fuzzing
@given(st.data())
def test_random_fields_in_the_header(path, data):
    whole = apr_bytes(METADATA, tiny_model()[0], footer=0)
    number = st.integers(0, 2**64 - 1) | st.sampled_from([0, 63, 64, 128, len(whole), len(whole) - 1, 2**63])
    counts = [data.draw(number) % 2**32 for _ in range(2)]
    places = [data.draw(number) for _ in range(3)]
    head = header(count=counts[0], metadata=(places[0], counts[1]), index=places[1], data=places[2])
    survives(path, head + whole[64:])


@fuzzing
@given(st.data())
def test_a_right_file_with_some_bytes_changed(path, data):
    """Without checksums, which would find out every change."""
    whole = bytearray(apr_bytes(METADATA, tiny_model()[0], checksum=0, footer=0))
    tensors_at = int.from_bytes(whole[32:40], "little")
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(4, tensors_at - 1))] = data.draw(st.integers(0, 255))
    survives(path, bytes(whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))]))


@fuzzing
@given(st.binary(min_size=1, max_size=4), st.data())
def test_checksums_find_every_change(path, change, data):
    whole = apr_bytes(METADATA, tiny_model()[0])
    at = data.draw(st.integers(0, len(whole) - 4 - len(change)))
    changed = whole[:at] + bytes(a ^ b for a, b in zip(whole[at:], change)) + whole[at + len(change) :]  # noqa: B905
    path.write_bytes(changed)
    if changed == whole:
        read_apr(path)
        return
    with pytest.raises(FileFormatError):
        read_apr(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *METADATA,
    "n_embd",
    "n_head",
    "model_type",
    "hf_architecture",
    "sharding",
    "num_experts",
    "hidden_act",
]
KEYS += [
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "original_format",
    "tie_word_embeddings",
]


@fuzzing
@given(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4))
def test_any_values_in_the_metadata(path, changes):
    survives(path, apr_bytes(METADATA | changes, tiny_model()[0]))
