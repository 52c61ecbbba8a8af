"""Files that are cut, damaged or written to do harm: one clear line, whatever is in them."""

import json
import random
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from support.hostile import SLACK
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


def test_a_folder_and_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileFormatError, match=path.name):
            read_survey(path)


EVENT = "layer0.mlp.act"


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
