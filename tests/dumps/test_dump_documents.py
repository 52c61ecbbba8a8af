"""Documents of --json as dumps: statistics, arrays, and errors in them."""

import json

import numpy as np
import pytest
from support.dump_writing import name_map, reasons, refused

import microgpt_trace
from microgpt_trace.dumps.formats import is_recording, open_recording
from microgpt_trace.errors import InputError
from microgpt_trace.render.documents.trace_as_json import trace_json, trace_json_lines


@pytest.fixture(scope="module")
def trace(decoder_folder):
    model = microgpt_trace.load(decoder_folder("llama_gqa"))
    return microgpt_trace.trace(model, tokens=[3, 1, 4, 1], values=True, positions="last")


def test_reads_statistics_and_with_values_also_arrays(trace, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(trace_json(trace))
    recording = open_recording(path)
    assert is_recording(path)
    assert not recording.tensors
    assert (recording.tokens, recording.positions) == ((3, 1, 4, 1), (3,))
    assert recording.statistics == {event.name: event for event in trace}
    path.write_text(trace_json(trace, values=True))
    recording = open_recording(path)
    assert set(recording.tensors) == set(recording.statistics)
    for name, tensor in recording.tensors.items():
        found = tensor.read()
        assert found.dtype == trace[name].dtype
        np.testing.assert_array_equal(found, trace[name])


def test_reads_nan_and_infinity_and_skips_gradients(emma, tmp_path):
    def spoil(event, value):
        changed = value.copy()
        changed[0, :3] = np.nan, np.inf, -np.inf
        return changed

    with np.errstate(all="ignore"), emma.hooks.subscribe(spoil, "layer0.attn.out"):
        trace = microgpt_trace.trace(emma, "emma", backward=True)
    (tmp_path / "a.json").write_text(trace_json(trace, values=True))
    recording = open_recording(tmp_path / "a.json")
    forward = {event.name: event for event in trace if event.phase == "forward"}
    assert recording.statistics.keys() == recording.tensors.keys() == forward.keys()
    assert all(recording.statistics[name] == event for name, event in forward.items())
    np.testing.assert_array_equal(recording.tensors["layer0.attn.out"].read(), trace["layer0.attn.out"])
    assert recording.statistics["layer0.attn.out"].stats.nan_count == 1


def with_event(trace, path, change, values=False):
    """Write a document with its second event changed, and return the event's name before the change."""
    document = json.loads(trace_json(trace, values=values))
    name = document["events"][1]["name"]
    change(document["events"][1])
    path.write_text(json.dumps(document))
    return name


@pytest.mark.parametrize(
    ("name", "values"),
    [("foo", True), ("layerX.attn.q", False), ("layer00.attn.q", True), ("", False), ("a\nb", True)],
)
def test_unknown_names_become_leftovers(trace, tmp_path, name, values):
    with_event(trace, tmp_path / "a.json", lambda event: event.update(name=name), values)
    recording = open_recording(tmp_path / "a.json")
    assert reasons(recording) == {name: "no event has that name"}
    assert name not in recording.statistics | recording.tensors
    assert recording.leftovers[0].readable == values
    if not values:
        with pytest.raises(InputError, match="expected values, found only statistics; write"):
            recording.leftovers[0].recorded.read()
    result = microgpt_trace.diff(recording, recording)
    assert (result.agree, len(result.events)) == (True, len(trace) - 1)


def test_rejects_jsonl_and_a_map_of_names(trace, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(trace_json_lines(trace)))
    assert is_recording(tmp_path / "a.jsonl")
    refused(tmp_path / "a.jsonl", "--json", "--jsonl")
    (tmp_path / "a.json").write_text(trace_json(trace))
    refused(tmp_path / "a.json", "expected only tokens", names=name_map(("logits", "x")), kind=InputError)
    refused(tmp_path / "a.json", "tokens", names=name_map(tokens=(1,)), kind=InputError)
    assert open_recording(tmp_path / "a.json", name_map(tokens=(3, 1, 4, 1))).tokens == (3, 1, 4, 1)


CHANGES = [
    ("schema", lambda d: d.update(schema="microgpt.trace/9")),
    ("events", lambda d: d.update(events=3)),
    ("input", lambda d: d.update(input=[])),
    ("predictions", lambda d: d["predictions"][0].update(position="x")),
    ("event 0", lambda d: d["events"].__setitem__(0, None)),
    ("twice", lambda d: d["events"].append(d["events"][0])),
    ("statistics", lambda d: d["events"][1]["stats"].pop("mean")),
    *(
        (key, lambda d, key=key: d["events"][1].pop(key))
        for key in ("seq", "phase", "stage", "name", "shape", "dtype")
    ),
    *(
        (words, lambda d, changes=changes: d["events"][1].update(changes))
        for words, changes in [
            ("layer", {"layer": True}), ("shape", {"shape": [-1]}), ("shape", {"shape": [2**30] * 600}),
            ("numbers", {"values": [[1.0], [1.0, 2.0]]}), ("numbers", {"values": {}}),
            ("expected shape [", {"values": [1.0]}), ("float99", {"dtype": "float99", "values": []}),
        ]
    ),
    *(
        (words, lambda d, changes=changes: d["events"][1]["stats"].update(changes))
        for words, changes in [
            ("count", {"count": 10**9}), ("zero_count", {"zero_count": 10**9}), ("count", {"count": "NaN"}),
            ("nan_count", {"nan_count": 1, "inf_count": 128}), ("mean", {"mean": "0.5"}),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("word", "change"), CHANGES, ids=[word for word, _ in CHANGES])
def test_rejects_a_wrong_document(trace, tmp_path, word, change):
    document = json.loads(trace_json(trace))
    change(document)
    (tmp_path / "a.json").write_text(json.dumps(document))
    refused(tmp_path / "a.json", word)


def with_statistics(trace, path, **changed):
    return with_event(trace, path, lambda event: event["stats"].update(changed))


MOMENTS = ("mean", "std", "l2_norm", "min", "max", "max_abs")
WRONG_MOMENTS = [
    *((field, None) for field in MOMENTS),
    *(("mean", value) for value in ("NaN", "x", True, [])),
    *((field, -1.0) for field in ("std", "l2_norm", "max_abs")),
]


@pytest.mark.parametrize(("field", "value"), WRONG_MOMENTS)
def test_rejects_missing_statistics_of_finite_elements_and_negative_sizes(trace, tmp_path, field, value):
    name = with_statistics(trace, tmp_path / "a.json", **{field: value})
    refused(tmp_path / "a.json", f"event 1, {name}: {field}: expected a number")


@pytest.mark.parametrize(("field", "nan"), [*((field, 128) for field in MOMENTS), ("mean", 0)])
def test_statistics_must_be_null_if_no_element_is_finite(trace, tmp_path, field, nan):
    nothing = dict.fromkeys(MOMENTS) | {"count": nan, "nan_count": nan, "inf_count": 0, "zero_count": 0}
    name = with_statistics(trace, tmp_path / "a.json", **nothing)
    assert open_recording(tmp_path / "a.json").statistics[name].stats.l2_norm is None
    with_statistics(trace, tmp_path / "a.json", **nothing | {field: 0.5})
    refused(tmp_path / "a.json", f"{field}: expected null")


def test_reads_a_norm_beyond_float64(trace, tmp_path):
    name = with_statistics(trace, tmp_path / "a.json", l2_norm="Infinity")
    assert open_recording(tmp_path / "a.json").statistics[name].stats.l2_norm == np.inf
