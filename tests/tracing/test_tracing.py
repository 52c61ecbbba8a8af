"""Check a Trace: its input, predictions, arrays and one Adam step."""

import copy
import dataclasses
import math
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from threading import Barrier

import numpy as np
import pytest
from support.judges import agree, scalar_forward

from microgpt_trace import Config, Model, Tokenizer, init, trace, train
from microgpt_trace.errors import InputError
from microgpt_trace.operations import by_kind
from microgpt_trace.render.documents.trace_as_json import trace_json


def test_the_input_has_its_characters(emma):
    traced = trace(emma, "emma")
    inputs = traced.input
    assert (inputs.tokens, inputs.targets, inputs.notes) == ((0, 5, 13, 13, 1), (5, 13, 13, 1, 0), ())
    assert (inputs.labels, inputs.target_labels) == (("BOS", *"emma"), (*"emma", "EOS"))
    assert [p.seen for p in traced.predictions] == ["", "e", "em", "emm", "emma"]
    assert [p.target.label for p in traced.predictions] == list(inputs.target_labels)
    assert traced.chance_loss == math.log(27)


def test_loss_and_predictions_use_replaced_probabilities(emma):
    with emma.hooks.subscribe(lambda event, value: np.full_like(value, 1 / 27), "probs"):
        traced = trace(emma)
    agree(traced.loss, math.log(27), rtol=1e-6)
    agree([p.loss for p in traced.predictions], [math.log(27)] * 5, rtol=1e-6, what="loss at position ")


def test_a_vanishing_probability_has_its_exact_loss(emma):
    params = emma.params.copy()
    params.lm_head[...] *= 3000
    traced = trace(Model(params, emma.tokenizer, "test"))
    rows = scalar_forward(dict(params.items()), [0, 5, 13, 13, 1], 4, 1)
    expected = [max(row) - row[target] for row, target in zip(rows, (5, 13, 13, 1, 0), strict=True)]
    assert max(expected) > 200
    agree([p.loss for p in traced.predictions], expected, rtol=1e-4, atol=0.7)


def test_arrays_are_found_by_name_and_alias(emma):
    traced = trace(emma, backward=True)
    assert traced["attn_softmax"] is traced["layer0.attn.weights"]
    assert traced.gradient("lm_head").shape == (27, 16)
    agree(traced["layer0.attn.weights"].sum(-1), np.ones((4, 5)), rtol=1e-6)


def test_keeps_only_requested_arrays(emma):
    assert list(trace(emma, values=["logits"]).arrays) == [("forward", "logits")]
    assert trace(emma, values=False).arrays == {}


UNKNOWN = "matches no event of this model (close: layer0.mlp.act, "
NO_ARRAY = [
    (True, lambda t: t["layer0.mlp.actt"], UNKNOWN),
    (False, lambda t: t["layer0.mlp.actt"], UNKNOWN),
    (False, lambda t: t["layer0.attn.weigths[1]"], "(close: layer0.attn.weights, "),
    (False, lambda t: t["logits"], "the array of 'logits' was not kept in phase forward"),
    (["logits"], lambda t: t["attn_out"], "'attn_out' was not kept in phase forward: name it in `values`"),
    (True, lambda t: t.gradient("logits"), "in phase backward: trace with backward=True"),
    (True, lambda t: t.array("wte", "update"), "not kept in phase update: trace with step=True"),
    (True, lambda t: t["layer0.attn.*"], "'layer0.attn.*' matches several arrays, layer0.attn.norm, "),
]


@pytest.mark.parametrize(("values", "read", "words"), NO_ARRAY)
def test_the_error_distinguishes_unknown_events_from_arrays_not_kept(emma, values, read, words):
    with pytest.raises(InputError, match=re.escape(words)):
        read(trace(emma, values=values))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": "José"}, "try 'jose'"),
        ({"text": "a" * 16}, "expected at most 15 characters (block_size 16), found 16"),
        ({"top_k": 0}, "top_k: expected at least 1, found 0"),
    ],
)
def test_refuses_a_request_that_does_not_fit(emma, options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        trace(emma, **options)


def test_parameters_alone_have_no_forward_event(emma):
    with pytest.raises(InputError, match="wte: parameters have no forward event"):
        trace(emma, names=["wte"])
    assert [e.phase for e in trace(emma, names=["wte"], step=True)] == ["backward", "update"]


def gradient_and_update(traced):
    names = [row.name for row in traced.parameters]
    return (np.concatenate([traced.array(n, p).ravel() for n in names]) for p in ("backward", "update"))


def test_a_step_equals_adam(emma):
    traced = trace(emma, step=True)
    gradient, update = gradient_and_update(traced)
    agree(update, -0.01 * gradient / (np.abs(gradient) + 1e-8), rtol=1e-4, atol=1e-9, what="update")
    assert (traced.step.number, traced.step.lr, traced.step.note) == (1, 0.01, "fresh moments")
    assert traced.step.loss_after < traced.step.loss_before == traced.loss


def test_a_step_continues_with_the_moments_of_training(emma, tmp_path):
    data = tmp_path / "names.txt"
    data.write_text("emma\n" * 4)
    trained = train(emma, steps=4, data=data)
    traced = trace(trained, step=True)
    assert (traced.step.number, traced.step.note) == (5, "moments of the checkpoint")
    m, v = np.split(trained.training.moments, 2)
    gradient, update = gradient_and_update(traced)
    first = 0.15 * (0.85 * m + gradient) / (1 - 0.85**5)
    second = 0.01 * (0.99 * v + gradient**2) / (1 - 0.99**5)
    agree(update, -traced.step.lr * first / (np.sqrt(second) + 1e-8), rtol=1e-4, atol=1e-8, what="update")
    fresh = trace(Model(trained.params, trained.tokenizer, "x"), step=True)
    assert not np.allclose(traced.array("wte", "update"), fresh.array("wte", "update"))


def test_parameter_rows_have_gradient_and_update(emma):
    traced = trace(emma, step=True)
    for name, row in zip(emma.params, traced.parameters, strict=True):
        weight, grad, update = emma.params[name], traced.gradient(name), traced.array(name, "update")
        assert row.name == name
        agree(row.l2_norm, np.linalg.norm(weight), rtol=1e-6)
        agree(row.gradient_ratio, np.linalg.norm(grad) / np.linalg.norm(weight), rtol=1e-6)
        agree(row.update_ratio, np.linalg.norm(update) / np.linalg.norm(weight), rtol=1e-6)


def test_the_time_of_an_event_includes_no_import(emma, monkeypatch):
    """A new process imports the module of each kind of operation when it is first needed."""
    monkeypatch.setattr(by_kind, "_module", cache(by_kind._module.__wrapped__))
    imports = []
    monkeypatch.setattr(by_kind, "import_module", lambda name: imports.append(name) or import_module(name))
    before = []
    with emma.hooks.subscribe(lambda event, value: before.append(len(imports)), "embed.tok", "logits"):
        trace(emma, time=True, backward=True)
    print(imports)
    assert before == [len(imports)] * 2
    assert "microgpt_trace.operations.prediction" in imports


def test_leaves_out_results_that_were_not_computed(emma):
    assert (trace(emma).parameters, trace(emma).step) == ((), None)
    row = trace(emma, backward=True).parameters[0]
    assert row.update_l2 is row.update_ratio is None


def test_traces_another_vocabulary():
    model = init(Config(vocab_size=4, n_embd=4, n_head=1), tokenizer=Tokenizer("xyz", bos="last"))
    inputs = trace(model, "zyx").input
    assert (inputs.tokens, inputs.target_labels) == ((3, 2, 1, 0), ("z", "y", "x", "EOS"))


@pytest.mark.parametrize("kind", ["microgpt", "decoder"])
def test_traces_of_one_model_at_the_same_time_do_not_mix(emma, decoders, kind):
    """The two runs wait for each other at the beginning, in the layer and at the end."""
    barrier, own = Barrier(2, timeout=10), kind == "microgpt"
    model = emma if own else decoders("qwen3")[0]
    prompts = [{"text": "emma"}, {"text": "olivia"}] if own else [{"tokens": [1, 2, 3]}, {"tokens": [5, 9]}]
    options = {"step": True} if own else {"lens": True, "names": ["*"]}

    def meet(event, value):
        barrier.wait()

    alone = [trace(model, **prompt, **options) for prompt in prompts]
    with model.hooks.subscribe(meet, "embed.*", "layer0.*", "probs"), ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda prompt: trace(model, **prompt, **options), prompts)
    for one, other in zip(found, alone, strict=True):
        print(len(one), len(other))
        assert trace_json(one) == trace_json(other)
        assert [event.seq for event in one] == list(range(len(other)))


def test_a_trace_can_be_copied_and_stored(emma, decoders):
    for done in (trace(emma, "emma"), trace(decoders("qwen3")[0], tokens=[1, 2])):
        for other in (copy.deepcopy(done), pickle.loads(pickle.dumps(done))):
            assert other.loss == done.loss
            assert other.specs["logits"].inputs == done.specs["logits"].inputs
        assert len(dataclasses.asdict(done)["events"]) == len(done.events)
