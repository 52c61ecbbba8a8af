"""Files that are cut, damaged or written to do harm: one clear line, whatever is in them."""

import json
import random
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save
from support.hostile import SLACK, fuzzing, json_values
from support.surveys import MANY, surveyed

from microgpt_trace import init
from microgpt_trace.errors import FileFormatError
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.survey_files import OLDER, _digest, read_survey, survey_bytes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(bytes, tensors, what is said) of a survey of everything."""
    folder = tmp_path_factory.mktemp("survey")
    found = surveyed(init(), MANY, folder, events=["*"], histograms=["logits"], top=2)
    path = folder / "whole.safetensors"
    path.write_bytes(survey_bytes(found))
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return path.read_bytes(), tensors, json.loads(file.metadata()["survey"])


def survives(path, content):
    """The refusal, or "" where the survey is read and all that is shown of it can be made."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        found = read_survey(path)
        report_of(found)
        survey_bytes(found)
        message = ""
    except FileFormatError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert message.isprintable(), message
    assert not message or (str(path) in message and len(message) < 1000 + len(str(path))), message
    assert peak < 60 * len(content) + 8 * SLACK, f"{peak:,} bytes for a file of {len(content):,}"
    return message


def changed(whole, tensors=(), **said):
    """The bytes with other tensors (None: without them) and metadata, and the digest that goes with them."""
    _, before, about = whole
    arrays = {name: array for name, array in (before | dict(tensors)).items() if array is not None}
    says = {key: value for key, value in (about | said).items() if key != "digest"}
    return save(arrays, {"survey": json.dumps(says | {"digest": _digest(arrays, says)})})


@pytest.mark.parametrize("at", [0, 1, 7, 8, 9, 100, 5000, -1, -8, -100_000])
def test_cut(whole, at, tmp_path):
    assert survives(tmp_path / "a", whole[0][:at])


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 200, b"{}", b"microgpt.survey", b'\xff"survey"microgpt.survey' * 9]
)
def test_something_else(content, tmp_path):
    assert survives(tmp_path / "a", content)


def test_a_folder_and_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileFormatError, match=path.name):
            read_survey(path)


@pytest.mark.parametrize("said", [
    {"format": "microgpt.survey-file/3"}, {"block_size": 0}, {"block_size": -8}, {"block_size": "8"},
    {"block_size": 2.5}, {"block_size": None}, {"blocks": {"x": "y"}}, {"blocks": {"-1": "y"}},
    {"blocks": [1]},
    {"blocks": {"0": 5}}, {"unfit": {"long": [1]}}, {"unfit": {"long": ["a", "b", "c"]}}, {"unfit": 3},
    {"arithmetic": 3}, {"arithmetic": [3]}, {"model": {}}, {"corpus": None}, {"order": []},
], ids=str)  # fmt: skip
def test_metadata_that_mean_nothing(whole, said, tmp_path):
    assert survives(tmp_path / "a", changed(whole, **said)), said


@pytest.mark.parametrize(("record", "said"), [
    ("corpus", {"documents": 10**18}), ("corpus", {"documents": -1}), ("corpus", {"documents": "many"}),
    ("corpus", {"documents": None}), ("corpus", {"files": [[1, "a"]]}), ("corpus", {"files": [["a", "b"]]}),
    ("corpus", {"sources": "names.txt"}), ("corpus", {"sources": [1]}), ("corpus", {"skipped": {"a": [1]}}),
    ("corpus", {"skipped": {"a": ["x", 1]}}), ("corpus", {"seed": "s"}), ("corpus", {"data": 1}),
    ("corpus", {"fingerprint": 3}),
    ("model", {"labels": []}), ("model", {"labels": [1] * 27}), ("model", {"windows": []}),
    ("model", {"windows": ["a"]}), ("model", {"streams": []}), ("model", {"kinds": {}}),
    ("model", {"kinds": 1}),
    ("model", {"origin": 1}), ("model", {"more": 1}), ("model", {"trained_on": None}),
    ("order", {"events": ["nothing"]}), ("order", {"events": "logits"}),
    ("order", {"histograms": ["embed.tok"]}),
    ("order", {"units": ["embed.tok"]}), ("order", {"units": [1]}), ("order", {"examples": -1}),
    ("order", {"examples": "2"}),
], ids=str)  # fmt: skip
def test_records_that_mean_nothing(whole, record, said, tmp_path):
    message = survives(tmp_path / "a", changed(whole, **{record: whole[2][record] | said}))
    assert message, said


EVENT = "layer0.mlp.act"
DAMAGES = {
    "lost": None,
    "another shape": np.zeros(3),
    "another rank": np.zeros((2, 2, 2)),
    "a scalar": np.array(1.0),
    "nothing": np.zeros((0, 64)),
    "text": np.zeros(64, np.uint8),
    "not finite": np.full(64, np.nan),
    "infinite": np.full(64, np.inf),
    "huge": np.full(64, 1e300),
    "half": np.zeros(64, np.float16),
    "truth": np.zeros(64, bool),
}
TENSORS = [
    *(f"{EVENT}/{part}" for part in ("total.sum", "values.count", "range.range.least", "top.top.value")),
    f"{EVENT}/top.top.excerpt", f"{EVENT}/top.top.document", "logits/magnitudes.count", "streams/rows.count",
    "streams/farthest.top.value", "attention/queries.count", "attention.all/first.sum",
    "layer0.attn.weights/entropy.sum", "predictions.train/token_loss.sum", "predictions.train/worst.top.row",
    "predictions.train/documents.count", "corpus/read.count",
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit(whole, name, damage, tmp_path):
    assert name in whole[1]
    content = changed(whole, {name: DAMAGES[damage]})
    if "range" in name and damage in ("infinite", "huge"):
        pytest.skip("a range has such ends where nothing finite came, or large numbers")
    assert survives(tmp_path / "a", content), f"{name} {damage}"


@pytest.mark.parametrize(("name", "value"), [
    (f"{EVENT}/squares.sum", -1), ("attention/queries.count", 0), ("attention/repeats.count", 0),
    ("attention/repeats_apart.count", 0), ("streams/growth.sum", 1e200), ("streams/rows.count", 0),
])  # fmt: skip
def test_numbers_that_nothing_adds_up_to(whole, name, value, tmp_path):
    content = changed(whole, {name: np.full_like(whole[1][name], value)})
    assert name.partition(".")[0] in survives(tmp_path / "a", content)


@pytest.mark.parametrize("value", [-1, 0, 1e200, 2**62])
def test_any_number_has_a_report_or_is_refused(whole, value, tmp_path):
    path = tmp_path / "a"
    for name in (*TENSORS, f"{EVENT}/squares.sum", "streams/growth.sum"):
        array = whole[1][name]
        with np.errstate(invalid="ignore"):
            filled = np.full(array.shape, value).astype(array.dtype)
        path.write_bytes(changed(whole, {name: filled}))
        with suppress(FileFormatError):
            report_of(read_survey(path))


@pytest.mark.parametrize("name", [
    "x", "x/y", "a/b.count.c.d", "a/b.sum.", "/.sum", "a/b.other", "a/b.top.value", f"{EVENT}/total.count",
    "\n/\x1b.sum",
    f"{EVENT}/total.sum.more",
])  # fmt: skip
def test_tensors_of_other_names(whole, name, tmp_path):
    assert survives(tmp_path / "a", changed(whole, {name: np.zeros(64)})), name


def test_a_list_without_bytes_that_says_it_is_large(whole, tmp_path):
    assert survives(
        tmp_path / "a",
        changed(whole, {f"{EVENT}/top.top.excerpt": np.zeros((1 << 26, 1 << 10, 0), np.uint8)}),
    )


def test_excerpts_that_are_no_text(whole, tmp_path):
    name = f"{EVENT}/top.top.excerpt"
    assert survives(tmp_path / "a", changed(whole, {name: np.full_like(whole[1][name], 0xFF)}))


@fuzzing
@given(st.data())
def test_any_metadata(whole, tmp_path, data):
    record = data.draw(st.sampled_from(["model", "corpus", "order", None]))
    about = whole[2][record] if record else whole[2]
    key = data.draw(st.sampled_from(sorted(about)))
    said = {key: data.draw(json_values)}
    survives(tmp_path / "a", changed(whole, **({record: about | said} if record else said)))


@fuzzing
@given(st.data())
def test_any_bytes_within_the_header(whole, tmp_path, data):
    content = bytearray(whole[0])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 20_000))] = data.draw(st.integers(0, 255))
    survives(tmp_path / "a", bytes(content))


def test_a_bit_that_has_changed_is_noticed(tmp_path):
    """Wherever it is, in what is said of the survey too."""
    path = tmp_path / "a.survey.safetensors"
    before = repr(report_of(surveyed(init(), ["emma", "olivia"], tmp_path, events=["embed.tok"], out=path)))
    content = path.read_bytes()
    said = int.from_bytes(content[:8], "little") + 8  # bytes of the header
    draw = random.Random(30)
    places = [
        *(draw.randrange(8 * said) for _ in range(400)),
        *(draw.randrange(8 * len(content)) for _ in range(200)),
    ]
    for place in places:
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with suppress(FileFormatError):
            assert repr(report_of(read_survey(path))) == before, f"bit {place}"


def test_an_older_file_opens(whole, tmp_path):
    """Whose digest is of its tensors alone."""
    path = tmp_path / "a.survey.safetensors"
    assert survives(path, changed(whole, format=OLDER)) == ""
    report = report_of(read_survey(path))
    path.write_bytes(whole[0])
    assert repr(report) == repr(report_of(read_survey(path)))
    assert "some of it changed" in survives(path, whole[0].replace(b"survey-file/2", b"survey-file/1"))
