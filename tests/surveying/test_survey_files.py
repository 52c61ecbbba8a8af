"""Survey files: a file with wrong numbers has a report or is refused, and a changed byte is noticed."""

import random
from contextlib import suppress

import numpy as np
import pytest
from attacks.formats.surveys import EVENT, TENSORS, opened, survey
from support.hostile import open_safely, rejection
from support.surveys import surveyed
from support.sweeps import some_of

from microgpt_trace import init
from microgpt_trace.errors import FileFormatError
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.survey_files import OLDER, read_survey


@pytest.fixture(scope="module")
def whole():
    return survey()


def test_refuses_a_folder_and_a_missing_file(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        assert path.name in rejection(path, read_survey)


SUMS = ["attention/queries.count", "attention/repeats.count", "streams/growth.sum", "streams/rows.count"]


@pytest.mark.parametrize("value", some_of([-1, 0, 1e200, 2**62], every=2))
def test_impossible_numbers_have_a_report_or_are_refused(whole, value, tmp_path):
    for name in {*TENSORS, *SUMS, f"{EVENT}/range.range.least"}:
        array = whole.tensors[name]
        with np.errstate(invalid="ignore"):
            filled = np.full(array.shape, value).astype(array.dtype)
        with suppress(FileFormatError):
            opened(whole.damaged(tmp_path, {}, {name: filled}))


def test_a_changed_bit_is_noticed(tmp_path):
    """The bit may be in the header or in the tensors."""
    path = tmp_path / "a.survey.safetensors"
    before = repr(report_of(surveyed(init(), ["emma", "olivia"], tmp_path, events=["embed.tok"], out=path)))
    content, rng = path.read_bytes(), random.Random(30)
    header = int.from_bytes(content[:8], "little") + 8
    for size in [header] * 200 + [len(content)] * 100:
        place = rng.randrange(8 * size)
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with suppress(FileFormatError):
            assert repr(report_of(read_survey(path))) == before, f"bit {place}"


def test_reads_files_of_the_older_format(whole, tmp_path):
    path = whole.damaged(tmp_path, {"format": OLDER})
    assert open_safely(path, opened, whole.memory) == ""
    report = report_of(read_survey(path))
    assert repr(report) == repr(report_of(read_survey(whole.damaged(tmp_path))))
