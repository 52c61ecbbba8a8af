"""The proof of diff: whatever is wrong with an engine, the event that it shows in first is named.

An engine that shares no code with the package runs the same weights; `diff(model, dump)` reads its events.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.commands import microgpt
from support.comparing import KINDS, recording
from support.faults import decoder_faults, generic_fault, microgpt_faults
from support.faulty_engine import decoder_run, microgpt_run
from support.sweeps import some_of
from support.tiny_microgpts import CASES as MICROGPT
from support.tiny_models import (
    CASES,
    TOKENS,
    quantised,
    random_weights,
    rope_4,
    tiny_config,
    write_folder,
    write_gguf,
)

from microgpt_trace import Model, load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.parameters import Parameters

ONE_ELEMENT = ("nan", "inf", "wrong_element")
DECODERS = ("llama_gqa", "qwen2", "qwen3", "mistral_window", "llama_llama3")
MICROGPTS = {"microgpt_1_layer": "default", "microgpt_2_layers": "2 layers, 2 heads"}


@dataclass(frozen=True)
class Subject:
    """A model, and the engine that runs its weights: `run(fault)` gives events."""

    model: Any
    reads: dict[str, Any]
    tokens: tuple[int, ...]
    run: Callable[..., dict[str, np.ndarray]]
    faults: list

    def diff(self, events, **options):
        """The model against what the engine left."""
        return diff(self.model, recording(events, self.tokens), **options)


def decoder_subject(case, folder):
    config, weights = CASES[case], random_weights(CASES[case], case)
    write_folder(folder, config, weights)
    tokens = (config["bos_token_id"], *TOKENS)

    def run(fault=None, **options):
        return decoder_run(config, weights, tokens, fault, **options)

    return Subject(load(folder), {"tokens": tokens}, tokens, run, decoder_faults(config))


def microgpt_subject(name):
    """In float32; a text a token shorter than the context, for faults that need a position more."""
    case = MICROGPT[name]
    single = Parameters.random(case.model.config, 0, np.float32)
    single.flat[:] = case.model.params.flat
    model, heads = Model(single, case.model.tokenizer, name), case.model.config.n_head
    text = case.text[:-1]
    ids = model.tokenizer.encode_name(text)
    params = {name: np.asarray(array) for name, array in model.params.items()}

    def run(fault=None, **options):
        return microgpt_run(params, ids[:-1], heads, fault, targets=ids[1:], **options)

    return Subject(model, {"text": text}, tuple(ids[:-1]), run, microgpt_faults(params, heads))


@pytest.fixture(scope="module", params=some_of([*DECODERS, *MICROGPTS], every=5, sweep=2))
def subject(request, tmp_path_factory):
    if request.param in MICROGPTS:
        return microgpt_subject(MICROGPTS[request.param])
    return decoder_subject(request.param, tmp_path_factory.mktemp(request.param) / "model")


# --- One event altered ------------------------------------------------------------------------


def test_the_engine_without_a_fault_is_the_same(subject):
    events = subject.run()
    found = subject.diff(events)
    print(f"{found.worst.name}: {found.worst.relative:.1e} of {found.worst.tolerance:.1e}")
    assert found.agree
    assert [event.name for event in found.events] == list(events)


@pytest.mark.parametrize("turn", some_of(range(len(KINDS)), every=len(KINDS), sweep=3))
def test_an_event_altered_in_the_engine_is_the_first(subject, turn):
    """Each event by one kind of fault, and by the next kind in the next turn."""
    right, wrong = subject.run(), []
    for i, (name, value) in enumerate(right.items()):
        kind = KINDS[(i + turn) % len(KINDS)]
        if kind == "wrong_row" and not value.ndim:
            continue  # a number has no rows
        fault = generic_fault(kind, name)
        found = subject.diff(subject.run(fault))
        if found.first != name:
            wrong.append((kind, name, found.first))
        elif kind in ONE_ELEMENT:
            assert_element_told(found.event(name), fault.alter(value), value)
    print(wrong)
    assert not wrong


def assert_element_told(found, altered, right):
    """Position, head, index and value are those of the one element that differs."""
    (element,) = np.argwhere(altered != right).tolist()
    assert list(found.index) == list(found.max_index) == element, found.name
    assert found.position == (element[-2] if element else None), found.name
    assert found.head == (element[0] if len(element) == 3 else None), found.name
    np.testing.assert_array_equal(found.b, altered[tuple(element)], err_msg=found.name)


# --- Wrong operations -------------------------------------------------------------------------


def effect(found, right):
    """The worst row's |a - b| / max(|a|, |b|), a row below the median row counting as that."""
    a, b = (x.astype(np.float64).reshape(-1, x.shape[-1] if x.ndim else 1) for x in (found, right))
    sizes = np.maximum(*(np.linalg.norm(x, axis=1) for x in (a, b)))
    return float((np.linalg.norm(a - b, axis=1) / np.maximum(sizes, np.median(sizes))).max())


def test_a_wrong_operation_is_the_first(subject):
    """Those whose own effect lies within the band of float32 rounding are no faults to be seen there."""
    right, small, seen, wrong = subject.run(), [], 0, []
    for fault in subject.faults:
        if "tokens" in fault.changes:
            continue
        events = subject.run(fault)
        found, size = subject.diff(events), effect(events[fault.event], right[fault.event])
        if size < found.event(fault.event).tolerance:
            small.append(f"{fault.id} {size:.0e}: {found.first}")
            continue
        seen += 1
        if found.first != fault.event:
            wrong.append((fault.id, fault.event, found.first, size))
    print(f"{seen - len(wrong)} of {seen}; too small to be one: {small}; {wrong}")
    assert not wrong
    assert seen > 30


def test_other_tokens_are_refused(subject):
    for fault in subject.faults:
        if fault.id in ("bos_added", "bos_missing"):
            with pytest.raises(InputError, match=r"embed\.tok"):
                subject.diff(subject.run(fault))


# --- The smallest fault that is found ---------------------------------------------------------


def smallest_found(holds, band):
    """The least size that does not hold, within 10 %, where half a band holds and ten do not"""
    low, high = band / 2, 10 * band
    while high / low > 1.1:
        size = (low * high) ** 0.5
        low, high = (size, high) if holds(size) else (low, size)
    return high


def test_the_smallest_scale_that_is_found_is_the_band(subject):
    """Of the event alone, against the model's own numbers: half a band is never found, ten always are."""
    traced = trace(subject.model, values=True, names=["*"], **subject.reads)
    own = recording({event.name: traced[event.name] for event in traced}, subject.tokens)
    right = subject.run()
    bands = {event.name: event.tolerance for event in subject.diff(right).events}
    scores = [name for name in right if name.endswith(".scores")]

    def holds(name, size):
        events = right | {name: np.float32(right[name].astype(np.float64) * (1 + size))}
        other = recording(events, subject.tokens)
        return diff(own, other, names=[*scores, name]).event(name).holds

    assert all(holds(name, band / 2) and not holds(name, 10 * band) for name, band in bands.items())
    some = list(bands)[::4]
    sizes = np.array([smallest_found(partial(holds, name), bands[name]) for name in some])
    ratios = sizes / np.array([bands[name] for name in some])
    print(f"largest {sizes.max():.1e}; {ratios.min():.2f} to {ratios.max():.2f} times the band")
    assert sizes.max() < 1e-3
    assert 0.5 < ratios.min() <= ratios.max() < 10


# --- Right engines ----------------------------------------------------------------------------


def test_an_engine_that_rounds_at_every_operation_is_no_alarm():
    """Under `compute`; float32's band tells it apart. For decoders see tests/rounding/test_one_account.py."""
    subject = microgpt_subject(MICROGPTS["microgpt_2_layers"])
    for compute in ("bf16", "f16"):
        events = subject.run(rounding=compute)
        found = subject.diff(events, compute=compute)
        print(f"{compute}: {found.worst.name} {found.worst.relative:.1e} of {found.worst.tolerance:.1e}")
        assert found.agree
        assert not subject.diff(events).agree


def test_a_fault_beyond_bf16_is_found_in_bf16(subject):
    """A scale of 1.5, as the band of bf16 is wider, and a NaN."""
    for i, name in enumerate(list(subject.run())[::5]):
        fault = generic_fault("scale", name, 1.5) if i % 2 == 0 else generic_fault("nan", name)
        events = subject.run(fault, rounding="bf16")
        assert subject.diff(events, compute="bf16").first == name, fault.id


# --- Two quantisations of one model -----------------------------------------------------------

SMALL = tiny_config(hidden_size=64, intermediate_size=96, **rope_4())
IDS = ",".join(map(str, TOKENS))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of one model: in float32, and by quantisation type."""
    home, weights = tmp_path_factory.mktemp("quantised"), random_weights(SMALL, "quantised")
    found = {"F32": write_folder(home / "F32", SMALL, weights)}
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        found[kind] = write_gguf(home / f"{kind}.gguf", SMALL, quantised(weights, kind))
    return found


PAIRS = [("Q8_0", "Q5_1"), ("Q4_0", "Q4_1"), ("Q4_1", "Q4_0"), ("Q5_0", "Q5_1"), ("Q5_1", "Q5_0")]


@pytest.mark.parametrize(("kind", "third"), some_of(PAIRS, every=3))
def test_quantisations_part_and_agree_when_calibrated_by_one_as_coarse(files, kind, third):
    paths = files["F32"], files[kind]
    assert diff(*paths, tokens=TOKENS).first == "embed.tok"
    found = diff(*paths, tokens=TOKENS, calibrate=files[third])
    print(f"{found.worst.name} {found.worst.relative:.1e} of {found.worst.tolerance:.1e}")
    assert found.agree
    if kind.startswith("Q4"):
        assert not diff(*paths, tokens=TOKENS, calibrate=files["Q8_0"]).agree


def test_quantisations_from_the_shell(files):
    command = ["diff", files["F32"], files["Q8_0"], "--tokens", IDS]
    plain, calibrated = microgpt(*command), microgpt(*command, "--calibrate", files["Q5_1"])
    assert (plain.code, calibrated.code) == (1, 0)
    assert "First divergence: embed.tok" in plain.out
    assert "The same" in calibrated.out
