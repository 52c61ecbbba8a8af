"""diff names the first event in which a fault of an engine shows.

The engine shares no code with the package and runs the same weights. `diff(model, dump)` reads its events.
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
    quantise,
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
DECODERS = ("llama_gqa", "qwen2", "mistral_window", "qwen3", "llama_llama3")
MICROGPTS = {"microgpt_1_layer": "default", "microgpt_2_layers": "2 layers, 2 heads"}


@dataclass(frozen=True)
class Subject:
    """A model, and an engine that runs its weights: `run(fault)` returns the events."""

    model: Any
    reads: dict[str, Any]
    tokens: tuple[int, ...]
    run: Callable[..., dict[str, np.ndarray]]
    faults: list

    def diff(self, events, **options):
        return diff(self.model, recording(events, self.tokens), **options)


def decoder_subject(case, folder):
    config, weights = CASES[case], random_weights(CASES[case], case)
    write_folder(folder, config, weights)
    tokens = (config["bos_token_id"], *TOKENS)

    def run(fault=None, **options):
        return decoder_run(config, weights, tokens, fault, **options)

    return Subject(load(folder), {"tokens": tokens}, tokens, run, decoder_faults(config))


def microgpt_subject(name):
    """A microGPT in float32. Its text is one token shorter than the context, since some faults add a
    position."""
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


@pytest.fixture(scope="module", params=some_of([*MICROGPTS, *DECODERS], every=10, sweep=5))
def subject(request, tmp_path_factory):
    if request.param in MICROGPTS:
        return microgpt_subject(MICROGPTS[request.param])
    return decoder_subject(request.param, tmp_path_factory.mktemp(request.param) / "model")


# --- One event altered ------------------------------------------------------------------------


def test_an_engine_without_a_fault_agrees(subject):
    events = subject.run()
    found = subject.diff(events)
    print(f"{found.worst.name}: {found.worst.relative:.1e} of {found.worst.tolerance:.1e}")
    assert found.agree
    assert [event.name for event in found.events] == list(events)


@pytest.mark.parametrize("turn", some_of(range(len(KINDS)), every=len(KINDS), sweep=10))
def test_an_altered_event_is_the_first_difference(subject, turn):
    """Each event has one kind of fault, and the next kind in the next turn."""
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
    """Check that position, head, index and value are those of the one element that differs."""
    (element,) = np.argwhere(altered != right).tolist()
    assert list(found.index) == list(found.max_index) == element, found.name
    place = (element[-2] if element else None, element[0] if len(element) == 3 else None)
    assert (found.position, found.head) == place, found.name
    np.testing.assert_array_equal(found.b, altered[tuple(element)], err_msg=found.name)


# --- Wrong operations -------------------------------------------------------------------------


def effect(found, right):
    """Return the worst row's |a - b| / max(|a|, |b|). A row's size counts as at least the median size."""
    a, b = (x.astype(np.float64).reshape(-1, x.shape[-1] if x.ndim else 1) for x in (found, right))
    sizes = np.maximum(*(np.linalg.norm(x, axis=1) for x in (a, b)))
    return float((np.linalg.norm(a - b, axis=1) / np.maximum(sizes, np.median(sizes))).max())


def test_a_wrong_operation_is_the_first_difference(subject):
    """Faults whose own effect lies within the band of float32 rounding cannot be seen and do not count."""
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
            with pytest.raises(InputError, match=r"(embed\.tok|attn\.norm): expected \[\d+, \d+\], found"):
                subject.diff(subject.run(fault))


# --- The smallest fault that is found ---------------------------------------------------------


def smallest_found(holds, band):
    """Return the smallest size, within 10 %, that does not hold. Half a band holds and ten bands do not."""
    low, high = band / 2, 10 * band
    while high / low > 1.1:
        size = (low * high) ** 0.5
        low, high = (size, high) if holds(size) else (low, size)
    return high


def test_the_smallest_scale_that_is_detected_is_the_band(subject):
    """Each event is scaled alone. A scale of half a band is never found, one of ten bands always is."""
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


def test_an_engine_that_rounds_every_operation_agrees_with_compute():
    """The band of float32 does not hold it. For decoders see tests/rounding/test_one_account.py."""
    subject = microgpt_subject(MICROGPTS["microgpt_2_layers"])
    for compute in ("bf16", "f16"):
        events = subject.run(rounding=compute)
        found = subject.diff(events, compute=compute)
        print(f"{compute}: {found.worst.name} {found.worst.relative:.1e} of {found.worst.tolerance:.1e}")
        assert found.agree
        assert not subject.diff(events, compute="f32").agree


def test_a_fault_larger_than_bf16_rounding_is_found_in_bf16(subject):
    """The faults are a scale of 1.5, because the band of bf16 is wide, and a NaN."""
    for i, name in enumerate(list(subject.run())[::5]):
        fault = generic_fault("scale", name, 1.5) if i % 2 == 0 else generic_fault("nan", name)
        events = subject.run(fault, rounding="bf16")
        assert subject.diff(events, compute="bf16").first == name, fault.id


# --- Two quantisations of one model -----------------------------------------------------------

SMALL = tiny_config(hidden_size=64, intermediate_size=96, **rope_4())
IDS = ",".join(map(str, TOKENS))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The paths of one model by type: float32 and five quantisations."""
    home, weights = tmp_path_factory.mktemp("quantised"), random_weights(SMALL, "quantised")
    paths = {"F32": write_folder(home / "F32", SMALL, weights)}
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        paths[kind] = write_gguf(home / f"{kind}.gguf", SMALL, quantise(weights, kind))
    return paths


PAIRS = [("Q8_0", "Q5_1"), ("Q4_0", "Q4_1"), ("Q4_1", "Q4_0"), ("Q5_0", "Q5_1"), ("Q5_1", "Q5_0")]


@pytest.mark.parametrize(("kind", "third"), some_of(PAIRS, every=3))
def test_quantisations_agree_if_an_equally_coarse_one_calibrates(files, kind, third):
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
