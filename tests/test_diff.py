"""diff: the event that was altered is the one named; what cannot be compared is refused."""

from contextlib import ExitStack

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import TOKENS

from microgpt_trace import Config, Model, Tokenizer, init, load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.comparison.prompts import diff_prompts, read_prompts
from microgpt_trace.comparison.rounding import to_bf16
from microgpt_trace.dumps.arrays_file import save_arrays
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.render.document import to_json as trace_to_json

MODELS = ("microgpt", "llama_gqa", "qwen3")
FAULTS = {
    "x1.01": lambda value: value * value.dtype.type(1.01),
    "sign": lambda value: -value,
    "one NaN": lambda value: with_nan(value),
    "one wrong row": lambda value: with_wrong_row(value),
}


def with_nan(value):
    changed = value.copy()
    changed[(0,) * value.ndim] = np.nan
    return changed


def with_wrong_row(value):
    """The last position's row, of the last head where there are heads, turned around and twice as large."""
    changed = value.copy()
    changed[(-1,) * max(0, value.ndim - 1)] *= -2
    return changed


@pytest.fixture(scope="module")
def folders(decoder_folder):
    return {case: decoder_folder(case) for case in ("llama_gqa", "qwen3", "qwen2")}


@pytest.fixture(scope="module")
def pairs(folders):
    """Every model twice, with hooks of their own."""
    decoders = {case: (load(folder), load(folder)) for case, folder in folders.items()}
    return decoders | {"microgpt": (init(), init())}


@pytest.fixture
def llama(pairs):
    return pairs["llama_gqa"]


def reads(model):
    return {"tokens": TOKENS} if model.family == "decoder" else {"text": "emma"}


def events_of(model):
    return [n for n, s in model.hooks.specs.items() if not s.extra and n not in model.config.shapes()]


def altered(pair, name, change, **options):
    """A against B, where a hook on B changes one event."""
    a, b = pair
    with b.hooks.subscribe(lambda event, value: change(value), name):
        return diff(a, b, **reads(a), **options)


def saved(model, path, change=None, at=None, **options):
    """The arrays of a trace as a file; a hook may change an event."""
    with ExitStack() as hooks:
        if change is not None:
            hooks.enter_context(model.hooks.subscribe(lambda event, value: change(value), at))
        names = None if model.family == "microgpt" else ["*"]
        save_arrays(trace(model, values=True, names=names, **reads(model), **options), path)
    return path


def document(model, path, values, **options):
    names = ["*"]
    found = trace(model, values=values, names=names, **reads(model), **options)
    path.write_text(trace_to_json(found, values), encoding="utf-8")
    return path


@pytest.mark.parametrize("case", MODELS)
def test_identical_runs_are_the_same_bit_for_bit(pairs, case):
    a, b = pairs[case]
    for other in (a, b):
        found = diff(a, other, **reads(a))
        assert found.same
        assert [e.name for e in found.events] == events_of(a)
        assert all(e.relative == 0 and e.max_abs == 0 and e.cosine == 1 for e in found.events)
        assert found.agreement.same_argmax == found.agreement.positions
        assert (found.agreement.mean_kl, found.jump, found.first) == (0, None, None)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("case", MODELS)
def test_every_single_event_that_is_altered_is_the_first(pairs, case, fault):
    wrong = {}
    for name in events_of(pairs[case][0]):
        found = altered(pairs[case], name, FAULTS[fault])
        if found.first != name:
            wrong[name] = (found.first, found.event(name).relative, found.event(name).tolerance)
    print(wrong)
    assert not wrong


def test_where_and_what_is_told(llama):
    def change(value):
        changed = value.copy()
        changed[3, 5] += 10
        return changed

    found = altered(llama, "layer1.attn.v", change).event("layer1.attn.v")
    assert (found.position, found.head, found.index) == (3, None, (3, 5))
    assert found.max_index == (3, 5)
    assert found.b - found.a == pytest.approx(10, rel=1e-6)
    assert found.max_abs == pytest.approx(10, rel=1e-6)
    assert np.flatnonzero(found.by_position).tolist() == [3]
    assert found.median == 0


def test_a_head_of_the_scores_is_told(llama):
    def change(value):
        changed = value.copy()
        changed[2, 4, 1] += 10
        return changed

    found = altered(llama, "layer0.attn.scores", change).event("layer0.attn.scores")
    assert (found.position, found.head, found.index) == (4, 2, (2, 4, 1))


def test_a_nan_is_shown_where_it_is(llama):
    found = altered(llama, "layer0.attn.q", with_nan).event("layer0.attn.q")
    print(found)
    assert (found.index, found.relative) == ((0, 0), np.inf)
    assert np.isfinite(found.a)
    assert np.isnan(found.b)


def test_the_jump_is_where_the_error_entered(llama):
    found = altered(llama, "layer1.mlp.up", lambda value: value * np.float32(1.5))
    assert (found.first, found.jump.name) == ("layer1.mlp.up", "layer1.mlp.up")
    assert (found.jump.before, found.jump.after) == (0, pytest.approx(1 / 3, rel=1e-3))
    assert found.since == "layer1.mlp.gate"
    assert found.between == ()


def test_events_that_were_not_compared_are_said(llama):
    names = ["layer0.attn.norm", "layer0.attn.context"]
    found = altered(llama, "layer0.attn.k", lambda value: -value, names=names)
    assert (found.first, found.since) == ("layer0.attn.context", "layer0.attn.norm")
    assert found.between == tuple(
        f"layer0.attn.{n}" for n in ("q", "k", "v", "q_rope", "k_rope", "scores", "weights")
    )


@pytest.mark.parametrize("scale", [1e4, 1e8, 1e30])
@pytest.mark.parametrize("swapped", [False, True])
def test_scores_of_any_size_hide_nothing(llama, scale, swapped):
    a, b = llama
    with b.hooks.subscribe(lambda event, value: value * np.float32(scale), "layer0.attn.scores"):
        found = diff(*((b, a) if swapped else (a, b)), tokens=TOKENS)
    assert found.first == "layer0.attn.scores"


# --- Recordings ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MODELS)
def test_a_saved_trace_is_the_same_as_its_model(pairs, case, tmp_path):
    a, b = pairs[case]
    path = saved(a, tmp_path / "a.safetensors")
    for sides in ((path, b), (b, path), (path, path), (path, saved(b, tmp_path / "b.safetensors"))):
        found = diff(*sides)
        assert found.same
        assert found.tokens == tuple(trace(a, **reads(a)).input.tokens)
        assert found.worst.relative < 1e-6


@pytest.mark.parametrize("compute", [None, "bf16", "q8"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_fault_in_a_saved_trace_is_found_on_either_side(llama, tmp_path, compute, swapped):
    a, b = llama
    path = saved(a, tmp_path / "a.safetensors", lambda value: 2 * value, "layer1.mlp.up")
    found = diff(*((path, b) if swapped else (b, path)), compute=compute)
    print(found.event("layer1.mlp.up"))
    assert found.first == "layer1.mlp.up"


def test_two_saved_traces_part_without_a_model(llama, tmp_path):
    one = saved(llama[0], tmp_path / "a.safetensors")
    other = saved(llama[0], tmp_path / "b.safetensors", lambda value: -value, "layer0.attn.k_rope")
    found = diff(one, other)
    assert found.first == "layer0.attn.k_rope"
    assert found.labels == ()


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("case", MODELS)
def test_a_document_is_the_same_as_its_model(pairs, case, values, tmp_path):
    a, b = pairs[case]
    path = document(a, tmp_path / "a.json", values)
    for sides in ((path, b), (b, path), (path, path), (path, saved(b, tmp_path / "b.safetensors"))):
        found = diff(*sides)
        print(found.worst)
        assert found.same


@pytest.mark.parametrize("name", ["layer0.attn.q", "layer1.attn.scores", "final.norm", "logits"])
def test_statistics_alone_find_a_scaled_event(llama, tmp_path, name):
    a, b = llama
    path = document(a, tmp_path / "a.json", False)
    with b.hooks.subscribe(lambda event, value: value * np.float32(1.01), name):
        found = diff(path, b)
    assert found.first == name
    event = found.event(name)
    assert (event.median, event.cosine, event.position, event.index) == (None, None, None, ())
    assert "of the statistics" in event.measured


def test_statistics_know_a_nan(llama, tmp_path):
    a, b = llama
    path = document(a, tmp_path / "a.json", False)
    with b.hooks.subscribe(lambda event, value: with_nan(value), "layer1.mlp.act"):
        assert diff(path, b).first == "layer1.mlp.act"


def test_logits_of_the_last_position_alone(llama, tmp_path):
    a, b = llama
    path = saved(a, tmp_path / "a.safetensors", positions="last")
    found = diff(path, b)
    assert found.same
    assert found.event("logits").shape == (1, 61)
    assert found.agreement.positions == 1
    with b.hooks.subscribe(lambda event, value: value * np.float32(1.01), "logits"):
        event = diff(path, b).event("logits")
    assert (event.holds, event.position) == (False, 6)


def test_a_document_of_the_last_position_is_compared_at_it(llama, tmp_path):
    last = document(llama[0], tmp_path / "last.json", False, positions="last")
    assert diff(last, llama[1]).same


def test_statistics_of_other_positions_are_refused(llama, tmp_path):
    last = document(llama[0], tmp_path / "last.json", False, positions="last")
    every = document(llama[0], tmp_path / "all.json", False)
    for sides in ((last, every), (every, last)):
        with pytest.raises(InputError, match="of other positions"):
            diff(*sides)


def test_arrays_of_other_positions_are_refused(llama, tmp_path):
    one = saved(llama[0], tmp_path / "0.safetensors", positions=[0])
    last = saved(llama[0], tmp_path / "last.safetensors", positions="last")
    with pytest.raises(InputError, match="logits: the two sides hold different positions"):
        diff(one, last)


def test_other_tokens_are_refused(llama, tmp_path):
    path = saved(llama[0], tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="other tokens"):
        diff(path, llama[1], tokens=[1, 2, 3])
    other = tmp_path / "b.safetensors"
    save_arrays(trace(llama[0], tokens=[5, 6], values=True), other)
    with pytest.raises(InputError, match="other tokens"):
        diff(path, other)


def test_two_families_and_two_shapes_are_refused(pairs, decoder_folder):
    llama = pairs["llama_gqa"][0]
    with pytest.raises(InputError, match=r"is a decoder and .* a microgpt"):
        diff(llama, init(), tokens=TOKENS)
    wide = load(decoder_folder("llama_gqa", intermediate_size=40))
    with pytest.raises(InputError, match=r"\[7, 48\] .*\[7, 40\].*not the same model"):
        diff(llama, wide, tokens=TOKENS)
    small = init(Config(n_embd=8, n_head=2))
    with pytest.raises(InputError, match="not the same model"):
        diff(init(), small, "emma")


def test_a_text_that_is_other_tokens_to_each_is_refused():
    tokenizer = Tokenizer("zyxwvutsrqponmlkjihgfedcba")
    other = Model(init().params, tokenizer, "turned")
    with pytest.raises(InputError, match="the same text is other tokens"):
        diff(init(), other, "emma")


def test_a_dump_that_has_nothing_in_common_is_refused(llama, tmp_path):
    save_file({"t000": np.ones((7, 32), np.float32)}, tmp_path / "d.safetensors")
    with pytest.raises(InputError, match=r"no event in common; .*t000; --suggest-map"):
        diff(llama[0], tmp_path / "d.safetensors", tokens=TOKENS)


def test_what_one_side_lacks_is_listed(llama, tmp_path):
    arrays = load_file(saved(llama[0], tmp_path / "a.safetensors"))
    del arrays["layer0.attn.scores"]
    save_file(arrays | {"strange": np.ones(3, np.float32)}, tmp_path / "b.safetensors")
    found = diff(llama[0], tmp_path / "b.safetensors", tokens=TOKENS)
    assert found.same
    assert "layer0.attn.scores" in [u.name for u in found.a.unpaired]
    assert "strange" in [u.name for u in found.b.unpaired]


# --- What must not be hidden ------------------------------------------------------------------


@pytest.mark.parametrize("row", [slice(None), 3])
def test_an_error_of_k_is_not_hidden_by_a_huge_bias(decoder_folder, row):
    def enlarge(weights):
        weights["model.layers.0.self_attn.k_proj.bias"] *= 600

    folder = decoder_folder("qwen2", enlarge)
    a, b = load(folder), load(folder)
    bias = a.tensors["layer0.attn_bk"].read()

    def change(value):
        changed = value.copy()
        changed[row] = (value[row] - bias) * np.float32(1.001) + bias
        return changed

    found = altered((a, b), "layer0.attn.k", change)
    event = found.event("layer0.attn.k")
    print(event.relative, event.tolerance)
    assert found.first == "layer0.attn.k"
    assert event.measured == "without the bias"
    assert event.relative == pytest.approx(1e-3, rel=0.5)


def test_a_massive_channel_does_not_hide_an_error_of_the_others(decoder_folder):
    def enlarge(weights):
        weights["model.layers.0.mlp.down_proj.weight"][7] *= 2000

    folder = decoder_folder("llama_gqa", enlarge, hidden_size=64)

    def change(value):
        changed = value * np.float32(1.001)
        changed[:, 7] = value[:, 7]
        return changed

    found = altered((load(folder), load(folder)), "layer0.mlp.residual", change)
    event = found.event("layer0.mlp.residual")
    print(event.relative, event.tolerance)
    assert found.first == "layer0.mlp.residual"
    assert event.measured == "without outlying elements"


# --- Bands ------------------------------------------------------------------------------------


def rounded_to_bf16(model):
    return model.hooks.subscribe(lambda event, value: to_bf16(value), *events_of(model))


@pytest.mark.parametrize("case", MODELS)
def test_bf16_is_no_alarm_where_it_was_said(pairs, case):
    a, b = pairs[case]
    with rounded_to_bf16(b):
        assert not diff(a, b, **reads(a)).same
        found = diff(a, b, compute="bf16", **reads(a))
    print(found.worst)
    assert found.same


@pytest.mark.parametrize("name", ["layer0.attn.q", "layer1.attn.weights", "layer1.mlp.down", "logits"])
def test_a_large_fault_is_an_alarm_in_bf16(llama, name):
    a, b = llama
    with b.hooks.subscribe(lambda event, value: value * np.float32(1.3), name), rounded_to_bf16(b):
        assert diff(a, b, compute="bf16", tokens=TOKENS).first == name


def test_a_third_run_calibrates(llama, decoder_folder):
    a, b = llama
    other = load(decoder_folder("llama_gqa", edit=lambda w: [v.__imul__(1.002) for v in w.values()]))
    third = load(decoder_folder("llama_gqa", edit=lambda w: [v.__imul__(1.003) for v in w.values()]))
    assert not diff(a, other, tokens=TOKENS).same
    found = diff(a, other, tokens=TOKENS, calibrate=third)
    assert found.same
    assert third.origin in found.tolerance.reason
    assert not diff(a, other, tokens=TOKENS, calibrate=b).same
    assert not diff(a, other, tokens=TOKENS, calibrate=third, factor=0.1).same


@pytest.mark.parametrize(("rtol", "same"), [(0.011, True), (0.009, False)])
def test_rtol_is_a_share_of_the_row(llama, rtol, same):
    found = altered(llama, "logits", lambda value: value * np.float32(1 / 0.99), rtol=rtol, names=["logits"])
    assert found.same == same


@pytest.mark.parametrize(("atol", "same"), [(0.6, True), (0.4, False)])
def test_atol_is_a_difference_of_an_element(llama, atol, same):
    def change(value):
        changed = value.copy()
        changed[2, 3] += 0.5
        return changed

    assert altered(llama, "logits", change, atol=atol, names=["logits"]).same == same


def test_a_nan_is_within_no_tolerance(llama):
    assert altered(llama, "logits", with_nan, atol=1e9, rtol=1e9).first == "logits"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compute": "bf16", "rtol": 0.1}, "compute and rtol or atol exclude each other"),
        ({"compute": "bf16", "rtol": 0.0}, "exclude each other"),
        ({"compute": "int3"}, "expected one of bf16, f16, q8"),
        ({"factor": 2.0}, "factor"),
        ({"factor": -1.0, "compute": "bf16"}, "factor"),
        ({"names": ["nothing*"]}, "nothing"),
        ({"positions": [99]}, "99"),
    ],
)
def test_options_that_do_not_fit_are_refused(llama, options, words):
    with pytest.raises(InputError, match=words):
        diff(*llama, tokens=TOKENS, **options)


def test_compute_needs_a_model(llama, tmp_path):
    path = saved(llama[0], tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="name the model as one of the two"):
        diff(path, path, compute="bf16")


# --- Predictions and prompts ------------------------------------------------------------------


def test_agreement_by_hand(llama):
    def change(value):
        changed = value.copy()
        changed[2] = -value[2]
        return changed

    a = trace(llama[0], tokens=TOKENS, names=["probs"], values=["probs"])["probs"].astype(float)
    found = altered(llama, "logits", change, names=["logits"]).agreement
    b = 1 / a[2] / (1 / a[2]).sum()
    kl = float((a[2] * np.log(a[2] / b)).sum())
    print(found, kl)
    assert (found.positions, found.same_argmax, found.first_other) == (7, 6, 2)
    assert (found.max_kl, found.max_kl_position) == (pytest.approx(kl, rel=1e-5), 2)
    assert found.mean_kl == pytest.approx(kl / 7, rel=1e-5)


def test_prompts_are_a_line_each(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text('emma\n\n[1, 2]\n"a\\nb"\n[INST] hi\n', encoding="utf-8")
    assert read_prompts(path) == ["emma", [1, 2], "a\nb", "[INST] hi"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "found none"), (b"[1.5]", "line 1"), (b"\xff", "not UTF-8"), (None, "No such")],
)
def test_prompts_that_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=words):
        read_prompts(path)


def test_every_prompt_is_compared(llama):
    a, b = llama
    with b.hooks.subscribe(lambda event, value: -value, "logits"):
        found = list(diff_prompts(a, b, [[1, 2, 3], "abc"]))
    assert [(r.first, r.same) for r in found] == [("logits", False)] * 2
    assert [r.tokens for r in found] == [3, 3]
    assert all(r.same for r in diff_prompts(a, b, [[1, 2, 3]]))


def test_a_prompt_that_does_not_fit_is_named(llama):
    with pytest.raises(InputError, match="prompt 2: "):
        list(diff_prompts(*llama, [[1, 2], [999]]))
