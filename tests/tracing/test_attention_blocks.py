"""Long texts, whose attention is computed for a block of queries at a time: every number equals the number of
one block, hooks still receive whole values, and no [H, T, T] is held unless somebody requests it."""

import math
import tracemalloc

import numpy as np
import pytest
from support.judges import agree
from support.sweeps import some_of
from support.torch_models import written

from microgpt_trace import Intervention, load, trace
from microgpt_trace.hooks import bus
from microgpt_trace.hooks.edits import Edit
from microgpt_trace.interpreter import backward, run
from microgpt_trace.operations import pass_state
from microgpt_trace.tracing.checks import Checker

LENGTH = 45
TOKENS = [*np.random.default_rng(0).integers(3, 61, LENGTH).tolist()]
# The types have: windows and a cap of the scores, no window, a window, windows and sinks, a window, and a
# window in some layers. A window has 5 positions.
TYPES = ["gemma2", "llama", "mistral", "gpt_oss", "phi3", "gemma3_text"]
CLOSE = 2e-5  # of float32, relative to the largest number of a kind
ATTENTION = ["layer1.attn.scores", "layer1.attn.weights", "layer1.attn.context"]


@pytest.fixture(scope="module", params=some_of(TYPES, every=3))
def case(request, tmp_path_factory):
    """A model of transformers, and the same model in our program."""
    folder = tmp_path_factory.mktemp(request.param)
    judge = written(request.param, folder)
    return judge, load(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    written("llama", folder)
    return load(folder)


@pytest.fixture
def in_blocks(monkeypatch):
    """Compute with blocks of 7 queries of the 4 heads. The last block has 3."""
    monkeypatch.setattr(pass_state, "BLOCK", 7 * 4 * LENGTH)


def in_one_block(function, *arguments, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pass_state, "BLOCK", 1 << 40)
        return function(*arguments, **options)


def traced(model, **options):
    return trace(model, tokens=TOKENS, **options)


# --- Numbers ------------------------------------------------------------------------------------


def test_logits_are_the_logits_of_transformers(case, in_blocks):
    import torch

    judge, model = case
    with torch.no_grad():
        expected = judge(torch.tensor([TOKENS])).logits[0].numpy()
    found = model.logits(model.read(tokens=TOKENS), range(LENGTH))
    agree(found, expected, rtol=1e-4, atol=1e-4, what="logits")


def test_every_value_is_the_value_of_one_block(case, in_blocks):
    _, model = case
    expected = in_one_block(traced, model, names=["*"], values=True).arrays
    found = traced(model, names=["*"], values=True).arrays
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        agree(found[key], value, rtol=CLOSE, atol=CLOSE * np.abs(value).max(), what=key[1])


def test_parts_and_whole_values_lead_to_equal_bits(case, in_blocks):
    """A hook that needs whole values must not change a number."""
    _, model = case
    parts, whole = traced(model), traced(model, values=ATTENTION)
    assert not parts.arrays
    assert {name for _, name in whole.arrays} == {*ATTENTION}
    assert parts.predictions == whole.predictions
    assert parts.layers == whole.layers
    events = {event.name: event for event in whole.events}
    for event in parts.events:
        own = events[event.name]
        assert (event.seq, event.shape, event.dtype) == (own.seq, own.shape, own.dtype)
        if event.name in ATTENTION[:2]:  # sums in another order
            for name in ("count", "min", "max", "max_abs", "zero_count"):
                assert getattr(event.stats, name) == getattr(own.stats, name)
            for name in ("mean", "std", "l2_norm"):
                agree(getattr(event.stats, name), getattr(own.stats, name), rtol=1e-12, atol=1e-15, what=name)


def test_a_prompt_continues_like_in_one_block(case, in_blocks):
    _, model = case
    expected = in_one_block(traced, model, generate=4, recheck=True)
    found = traced(model, generate=4, recheck=True)
    assert [step.token.token for step in found.generation] == [
        step.token.token for step in expected.generation
    ]
    assert all(check.holds is not False for check in found.checks)


def test_gradients_are_the_gradients_of_one_block(case, in_blocks):
    _, model = case
    expected = in_one_block(traced, model, backward=True, names=["*"], values=True).arrays
    found = traced(model, backward=True, names=["*"], values=True, recheck=True)
    assert all(check.holds is not False for check in found.checks)
    for key, value in expected.items():
        agree(found.arrays[key], value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), what=key[1])


def test_several_edited_sequences_run_in_blocks(case, in_blocks):
    _, model = case
    inputs, names = model.read(tokens=TOKENS), ["layer1.attn.weights", "layer1.attn.q", "layer2.mlp.down"]
    edits = [Edit(name, lambda value: value * np.float32(0.5)) for name in names]
    expected = dict(in_one_block(lambda: list(model.edited_logits(inputs, edits, range(LENGTH)))))
    found = dict(model.edited_logits(inputs, edits, range(LENGTH)))
    for number, value in expected.items():
        agree(found[number], value, rtol=CLOSE, atol=CLOSE * np.abs(value).max(), what=names[number])


# --- Hooks --------------------------------------------------------------------------------------


def test_a_hook_receives_whole_scores_with_the_entries_that_the_mask_hides(llama, in_blocks):
    received = {}

    def received_once(event, value):
        assert event.name not in received
        received[event.name] = event, value.copy()

    with llama.hooks.subscribe(received_once, *ATTENTION, stats=True):
        traced(llama)
    arrays = in_one_block(
        traced, llama, values=[*ATTENTION, "layer1.attn.q_rope", "layer1.attn.k_rope"]
    ).arrays
    q, k = (arrays["forward", f"layer1.attn.{n}_rope"].reshape(LENGTH, -1, 8).swapaxes(0, 1) for n in "qk")
    scores = q @ k[[0, 0, 1, 1]].swapaxes(1, 2) / math.sqrt(8)
    agree(received[ATTENTION[0]][1], scores, rtol=1e-4, atol=1e-4, what="scores")
    for name, (event, value) in received.items():
        assert event.shape == value.shape
        agree(value, arrays["forward", name], rtol=1e-4, atol=1e-5, what=name)


def test_a_hook_that_takes_parts_receives_every_query_once(llama, in_blocks):
    parts, ends = [], []
    hook, part = lambda event, value: ends.append((event, value)), lambda *own: parts.append(own)
    with llama.hooks.subscribe(hook, ATTENTION[1], stats=True, parts=part):
        traced(llama)
    (end, empty), (last, _) = ends[0], parts[-1]
    assert empty.size == 0
    assert end.shape == last.shape == (4, LENGTH, LENGTH)
    assert end.stats == last.stats
    shapes = [value.shape for _, value in parts]
    assert shapes == [(4, min(7, LENGTH - start), min(start + 7, LENGTH)) for start in range(0, LENGTH, 7)]
    assert [event.shape for event, _ in parts] == [(4, keys, keys) for _, _, keys in shapes]


@pytest.mark.parametrize(("query", "key"), [(3, 40), (30, 2)])
def test_a_changed_weight_of_a_hidden_key_is_used(case, in_blocks, query, key):
    """A hook may set the weight of a later key, or of a key before the window."""
    _, model = case

    def look(event, value):
        changed = value.copy()
        changed[:, query] = 0
        changed[:, query, key] = 1
        return changed

    with model.hooks.subscribe(look, "layer1.attn.weights"):
        arrays = traced(model, values=["layer1.attn.v", "layer1.attn.context"]).arrays
    value = arrays["forward", "layer1.attn.v"][key].reshape(2, -1)
    agree(
        arrays["forward", "layer1.attn.context"][query], np.repeat(value, 2, axis=0).ravel(), what="context"
    )


@pytest.mark.parametrize("name", ATTENTION)
def test_an_edit_has_the_effect_of_one_block(llama, in_blocks, name):
    scaled = [Intervention("scale", name, 0.5)]
    expected, found = in_one_block(traced, llama, interventions=scaled), traced(llama, interventions=scaled)
    pairs = zip(found.intervened.changes, expected.intervened.changes, strict=True)
    for own, one in pairs:
        assert own.name == one.name
        agree(own.change, one.change, rtol=1e-4, atol=1e-6, what=own.name)


def test_the_time_of_every_event_is_its_own(llama, in_blocks):
    """The events of one layer together take the time of the layer, and none takes the time of another."""
    with pytest.MonkeyPatch.context() as patch:
        now = iter(range(10**6))
        patch.setattr(bus, "perf_counter", lambda: next(now))  # each reading is one second later
        seconds = {event.name: event.seconds for event in traced(llama, time=True).events}
    blocks = math.ceil(LENGTH / 7)
    print(seconds["layer1.attn.scores"], seconds["layer1.attn.weights"], seconds["layer1.attn.context"])
    assert seconds["layer1.attn.scores"] == seconds["layer1.attn.weights"] == blocks
    assert seconds["layer1.attn.context"] == blocks + 1  # the last second passes when the context is emitted
    assert seconds["layer1.attn.out"] == 1


# --- Checks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [[(2, 30)], [(2, 9), (1, 30)], [(0, 44), (3, 8)]])
def test_the_first_nonfinite_element_is_the_element_of_whole_values(llama, in_blocks, places):
    """In the order of heads, queries and keys, although a later head may be broken in an earlier block."""

    def broken(event, value):
        changed = value.copy()
        for head, position in places:
            changed[position, 8 * head] = np.nan
        return changed

    with llama.hooks.subscribe(broken, "layer1.attn.q_rope"):
        checker_of = {}
        for values in ([], ["layer1.attn.scores"]):
            plan, bus = llama.plan, llama.hooks
            checker = Checker(plan, llama.parameter)
            names = [name for name in plan if name.startswith("layer1.attn") and not name.endswith("rope")]
            first, last = checker.observers(bus, *names)
            whole = [bus.subscription(lambda event, value: None, *values)] if values else []
            began = bus.begin(before=[first], after=[last, *whole])
            run.forward(llama, np.array(TOKENS), began.tap("forward"))
            checker_of[bool(values)] = checker.finite().detail
    head, position = min(places)
    print(checker_of)
    assert checker_of[False] == checker_of[True]
    assert f"layer1.attn.scores, position {position}, element [{head}, {position}, 0]" in checker_of[False]


@pytest.mark.parametrize("claim", ["softmax", "causal"])
def test_the_checks_of_weights_see_every_block(llama, in_blocks, monkeypatch, claim):
    """A wrong weight of one query, in the last block, fails the check."""
    from microgpt_trace.operations import softmax

    right = softmax.softmax_forward

    def wrong(scores, *rest):
        weights = right(scores, *rest)
        if scores.shape[1] == 3:  # the last block
            weights[2, 0, -1 if claim == "causal" else 0] += 0.25
            weights[2, 0, 1] -= 0.25 * (claim == "causal")
        return weights

    monkeypatch.setattr(softmax, "softmax_forward", wrong)
    failed = {check.id: check.detail for check in traced(llama).checks if check.holds is False}
    assert failed == {claim: "layer0.attn.weights"}


# --- Memory -------------------------------------------------------------------------------------


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_trace_holds_no_matrix_of_all_queries_and_keys(decoder_folder):
    """16 heads, so that one [H, T, T] of 1,024 tokens has 64 MB, more than all other values together."""
    shape = {"hidden_size": 64, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 4}
    model = load(decoder_folder(max_position_embeddings=1024, **shape))
    tokens = (TOKENS * 23)[:1024]
    square = 4 * 16 * 1024**2
    silent = peak_of(lambda: model.logits(model.read(tokens=tokens), [-1]))
    observed = peak_of(lambda: trace(model, tokens=tokens))
    kept = peak_of(lambda: trace(model, tokens=tokens, values=["layer1.attn.scores"]))
    print(*(f"{size / 1e6:.1f} MB" for size in (silent, observed, kept, square)))
    assert silent < square / 2
    assert observed < square / 2
    assert kept > square


def test_a_short_text_has_one_block():
    class Short:
        tokens = np.arange(8)

    assert len(pass_state.PassState(None, Short.tokens).blocks(9)) == 1
    assert len(pass_state.PassState(None, np.arange(256)).blocks(9)) == 1
    assert len(pass_state.PassState(None, np.arange(2048)).blocks(9)) == 37


def test_a_backward_pass_keeps_whole_values(llama, in_blocks):
    done = backward.forward(llama, np.array(TOKENS), [None] * LENGTH)
    assert done.run.tap.used["layer1.attn.weights"].shape == (4, LENGTH, LENGTH)
