"""Random surveys by tests/attacks/surveys.py, which runs many more."""

import sys

import pytest
from support.sweeps import some_of

pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")
pytest.importorskip("jinja2", reason="the commands render chat templates")
if sys.platform == "win32":
    pytest.skip("the attacks send signals", allow_module_level=True)

from attacks.surveys import case_of, problems


@pytest.mark.parametrize("number", some_of(range(12, 60), every=48, sweep=6))
def test_random_surveys_agree_with_loops_over_traces(number, tmp_path):
    case, rng = case_of(2, number, tmp_path)
    end, found = problems(case, rng)
    print(" ".join(case.words), end)
    assert not found
