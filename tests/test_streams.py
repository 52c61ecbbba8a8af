"""A pass as an iterator: the events of `trace`, in its order, and its end whatever happens."""

import numpy as np
import pytest
from tiny_models import TOKENS

from microgpt_trace import init, load, trace
from microgpt_trace.comparison import streams
from microgpt_trace.comparison.pairing import prepared
from microgpt_trace.comparison.rounding import COMPUTES, INTO_PRODUCTS, to_bf16
from microgpt_trace.comparison.streams import EventStream, Piece


@pytest.fixture(scope="module")
def folders(decoder_folder):
    return {case: decoder_folder(case) for case in ("llama_gqa", "qwen3")}


@pytest.fixture(params=["microgpt", "llama_gqa", "qwen3"])
def model(request, folders):
    return init() if request.param == "microgpt" else load(folders[request.param])


@pytest.fixture
def llama(folders):
    return load(folders["llama_gqa"])


def inputs_of(model):
    return prepared(model, None, TOKENS) if model.family == "decoder" else prepared(model, "emma", None)


def names_of(model):
    return [n for n, s in model.hooks.specs.items() if not s.extra and n not in model.config.shapes()]


def stream(model, names=None, compute=None):
    return EventStream(model, inputs_of(model), names or names_of(model), compute)


def whole(model, names=None, compute=None):
    """What a stream gives, parts put together."""
    found = {}
    for piece in stream(model, names, compute):
        found.setdefault(piece.name, []).append(piece.value.copy())
    return {n: parts[0] if len(parts) == 1 else np.concatenate(parts) for n, parts in found.items()}


def traced(model):
    given = {"tokens": TOKENS} if model.family == "decoder" else {"text": "emma"}
    found = trace(model, names=names_of(model), values=True, **given)
    return {event.name: found[event.name] for event in found}


def test_the_events_of_trace_in_its_order(model):
    found, wanted = whole(model), traced(model)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=3e-7 if name == "loss" else 0, err_msg=name)


def test_logits_in_parts_are_the_whole(llama, monkeypatch):
    at_once = whole(llama)
    monkeypatch.setattr(streams, "PART", 3 * llama.config.vocab_size)
    pieces = list(stream(llama))
    positions = [list(p.positions) for p in pieces if p.name == "logits"]
    assert positions == [[0, 1, 2], [3, 4, 5], [6]]
    found = whole(llama)
    for name in ("logits", "probs", "loss"):
        np.testing.assert_allclose(found[name], at_once[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_rows_at_some_positions():
    piece = Piece("layer0.attn.q", np.arange(12).reshape(4, 3), range(2, 6))
    assert piece.at([3, 5]).tolist() == [[3, 4, 5], [9, 10, 11]]
    assert piece.at(range(2, 6)) is piece.value
    scores = Piece("layer0.attn.scores", np.arange(8).reshape(2, 2, 2), range(2))
    assert scores.at([1]).tolist() == [[[2, 3]], [[6, 7]]]


def test_an_exception_of_a_hook_arrives(model):
    def broken(event, value):
        raise ZeroDivisionError("of the hook")

    name = names_of(model)[5]
    with (
        model.hooks.subscribe(broken, name),
        pytest.raises(ZeroDivisionError, match="of the hook"),
        stream(model) as pieces,
    ):
        list(pieces)


def test_closing_early_ends_the_thread(model):
    pieces = stream(model)
    next(iter(pieces))
    pieces.close()
    assert not pieces._thread.is_alive()
    pieces.close()


def test_a_consumer_that_fails_ends_the_thread(model):
    pieces = stream(model)

    def consume():
        with pieces:
            raise ZeroDivisionError(next(iter(pieces)))

    with pytest.raises(ZeroDivisionError):
        consume()
    assert not pieces._thread.is_alive()


def test_a_pass_is_never_far_ahead(llama):
    seen = []
    with llama.hooks.subscribe(lambda event, value: seen.append(event.name)), stream(llama) as pieces:
        for count, _ in enumerate(pieces, 1):
            assert len([n for n in seen if ".head" not in n]) <= count + streams.AHEAD + 1


def test_interventions_are_seen(model):
    name = names_of(model)[4]
    with model.hooks.subscribe(lambda event, value: value * 2, name):
        changed = whole(model)
    usual = whole(model)
    np.testing.assert_array_equal(changed[name], usual[name] * 2)
    assert not np.array_equal(changed["logits"], usual["logits"])


def test_bf16_rounds_every_value_before_it_is_looked_at(model):
    found = whole(model, compute=COMPUTES["bf16"])
    for name, value in found.items():
        np.testing.assert_array_equal(value, to_bf16(value), err_msg=name)


def test_q8_rounds_what_goes_into_products_after_it_is_looked_at(llama):
    usual, found = whole(llama), whole(llama, compute=COMPUTES["q8"])
    assert "layer*.attn.norm" in INTO_PRODUCTS
    np.testing.assert_array_equal(found["layer0.attn.norm"], usual["layer0.attn.norm"])
    wq = llama.tensors["layer0.attn_wq"].read()
    wanted = COMPUTES["q8"].round(usual["layer0.attn.norm"]) @ wq.T
    np.testing.assert_allclose(found["layer0.attn.q"], wanted, atol=1e-5)
    assert not np.allclose(found["layer0.attn.q"], usual["layer0.attn.q"], atol=1e-5)


def test_rounding_is_of_this_pass_alone(model):
    usual = whole(model)
    whole(model, compute=COMPUTES["bf16"])
    assert len(model.hooks) == 0
    np.testing.assert_array_equal(whole(model)["logits"], usual["logits"])


def test_a_stream_that_has_ended_has_ended(model):
    pieces = stream(model)
    assert len(list(pieces)) > 1
    assert list(pieces) == []
