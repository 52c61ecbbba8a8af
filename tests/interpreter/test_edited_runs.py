"""Edits that share a pass give the same logits as separate runs under hooks."""

from itertools import product

import numpy as np
import pytest
from support.judges import agree
from support.sweeps import some_of

from microgpt_trace import trace
from microgpt_trace.hooks.edits import Edit
from microgpt_trace.interpreter import edited_runs

TOKENS = [17, 3, 44, 3, 60, 0]


def editable(model):
    return [name for name in list(model.plan) if name not in ("probs", "loss")]


def by_hooks(model, edit, rows, **options):
    """Return the logits of a separate run under a hook, the judge."""
    with model.hooks.subscribe(lambda event, value: edit.change(value), edit.name):
        return trace(model, values=["logits"], **options)["logits"][list(rows)]


def at_position(position):
    def change(value):
        changed = np.array(value)
        changed[..., position, :] = 0.25
        return changed

    return change


def assert_as_by_hooks(model, edits, rows, **options):
    inputs = model.read(options.get("text"), options.get("tokens"))
    results = dict(model.edited_logits(inputs, edits, rows))
    assert sorted(results) == list(range(len(edits)))
    for number, edit in enumerate(edits):
        agree(results[number], by_hooks(model, edit, rows, **options), rtol=1e-4, atol=2e-5, what=edit.name)


CASES = product(["gpt2", "qwen2", "qwen3", "mistral_window"], [1 << 23, 2000, 1])


@pytest.mark.parametrize(("case", "elements"), some_of(CASES, every=4))
def test_edits_of_every_event_of_a_decoder(decoders, gpt2, case, elements, monkeypatch):
    monkeypatch.setattr(edited_runs, "ELEMENTS", elements)  # the last two need several passes
    model = gpt2()[1] if case == "gpt2" else decoders(case)[0]
    edits = [Edit(name, at_position(2)) for name in reversed(editable(model))]
    assert_as_by_hooks(model, edits, [0, 2, 5], tokens=TOKENS)


def test_edits_of_every_event_of_a_microgpt(deep):
    edits = [Edit(name, at_position(2)) for name in editable(deep.model)]
    assert_as_by_hooks(deep.model, edits, [1, 2, 8], text=deep.text)


def test_the_reported_progress_reaches_its_total(decoders, monkeypatch):
    model, reports = decoders("llama_gqa")[0], []
    monkeypatch.setattr(edited_runs, "ELEMENTS", 2000)
    edits = [Edit(name, at_position(0)) for name in editable(model)]
    list(model.edited_logits(model.read(None, TOKENS), edits, [0], lambda *done: reports.append(done)))
    assert reports[-1][0] == reports[-1][1]
    assert [done for done, _ in reports] == list(range(1, len(reports) + 1))
