"""Check traces of a decoder: hooks, selection, statistics, predictions, logits in parts, layer rows."""

import math
from time import sleep

import numpy as np
import pytest
from support.judges_decoder import softmax
from support.tiny_models import TOKENS

from microgpt_trace import Intervention, init, load, trace
from microgpt_trace.arrays import logits
from microgpt_trace.decoder import decoder as of_products
from microgpt_trace.errors import InputError
from microgpt_trace.hooks.bus import HookBus
from microgpt_trace.interpreter import run as interpreter
from microgpt_trace.operations import pass_state as of_heads
from microgpt_trace.render.documents.trace_as_json import trace_json
from microgpt_trace.tracing import predicting, traced_run

VOCAB = 61
LAYER = "model.layers.{}.{}.weight"


@pytest.fixture(scope="module")
def whole(tiny):
    """A trace with every event and array."""
    return run(tiny, names=["*"], values=True)


def run(model, tokens=TOKENS, **options):
    return trace(model, tokens=list(tokens), **options)


def check_of(traced, identifier):
    return next(check for check in traced.checks if check.id == identifier)


def close(found, expected, rtol=1e-5, atol=0.0):
    print(f"found {np.ravel(found)[:3]}, expected {np.ravel(expected)[:3]}")
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


# --- Hooks --------------------------------------------------------------------------------------

DOUBLED = {
    "embed.tok": "model.embed_tokens.weight",
    "layer0.attn.q_rope": LAYER.format(0, "self_attn.q_proj"),
    "layer0.attn.scores": LAYER.format(0, "self_attn.q_proj"),
    "layer0.attn.weights": LAYER.format(0, "self_attn.v_proj"),
    "layer1.attn.out": LAYER.format(1, "self_attn.o_proj"),
    "layer0.mlp.norm": LAYER.format(0, "post_attention_layernorm"),
    "layer0.mlp.act": LAYER.format(0, "mlp.up_proj"),
    "layer0.mlp.hidden": LAYER.format(0, "mlp.down_proj"),
    "final.norm": "model.norm.weight",
    "logits": "lm_head.weight",
}


@pytest.mark.parametrize("name", DOUBLED)
def test_doubling_an_event_equals_doubling_its_weights(tiny, whole, decoder_folder, name):
    """Doubling is exact, so both runs have the same bits."""

    def double(weights):
        weights[DOUBLED[name]] *= 2

    changed = run(load(decoder_folder(edit=double)), names=["probs"], values=True)["probs"]
    with tiny.hooks.subscribe(lambda event, value: value * 2, name):
        replaced = run(tiny, names=["probs"], values=True)["probs"]
    np.testing.assert_array_equal(replaced, changed)
    assert not np.array_equal(replaced, whole["probs"])


def test_loss_and_ranks_use_replaced_logits_and_probs(tiny):
    def uniform(event, value):
        return np.full_like(value, 1 / VOCAB)

    with tiny.hooks.subscribe(lambda e, v: v * 0, "logits"):
        flat = run(tiny)
    with tiny.hooks.subscribe(uniform, "probs"):
        replaced = run(tiny)
    close([flat.loss, replaced.loss], math.log(VOCAB))
    assert [p.rank for p in flat.predictions[:-1]] == [t + 1 for t in TOKENS[1:]]
    assert {p.predicted.token for p in replaced.predictions} == {0}
    with tiny.hooks.subscribe(lambda e, v: v * 0 + 5, "loss"):
        assert run(tiny).loss == 5


def test_computes_heads_only_if_requested(tiny):
    plain, names, check = run(tiny), [], check_of(run(tiny), "heads")
    assert [e.seq for e in plain] == list(range(len(tiny.hooks.specs) - 8))
    assert [e.name for e in run(tiny, names=["layer1.attn.head3"])] == ["layer1.attn.head3"]
    assert (check.holds, check.detail) == (None, "no such event in this run")
    with tiny.hooks.subscribe(lambda e, v: names.append(e.name), "layer0.attn.head*"):
        assert not any("head" in event.name for event in run(tiny))
    assert names == [f"layer0.attn.head{h}" for h in range(4)]


# --- Checks -------------------------------------------------------------------------------------


def test_checks_hold_and_recheck_is_optional(tiny):
    found = {check.id: check.holds for check in run(tiny, names=["*"]).checks}
    held = dict.fromkeys(("finite", "heads", "residual", "softmax", "causal"), True)
    assert found == held | {"untraced": None}
    assert check_of(run(tiny, recheck=True), "untraced").holds


@pytest.mark.parametrize(
    "events", [["layer0.attn.head1", "layer1.mlp.up", "layer0.mlp.residual"], ["logits"], ["probs"], ["loss"]]
)
def test_checks_hold_if_hooks_replace_values(tiny, events):
    """The checks use replaced values, and probabilities as computed."""
    with tiny.hooks.subscribe(lambda e, v: v * 2, *events):
        traced = run(tiny, recheck=True)
    print(traced.checks)
    assert check_of(traced, "untraced").holds
    assert traced.ok


def changed_first_call(function, change):
    """Return `function` with a changed result of its first call, which is the observed run."""
    calls = iter(range(10**6))
    return lambda *args, **options: (
        function(*args, **options) + np.float32(np.multiply(change, next(calls) == 0))
    )


@pytest.mark.parametrize("event", ["layer0.attn.out", "none"])
@pytest.mark.parametrize(("module", "name"), [(predicting, "head_forward"), (traced_run, "forward")])
def test_the_recheck_finds_a_change_of_the_observed_run_only(tiny, monkeypatch, module, name, event):
    """Also after values that a hook replaced."""
    monkeypatch.setattr(module, name, changed_first_call(getattr(interpreter, name), 0.25))
    doubled = [event] if event in tiny.hooks.specs else []
    with tiny.hooks.subscribe(lambda e, v: v * 2 if e.name in doubled else None):
        found = check_of(run(tiny, recheck=True), "untraced")
    print(found)
    assert found.holds is False
    assert name == "forward" or found.deviation == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_recheck_compares_positions_without_logits(tiny, monkeypatch, positions):
    """The stream differs at position 0. Of logits in parts the last are compared."""
    change = (np.arange(7) == 0)[:, None] * 0.25
    monkeypatch.setattr(logits, "PART", VOCAB)
    monkeypatch.setattr(logits, "HELD", 1)
    monkeypatch.setattr(traced_run, "forward", changed_first_call(interpreter.forward, change))
    found = check_of(run(tiny, recheck=True, positions=positions), "untraced")
    assert (found.holds, found.deviation) == (False, pytest.approx(0.25, abs=1e-5))


@pytest.mark.parametrize("case", ["mistral_window", "qwen3"])
def test_two_threads_give_the_same_bits_as_one(decoder_folder, monkeypatch, case):
    model, tokens = load(decoder_folder(case)), [*range(1, 41)]
    runs = []
    for cores in (1, 2):
        for module in (of_heads, of_products):
            monkeypatch.setattr(module, "available_cores", lambda cores=cores: cores)
        runs.append(trace(model, tokens=tokens, names=["*"], values=True))
    one, two = runs
    different = [e.name for e in one if not np.array_equal(one[e.name], two[e.name])]
    print(len(one), different)
    assert not different


@pytest.mark.parametrize("part", [2 * VOCAB, 7 * VOCAB])
def test_finds_rows_that_do_not_sum_to_one_in_parts(tiny, monkeypatch, part):
    monkeypatch.setattr(logits, "PART", part)
    monkeypatch.setattr(predicting, "softmax", lambda x: softmax(x) * np.float32(1.1))
    found = check_of(run(tiny), "softmax")
    print(found)
    assert (found.holds, found.detail) == (False, "probs")
    assert found.deviation == pytest.approx(0.1, rel=1e-4)


def test_keeps_arrays_only_if_requested(tiny):
    assert run(tiny).arrays == {}
    assert list(run(tiny, values=["loss"]).arrays) == [("forward", "loss")]


@pytest.mark.parametrize("kind", [np.array, tuple, lambda ids: np.array(ids, np.uint8)])
def test_accepts_tokens_as_any_sequence(tiny, kind):
    traced = trace(tiny, tokens=kind(TOKENS))
    assert trace_json(traced) == trace_json(run(tiny))


@pytest.mark.parametrize("case", ["llama_gqa", "mistral_window"])
def test_statistics_follow_from_the_arrays(decoder_folder, case):
    traced = run(load(decoder_folder(case)), names=["*"], values=True)
    for event in traced:
        x = traced[event.name].astype(np.float64)
        assert event.shape == x.shape
        if event.name.endswith((".scores", ".weights")):  # on and below the diagonal
            x = x[:, np.tri(7, dtype=bool)]
        found, zeros = event.stats, int((x == 0).sum())
        assert (found.count, found.zero_count, found.nan_count, found.inf_count) == (x.size, zeros, 0, 0)
        expected = x.mean(), x.std(), np.linalg.norm(x), x.min(), x.max(), np.abs(x).max()
        moments = found.mean, found.std, found.l2_norm, found.min, found.max, found.max_abs
        np.testing.assert_allclose(moments, expected, rtol=1e-9, atol=1e-9, err_msg=event.name)


# --- Predictions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positions", "chosen"),
    [("all", range(7)), ("last", [6]), ([0, 3], [0, 3]), ([-1, 2, 2], [2, 6]), ([-7], [0])],
)
def test_chooses_positions(tiny, whole, positions, chosen):
    traced = run(tiny, positions=positions, values=["logits"])
    assert [p.position for p in traced.predictions] == [*chosen]
    close(traced["logits"], whole["logits"][[*chosen]], rtol=0, atol=2e-6)
    losses = [p.loss for p in traced.predictions if p.loss is not None]
    assert traced.loss == (pytest.approx(np.mean(losses)) if losses else None)


@pytest.mark.parametrize("positions", [[7], [-8], [], "first"])
def test_refuses_positions_outside_the_prompt(tiny, positions):
    with pytest.raises(InputError, match="position"):
        run(tiny, positions=positions)


def test_the_last_position_has_no_target(tiny):
    last = run(tiny, positions="last")
    prediction = last.predictions[0]
    assert (prediction.target, prediction.rank, prediction.loss, last.loss) == (None, None, None, None)
    assert last.event("loss") is None
    assert prediction.predicted.token == run(tiny).predictions[-1].predicted.token


def twins(weights):
    """Give tokens 3, 10 and 44 the same logits, so that they tie."""
    weights["lm_head.weight"][[10, 44]] = weights["lm_head.weight"][3]


@pytest.mark.parametrize("edit", [None, twins, "microgpt"])
def test_predictions_follow_from_the_logits(decoder_folder, edit):
    if edit == "microgpt":
        traced, targets = trace(init(), "emma", top_k=27, values=["logits"]), (5, 13, 13, 1, 0)
    else:
        traced = run(load(decoder_folder(edit=edit)), top_k=VOCAB, values=["logits"])
        targets = TOKENS[1:]
    for position, prediction in enumerate(traced.predictions):
        row = traced["logits"][position].astype(np.float64)
        order = sorted(range(len(row)), key=lambda t: (-row[t], t))
        probs = softmax(row)
        assert [c.token for c in prediction.top] == order
        close([c.p for c in prediction.top], probs[order], rtol=2e-5)
        assert prediction.predicted == prediction.top[0]
        if position < len(targets):
            target = targets[position]
            assert (prediction.target.token, prediction.rank) == (target, order.index(target) + 1)
            close([prediction.target.p, prediction.loss], [probs[target], -math.log(probs[target])], 2e-5)
    close(traced.loss, np.mean([prediction.loss for prediction in traced.predictions[: len(targets)]]), 1e-6)
    assert traced.chance_loss == math.log(len(row))
    assert traced.event("loss").stats.mean == traced.loss


# --- Logits in parts ----------------------------------------------------------------------------


@pytest.fixture
def part_sizes(monkeypatch):
    """The number of rows of logits in each part."""
    sizes, sound = [], interpreter.head_forward

    def recording(model, x, *tap):
        sizes.append(len(x))
        return sound(model, x, *tap)

    monkeypatch.setattr(predicting, "head_forward", recording)
    return sizes


@pytest.mark.parametrize(
    ("part", "held", "sizes"),
    [
        (2 * VOCAB + 5, 1, [2, 2, 2, 1]),
        (2 * VOCAB, 2, [4, 3]),
        (10, 1, [1] * 7),
        (VOCAB, 8, [7]),
        (7 * VOCAB, 1, [7]),
    ],
)
def test_logits_in_parts_give_the_same_results(tiny, monkeypatch, part_sizes, part, held, sizes):
    expected = run(tiny, top_k=3)
    part_sizes.clear()
    monkeypatch.setattr(logits, "PART", part)
    monkeypatch.setattr(logits, "HELD", held)
    found = run(tiny, top_k=3)
    assert part_sizes == sizes
    assert [(e.name, e.shape, e.seq) for e in found] == [(e.name, e.shape, e.seq) for e in expected]
    for a, b in zip(found.predictions, expected.predictions, strict=True):
        assert (a.rank, [c.token for c in a.top]) == (b.rank, [c.token for c in b.top])
        close([c.p for c in a.top], [c.p for c in b.top], 1e-5)
    close(found.loss, expected.loss, 1e-6)
    for name in ("logits", "probs"):
        a, b = found.event(name).stats, expected.event(name).stats
        assert a.count == b.count == 7 * VOCAB
        close([a.mean, a.std, a.l2_norm, a.min], [b.mean, b.std, b.l2_norm, b.min], 1e-5, 1e-8)


@pytest.mark.parametrize("name", ["logits", "probs"])
def test_a_hook_or_a_kept_array_gets_all_logits_at_once(tiny, monkeypatch, part_sizes, name):
    monkeypatch.setattr(logits, "PART", VOCAB)
    shapes = []
    with tiny.hooks.subscribe(lambda e, v: shapes.append(v.shape), name):
        run(tiny)
    assert shapes == [(7, VOCAB)]
    assert run(tiny, values=[name])[name].shape == (7, VOCAB)
    assert part_sizes == [7, 7]


def slowed(monkeypatch, name, seconds):
    sound = getattr(predicting, name)

    def slow(*args):
        sleep(seconds)
        return sound(*args)

    monkeypatch.setattr(predicting, name, slow)


def test_the_time_of_logits_in_parts_covers_the_head_only(tiny, monkeypatch):
    monkeypatch.setattr(logits, "PART", 4 * VOCAB)
    monkeypatch.setattr(logits, "HELD", 1)
    slowed(monkeypatch, "head_forward", 0.01)
    slowed(monkeypatch, "predictions_of", 0.1)
    seconds = {event.name: event.seconds for event in run(tiny, names=["*"], time=True)}
    print({name: seconds[name] for name in ("logits", "probs", "loss")})
    assert 0.02 <= seconds["logits"] < 0.19
    assert 0 < seconds["probs"] < 0.19
    assert 0 <= seconds["loss"] < 0.19
    assert all(value > 0 for name, value in seconds.items() if name != "loss")
    assert {event.seconds for event in run(tiny)} == {None}


def test_names_logits_in_parts_that_are_not_finite(decoder_folder, monkeypatch):
    def spoil(weights):
        weights["lm_head.weight"][7, 0] = np.nan

    monkeypatch.setattr(logits, "PART", VOCAB)
    traced = run(load(decoder_folder(edit=spoil)))
    assert check_of(traced, "finite").detail.startswith("logits")
    assert traced.event("logits").stats.nan_count == 7


def norms(x):
    return np.linalg.norm(x.astype(np.float64), axis=-1)


@pytest.mark.parametrize("case", ["mistral_window", "llama_mha_bias"])
def test_layer_rows_follow_from_the_arrays(decoder_folder, case):
    traced = run(load(decoder_folder(case)), names=["*"], values=True)
    entered = traced["embed.tok"]
    for i, row in enumerate(traced.layers):
        middle, left = traced[f"layer{i}.attn.residual"], traced[f"layer{i}.mlp.residual"]
        out, down, act = (traced[f"layer{i}.{n}"] for n in ("attn.out", "mlp.down", "mlp.act"))
        cosine = (entered.astype(np.float64) * left).sum(-1) / norms(entered) / norms(left)
        found = row.row_norm, row.attention_share, row.mlp_share, row.turn, row.sink
        close(found, [
            np.median(norms(left)), np.median(norms(out) / norms(entered)),
            np.median(norms(down) / norms(middle)), np.median(cosine),
            traced[f"layer{i}.attn.weights"][:, 1:, 0].mean(dtype=np.float64),
        ])  # fmt: skip
        close(row.typical, np.median(np.abs(left)))
        at = [p for p in sorted({token: p for p, token in enumerate(TOKENS)}.values()) if p > 0]
        after, before, wrote, fed = (np.median(np.abs(x[at]), axis=1) for x in (left, entered, out, down))
        passing, compared = (np.abs(act[at]) > 0.01).mean(axis=1), row.compared
        close(
            (compared.growth, compared.attention, compared.mlp, compared.passing, compared.turn),
            [np.median(of_rows) for of_rows in (after / before, wrote, fed, passing, cosine[at])],
        )
        assert compared.positions == len(at)
        place = np.unravel_index(np.abs(left).argmax(), left.shape)
        assert (row.peak, row.peak_position, row.peak_channel) == (left[place], *place)
        assert row.near_zero == (np.abs(act) <= row.near_zero_threshold).mean()
        assert (row.layer, row.nan_count, row.inf_count) == (i, 0, 0)
        assert row.stream == traced.event(f"layer{i}.mlp.residual").stats
        entered = left


def test_near_zero_counts_values_within_the_threshold(tiny):
    def some(event, value):
        return np.where(np.arange(value.size).reshape(value.shape) % 4 == 0, value * 0 + 0.01, value * 0 + 1)

    with tiny.hooks.subscribe(lambda e, v: some(e, v).astype(v.dtype), "layer1.mlp.act"):
        row = run(tiny).layers[1]
    assert (row.near_zero, row.near_zero_threshold) == (0.25, 0.01)


# --- Not finite ---------------------------------------------------------------------------------


def spoil_up(weights):
    weights[LAYER.format(1, "mlp.up_proj")][5, 3] = np.nan


@pytest.fixture(scope="module")
def broken(decoder_folder):
    return load(decoder_folder(edit=spoil_up))


def test_finds_where_a_nan_enters(broken):
    traced = run(broken)
    assert check_of(traced, "finite").detail == "layer1.mlp.up, position 0, element [0, 5] = NaN"
    assert [row.nan_count for row in traced.layers] == [0, 7 + 7 + 2 * 7 * 32]  # up, hidden, down, residual
    assert not traced.ok
    found = [anomaly for anomaly in traced.anomalies if anomaly.found]
    assert [(a.id, a.detail) for a in found] == [("nonfinite", "first in layer1.mlp.up")]
    said = {insight.id: insight for insight in traced.insights}
    for identifier in ("rmsnorm", "growth", "massive", "sinks", "turn"):
        assert said[identifier].holds is None
        assert "not finite" in said[identifier].text
    assert math.isnan(traced.loss)
    assert all(p.predicted is None and p.rank is None and p.top == () for p in traced.predictions)


@pytest.mark.parametrize(
    ("event", "factor"), [("layer1.attn.residual", -1e-45), ("layer1.mlp.residual", 1e-23)]
)
def test_measures_a_stream_whose_squares_underflow_float32(tiny, event, factor):
    scaled = run(tiny, values=["layer1.mlp.residual"], interventions=[Intervention("scale", event, factor)])
    norm = np.median(np.linalg.norm(scaled["layer1.mlp.residual"].astype(np.float64), axis=1))
    growth = next(insight for insight in scaled.insights if insight.id == "growth")
    print(scaled.layers[1].row_norm, norm, growth.text)
    np.testing.assert_allclose(scaled.layers[1].row_norm, norm, rtol=1e-6)
    assert growth.text.startswith("The stream shrinks to ×")


def test_names_the_position_of_an_infinity(decoder_folder):
    def spoil(weights):
        weights["model.embed_tokens.weight"][60, 4] = np.inf

    traced, at = run(load(decoder_folder(edit=spoil)), names=["*"]), TOKENS.index(60)
    assert check_of(traced, "finite").detail == f"embed.tok, position {at}, element [{at}, 4] = Infinity"
    assert traced.event("embed.tok").stats.inf_count == 1
    for which in ("nan_count", "inf_count"):
        counts = [getattr(e.stats, which) for e in traced if e.layer == 0]
        assert getattr(traced.layers[0], which) == sum(counts)


def test_traces_a_stream_of_zeros(decoder_folder):
    def zero(weights):
        for name in weights:
            if "norm" not in name:
                weights[name][...] = 0

    traced = run(load(decoder_folder(edit=zero, num_hidden_layers=8)), lens=True, generate=2)
    close(traced.loss, math.log(VOCAB))
    assert any(anomaly.id == "constant" and anomaly.found for anomaly in traced.anomalies)
    said = [insight.text for insight in traced.insights]
    assert not any("not finite" in text for text in said), "every value is finite"


def test_a_trace_leaves_the_bus_empty(tiny):
    run(tiny, generate=2, lens=True, recheck=True)
    assert isinstance(tiny.hooks, HookBus)
    assert len(tiny.hooks) == 0
