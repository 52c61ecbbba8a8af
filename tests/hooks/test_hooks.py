"""Check the hook bus: observers change nothing, replacements take effect, and errors name their cause."""

from collections import Counter
from fnmatch import fnmatchcase
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.judges import agree, torch_grad, torch_run
from support.tiny_microgpts import CASES

from microgpt_trace import trace
from microgpt_trace.errors import InputError
from microgpt_trace.hooks.names import ALIASES, glob_pattern, select_names
from microgpt_trace.interpreter.backward import backward, forward

NAMES = [*CASES["2 layers, 2 heads"].model.hooks.specs]
REPLACEABLE = [n for n in NAMES if n not in CASES["2 layers, 2 heads"].model.params]


def run_under_hooks(case, run=None):
    """A forward pass under the bus alone, without the observers that `trace` brings."""
    run, inputs = run or case.model.hooks.begin(), case.model.read(case.text)
    tap = run.tap("forward")
    return forward(case.model, np.array(inputs.tokens), inputs.targets, tap, run.replaced), run


def constant(value):
    return lambda event, old: np.full_like(old, value)


def emitted_names(case, *globs):
    names = []
    with case.model.hooks.subscribe(lambda event, value: names.append(event.name), *globs):
        run_under_hooks(case)
    return names


def test_observers_do_not_change_a_bit(case):
    plain, _ = run_under_hooks(case)
    with case.model.hooks.subscribe(lambda event, value: None, phases=("forward", "backward")):
        observed = trace(case.model, case.text, backward=True)
        assert np.array_equal(run_under_hooks(case)[0].logits, plain.logits)
    assert np.array_equal(observed["logits"], plain.logits)
    unobserved = trace(case.model, case.text, backward=True)
    for name in case.model.params:
        assert np.array_equal(observed.gradient(name), unobserved.gradient(name)), name


@pytest.mark.parametrize("name", REPLACEABLE)
def test_a_replacement_changes_later_events_and_stops_the_gradient(deep, name):
    """The judge is PyTorch. A trace's observers change nothing, and its checks hold."""
    model, old = deep.model, trace(deep.model, deep.text)[name]
    new = np.asarray(np.abs(np.random.default_rng(4).normal(size=old.shape)) + 0.01)
    with model.hooks.subscribe(lambda event, value: new, name):
        traced = trace(model, deep.text, backward=True)
        done, run = run_under_hooks(deep)
    weights = dict(model.params.items())
    events, weights = torch_run(weights, deep.ids[:-1], deep.ids[1:], model.config, {name: new})
    for other, tensor in events.items():
        agree(traced[other], new if other == name else tensor.detach().numpy(), what=other)
    unobserved = {}
    backward(done, run.tap("backward"), [*model.params], give=unobserved.__setitem__)
    for parameter, tensor in weights.items():
        for found in (traced.gradient(parameter), unobserved[parameter]):
            agree(found, torch_grad(tensor), what=f"{name} replaced: {parameter}")
    assert [c for c in traced.checks if c.holds is False] == []
    assert next(c for c in traced.checks if c.id == "untraced").deviation == 0


def test_a_hook_is_called_once_per_event_and_phase(deep):
    calls, phases = Counter(), ("forward", "backward", "update")
    with deep.model.hooks.subscribe(lambda e, v: calls.update([(e.phase, e.name)]), phases=phases):
        trace(deep.model, deep.text, step=True)
    assert calls == Counter([*product(phases[:2], REPLACEABLE), *product(phases[1:], deep.model.params)])


def test_hooks_are_called_in_order_with_the_value_so_far(deep):
    hooks, seen = deep.model.hooks, []
    keep, double = (lambda e, v: seen.append(v.copy())), lambda e, v: v * 2
    with (
        hooks.subscribe(double, "logits"),
        hooks.subscribe(double, "logits"),
        hooks.subscribe(keep, "logits"),
        hooks.subscribe(keep, "logits", first=True),
    ):
        run_under_hooks(deep)
    plain = trace(deep.model, deep.text)["logits"]
    agree(seen, [plain, 4 * plain], what="logits")


def test_a_value_is_a_read_only_view_and_a_result_is_copied(deep):
    def write(event, value):
        value[...] = 0

    with deep.model.hooks.subscribe(write, "logits"), pytest.raises(ValueError, match="read-only"):
        run_under_hooks(deep)
    with deep.model.hooks.subscribe(lambda event, value: value):  # replaces nothing
        assert run_under_hooks(deep)[1].replaced == {}
    buffer = np.ones((9, 12))
    with deep.model.hooks.subscribe(lambda event, value: buffer, "embed.sum"):
        _, run = run_under_hooks(deep)
    buffer[...] = 5
    assert run.replaced["embed.sum"].max() == 1


def my_hook(event, value):
    return my_hook.result


class Probe:
    def __call__(self, event, value):
        return "no"


WRONG = {
    "shape": (np.zeros((2, 10)), r"found float64 \[2, 10\]"),
    "dtype": (np.zeros((9, 10), np.float32), r"found float32 \[9, 10\]"),
    "type": ([1.0], "found list"),
    "number": (0.5, "found float"),
}


@pytest.mark.parametrize(("result", "found"), WRONG.values(), ids=WRONG.keys())
def test_the_error_of_a_wrong_result_names_hook_event_and_expectation(deep, result, found):
    my_hook.result = result
    message = rf"hook 'my_hook' on logits: expected None or an array float64 \[9, 10\], {found}"
    with deep.model.hooks.subscribe(my_hook, "logits"), pytest.raises(InputError, match=message):
        run_under_hooks(deep)
    with deep.model.hooks.subscribe(Probe(), "loss"), pytest.raises(InputError, match="'Probe' on loss"):
        run_under_hooks(deep)


def test_a_scalar_replaces_the_loss(deep):
    """NumPy turns `value * 2` of a 0-d array into a scalar."""
    with deep.model.hooks.subscribe(lambda event, value: value * 2, "loss"):
        doubled = trace(deep.model, deep.text).loss
    agree(doubled, 2 * trace(deep.model, deep.text).loss)


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*", REPLACEABLE),
        ("embed.*", ["embed.tok", "embed.pos", "embed.sum", "embed.norm"]),
        ("layer?.attn.q", ["layer0.attn.q", "layer1.attn.q"]),
        ("layer1.attn.head*", ["layer1.attn.head0", "layer1.attn.head1"]),
        ("*residual", [f"layer{i}.{b}.residual" for i in (0, 1) for b in ("attn", "mlp")]),
        ("?oss", ["loss"]),
        ("attn_scores", ["layer0.attn.scores", "layer1.attn.scores"]),
        ("qkv_matmul", [f"layer{i}.attn.{n}" for i in (0, 1) for n in "qkv"]),
    ],
)
def test_globs_and_aliases_choose_events(deep, glob, expected):
    assert (
        emitted_names(deep, glob) == expected == [n for n in select_names([glob], NAMES) if n in REPLACEABLE]
    )


@pytest.mark.parametrize("named", ["1", "layer1", "blk.1", "model.layers.1", "layers.1", "transformer.h.1"])
def test_a_layer_has_the_names_of_files(deep, named):
    assert select_names([named], NAMES) == select_names(["layer1.*"], NAMES)
    assert emitted_names(deep, named) == emitted_names(deep, "layer1.*")
    with pytest.raises(InputError, match=f"'{named}7': the last layer of this model is 1"):
        select_names([f"{named}7"], NAMES)


globs = st.text("ab*?.", max_size=8)


@given(globs, st.text("ab.\n", max_size=8))
def test_a_glob_matches_like_fnmatch(glob, name):
    assert bool(glob_pattern(glob).fullmatch(name)) == fnmatchcase(name, glob)


def test_a_glob_of_many_stars_ends():
    """Backtracking would take years."""
    for glob in ("a*" * 30 + "b", "*" * 50 + "b", "?*" * 30 + "b"):
        assert not glob_pattern(glob).fullmatch("a" * 1000)


def test_brackets_are_literal():
    assert glob_pattern("a[bc].d").fullmatch("a[bc].d")
    assert not glob_pattern("a[bc].d").fullmatch("ab.d")


def test_an_exact_name_beats_an_alias():
    assert select_names(["lm_head"], NAMES) == ["lm_head"]
    assert select_names(["lm_head"], ["embed.tok", "logits"]) == ["logits"]


HAVE_COUNTERPART = {
    "attention", "attn_norm", "attn_out", "attn_scores", "attn_softmax", "embedding", "ffn_norm", "ffn_out",
    "ffn_silu", "ffn_up", "layer_output", "lm_head", "post_attn_residual", "post_ffn_residual", "qkv_matmul",
}  # fmt: skip


def test_a_stage_without_counterpart_is_refused():
    assert all(select_names([alias], NAMES) for alias in HAVE_COUNTERPART)
    for alias in set(ALIASES) - HAVE_COUNTERPART:
        with pytest.raises(InputError, match=f"'{alias}' has no counterpart in this model"):
            select_names([alias], NAMES)


@pytest.mark.parametrize(
    ("glob", "close"),
    [
        ("layer0.attn.weight", "layer0.attn.weights"),
        ("logit", "logits"),
        ("layer7.*", "layer"),
        ("layer0.mlp.gate", "layer0.mlp.act"),
        ("zzz", "the names run from embed.tok to layer1.mlp_fc2"),
        ("", "the names run from embed.tok"),
    ],
)
def test_a_glob_that_matches_nothing_lists_close_names(deep, glob, close):
    with pytest.raises(InputError, match="matches no event of this model") as error:
        emitted_names(deep, glob)
    assert close in str(error.value)
    assert repr(glob) in str(error.value)


def test_a_subscription_ends_with_its_context_and_with_an_error(deep):
    bus = deep.model.hooks
    with bus.subscribe(my_hook), bus.subscribe(my_hook, "logits"):
        assert len(bus) == 2
    assert len(bus) == 0
    with pytest.raises(ZeroDivisionError), bus.subscribe(lambda e, v: 1 / 0):
        run_under_hooks(deep)
    assert len(bus) == 0


def test_only_requested_statistics_are_computed_and_they_describe_the_new_value(deep):
    stats, hooks = {}, deep.model.hooks
    with (
        hooks.subscribe(constant(3.0), "logits"),
        hooks.subscribe(lambda e, v: stats.update(plain=e.stats), "logits"),
        hooks.subscribe(lambda e, v: stats.update(requested=e.stats), "logits", stats=True),
    ):
        event = trace(deep.model, deep.text).event("logits")
    assert stats["plain"] is None
    assert event.stats == stats["requested"]
    assert (event.stats.count, event.stats.min, event.stats.max) == (90, 3, 3)


def test_a_replaced_gradient_flows_on(deep):
    phases, stop = [], constant(0.0)
    with (
        deep.model.hooks.subscribe(stop, "layer1.mlp.down", "lm_head", phases=("backward",)),
        deep.model.hooks.subscribe(lambda e, v: phases.append(e.phase), "logits", phases=("backward",)),
    ):
        traced = trace(deep.model, deep.text, step=True)
    assert phases == ["backward"]
    for name in ("layer1.mlp_fc1", "layer1.mlp_fc2", "lm_head"):
        assert not traced.gradient(name).any()
        assert not traced.array(name, "update").any()
    assert traced.gradient("wte").any()
    assert traced.array("wte", "update").any()
    assert next(c for c in traced.checks if c.id == "gradient").holds is None


def test_a_replaced_gradient_of_a_head_stays_with_that_head(deep):
    plain = trace(deep.model, deep.text, backward=True)
    with deep.model.hooks.subscribe(constant(0.0), "layer0.attn.head1", phases=("backward",)):
        traced = trace(deep.model, deep.text, backward=True)
    wo, expected = (run.gradient("layer0.attn_wo") for run in (traced, plain))
    assert not wo[:, 6:].any()
    agree(wo[:, :6], expected[:, :6], what="wo")


@pytest.mark.parametrize(("event", "factor"), [("loss", 0.0), ("loss", 2.0), ("probs", 3.0)])
def test_a_scaled_gradient_of_loss_or_probs_scales_all_gradients(deep, event, factor):
    plain = trace(deep.model, deep.text, backward=True)
    with deep.model.hooks.subscribe(lambda e, v: np.asarray(v * factor), event, phases=("backward",)):
        scaled = trace(deep.model, deep.text, backward=True)
    for name in [*deep.model.params, "probs", "logits"]:
        agree(scaled.gradient(name), factor * plain.gradient(name), what=name)


def test_a_replaced_update_is_added(deep):
    before = deep.model.params.flat.copy()
    with deep.model.hooks.subscribe(constant(0.0), phases=("update",)):
        traced = trace(deep.model, deep.text, step=True)
    agree(traced.step.loss_after, traced.step.loss_before)  # two runs may round the last bit differently
    trace(deep.model, deep.text, step=True)
    assert np.array_equal(deep.model.params.flat, before)  # a trace leaves the model as it was


def test_a_run_calls_its_own_hooks_around_those_of_the_bus(deep):
    """Hooks that subscribe later, or belong to another run, are not called."""
    calls, bus = [], deep.model.hooks

    def recording(name):
        return bus.subscription(lambda e, v: calls.append(name), "logits")

    with bus.subscribe(lambda e, v: calls.append("bus"), "logits"):
        run = bus.begin(before=[recording("first")], after=[recording("last")])
    bus.begin(after=[recording("another's")])
    with bus.subscribe(lambda e, v: calls.append("later"), "logits"):
        run_under_hooks(deep, run)
    assert calls == ["first", "bus", "last"]
    assert len(bus) == 0


def test_each_run_has_its_own_count_and_replacements(deep):
    bus, seqs = deep.model.hooks, ([], [])
    one = bus.begin(after=[bus.subscription(lambda e, v: seqs[0].append(e.seq) or v * 2, "logits")])
    two = bus.begin(after=[bus.subscription(lambda e, v: seqs[1].append(e.seq), "logits")])
    for run in (one, two):
        run_under_hooks(deep, run)
    assert seqs[0] == seqs[1]
    assert (list(one.replaced), list(two.replaced)) == (["logits"], [])
