"""Texts that share a packed pass have the same values as in passes of their own."""

import numpy as np
import pytest
from support.judges import agree
from support.other_plans import odd_plan, random_model
from support.sweeps import in_sweep, some_of
from support.tiny_gpt2 import GPT2S
from support.tiny_models import CASES

from microgpt_trace.arrays import logits
from microgpt_trace.interpreter import run as interpreter
from microgpt_trace.interpreter.logits_forward import run_packed
from microgpt_trace.models.packs import Pack, ReadText, equal_lengths, passes

LENGTHS = [1, 3, 3, 3, 7, 9, 9]  # single and equal lengths, below and above the windows
MODEL = random_model(odd_plan())


def texts_of(lengths, seed=5):
    rng = np.random.default_rng(seed)
    return [ReadText(rng.integers(0, 61, length + 1)) for length in lengths]


class Listening:
    """A tap that keeps all values, and replaces one event."""

    def __init__(self, replaced=None):
        self.seen, self.replaced = {}, replaced

    def emit(self, name, value):
        self.seen.setdefault(name, []).append(np.array(value))
        return changed(value) if name == self.replaced else value

    def wants(self, name):
        return True


def changed(value):
    return value * value.dtype.type(0.5) - value.dtype.type(0.25)


def alone(model, text, replaced=None):
    """Return the values of a text that runs alone, which judge those of the pack."""
    tap = Listening(replaced)
    final = interpreter.forward(model, text.tokens, tap)
    used = tap.emit("logits", interpreter.head_forward(model, final, tap)).astype(np.float64)
    tap.emit("probs", np.exp(used) / np.exp(used).sum(axis=1, keepdims=True))
    return {name: value for name, (value,) in tap.seen.items()}


def by_text(name, values, lengths, causal):
    """Divide the values of an event among the texts."""
    if causal:
        return [value for group in values for value in group]
    assert sum(map(len, values)) == sum(lengths), name
    return np.split(np.concatenate(values), np.cumsum(lengths)[:-1])


def assert_as_alone(model, lengths=LENGTHS, replaced=None, **close):
    texts, tap = texts_of(lengths), Listening(replaced)
    run_packed(model, Pack(texts), tap)
    judges = [alone(model, text, replaced) for text in texts]
    assert list(tap.seen) == list(judges[0]) == [n for n in model.plan if n != "loss"]
    for name, values in tap.seen.items():
        results = by_text(name, values, lengths, model.plan[name].causal)
        for value, judge in zip(results, judges, strict=True):
            agree(value, judge[name], what=name, **close)
    return tap.seen


@pytest.mark.parametrize("case", [*some_of(CASES, every=6), "gpt2", in_sweep("gpt2_by_layer")])
def test_every_event_of_a_decoder(decoders, gpt2, case):
    model = gpt2(case)[1] if case in GPT2S else decoders(case)[0]
    assert_as_alone(model, rtol=1e-4, atol=1e-5)


def test_rows_are_emitted_together_and_scores_by_length():
    groups = equal_lengths(LENGTHS)
    for name, values in assert_as_alone(MODEL).items():
        shapes = [value.shape for value in values]
        if MODEL.plan[name].causal:
            assert shapes == [(group.texts, 4, group.length, group.length) for group in groups]
        else:
            assert [shape[0] for shape in shapes] == [sum(LENGTHS)]


@pytest.mark.parametrize("name", [n for n in MODEL.plan if "layer0" not in n and n not in ("probs", "loss")])
def test_a_replaced_value_changes_each_text_as_alone(name):
    logits = assert_as_alone(MODEL, replaced=name, rtol=1e-9)["logits"]
    plain = assert_as_alone(MODEL)["logits"]
    assert name == "logits" or any((a != b).any() for a, b in zip(logits, plain, strict=True))


def test_a_part_of_the_logits_may_span_texts(monkeypatch):
    monkeypatch.setattr(logits, "PART", 61)
    assert [len(value) for value in assert_as_alone(MODEL)["logits"]] == [8, 8, 8, 8, 3]


def test_logits_that_no_listener_requests_are_not_computed():
    tap = Listening()
    tap.wants = lambda name: name == "layer1.attn.head2"
    run_packed(MODEL, Pack(texts_of([2, 3])), tap)
    assert "layer1.attn.head2" in tap.seen
    assert not {"logits", "layer1.attn.head1"}.intersection(tap.seen)


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1] * 7), (9, [3, 1, 1, 1, 1]), (16, [4, 2, 1]), (100, [7])]
)
def test_a_pass_has_a_maximum_of_rows_or_one_text(most, counts):
    texts = texts_of(LENGTHS)
    parts = list(passes(texts, most))
    assert [part.stop - part.start for part in parts] == counts
    assert [text for part in parts for text in texts[part]] == texts
