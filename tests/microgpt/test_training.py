"""Compare Adam with torch.optim, check recorded losses, and check that resumed runs are equal bit for bit."""

import math
from itertools import islice

import numpy as np
import pytest
from support.judges import agree, scalar_forward, scalar_loss, torch_run

from microgpt_trace import Config, Model, Tokenizer, init, load, save, trace, train
from microgpt_trace.errors import DivergedError, InputError
from microgpt_trace.microgpt.documents import Documents
from microgpt_trace.microgpt.model import Schedule
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.microgpt.training import Adam, Trainer, first_nonfinite

# The first losses of `train(steps=10, seed=42)` on names.txt by batch size, recorded from this program.
FIRST_LOSSES = {
    1: [3.3096869, 3.2817738, 3.263124, 3.0385108, 3.412369, 3.4195621, 3.0658264, 3.1307819],
    8: [3.3391662, 3.2912574, 3.1760621, 3.147799, 2.9706795, 3.003962, 2.8768911, 2.9500306],
}
NAMES = ["emma", "olivia", "ava", "mia", "isabella", "lea", "noah", "liam", "abigail", "zoe", "maximilian"]


@pytest.fixture
def names(tmp_path):
    """Return a data file that is so small that a few steps cross the end of an epoch."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


def documents(names=NAMES):
    return Documents.fit(names, Tokenizer(), 16)


@pytest.mark.parametrize("batch_size", FIRST_LOSSES)
def test_the_first_losses_of_a_seeded_run(batch_size):
    records = []
    train(steps=10, batch_size=batch_size, on_step=records.append)
    agree([r.loss for r in records[:8]], FIRST_LOSSES[batch_size], rtol=1e-5, what="loss of step ")
    assert [r.step for r in records] == [*range(1, 11)]
    agree([r.lr for r in records], [0.01, 0.009, 0.008, 0.007, 0.006, 0.005, 0.004, 0.003, 0.002, 0.001])


@pytest.mark.parametrize(
    ("dtype", "rtol", "scale"), [(np.float64, 1e-10, 1.0), (np.float64, 1e-10, 1e-6), (np.float32, 2e-4, 1.0)]
)
def test_adam_agrees_with_torch_over_50_steps(dtype, rtol, scale):
    torch = pytest.importorskip("torch")
    params = Parameters.random(Config(n_embd=4), 3, dtype)
    start, rng = params.flat.copy(), np.random.default_rng(8)
    schedule, adam = Schedule(50, lr=0.02), Adam(params)
    weights = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([weights], betas=(0.85, 0.99), eps=1e-8)
    for step in range(50):
        gradient = rng.normal(0, scale, start.size).astype(dtype)
        adam.grads.flat[...] = gradient
        adam.step(step + 1, schedule.lr_at(step))
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 50)
        weights.grad = torch.tensor(gradient)
        optimizer.step()
    moved = weights.detach().numpy() - start
    agree(params.flat - start, moved, rtol=rtol, atol=rtol / 10, what="change")


def test_adam_measures_the_last_step():
    adam = Adam(Parameters.random(Config(), 1, np.float64))
    before = adam.params.flat.copy()
    adam.grads.flat[...] = np.random.default_rng(0).normal(size=before.size)
    adam.step(1, 0.5)
    agree(adam.gradient_norm(), np.linalg.norm(adam.grads.flat))
    moved = np.linalg.norm(adam.params.flat - before)
    agree(adam.update_ratio(), moved / np.linalg.norm(before), rtol=1e-9)


def test_ten_training_steps_agree_with_torch(names):
    """The whole loop in float64: forward, backward, Adam and the schedule."""
    torch = pytest.importorskip("torch")
    model = Model(Parameters.random(Config(), 5, np.float64), Tokenizer(), "test")
    trainer = Trainer(model, documents(), Schedule(10, lr=0.02))
    weights = {name: torch.tensor(array.copy()) for name, array in model.params.items()}
    optimizer = torch.optim.Adam(list(weights.values()), betas=(0.85, 0.99), eps=1e-8)
    for step, record in enumerate(trainer.run()):
        tokens = trainer.batch(step).tokens.tolist()
        events, leaves = torch_run(
            {n: t.numpy() for n, t in weights.items()}, tokens, [*tokens[1:], 0], model.config
        )
        agree(record.loss, events["loss"].item(), what=f"loss of step {record.step}")
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 10)
        for name, tensor in weights.items():
            tensor.grad = leaves[name].grad
        optimizer.step()
    agree(
        model.params.flat, np.concatenate([w.numpy().ravel() for w in weights.values()]), rtol=1e-7, atol=1e-9
    )


def begin(schedule, config=None):
    return Trainer(init(config, seed=schedule.seed), documents(), schedule)


def train_steps(trainer, steps):
    """Train some steps, and close the generator as an interrupted loop does."""
    run = trainer.run()
    losses = [record.loss for record in islice(run, steps)]
    run.close()
    return losses


@pytest.mark.parametrize(("batch_size", "stop"), [(1, 11), (1, 12), (5, 7), (32, 1), (32, 29)])
def test_a_resumed_run_equals_an_uninterrupted_one(batch_size, stop, tmp_path):
    schedule = Schedule(30, batch_size, seed=3)
    uninterrupted, first = begin(schedule), begin(schedule)
    expected = train_steps(uninterrupted, 30)
    losses = train_steps(first, stop)
    save(first.model("stopped"), tmp_path / "stopped.safetensors")
    stored = load(tmp_path / "stopped.safetensors")
    second = Trainer(stored, documents(), stored.training.schedule)
    assert losses + train_steps(second, 30) == expected
    assert np.array_equal(second.params.flat, uninterrupted.params.flat)
    assert np.array_equal(second.adam.moments, uninterrupted.adam.moments)
    assert second.done == uninterrupted.done == 30
    assert list(second.run()) == []


@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_every_epoch_has_each_name_once(batch_size):
    docs = documents()
    trainer, spelled, count = Trainer(init(), docs, Schedule(60, batch_size)), [], len(docs.train)
    for step in range(4 * count):
        batch = trainer.batch(step)
        begins = np.flatnonzero(batch.rows.positions == 0)
        spelled += [Tokenizer().decode(row.tolist()) for row in np.split(batch.tokens, begins[1:])]
    expected = sorted(docs.names[i] for i in docs.train)
    if batch_size == 1:
        epochs = [spelled[i * count : (i + 1) * count] for i in range(4)]
        assert all(sorted(epoch) == expected for epoch in epochs)
        assert epochs[0] != epochs[1]
    assert {spelled.count(name) for name in expected} == {4 * batch_size}


def test_trains_in_large_batches_on_a_single_name():
    trainer = Trainer(init(), documents(["ava"]), Schedule(1, 300))
    assert trainer.held_out_loss() is None
    assert len(trainer.batch(0).tokens) == 300 * 4


def test_the_seed_fixes_the_order():
    def order(seed):
        trainer = Trainer(init(), documents(), Schedule(10, seed=seed))
        return [trainer.batch(step).tokens.tolist() for step in range(10)]

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize(
    ("lr", "batch_size", "loss", "event"),
    [(1e13, 3, "^step 2: the loss is nan", r" logits in the trace of '\w+'$"),
     (1e30, 1, r"step \d+: the loss is (nan|inf)", "")],
)  # fmt: skip
def test_the_error_of_a_diverging_run_names_step_and_event(lr, batch_size, loss, event, names):
    message = f"{loss}; the first event that is not finite is{event}"
    with pytest.raises(DivergedError, match=message) as error:
        train(steps=20, lr=lr, batch_size=batch_size, data=names)
    assert error.value.exit_code == 1


def test_a_diverging_run_keeps_its_last_finite_parameters():
    trainer = begin(Schedule(20, lr=1e13))
    with pytest.raises(DivergedError):
        list(trainer.run())
    assert trainer.done == 1
    assert np.isfinite(trainer.params.flat).all()


def test_finds_the_first_event_that_is_not_finite(emma):
    params = emma.params.copy()
    params["layer0.mlp_fc1"][3, 2] = np.inf
    with np.errstate(all="ignore"):
        event = first_nonfinite(params, emma.tokenizer, np.array([0, 5, 13]))
    assert (event.name, event.phase) == ("layer0.mlp.up", "forward")
    assert first_nonfinite(emma.params, emma.tokenizer, np.array([0, 5])) is None


def direct_loss(model, names):
    config, weights = model.config, dict(model.params.items())
    singles = []
    for name in names:
        ids = model.tokenizer.encode_name(name)
        singles.append(scalar_loss(scalar_forward(weights, ids[:-1], config.n_head, config.n_layer), ids[1:]))
    return math.fsum(singles) / len(singles)


def test_held_out_and_train_loss_are_means_over_names():
    names = [f"{a}{b}{c}" * (1 + (ord(a) % 3)) for a in "abcdef" for b in "xyz" for c in "mno"]
    docs = documents(names)
    trainer = Trainer(init(), docs, Schedule(1))
    held_out = [docs.names[i] for i in docs.held_out]
    agree(trainer.held_out_loss(), direct_loss(init(), held_out), rtol=1e-6)
    trained = [docs.names[i] for i in docs.train]
    agree(trainer.train_loss(), direct_loss(init(), trained), rtol=1e-6)


def test_train_does_not_change_the_given_model(names, emma):
    before = emma.params.flat.copy()
    trained = train(emma, steps=50, data=names)
    assert trace(trained, "emma").loss < trace(emma, "emma").loss - 0.3
    assert (trained.origin, trained.training.step) == ("trained for 50 steps", 50)
    assert np.array_equal(emma.params.flat, before)
    assert emma.training is None
    assert not np.array_equal(trained.params.flat, before)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "expected a whole number of at least 1, found 0"),
        ("batch_size", -1, "expected a whole number of at least 1, found -1"),
        ("lr", 0.0, "expected a positive number, found 0.0"),
        ("lr", math.nan, "expected a positive number, found nan"),
        ("lr", math.inf, "expected a positive number, found inf"),
        ("seed", -1, ""),
    ],
)
def test_rejects_a_wrong_schedule(name, value, message):
    with pytest.raises(InputError, match=f"{name}: {message}"):
        Schedule(**{name: value})
    with pytest.raises(InputError, match="seed"):
        init(seed=-1)


def test_rejects_data_without_a_training_name():
    with pytest.raises(InputError, match="expected at least one name to train on, found none"):
        Trainer(init(), documents(["emma7"]), Schedule())
