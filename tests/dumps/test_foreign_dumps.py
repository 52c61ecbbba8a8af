"""Dumps with the names and shapes of other engines agree with the model."""

import pytest
from support.faulty_engine import decoder_run
from support.foreign_dumps import STYLES, write_dump
from support.sweeps import some_of
from support.tiny_models import TOKENS, tiny_model

from microgpt_trace.comparison.diff import diff

NOT_COMPARED = {"llama.cpp": {f"layer{i}.attn.context" for i in (0, 1)}}  # kqv_out can be two events


@pytest.mark.parametrize("style", [style for style in STYLES if style != "numbers"])
@pytest.mark.parametrize("case", some_of(["qwen3", "llama_head_dim"], every=2))
def test_every_event_of_a_style_agrees(decoders, tmp_path, case, style):
    files = write_dump(tmp_path / "dump", decoder_run(*tiny_model(case), TOKENS), style)
    found = diff(decoders(case)[0], tmp_path / "dump", tokens=TOKENS)
    assert found.agree
    assert {event.name for event in found.events} == files.keys() - NOT_COMPARED.get(style, set())
