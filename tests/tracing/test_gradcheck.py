"""Check that gradcheck agrees with the backward pass and finds a wrong one."""

import numpy as np
import pytest
from support.judges import agree
from support.sweeps import in_sweep, some_of
from support.tiny_microgpts import CASES

from microgpt_trace import Config, Model, Tokenizer, gradcheck, init, trace
from microgpt_trace.interpreter import backward as interpreter
from microgpt_trace.microgpt import operations
from microgpt_trace.operations import context, elementwise, linear, norm, prediction, scores, softmax
from microgpt_trace.tracing import central_differences


@pytest.fixture
def small() -> Model:
    """An untrained model of about a thousand elements."""
    return init(Config(6, n_embd=8, n_head=2, block_size=6), tokenizer=Tokenizer("aeimn"))


def scaled(model, factor):
    params = model.params.copy()
    params.flat *= factor
    return Model(params, model.tokenizer, "test")


@pytest.fixture
def few(monkeypatch):
    """Judge two wrong elements of each tensor, because each takes many passes."""
    monkeypatch.setattr(central_differences, "MANY", 2)


def rows_by_name(model, text="emma"):
    return {row.name: row for row in gradcheck(model, text)}


def wrong_rows(model, text="emma"):
    return {name: row for name, row in rows_by_name(model, text).items() if not row.holds}


SMALLEST_FIRST = sorted(CASES.values(), key=lambda case: case.model.config.parameter_count)


@pytest.mark.parametrize("case", some_of(SMALLEST_FIRST, every=4, sweep=2), ids=lambda case: case.text)
def test_every_parameter_agrees(case):
    before = case.model.params.flat.copy()
    results = list(gradcheck(case.model, case.text))
    own = list(case.model.params)
    assert [r.name for r in results] == [*own, *list(case.model.plan)]
    assert [r.name for r in results if not r.holds] == []
    assert sum(r.count for r in results if r.name in own) == case.model.config.parameter_count
    assert {r.name for r in results if r.hooked is not None} == set(own)
    assert max(r.relative_error for r in results) <= 1e-6
    assert sum(r.kinks for r in results) <= 2
    assert np.array_equal(case.model.params.flat, before), "the model is left as it was"


@pytest.mark.sweep
def test_reports_no_slope_that_rounding_hides(emma):
    """With logits in the thousands, the gradient of attention's input is nothing but rounding."""
    results = rows_by_name(scaled(emma, 100))
    slopes = {name: results[name].hooked for name in emma.params if results[name].hooked is not None}
    print(slopes)
    assert all(results[name].holds for name in emma.params)
    assert len(slopes) < len(emma.params)
    assert max(slopes.values(), default=0.0) < 0.5


def test_gives_both_numbers_of_the_worst_element(small):
    result, wide = next(gradcheck(small)), Model(small.params.copy(np.float64), small.tokenizer, "test")
    exact = trace(wide, backward=True).gradient("wte")
    agree(result.analytic, exact[result.worst_index], what="analytic")
    agree(result.max_abs, np.abs(exact).max(), what="largest")
    assert abs(result.analytic - result.numeric) / result.max_abs == pytest.approx(result.relative_error)


def one_element_of(dx):
    dx[2, np.flatnonzero(dx[2])[0]] *= 1.01
    return dx


ROWS = {
    "sign of rmsnorm": (norm, lambda dx: (-dx,), {"wte", "wpe", "embed.sum"}),
    "one element of relu": (elementwise, lambda *g: map(one_element_of, g), {"layer0.mlp_fc1"}),
    "keys without gradient": (scores, lambda dq, dk: (dq, dk * 0), {"layer0.attn_wk", "layer0.attn.k"}),
    "sign of the values": (context, lambda dw, dv: (dw, -dv), {"layer0.attn_wv"}),
    "softmax": (softmax, lambda d: (d * 0.5,), {"layer0.attn_wq", "layer0.attn_wk"}),
    "products": (linear, lambda d: (d * 1.1,), {"wte", "layer0.attn_wv", "layer0.attn.context"}),
    "loss": (prediction, lambda d: (d * 1.0001,), {"lm_head", "layer0.mlp_fc2"}),
}


@pytest.mark.parametrize("name", some_of(ROWS, every=7))
def test_finds_a_wrong_backward_pass_of_a_kind(monkeypatch, small, few, name):
    module, change, hit = ROWS[name]
    plain = module.backward

    def backward(*args):
        gradients = plain(*args)
        return gradients._replace(inputs=tuple(change(*gradients.inputs)))

    monkeypatch.setattr(module, "backward", backward)
    wrong = wrong_rows(small).keys()
    assert hit <= wrong, f"found {sorted(wrong)}"
    assert "layer0.mlp_fc1" not in wrong or module is not scores


TRAINING = {
    "sign of rmsnorm": ("rmsnorm_backward", lambda dx: -dx, {"wte", "wpe"}),
    "keys without gradient": ("scores_backward", lambda g: (g[0], g[1] * 0), {"layer0.attn_wk"}),
    "loss": ("cross_entropy_backward", lambda d: d * 1.0001, {"lm_head", "layer0.mlp_fc2"}),
}


@pytest.mark.parametrize("row", some_of(TRAINING, every=3))
def test_finds_a_wrong_backward_pass_of_training(monkeypatch, small, few, row):
    name, change, hit = TRAINING[row]
    plain = getattr(operations, name)
    monkeypatch.setattr(operations, name, lambda *args: change(plain(*args)))
    wrong = wrong_rows(small).keys()
    assert hit <= wrong <= set(small.params), f"found {sorted(wrong)}"


def test_checks_the_gradient_of_replaced_heads(monkeypatch, small):
    """A part of the backward pass runs only if a hook replaces the gradient of a head."""
    plain = interpreter._Walk._changed_parts

    def wrong(walk, row, dy):
        return [(part, dpart * 1.01) for part, dpart in plain(walk, row, dy)]

    monkeypatch.setattr(interpreter._Walk, "_changed_parts", wrong)
    found = wrong_rows(small)
    assert "layer0.attn_wo" in found
    assert found["layer0.attn_wo"].hooked > 1e-3


class OtherGradient:
    """A tap that shows another gradient than the backward pass uses."""

    def __init__(self, tap, name, show, use):
        self.tap, self.name, self.show, self.use, self.wants = tap, name, show, use, tap.wants

    def emit(self, name, value):
        if name != self.name:
            return self.tap.emit(name, value)
        return self.use(self.tap.emit(name, self.show(value)), value)


LAYER = ("mlp.residual", "mlp.up", "mlp.norm", "attn.residual", "attn.out", "attn.context", "attn.norm")


def show_other_gradient(monkeypatch, name, show, use):
    """Show another gradient of an event than the gradient that the backward pass uses."""
    plain = interpreter.backward

    def backward(done, tap, *args, **options):
        plain(done, OtherGradient(tap, f"layer0.{name}", show, use), *args, **options)

    monkeypatch.setattr("microgpt_trace.tracing.gradient_check.backward", backward)


@pytest.mark.parametrize("name", some_of(LAYER, every=7, sweep=2))
def test_finds_a_gradient_that_is_shown_with_the_wrong_sign(monkeypatch, small, name):
    """The gradient that is used is right."""
    show_other_gradient(monkeypatch, name, np.negative, lambda back, value: -back)
    assert list(wrong_rows(small)) == [f"layer0.{name}"]


@pytest.mark.parametrize("name", some_of(LAYER, every=7, sweep=2))
def test_finds_a_gradient_that_is_shown_and_not_used(monkeypatch, small, name):
    show_other_gradient(monkeypatch, name, np.array, lambda back, value: value)
    found = wrong_rows(small)
    assert found
    assert all(row.hooked > 1e-4 > row.relative_error for row in found.values())


@pytest.mark.parametrize("factor", some_of([100, 0.01, 30], every=3))
def test_right_gradients_of_scaled_models_agree(factor):
    case = CASES["3 layers, 1 head"]
    results = rows_by_name(scaled(case.model, factor), case.text).values()
    assert [r.name for r in results if not r.holds] == []
    left_out = {r.name: r.kinks + r.unsettled for r in results if r.kinks + r.unsettled}
    assert set(left_out) <= {"probs"}  # one P is 0


@pytest.mark.parametrize("text", ["", in_sweep("emma")])
def test_elements_at_a_kink_are_counted_and_not_judged(small, text):
    small.params["layer0.mlp_fc1"][0] = 0  # a hidden unit that is exactly zero: its ReLU has two slopes
    results = rows_by_name(small, text)
    assert all(r.holds for r in results.values())
    assert 0 < results["layer0.mlp_fc1"].kinks <= 8


def test_a_model_that_is_not_finite_does_not_agree(small):
    small.params["layer0.mlp_fc1"][0, 0] = np.nan
    assert not any(r.holds for r in gradcheck(small))


@pytest.mark.sweep
def test_judges_a_confident_model(emma):
    """Gradients are far below the curvature of the loss. Elements must not all count as kinks."""
    results = rows_by_name(scaled(emma, 8)).values()
    assert all(r.holds for r in results)
    assert sum(r.kinks for r in results) <= 0.01 * sum(r.count for r in results)


def test_a_signalling_nan_among_the_weights_gives_no_warning(small):
    small.params["wte"].view(np.uint32)[3, 5] = 0x7F800001  # of a token that the text does not have
    assert not wrong_rows(small, "e")
