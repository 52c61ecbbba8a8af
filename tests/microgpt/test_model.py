"""Compare the whole model with independent judges: logits, loss, every gradient, causality, packing."""

import numpy as np
import pytest
from support.judges import agree, scalar_forward, scalar_loss, torch_grad, torch_run
from support.tiny_microgpts import make, one_name, packed_names

from microgpt_trace import Config, Tokenizer, init, trace
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.forward_backward import backward, forward
from microgpt_trace.microgpt.parameters import Parameters


def gradients(params, batch):
    """Return the loss of a batch and the gradients of all parameters."""
    done = forward(params, batch)
    grads = Parameters(params.config, np.full_like(params.flat, np.nan))
    backward(params, done, grads)
    return float(done.loss), grads


def run(case, text=None):
    ids = np.array(case.model.tokenizer.encode_name(case.text if text is None else text))
    return forward(case.model.params, one_name(ids, case.model.config))


def test_logits_and_loss_agree_with_plain_python(case):
    config, done = case.model.config, run(case)
    rows = scalar_forward(dict(case.model.params.items()), case.ids[:-1], config.n_head, config.n_layer)
    agree(done.logits, rows, what="logits")
    agree(done.loss, scalar_loss(rows, case.ids[1:]), what="loss")


def test_every_event_and_every_gradient_agree_with_torch(case):
    traced, params = trace(case.model, case.text, backward=True), dict(case.model.params.items())
    events, weights = torch_run(params, case.ids[:-1], case.ids[1:], case.model.config)
    assert [event.name for event in traced if event.phase == "forward"] == list(events)
    for name, tensor in events.items():
        agree(traced[name], tensor.detach().numpy(), what=name)
    for name, tensor in (events | weights).items():
        agree(traced.gradient(name), torch_grad(tensor), what=f"d {name}")


@pytest.mark.parametrize("text", ["", "a", "emma", "abcdefghijklmno"])
def test_the_passes_of_training_equal_those_of_the_plan_up_to_rounding(emma, text):
    """In float32. The largest difference found is 5e-7 of the largest element."""
    ids = np.array(emma.tokenizer.encode_name(text))
    batch = one_name(ids, emma.config, np.float32)
    done, (loss, grads) = forward(emma.params, batch), gradients(emma.params, batch)
    traced = trace(emma, text, backward=True)
    assert loss == pytest.approx(traced.loss, rel=1e-6)
    pairs = [(done.logits, traced["logits"]), (done.probs, traced["probs"])]
    for by_hand, by_plan in [*pairs, *((grad, traced.gradient(name)) for name, grad in grads.items())]:
        assert np.abs(by_hand - by_plan).max() <= 2e-6 * np.abs(by_plan).max()


def test_float32_agrees_with_torch(emma):
    ids = emma.tokenizer.encode_name("emma")
    batch = one_name(ids, emma.config, np.float32)
    done, (_, grads) = forward(emma.params, batch), gradients(emma.params, batch)
    events, weights = torch_run(dict(emma.params.items()), ids[:-1], ids[1:], emma.config)
    assert done.logits.dtype == done.probs.dtype == np.float32
    agree(done.logits, events["logits"].detach().numpy(), rtol=1e-5, atol=1e-6, what="logits")
    for name, tensor in weights.items():
        agree(grads[name], torch_grad(tensor), rtol=1e-4, atol=5e-7, what=name)


@pytest.mark.parametrize("rows", [32, 33, 64, 65, 128, 140])
def test_a_long_text_agrees_with_torch_in_blocks_of_queries_and_in_one_block(rows):
    """Training runs long texts in blocks, and a trace in one block."""
    config = Config(vocab_size=6, n_embd=66, n_head=3, n_layer=2, block_size=140)
    model = make(config, Tokenizer("lmnop"), "", gain=2.0).model
    text = "".join(np.random.default_rng(3).choice(list("lmnop"), rows - 1))
    ids = np.array(model.tokenizer.encode_name(text))
    events, weights = torch_run(dict(model.params.items()), ids[:-1], ids[1:], config)
    traced = trace(model, text, backward=True)
    assert traced.ok
    for name, tensor in events.items():
        agree(traced[name], tensor.detach().numpy(), what=name)
    loss, grads = gradients(model.params, one_name(ids, config))
    agree(loss, events["loss"].item(), what="loss")
    for name, tensor in weights.items():
        agree(traced.gradient(name), torch_grad(tensor), what=f"d {name}")
        agree(grads[name], torch_grad(tensor), what=f"d {name} in blocks")


@pytest.mark.parametrize("position", [1, 4, 7])
def test_a_character_does_not_change_earlier_rows(deep, position):
    changed = deep.text[:position] + ("a" if deep.text[position] != "a" else "b") + deep.text[position + 1 :]
    before, after = run(deep).logits, run(deep, changed).logits
    assert np.array_equal(before[: position + 1], after[: position + 1])
    assert not np.array_equal(before[position + 1], after[position + 1])
    agree(run(deep, deep.text[:position]).logits, before[: position + 1], what="of a shorter text")


def random_names(lengths, config, seed=5):
    rng = np.random.default_rng(seed)
    return [np.array([0, *rng.integers(1, config.vocab_size, n - 1), 0]) for n in lengths]


@pytest.mark.parametrize(
    "lengths",
    [[*range(16, 0, -1), *range(1, 17)], [5, 5, 5], [7], [*[5] * 40, 16, 7, 7], [3, 70, 100, 70]],
    ids=["mixed", "5", "1", "two groups", "long"],
)
def test_a_batch_gives_the_mean_of_its_names(lengths):
    config = Config(n_layer=2, n_head=2, block_size=max(16, *lengths))
    params = Parameters.random(config, 1, np.float64)
    params.flat *= 4
    names = random_names(lengths, config)
    loss, grads = gradients(params, packed_names(names, config))
    singles = [gradients(params, one_name(ids, config)) for ids in names]
    agree(loss, np.mean([each for each, _ in singles]), what="loss")
    agree(grads.flat, np.mean([g.flat for _, g in singles], axis=0), what="gradient")


def test_the_default_model_has_the_documented_dimensions():
    model = init()
    assert model.config.parameter_count == model.params.flat.size == 4192
    assert model.params.dtype is np.float32
    assert abs(model.params.flat.std() / 0.08 - 1) < 0.03
    assert abs(model.params.flat.mean()) < 0.005
    assert model.tokenizer.encode_name("emma") == [0, 5, 13, 13, 1, 0]
    data = model.describe()
    assert (data["origin"], data["parameters"], data["dtype"]) == ("untrained, seed 42", 4192, "float32")
    assert data["config"]["n_inner"] == 64


def test_a_seed_gives_the_same_parameters_in_both_precisions():
    narrow = Parameters.random(Config(), 3)
    wide = Parameters.random(Config(), 3, np.float64)
    assert np.array_equal(narrow.flat, wide.flat)
    assert not np.array_equal(narrow.flat, Parameters.random(Config(), 4).flat)


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({"n_embd": 10}, "n_embd 10 is not a multiple of n_head 4"),
        ({"n_layer": 0}, "n_layer: expected a whole number of at least 1, found 0"),
        ({"block_size": -3}, "block_size: expected a whole number of at least 1, found -3"),
        ({"vocab_size": 1}, "vocab_size: expected a whole number of at least 2, found 1"),
        ({"n_head": 2.0}, "n_head: expected a whole number of at least 1, found 2.0"),
    ],
)
def test_rejects_wrong_dimensions(dimensions, message):
    with pytest.raises(InputError, match=message):
        Config(**dimensions)


def test_rejects_a_config_that_does_not_fit_the_tokenizer():
    with pytest.raises(InputError, match="vocab_size: expected 4 as in the tokenizer, found 12"):
        init(Config(vocab_size=12), tokenizer=Tokenizer("abc"))
