"""from_json reads what the json module reads, and refuses too large values before it creates them."""

import json
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sweeps import in_sweep

import microgpt_trace
from microgpt_trace.cli.common_options import settings_of
from microgpt_trace.comparison.prompts import read_prompts
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.text.json_reading import MAX_DEPTH, MAX_DIGITS, MAX_VALUES, OutOfBounds, from_json
from microgpt_trace.timeline.reading import read_timeline

marks = st.text('"[]{},:\\\\ a', max_size=80)  # the characters that from_json counts
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | marks,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(marks, inner, max_size=4),
    max_leaves=20,
)


@given(values, st.booleans())
def test_reads_what_json_writes(value, raw):
    text = json.dumps([value, "[" * MAX_DEPTH])  # enough brackets to make from_json count levels
    assert from_json(text.encode() if raw else text) == [value, "[" * MAX_DEPTH]


def nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


def beside(bracket, depth):
    """Lists beside a string with an escaped quote and a bracket."""
    return f'["\\\\", "\\"{bracket}", {nested(depth)}]'


def lists(count):
    return f"[[]{',[]' * (count - 1)}]"


TOO_DEEP = "values nested more than 64 deep"
BOUNDS = {
    "lists": (nested(MAX_DEPTH), nested(MAX_DEPTH + 1), TOO_DEEP),
    "objects": (nested(MAX_DEPTH // 2, '{"a":[', "]}"), nested(1000, '{"a":[', "]}"), TOO_DEEP),
    "strings": (beside("[", MAX_DEPTH - 1), beside("]", MAX_DEPTH), TOO_DEEP),
    "digits": ("-" + "9" * MAX_DIGITS, "9" * (MAX_DIGITS + 1), "an integer of 65 digits; the limit is 64"),
    "many digits": (f'["{"9" * 5000}", 0.{"9" * 5000}]', "1" * 5000, "an integer of 5,000 digits"),
    "values": (lists(MAX_VALUES // 2 - 1), lists(MAX_VALUES), "too many values; the limit is 1,048,576"),
}


@pytest.mark.parametrize("bound", [in_sweep(bound) if bound == "values" else bound for bound in BOUNDS])
def test_reads_up_to_each_bound_and_refuses_more(bound):
    within, beyond, message = BOUNDS[bound]
    assert from_json(within) == json.loads(within)
    with pytest.raises(OutOfBounds, match=message):
        from_json(beyond)


@pytest.mark.parametrize("text", [b"[" * 10**6, b"[" + b"[]," * 10**6 + b"]"])
def test_refusing_takes_little_memory(text):
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"values"):
        from_json(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{peak:,} bytes for {len(text):,}")
    assert peak < 3 * len(text)


@pytest.mark.parametrize("text", ["", "[1", b"\xff", "\ufeff[]", "[[[" * 30, nested(40, "[", "}")])
def test_invalid_json_raises_a_value_error_with_a_short_message(text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (of several kinds)
        from_json(text)
    assert len(str(caught.value)) < 200


def test_refuses_repeated_keys_on_request():
    assert from_json('{"a":1,"a":2}') == {"a": 2}
    with pytest.raises(ValueError, match="the key 'a' occurs twice"):
        from_json('{"a":1,"a":2}', unique=True)


DEEP = nested(2000)
READERS = {  # the readers whose hostile files are not tested elsewhere
    "a log": ("run.jsonl", DEEP, read_timeline),
    "a document": ("a.json", f'{{"schema":"microgpt.trace/1","a":{DEEP}}}', open_recording),
    "prompts": ("p.txt", DEEP, read_prompts),
    "a config": ("config.json", f'{{"a":{DEEP}}}', microgpt_trace.load),
    "an option": ("x", DEEP, lambda path: settings_of([f"x={path.read_text()}"])),
}


@pytest.mark.parametrize(("name", "text", "read"), READERS.values(), ids=READERS)
def test_every_reader_refuses_deep_nesting(tmp_path, name, text, read):
    (tmp_path / name).write_text(text)
    with pytest.raises((FileFormatError, InputError), match=TOO_DEEP):
        read(tmp_path / name)


def test_a_long_message_is_shortened():
    message = str(FileFormatError(f"file: {'x' * 1_000_000}: the end"))
    assert len(message) < 6100
    assert message.startswith("file: x")
    assert message.endswith("x: the end")


def test_no_other_module_reads_json():
    for path in Path(microgpt_trace.__file__).parent.rglob("*.py"):
        if path.name != "json_reading.py":
            assert not re.search(r"json\.loads?\b|JSONDecoder", path.read_text(encoding="utf-8")), path
