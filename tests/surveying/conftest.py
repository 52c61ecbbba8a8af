"""The models that several tests of surveys are about."""

import pytest
from support.surveys import in_packs_of

from microgpt_trace import init, load


@pytest.fixture
def model(request, monkeypatch, checkpoints, decoder_folder, gpt2):
    """By the name of its case, its texts in packs of 8."""
    in_packs_of(monkeypatch, 8)
    case = request.param
    if case == "untrained":
        return init()
    if case == "gpt2":
        return gpt2()[1]
    return load(checkpoints[case]) if case in checkpoints else load(decoder_folder(case))
