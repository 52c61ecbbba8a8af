"""Check that gradcheck of a production model finds a wrong backward kernel, and no error in right ones."""

from types import SimpleNamespace

import numpy as np
import pytest
from support import everything
from support.commands import microgpt
from support.other_plans import in_float64, odd_plan, random_model, routed_plan
from support.sweeps import in_sweep, some_of
from support.tiny_models import TOKENS, tiny_model, write_folder

from microgpt_trace import gradcheck
from microgpt_trace.errors import InputError
from microgpt_trace.interpreter.backward import forward
from microgpt_trace.models.float64_model import Float64Model
from microgpt_trace.operations import (
    context,
    elementwise,
    experts,
    linear,
    lookup,
    mixture,
    norm,
    prediction,
    scores,
    softmax,
)
from microgpt_trace.operations.pass_state import Gradients
from microgpt_trace.plans import kinds
from microgpt_trace.plans.plan import kind_of
from microgpt_trace.tracing import gradient_check as module

INPUTS = SimpleNamespace(text="", tokens=TOKENS, targets=(*TOKENS[1:], None))
ODD, ROUTED, EVERYTHING = odd_plan(), routed_plan(), everything.OWN.plan


def model_of(plan):
    """Return a model of a plan with random parameters, which reads TOKENS."""
    return SimpleNamespace(**vars(random_model(plan)), read=lambda text, tokens: INPUTS)


def wrong_names(model):
    return [row.name for row in gradcheck(model) if not row.holds]


@pytest.mark.parametrize(
    "plan", [ODD, in_sweep(ROUTED), in_sweep(EVERYTHING)], ids=["odd", "routed", "everything"]
)
def test_right_gradients_of_any_plan_agree(plan):
    model = model_of(plan)
    rows = list(gradcheck(model))
    events = [row.name for row in plan.values() if not isinstance(row.kind, kinds.Loss | kinds.Choice)]
    assert [row.name for row in rows] == [
        *plan.parameters,
        *(name for name in events if not plan[name].extra),
    ]
    worst = max(rows, key=lambda row: row.relative_error)
    print(f"{worst.name}: {worst.analytic} against {worst.numeric}")
    assert [row.name for row in rows if not row.holds] == []
    assert sum(row.unsettled for row in rows) <= 0.05 * sum(row.count for row in rows)


@pytest.mark.parametrize("case", ["llama_tied", in_sweep("qwen3"), in_sweep("mistral_window")])
def test_the_gradients_of_a_file_agree(decoders, case):
    model = decoders(case)[0]
    rows = list(gradcheck(model, tokens=TOKENS))
    assert all(row.holds and row.count == 3 for row in rows)
    assert 0 < max(row.float32_error for row in rows) < 1e-4
    assert {row.name: row.kind for row in rows}["wte"] == "Lookup"


def test_the_float64_model_equals_one_with_unpacked_parameters(monkeypatch, decoders):
    model, x = decoders("llama_mha_bias")[0], np.random.default_rng(0).standard_normal((3, 32))
    monkeypatch.setattr("microgpt_trace.models.float64_model.ELEMENTS", 100)
    wide, judge = Float64Model(model), in_float64(model)
    losses = [float(forward(each, np.array(TOKENS), INPUTS.targets).loss) for each in (wide, judge)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-14)
    back = [each.product_backward(x @ x.T @ np.ones((3, 48)), "layer0.mlp_wup") for each in (wide, judge)]
    np.testing.assert_allclose(*back, rtol=1e-12)


def of_input(number, change):
    """Change the gradient of an input."""
    return lambda g, *_: Gradients(
        tuple(change(d) if i == number else d for i, d in enumerate(g.inputs)), g.parameters
    )


def of_parameter(ending, change):
    """Change the gradient of parameters whose names have this ending."""
    return lambda g, *_: Gradients(
        g.inputs, {n: change(d) if n.endswith(ending) else d for n, d in g.parameters.items()}
    )


# Every kind of event and of parameter. test_backward.py judges the kernels themselves.
PLANTED = {
    "one element of a product": (linear, kinds.Linear, ODD, of_input(0, lambda d: d * (d != d.max()))),
    "matrix with half its gradient": (linear, kinds.Linear, ODD, of_parameter("attn_wv", lambda d: d / 2)),
    "tied table without gradient": (lookup, kinds.Lookup, ODD, of_parameter("wte", np.zeros_like)),
    "mean for the sum of a bias": (linear, kinds.Linear, ODD, of_parameter("attn_bo", lambda d: d / 7)),
    "sign of a norm's bias": (norm, kinds.Norm, ODD, of_parameter("attn_c", np.negative)),
    "sign of the keys": (scores, kinds.Scores, ODD, of_input(1, np.negative)),
    "sinks without gradient": (softmax, kinds.Softmax, ROUTED, of_parameter("sinks", np.zeros_like)),
    "weights without gradient": (context, kinds.Context, ODD, of_input(0, np.zeros_like)),
    "clip without limits": (elementwise, kinds.Clip, ROUTED, lambda g, row, run, dy, *_: Gradients((dy,))),
    "order of experts": (experts, kinds.Experts, ROUTED, of_parameter("mlp_wup_experts", np.flipud)),
    "shares without gradient": (mixture, kinds.Mixture, ROUTED, of_input(1, np.zeros_like)),
    "sum for the mean of losses": (prediction, kinds.Loss, ODD, of_input(0, lambda d: 6 * d)),
}


@pytest.mark.parametrize("name", some_of(PLANTED, every=4))
def test_finds_a_wrong_kernel(monkeypatch, name):
    kernels, kind, plan, change = PLANTED[name]
    plain = kernels.backward

    def backward(row, *args):
        gradients = plain(row, *args)
        return change(gradients, row, *args) if isinstance(row.kind, kind) else gradients

    monkeypatch.setattr(module, "DIRECTIONS", 1)
    monkeypatch.setattr(kernels, "backward", backward)
    found = wrong_names(model_of(plan))
    print(found)
    assert found


def test_finds_a_gradient_that_is_wrong_only_in_float32(monkeypatch, decoders):
    plain = norm.backward

    def backward(row, run, dy, *args):
        inputs, parameters = plain(row, run, dy, *args)
        return Gradients((inputs[0] * (1.01 if dy.dtype == np.float32 else 1),), parameters)

    monkeypatch.setattr(norm, "backward", backward)
    rows = list(gradcheck(decoders("llama_gqa")[0], tokens=TOKENS))
    wrong = [row for row in rows if not row.holds]
    assert wrong
    assert all(row.float32_error > 1e-3 and row.relative_error < 1e-6 for row in wrong)


def test_a_large_model_is_checked_in_some_layers_and_every_kind(monkeypatch):
    plan = EVERYTHING
    monkeypatch.setattr(module, "UNPACKED", 50 * sum(map(np.prod, plan.parameters.values())))
    names, count = module.chosen_names(plan, 1)
    every = {*plan.parameters, *(n for n, row in plan.items() if not row.extra)} - {"loss"}
    assert count == 1
    assert {*map(kind_of, names)} == {*map(kind_of, every)}
    assert {plan[name].layer for name in names if name in plan} == {None, 0, 1, 2}
    assert len(names) < len(every)


def test_a_model_that_is_not_finite_fails_and_one_token_has_no_loss():
    model = model_of(ODD)
    model.arrays["layer0.mlp_up"][0, 0] = np.nan
    assert wrong_names(model)
    model.read = lambda text, tokens: SimpleNamespace(tokens=TOKENS[:1], targets=(None,))
    with pytest.raises(InputError, match="at least 2 tokens"):
        list(gradcheck(model))


def test_the_command_checks_a_model_file(monkeypatch, decoder_folder):
    folder, tokens = decoder_folder(num_hidden_layers=1), ("--tokens", ",".join(map(str, TOKENS)))
    right = microgpt("gradcheck", folder, *tokens)
    assert right.code == 0
    assert "34 of 35 parameters and events, along 3 random directions each" in " ".join(right.out.split())
    plain = scores.backward
    change = of_input(1, np.negative)
    monkeypatch.setattr(scores, "backward", lambda *args: change(plain(*args)))
    wrong = microgpt("gradcheck", folder, *tokens)
    assert wrong.code == 1
    assert "layer0.attn_wk" in wrong.out
    assert microgpt("gradcheck", "emma", *tokens).code == 2


def test_the_command_names_the_tokens_of_a_model_without_a_tokenizer(tmp_path):
    done = microgpt("gradcheck", write_folder(tmp_path, *tiny_model("llama_gqa")), "--tokens", "5,6")
    assert 'Gradients of the loss of "5,6" against' in done.out
