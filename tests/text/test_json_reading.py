"""JSON of strangers: what is read is what json reads, and what is refused costs nothing."""

import json
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sweeps import in_sweep

import microgpt_trace
from microgpt_trace.cli.options import settings_of
from microgpt_trace.comparison.prompts import read_prompts
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.text.json_reading import MAX_DEPTH, MAX_DIGITS, MAX_VALUES, OutOfBounds, from_json
from microgpt_trace.timeline.reading import read_timeline

marks = st.text('"[]{},:\\\\ a', max_size=80)  # of which the bounds are counted
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | marks,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(marks, inner, max_size=4),
    max_leaves=20,
)


@given(values, st.booleans())
def test_what_json_writes_is_read(value, raw):
    text = json.dumps([value, "[" * MAX_DEPTH])  # so many brackets that they are counted
    assert from_json(text.encode() if raw else text) == [value, "[" * MAX_DEPTH]


def nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


def beside(bracket, depth):
    """Lists beside strings of which one has an escaped quote and a bracket."""
    return f'["\\\\", "\\"{bracket}", {nested(depth)}]'


def lists(count):
    return f"[[]{',[]' * (count - 1)}]"


DEEPER = "values nested more than 64 deep"
BOUNDS = {
    "lists": (nested(MAX_DEPTH), nested(MAX_DEPTH + 1), DEEPER),
    "objects": (nested(MAX_DEPTH // 2, '{"a":[', "]}"), nested(1000, '{"a":[', "]}"), DEEPER),
    "strings": (beside("[", MAX_DEPTH - 1), beside("]", MAX_DEPTH), DEEPER),
    "digits": ("-" + "9" * MAX_DIGITS, "9" * (MAX_DIGITS + 1), "an integer of 65 digits; at most 64"),
    "many digits": (f'["{"9" * 5000}", 0.{"9" * 5000}]', "1" * 5000, "an integer of 5,000 digits"),
    "values": (lists(MAX_VALUES // 2 - 1), lists(MAX_VALUES), "too many values; at most 1,048,576"),
}


@pytest.mark.parametrize("what", [in_sweep(what) if what == "values" else what for what in BOUNDS])
def test_bounds(what):
    fits, passes, said = BOUNDS[what]
    assert from_json(fits) == json.loads(fits)
    with pytest.raises(OutOfBounds, match=said):
        from_json(passes)


@pytest.mark.parametrize("text", [b"[" * 10**6, b"[" + b"[]," * 10**6 + b"]"])
def test_what_is_refused_costs_no_time_and_no_memory(text):
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"values"):
        from_json(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{peak:,} bytes for {len(text):,}, {time.perf_counter() - began:.3f} s")
    assert peak < 3 * len(text)


@pytest.mark.parametrize("text", ["", "[1", b"\xff", "\ufeff[]", "[[[" * 30, nested(40, "[", "}")])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (of several kinds)
        from_json(text)
    assert len(str(caught.value)) < 200


def test_a_key_that_is_there_twice():
    assert from_json('{"a":1,"a":2}') == {"a": 2}
    with pytest.raises(ValueError, match="'a' is there twice"):
        from_json('{"a":1,"a":2}', unique=True)


DEEP = nested(2000)
READERS = {  # of those whose hostile files have tests of their own: none
    "a log": ("run.jsonl", DEEP, read_timeline),
    "a document": ("a.json", f'{{"schema":"microgpt.trace/1","a":{DEEP}}}', open_recording),
    "prompts": ("p.txt", DEEP, read_prompts),
    "a config": ("config.json", f'{{"a":{DEEP}}}', microgpt_trace.load),
    "an option": ("x", DEEP, lambda path: settings_of([f"x={path.read_text()}"])),
}


@pytest.mark.parametrize(("name", "text", "read"), READERS.values(), ids=READERS)
def test_every_reader_says_what_is_too_deep(tmp_path, name, text, read):
    (tmp_path / name).write_text(text)
    with pytest.raises((FileFormatError, InputError), match="values nested more than 64 deep"):
        read(tmp_path / name)


def test_a_message_is_short_whatever_it_quotes():
    message = str(FileFormatError(f"file: {'x' * 1_000_000}: what was expected"))
    assert len(message) < 6100
    assert message.startswith("file: x")
    assert message.endswith("x: what was expected")


def test_nothing_else_reads_json():
    for path in Path(microgpt_trace.__file__).parent.rglob("*.py"):
        if path.name != "json_reading.py":
            assert not re.search(r"json\.loads?\b|JSONDecoder", path.read_text(encoding="utf-8")), path
