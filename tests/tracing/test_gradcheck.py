"""The gradient check agrees with the backward pass, and disagrees with a wrong one."""

import numpy as np
import pytest
from support.judges import agree
from support.sweeps import some_of
from support.tiny_microgpts import CASES

from microgpt_trace import Model, gradcheck, trace
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt import forward_backward as microgpt
from microgpt_trace.microgpt import operations


def test_every_parameter_agrees(case):
    results = list(gradcheck(case.model, case.text))
    own = list(case.model.params)
    assert [r.name for r in results] == [*own, *list(case.model.plan)]
    assert [r.name for r in results if not r.holds] == []
    assert sum(r.count for r in results if r.name in own) == case.model.config.parameter_count
    assert {r.name for r in results if r.hooked is not None} == set(own)
    assert max(r.relative_error for r in results) <= 1e-6


def test_the_default_model_has_no_elements_left_out(emma):
    results = list(gradcheck(emma))
    assert all(r.holds for r in results)
    assert sum(r.kinks for r in results) <= 2


@pytest.mark.sweep
def test_a_slope_that_differences_cannot_tell_is_not_told(emma):
    """Of logits in the thousands: what attention reads has next to no gradient, of which rounding is all."""
    params = emma.params.copy()
    params.flat *= 100
    results = [row for row in gradcheck(Model(params, emma.tokenizer, "test")) if row.name in params]
    told = {row.name: row.hooked for row in results if row.hooked is not None}
    print(told)
    assert all(row.holds for row in results)
    assert len(told) < len(results)
    assert max(told.values(), default=0.0) < 0.5


def test_the_worst_element_is_given_with_both_numbers(emma):
    result = next(gradcheck(emma))
    exact = trace(Model(emma.params.copy(np.float64), emma.tokenizer, "test"), backward=True).gradient("wte")
    agree(result.analytic, exact[result.worst_index], what="analytic")
    agree(result.max_abs, np.abs(exact).max(), what="largest")
    assert abs(result.analytic - result.numeric) / result.max_abs == pytest.approx(result.relative_error)


def test_the_model_is_left_as_it_was(emma):
    before = emma.params.flat.copy()
    list(gradcheck(emma))
    assert np.array_equal(emma.params.flat, before)


WRONG = {
    "sign of rmsnorm": ("rmsnorm_backward", lambda dx: -dx, {"wte", "wpe"}),
    "relu without slope": ("relu_backward", lambda dx: dx * 1.001, {"layer0.mlp_fc1"}),
    "keys without gradient": ("scores_backward", lambda g: (g[0], g[1] * 0), {"layer0.attn_wk"}),
    "queries without gradient": ("scores_backward", lambda g: (g[0] * 0, g[1]), {"layer0.attn_wq"}),
    "values without gradient": ("context_backward", lambda g: (g[0], g[1] * 0), {"layer0.attn_wv"}),
    "sign of the values": ("context_backward", lambda g: (g[0], -g[1]), {"layer0.attn_wv"}),
    "softmax": ("softmax_backward", lambda d: d * 0.5, {"layer0.attn_wq", "layer0.attn_wk"}),
    "loss": ("cross_entropy_backward", lambda d: d * 1.0001, {"lm_head", "layer0.mlp_fc2"}),
}


@pytest.mark.parametrize(("name", "change", "hit"), some_of(WRONG.values(), every=4))
def test_a_wrong_backward_is_found(monkeypatch, emma, name, change, hit):
    plain = getattr(operations, name)
    monkeypatch.setattr(operations, name, lambda *args: change(plain(*args)))
    wrong = {r.name for r in gradcheck(emma) if not r.holds}
    assert hit <= wrong, f"found {sorted(wrong)}"


def test_one_wrong_element_is_found(monkeypatch, emma):
    plain = operations.relu_backward

    def relu_backward(dy, y):
        dx = plain(dy, y)
        dx[2, np.flatnonzero(y[2])[0]] *= 1.01
        return dx

    monkeypatch.setattr(operations, "relu_backward", relu_backward)
    assert not all(r.holds for r in gradcheck(emma))


def disagreeing(model, text="emma"):
    """What gradcheck says no to, and by which of its ways."""
    return {r.name: r for r in gradcheck(model, text) if not r.holds}


def test_the_way_by_the_heads_is_under_the_check(monkeypatch, emma):
    plain = microgpt.heads_backward
    monkeypatch.setattr(microgpt, "heads_backward", lambda *args: -plain(*args))
    found = disagreeing(emma)
    assert {"wte", "layer0.attn_wv", "layer0.attn.context"} <= found.keys()
    assert "layer0.mlp_fc1" not in found


def test_what_a_hook_puts_into_the_way_by_the_heads_is_under_the_check(monkeypatch, emma):
    """The part of it that runs only where a head's gradient is replaced."""
    columns = microgpt._head_columns
    monkeypatch.setattr(microgpt, "_head_columns", lambda config: [*columns(config)[:3], slice(0, 4)])
    found = disagreeing(emma)
    assert "layer0.attn_wo" in found
    assert found["layer0.attn_wo"].hooked > 1e-3


class Shown:
    """A tap that shows a gradient otherwise than the backward pass uses it."""

    def __init__(self, tap, name, show, use):
        self.tap, self.name, self.show, self.use, self.wants = tap, name, show, use, tap.wants

    def emit(self, name, value):
        return (
            self.use(self.tap.emit(name, self.show(value)), value)
            if name == self.name
            else self.tap.emit(name, value)
        )


LAYER = ("mlp.residual", "mlp.up", "mlp.norm", "attn.residual", "attn.out", "attn.context", "attn.norm")


@pytest.mark.parametrize("name", some_of(LAYER, every=4, sweep=2))
def test_a_gradient_that_is_shown_with_the_wrong_sign_is_found(monkeypatch, emma, name):
    """What is used is right."""
    plain = microgpt.layer_backward

    def layer_backward(dx, cache, w, g, params, rows, tap):
        wrong = Shown(tap, name, np.negative, lambda back, value: -back)
        return plain(dx, cache, w, g, params, rows, wrong)

    monkeypatch.setattr(microgpt, "layer_backward", layer_backward)
    assert list(disagreeing(emma)) == [f"layer0.{name}"]


@pytest.mark.parametrize("name", some_of(LAYER, every=4, sweep=2))
def test_a_gradient_that_is_shown_and_not_used_is_found(monkeypatch, emma, name):
    plain = microgpt.layer_backward

    def layer_backward(dx, cache, w, g, params, rows, tap):
        deaf = Shown(tap, name, np.array, lambda back, value: value)
        return plain(dx, cache, w, g, params, rows, deaf)

    monkeypatch.setattr(microgpt, "layer_backward", layer_backward)
    found = disagreeing(emma)
    assert found
    assert all(row.hooked > 1e-4 > row.relative_error for row in found.values())


@pytest.mark.parametrize("factor", some_of([100, 0.01, 30], every=3))
def test_right_gradients_of_scaled_models_agree(deep, factor):
    params = deep.model.params.copy()
    params.flat *= factor
    results = list(gradcheck(Model(params, deep.model.tokenizer, "test"), "abba"))
    assert [r.name for r in results if not r.holds] == []
    left_out = {r.name: r.kinks + r.unsettled for r in results if r.kinks + r.unsettled}
    assert set(left_out) <= {"probs"}  # of which one is 0


def at_a_kink(model):
    """The model with a hidden unit that is exactly zero: its ReLU has two slopes there."""
    params = model.params.copy()
    params["layer0.mlp_fc1"][0] = 0
    return Model(params, model.tokenizer, "test")


@pytest.mark.parametrize("text", ["", "emma"], ids=["one position", "several"])
def test_elements_at_a_kink_are_counted_and_not_judged(emma, text):
    results = {r.name: r for r in gradcheck(at_a_kink(emma), text)}
    assert all(r.holds for r in results.values())
    assert 0 < results["layer0.mlp_fc1"].kinks <= 16


def test_a_model_that_is_not_finite_does_not_agree(emma):
    params = emma.params.copy()
    params["layer0.mlp_fc1"][0, 0] = np.nan
    results = {r.name: r for r in gradcheck(Model(params, emma.tokenizer, "broken"))}
    assert not any(r.holds for r in results.values())


@pytest.mark.sweep
def test_a_confident_model_is_still_judged(emma):
    """Gradients far below the curvature of the loss: elements must not all pass for kinks."""
    params = emma.params.copy()
    params.flat *= 8
    results = list(gradcheck(Model(params, emma.tokenizer, "test")))
    assert all(r.holds for r in results)
    assert sum(r.kinks for r in results) <= 0.01 * sum(r.count for r in results)


@pytest.mark.sweep
def test_other_texts_agree():
    case = CASES["default"]
    for text in ("", "zz"):
        assert all(r.holds for r in gradcheck(case.model, text))


def test_a_text_that_does_not_fit_is_refused(emma):
    with pytest.raises(InputError, match="expected at most 15 characters"):
        list(gradcheck(emma, "a" * 16))


def test_a_signalling_nan_among_the_weights_is_no_warning(emma):
    emma.params["wte"].view(np.uint32)[3, 5] = 0x7F800001  # of a token that the text does not have
    assert all(result.holds for result in gradcheck(emma, "e"))
