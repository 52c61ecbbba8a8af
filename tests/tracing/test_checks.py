"""Check that the self-checks of a trace hold, and that each finds the fault that it guards against."""

import numpy as np
import pytest
from support.commands import microgpt as microgpt_command
from support.judges import torch_grad, torch_run
from support.other_plans import T, V, post_norm_plan, random_model, values_of
from support.sweeps import some_of

from microgpt_trace import Config, Intervention, Model, Tokenizer, trace
from microgpt_trace.hooks.bus import HookBus
from microgpt_trace.microgpt.checkpoint import save
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.operations import context, elementwise, linear, norm, prediction, scores, softmax
from microgpt_trace.tracing import gradient_agreement, gradients, predicting
from microgpt_trace.tracing.checks import Checker

INFINITE = "backward of probs, position 3, element [3, 17] = -Infinity"
IDS = ["finite", "untraced", "heads", "residual", "softmax", "causal", "gradient"]


def failed(model, text="emma"):
    return [check.id for check in trace(model, text, backward=True).checks if check.holds is False]


def test_every_check_holds(case):
    traced = trace(case.model, case.text, backward=True)
    assert {check.id: check.holds for check in traced.checks} == dict.fromkeys(IDS, True)
    assert traced.ok


@pytest.mark.parametrize("text", ["", "maximilian", "nola", "nolan"])  # some have a ReLU almost at its kink
def test_every_check_holds_in_float32(emma, text):
    checks = trace(emma, text, backward=True).checks
    assert [check.id for check in checks if check.holds] == IDS
    assert all(check.deviation <= check.tolerance for check in checks if check.deviation is not None)


def test_checks_do_not_depend_on_what_is_shown(emma):
    assert trace(emma, names=["logits"], values=False).checks == trace(emma).checks


def leak(weights):
    weights = weights.copy()
    weights[..., 0, 1] += 0.125  # the first position looks at the second
    return weights


def mutate(monkeypatch, module, name, change):
    plain = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: change(plain(*args)))


BROKEN = [
    (softmax, "forward", leak, "causal", 0.125, "layer0.attn.weights"),
    (softmax, "forward", lambda w: w * np.float32(1.001), "softmax", 1e-3, "layer0.attn.weights"),
    (predicting, "softmax", lambda p: p * np.float32(0.99), "softmax", 0.01, "probs"),
]


@pytest.mark.parametrize(("module", "name", "change", "identifier", "deviation", "where"), BROKEN)
def test_finds_wrong_weights_and_probabilities(
    monkeypatch, emma, module, name, change, identifier, deviation, where
):
    mutate(monkeypatch, module, name, change)
    found = next(check for check in trace(emma).checks if check.id == identifier)
    assert (found.holds, found.detail) == (False, where)
    assert found.deviation == pytest.approx(deviation, rel=1e-2)


def test_finds_heads_of_other_channels(monkeypatch, emma):
    plain = linear.columns_forward
    other = lambda x, matrix, columns: plain(x, matrix, slice(0, 4) if columns.start == 12 else columns)  # noqa: E731
    monkeypatch.setattr(linear, "columns_forward", other)
    assert failed(emma) == ["heads"]


def test_finds_observers_that_change_the_run(monkeypatch, emma):
    plain = linear.forward

    def forward(row, run, x):
        out = plain(row, run, x)
        return out * np.float32(1.001) if row.parts and run.tap.wants(row.parts[0]) else out

    monkeypatch.setattr(linear, "forward", forward)
    found = {check.id: check for check in trace(emma).checks}
    assert found["untraced"].holds is False
    assert 0 < found["untraced"].deviation < 0.1


WRONG_GRADIENTS = {
    norm: lambda dx: (-dx,),
    elementwise: lambda *grads: [dx * np.float32(1.1) for dx in grads],
    scores: lambda dq, dk: (dq, dk * 0),
    context: lambda dweights, dv: (dweights, -dv),
    prediction: lambda dx: (dx * np.float32(1.01),),
    linear: lambda dx: (dx * np.float32(1.01),),
}


def with_gradients(monkeypatch, module, change):
    """Change the gradients of the inputs in the backward pass of a kind."""
    mutate(monkeypatch, module, "backward", lambda out: out._replace(inputs=tuple(change(*out.inputs))))


@pytest.mark.parametrize("module", WRONG_GRADIENTS, ids=lambda module: module.__name__)
def test_finds_a_wrong_gradient(monkeypatch, deep, module):
    with_gradients(monkeypatch, module, WRONG_GRADIENTS[module])
    assert failed(deep.model, deep.text) == ["gradient"]


@pytest.mark.parametrize(
    ("name", "part"),
    [("wpe", False), ("lm_head", False), ("layer0.attn_wv", False), ("layer0.attn_wo", True), ("wte", True)],
)
def test_finds_a_gradient_that_is_partly_or_wholly_zero(monkeypatch, emma, name, part):
    """The rest of the gradient still points uphill, so differences along it agree."""
    plain = gradients.backward

    def backward(done, tap, wanted, *, give):
        def changed(parameter, gradient):
            if parameter == name:
                gradient[np.abs(gradient).sum(axis=1).argmax() if part else ...] = 0
            give(parameter, gradient)

        plain(done, tap, wanted, give=changed)

    monkeypatch.setattr(gradients, "backward", backward)
    assert failed(emma) == ["gradient"]


def scaled(seed):
    """Return a model of random size with parameters 0.01 to 100 times as large as usual, and a text."""
    rng = np.random.default_rng(seed)
    config = Config(n_layer=int(rng.integers(1, 5)), n_head=int(rng.choice([1, 2, 4])))
    params = Parameters.random(config, seed)
    for name in params:
        params[name][...] *= np.float32(10 ** rng.uniform(-2, 2))
    text = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), int(rng.integers(0, 15))))
    return Model(params, Tokenizer(), "scaled"), text


@pytest.mark.parametrize("seed", some_of(range(12), every=3))
def test_right_gradients_of_scaled_models_hold(seed):
    """One in five has a vanishing P. In one of twelve, terms cancel beyond 1e-3 of its float32 gradient."""
    model, text = scaled(seed)
    traced = trace(model, text, backward=True)
    assert [(c.id, c.detail) for c in traced.checks if not c.holds] == []
    _, grads = torch_run(dict(model.params.items()), traced.input.tokens, traced.input.targets, model.config)
    for name in model.params:
        right = torch_grad(grads[name])
        if not np.isfinite(right).all():  # the judge divides by P, which is 0 even in float64
            continue
        off = np.abs(traced.gradient(name) - right).max() / (np.abs(right).max() or 1)
        print(name, off)
        assert off <= 1e-2 or np.abs(right).max() < 1e-4


@pytest.mark.parametrize(("module", "seed"), [(scores, 1), (norm, 4), (softmax, 4)])
def test_finds_wrong_gradients_of_scaled_models(monkeypatch, module, seed):
    with_gradients(monkeypatch, module, lambda dx, *others: (dx * np.asarray(1.01, dx.dtype), *others))
    assert failed(*scaled(seed)) == ["gradient"]


@pytest.fixture
def confident(emma):
    """A model with a P of 0 for some letters in float32, and a loss of some hundreds."""
    emma.params.flat *= 10
    return emma


def test_an_infinite_gradient_of_a_vanishing_p_is_no_failure(confident):
    traced = trace(confident, "qxzq", backward=True, values=["probs"])
    assert np.isneginf(traced.gradient("probs")).sum() == 1
    assert traced.ok
    assert traced.checks[0].claim.startswith("every event is finite except d loss / d P")
    assert traced.checks[0].detail.startswith(f"{INFINITE}: the P of 1 target")
    assert np.isfinite(confident.params.flat).all()


def test_the_command_reports_an_infinite_gradient_and_succeeds(confident, tmp_path):
    save(confident, tmp_path / "confident.safetensors")
    done = microgpt_command(f"trace qxzq --backward --verbose --model {tmp_path / 'confident.safetensors'}")
    assert done.code == 0
    assert "0 NaN, 1 Inf" in done.out
    assert "note: backward of probs" in done.out


def test_an_infinite_gradient_elsewhere_is_a_failure(monkeypatch, confident):
    plain = gradients._vanishing
    monkeypatch.setattr(gradients, "_vanishing", lambda *args: np.roll(plain(*args), 1))
    found = trace(confident, "qxzq", backward=True).checks[0]
    assert (found.holds, found.detail) == (False, INFINITE)


def test_an_infinite_gradient_that_others_depend_on_is_a_failure(confident):
    """With a hook on P the gradient of the logits depends on that of P, and is not finite either."""
    traced = trace(confident, "qxzq", backward=True, interventions=[Intervention("scale", "probs", 0.5)])
    assert traced.checks[0].holds is False


def test_the_gradient_of_a_constant_loss_is_zero(confident):
    traced = trace(
        confident, "qxzq", backward=True, interventions=[Intervention("ablate", "loss")], values=["probs"]
    )
    assert not traced.gradient("probs").any()
    assert traced.ok


def test_the_gradient_check_gives_both_numbers(emma):
    check = trace(emma, backward=True).checks[-1]
    analytic, _, numeric = check.detail.partition(": ")[2].partition(" against ")
    assert float(analytic) == pytest.approx(float(numeric), rel=1e-4)


def test_a_gradient_after_a_replacement_is_not_judged(emma):
    with emma.hooks.subscribe(lambda event, value: value * 2, "logits"):
        check = trace(emma, backward=True).checks[-1]
    assert (check.holds, check.deviation, check.detail) == (None, None, "values were replaced")


def test_gradients_of_exactly_zero_agree(emma):
    """All parameters are zero: the loss depends on none, and every ReLU is exactly at its kink."""
    params = emma.params.copy()
    params.flat[...] = 0
    check = trace(Model(params, emma.tokenizer, "zeros"), backward=True).checks[-1]
    assert (check.holds, check.deviation) == (True, 0)


def test_a_relu_that_switches_in_float64_is_not_judged(emma, monkeypatch):
    plain = gradient_agreement.same_relus
    calls = []

    def same_relus(a, b):
        calls.append((a, b))
        return plain(a, b) and len(calls) > 1

    monkeypatch.setattr(gradient_agreement, "same_relus", same_relus)
    check = trace(emma, backward=True).checks[-1]
    assert calls[0][0].logits.dtype == np.float32
    assert calls[0][1].logits.dtype == np.float64
    assert (check.holds, check.detail) == (None, "a ReLU is at its kink and switches in float64")


@pytest.mark.parametrize(
    ("parameter", "index", "value", "first"),
    [
        ("wte", (13, 2), np.nan, "embed.tok, position 2, element [2, 2] = NaN"),
        ("wpe", (1, 5), np.inf, "embed.pos, position 1, element [1, 5] = Infinity"),
        ("layer0.attn_wo", (9, 15), np.nan, "layer0.attn.head3, position 0, element [0, 9] = NaN"),
        ("lm_head", (26, 0), np.nan, "logits, position 0, element [0, 26] = NaN"),
    ],
)
def test_names_the_first_element_that_is_not_finite(emma, parameter, index, value, first):
    params = emma.params.copy()
    params[parameter][index] = value
    traced = trace(Model(params, emma.tokenizer, "broken"), backward=True)
    found = {check.id: check for check in traced.checks}
    assert (found["finite"].holds, found["finite"].detail) == (False, first)
    assert found["untraced"].holds
    assert found["gradient"].holds is None
    assert not traced.ok


def test_names_the_head_and_query_of_a_score_that_overflows(emma):
    params = emma.params.copy()
    for name in ("layer0.attn_wq", "layer0.attn_wk"):
        params[name][8:12] *= 1e21  # head 2
    detail = trace(Model(params, emma.tokenizer, "broken")).checks[0].detail
    assert detail.startswith("layer0.attn.scores, position 0, element [2, 0, 0] = ")


def test_gives_the_reason_of_checks_that_a_nan_prevents(emma):
    params = emma.params.copy()
    params.wte[...] = np.nan
    found = {check.id: check for check in trace(Model(params, emma.tokenizer, "broken")).checks}
    assert [found[name].holds for name in IDS[:-1]] == [False, True, None, None, None, None]
    assert found["heads"].detail == "layer0.attn.out is not finite"
    assert found["causal"].deviation is None


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    ("bent", "check"),
    [(None, None), ("layer0.attn.out", "heads"), ("layer0.attn.residual", "residual"),
     ("layer0.mlp.residual", "residual")],
)  # fmt: skip
def test_any_plan_is_checked(parallel, bent, check):
    model = random_model(post_norm_plan(parallel))
    values, bus = values_of(model, np.arange(T) % V, bent), HookBus(list(model.plan.values()))
    checker = Checker(model.plan, model.parameter)
    first, last = checker.observers(bus)
    tap = bus.begin(before=[first], after=[last]).tap("forward")
    for name, value in values.items():
        tap.emit(name, value)
    found = {c.id: c for c in checker.checks()}
    wrong = [(name, c.detail) for name, c in found.items() if c.holds is False]
    assert wrong == ([(check, bent)] if check else [])
    assert None not in (found["heads"].holds, found["residual"].holds)


def test_reports_a_parameter_with_a_nan(emma, tmp_path):
    emma.params.wte[22, 3] = np.nan  # a letter that the text does not have
    save(emma, tmp_path / "nan.safetensors")
    done = microgpt_command("trace", "emma", "--step", "--model", tmp_path / "nan.safetensors")
    assert "\nwte: 1 value is not finite and not counted in L2\n" in done.out
    row = next(line for line in done.out.splitlines() if line.startswith("wte  "))
    assert row.split()[3:] == ["1.59", "1.5710", "–", "0.0800", "–"]
    traced = trace(emma, "emma", backward=True).parameters[0]
    assert (traced.nonfinite, traced.gradient_nonfinite, traced.gradient_ratio) == (1, 0, None)
