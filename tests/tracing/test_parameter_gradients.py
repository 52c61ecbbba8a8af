"""Check the gradients of parameters in traces of a decoder: norms, saved arrays, and a check."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.backward_runs import Run
from support.commands import microgpt
from support.documents import valid
from support.judges import agree
from support.tiny_models import TOKENS

from microgpt_trace import Intervention, trace
from microgpt_trace.arrays import logits
from microgpt_trace.errors import InputError, RunError
from microgpt_trace.interpreter.backward import _Walk, first_readers
from microgpt_trace.operations import norm
from microgpt_trace.operations.pass_state import Gradients

TEXT = ("--tokens", ",".join(map(str, TOKENS)))
BACKWARD = ("--backward", "--parameters", "*")


def run(model, parameters=("*",), **options):
    return trace(model, tokens=list(TOKENS), backward=True, parameters=parameters, **options)


@pytest.mark.parametrize("case", ["llama_tied", "qwen3", "llama_mha_bias"])
@pytest.mark.parametrize("parts", [1, 3], ids=["one head", "head in parts"])
def test_norms_and_arrays_equal_those_of_a_whole_backward_pass(monkeypatch, decoders, case, parts):
    monkeypatch.setattr(logits, "PART", 61 * -(-len(TOKENS) // parts))
    model, kept = decoders(case)[0], {}
    expected = Run(model).parameters
    traced = run(model, on_gradient=lambda name, gradient: kept.update({name: gradient.copy()}))
    assert [row.name for row in traced.parameters] == list(kept)
    assert kept.keys() == expected.keys()
    for row in traced.parameters:
        agree(kept[row.name], expected[row.name], rtol=1e-4, atol=1e-6, what=row.name)
        assert row.gradient_l2 == pytest.approx(np.linalg.norm(kept[row.name]), rel=1e-6)
        assert row.l2_norm == pytest.approx(np.linalg.norm(model.parameter(row.name)), rel=1e-6)
        assert (row.shape, row.nonfinite) == (model.plan.parameters[row.name], 0)


def test_a_gradient_is_given_away_as_soon_as_no_earlier_row_uses_the_parameter(monkeypatch, decoders):
    model, held, plain = decoders("llama_tied")[0], [], _Walk.finish

    def finish(walk, rows):
        plain(walk, rows)
        held.append({*walk.parameters})

    monkeypatch.setattr(_Walk, "finish", finish)
    order = []
    run(model, on_gradient=lambda name, gradient: order.append(name))
    first = {name: model.plan.order[row.name] for name, row in first_readers(model.plan).items()}
    assert [first[name] for name in order] == sorted(first.values(), reverse=True)
    assert all(len(names - {"wte"}) <= 1 for names in held), "the head and the first row read wte"


def test_only_chosen_parameters_have_rows(decoders):
    model = decoders("qwen3")[0]
    names = {row.name for row in run(model, ["layer1.attn_w?", "final_norm"]).parameters}
    assert names == {f"layer1.attn_w{x}" for x in "qkvo"} | {"final_norm"}
    assert run(model, ()).parameters == ()
    with pytest.raises(InputError, match=r"'layer0.attn_wx' matches no parameter .*close: layer0.attn_w"):
        run(model, ["layer0.attn_wx"])
    with pytest.raises(InputError, match=r"(parameters|on_gradient) needs backward"):
        trace(model, tokens=list(TOKENS), parameters=["*"])


def test_a_gradient_that_is_not_finite_is_counted_and_fails_the_check(monkeypatch, decoders):
    model, plain = decoders("qwen3")[0], norm.backward

    def broken(row, *args):
        inputs, parameters = plain(row, *args)
        if row.name == "layer1.mlp.norm" and parameters:
            parameters["layer1.mlp_norm"][3] = np.inf
        return Gradients(inputs, parameters)

    monkeypatch.setattr(norm, "backward", broken)
    traced = run(model, ["layer1.mlp_norm"])
    assert traced.parameters[0].gradient_nonfinite == 1
    assert traced.checks[0].detail == "backward of layer1.mlp_norm"
    assert not traced.ok


def test_saved_gradients_follow_the_arrays_of_events(decoder_folder, tmp_path):
    folder, plain, saved = decoder_folder("llama_tied"), tmp_path / "plain", tmp_path / "saved"
    assert microgpt("trace", folder, *TEXT, "--backward", "--save", plain).code == 0
    result = microgpt("trace", folder, *TEXT, *BACKWARD, "--save", saved, "--json")
    document = valid(result.out, "trace")
    gradients, events = load_file(saved), load_file(plain)
    expected = {f"backward/{row['name']}": row["gradient_l2"] for row in document["parameters"]}
    assert gradients.keys() == events.keys() | expected.keys()
    for name, array in events.items():
        np.testing.assert_array_equal(gradients[name], array, err_msg=name)
    for name, norm_of_row in expected.items():
        assert np.linalg.norm(gradients[name]) == pytest.approx(norm_of_row, rel=1e-6)
    assert f"saved the gradients of {len(expected)} parameters and " in result.err


def test_a_run_that_fails_leaves_no_file(monkeypatch, decoder_folder, tmp_path):
    plain = _Walk.finish

    def fail(walk, rows):
        if rows[0].layer == 0:
            raise RunError("no power")
        plain(walk, rows)

    monkeypatch.setattr(_Walk, "finish", fail)
    folder = decoder_folder("llama_gqa")
    result = microgpt("trace", folder, *TEXT, *BACKWARD, "--save", tmp_path / "a.safetensors")
    assert (result.code, result.err) == (1, "microgpt: no power\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("about", [{}, {"target": "#5"}], ids=["loss", "logit"])
def test_the_recheck_detects_a_wrong_gradient(monkeypatch, decoders, about):
    model, plain = decoders("llama_gqa")[0], norm.backward
    right = run(model, (), recheck=True, **about).checks[-2]
    assert right.holds
    print(right.detail, right.deviation)
    assert right.deviation < 2e-3
    monkeypatch.setattr(norm, "backward", lambda *args: Gradients((plain(*args).inputs[0] * 0.9,)))
    wrong = run(model, (), recheck=True, **about)
    print(wrong.checks[-2].detail)
    assert wrong.checks[-2].holds is False
    assert not wrong.ok


def test_the_recheck_says_why_it_judges_nothing(decoders):
    model, ablate = decoders("llama_gqa")[0], Intervention("ablate", "layer0.mlp.residual")
    assert "only with --recheck" in run(model, ()).checks[-2].detail
    assert "replaced values" in run(model, (), recheck=True, interventions=[ablate]).checks[-2].detail
    zero = trace(model, tokens=[3, 4], backward=True, recheck=True, target="#5", position=0)
    assert zero.checks[-2].holds
