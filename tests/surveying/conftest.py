"""The models of the survey tests."""

import pytest
from support.surveys import set_pack_size

from microgpt_trace import init, load


@pytest.fixture
def model(request, monkeypatch, checkpoints, decoder_folder, gpt2):
    """Return the model of a case, with texts in packs of 8."""
    set_pack_size(monkeypatch, 8)
    case = request.param
    if case == "untrained":
        return init()
    if case == "gpt2":
        return gpt2()[1]
    return load(checkpoints[case]) if case in checkpoints else load(decoder_folder(case))
