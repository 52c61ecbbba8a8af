"""Check that hooks on a batch of several names receive the values that each name has when it runs alone."""

import numpy as np
import pytest
from support.tiny_microgpts import CASES, one_name, packed_names

from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.forward_backward import backward, event_specs, forward
from microgpt_trace.microgpt.model import Model

NAMES = ["a", "abba", "cab", "", "bab", "abcabca", "ab", "cab"]


def model_of(dtype):
    deep = CASES["2 layers, 2 heads"].model
    return Model(deep.params.copy(dtype), deep.tokenizer, "deep")


def observed(model, batch, hook=lambda event, value: None):
    """Return the values that hooks on all events receive, in order, and the pass."""
    values = {}

    def keep(event, value):
        assert event.shape == value.shape
        values.setdefault(event.name, []).append(np.array(value))
        return hook(event, value)

    with model.hooks.subscribe(keep):
        return values, forward(model.params, batch, model.hooks.begin().tap("forward"))


def ids_of(model):
    return [model.tokenizer.encode_name(name) for name in NAMES]


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 2e-5)], ids=["float64", "float32"]
)
def test_a_name_has_the_same_values_in_a_batch_and_alone(dtype, rtol):
    model = model_of(dtype)
    ids = ids_of(model)
    values, _ = observed(model, packed_names(ids, model.config, dtype))
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    lengths = [len(ids[number]) - 1 for number in order]
    alone = [observed(model, one_name(ids[number], model.config, dtype))[0] for number in order]
    assert set(values) == set(alone[0])
    for name, parts in values.items():
        if name.endswith((".scores", ".weights")):
            assert [part.shape[0] for part in parts] == [lengths.count(n) for n in sorted(set(lengths))]
            by_text = [text for part in parts for text in part]
        elif name == "loss":
            losses = [float(one["loss"][0]) for one in alone]
            assert float(parts[0]) == pytest.approx(np.mean(losses), rel=rtol), f"{parts}, {losses}"
            continue
        else:
            (rows,) = parts
            by_text = np.split(rows, np.cumsum(lengths)[:-1])
        for one, in_batch in zip(alone, by_text, strict=True):
            size = np.abs(one[name][0]).max()
            gap = np.abs(in_batch - one[name][0]).max()
            assert gap <= rtol * size, f"{name}: {gap} of {size}"


def test_hooks_receive_every_event_and_change_nothing():
    model = model_of(np.float32)
    batch = packed_names(ids_of(model), model.config, np.float32)
    values, done = observed(model, batch)
    assert set(values) == {spec.name for spec in event_specs(model.config)} - set(model.params)
    assert done.logits.tobytes() == forward(model.params, batch).logits.tobytes()


@pytest.mark.parametrize("name", ["layer0.attn.weights", "layer1.attn.context", "embed.sum"])
def test_a_value_returned_by_a_hook_replaces_the_event(name):
    """For scores and weights, the hook replaces the value of each group of names."""
    model = model_of(np.float64)
    ids = ids_of(model)

    def halved(event, value):
        return value * 0.5 if event.name == name else None

    _, done = observed(model, packed_names(ids, model.config), halved)
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    alone = [observed(model, one_name(ids[number], model.config), halved)[1] for number in order]
    logits = np.concatenate([each.logits for each in alone])
    np.testing.assert_allclose(done.logits, logits, rtol=1e-10, atol=1e-12)
    mean = np.mean([gradient_of(model, each) for each in alone], axis=0)
    np.testing.assert_allclose(gradient_of(model, done), mean, rtol=1e-10, atol=1e-12)


def gradient_of(model, done):
    grads = model.params.copy()
    backward(model.params, done, grads)
    return grads.flat


def test_rejects_hooks_on_gradients_of_several_names():
    model = model_of(np.float64)
    batch = packed_names(ids_of(model), model.config)
    grads = model.params.copy(np.float64)
    grads.flat[:] = 0
    with model.hooks.subscribe(lambda event, value: None, phases=("forward", "backward")):
        run = model.hooks.begin()
        done = forward(model.params, batch, run.tap("forward"))
        with pytest.raises(InputError, match="one name at a time"):
            backward(model.params, done, grads, run.tap("backward"))
    backward(model.params, done, grads)
    assert np.abs(grads.flat).max() > 0
