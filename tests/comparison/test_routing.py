"""Routing of two runs: other experts, margins and consequences, and the same experts in another order."""

import numpy as np
import pytest
from support.commands import microgpt
from support.sweeps import in_sweep
from support.torch_models import EIGHT_EXPERTS, fifth_best, torch_model, written

from microgpt_trace import load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.recorder import record
from microgpt_trace.dumps.stored_arrays import write_arrays

torch = pytest.importorskip("torch", reason="the models are made by transformers")
IDS = [17, 3, 44, 3, 60, 0, 29, 8, 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixtral")
    written("mixtral", path)
    return path


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A recording of the model in bfloat16 by PyTorch. Two logits of a router are nearly equal."""
    model, path = (
        torch_model("mixtral").to(torch.bfloat16),
        tmp_path_factory.mktemp("d") / "narrow.safetensors",
    )
    with record(model, path), torch.no_grad():
        model(torch.tensor([IDS]))
    return path


@pytest.fixture(scope="module")
def arrays(folder):
    """The values of a run of our own."""
    run = trace(load(folder), tokens=IDS, positions="all", names=["*"], values=True)
    return {event.name: run[event.name] for event in run if ".head" not in event.name}


def saved(path, arrays):
    write_arrays(
        path, arrays, text="", tokens=tuple(IDS), positions=tuple(range(len(IDS))), model={}, overwrite=True
    )
    return path


def test_rounding_explains_a_flip_of_a_router_in_bfloat16(narrow, folder, arrays):
    wide = diff(narrow, folder, compute="bf16")
    (flip,) = wide.routing
    logits = arrays[f"layer{flip.layer}.mlp.router"][flip.position]
    ours, theirs = (logits[list(own)] for own in (flip.only_b, flip.only_a))
    print(flip, ours - theirs)
    assert 0 <= float(ours[0] - theirs[0]) < flip.explained < 1
    assert flip.follows
    assert flip.by_rounding
    assert wide.first is None  # the choice and what follows from it agree
    assert not wide.same
    done = microgpt("diff", narrow, folder, "--compute", "bf16")
    assert done.code == 0
    assert "apart from what follows from choices of experts that rounding explains" in " ".join(
        done.out.split()
    )
    exact = diff(narrow, folder, compute="f32")
    assert exact.first
    assert not exact.routing[0].by_rounding
    assert exact.routing[0].margin == pytest.approx(flip.margin)
    assert exact.routing[0].explained < flip.margin < flip.explained


def test_events_after_a_flip_are_its_consequences(narrow, folder):
    result = diff(narrow, folder, rtol=0.05)
    (flip,) = result.routing
    choice = f"layer{flip.layer}.mlp.chosen"
    beyond = [event.name for event in result.events if not event.holds and event.name != choice]
    assert result.agree
    print(beyond, result.consequences)
    assert list(result.consequences) == beyond != []
    assert all(f"layer{flip.layer}.mlp." in name for name in beyond)
    done = microgpt("diff", narrow, folder, "--rtol", "0.05")
    assert done.code == 0
    text = " ".join(done.out.split())
    assert f"layer {flip.layer}, position {flip.position}: experts" in text
    assert "that the given tolerance explains" in text
    assert "Routing: A and B choose different experts at 1 position, in 1 layer" in text
    assert f"only where other experts were chosen before: {beyond[0]}" in text


def test_a_fault_beside_other_experts_is_no_consequence(narrow, folder, arrays, tmp_path):
    """An error in an event after the flip, at the position of the flip or before. Later events follow."""
    result = diff(narrow, folder, rtol=0.05)
    changed = {name: value.copy() for name, value in arrays.items()}
    flip = result.routing[0]
    chosen = changed[f"layer{flip.layer}.mlp.chosen"]
    chosen[flip.position, -1] = flip.only_a[0]
    mixture = changed[f"layer{flip.layer}.mlp.mixture"]
    mixture[flip.position] += 1
    spoiled = diff(saved(tmp_path / "d.safetensors", changed), folder)
    name = f"layer{flip.layer}.mlp.mixture"
    assert name not in spoiled.consequences
    mixture[flip.position] -= 1
    mixture[0] += 1
    assert name not in diff(saved(tmp_path / "d.safetensors", changed), folder).consequences


# --- Faults after a choice that rounding explains -----------------------------------------------------

FLIPPED = [31, 59, 59, 6, 45, 27, 28, 24, 51, 14, 35, 45, 25, 39, 7, 44]  # a flip at layer 0, position 1
AT_12 = [25, 22, 42, 25, 25, 33, 35, 6, 56, 24, 10, 0, 26, 45, 18, 51]  # at layer 0, position 12


def without_rope(layer):
    def unturned(module, args, options):
        cos, sin = options["position_embeddings"]
        return args, options | {"position_embeddings": (torch.ones_like(cos), torch.zeros_like(sin))}

    layer.self_attn.register_forward_pre_hook(unturned, with_kwargs=True)


def longer_row(layer):
    layer.mlp.gate.weight.data[3] *= 1.05


AFTER_A_FLIP = {  # a change of the layers after the first, and the first wrong event
    "nothing": (lambda layer: None, None),
    "no RoPE": (without_rope, "layer1.attn.q_rope"),
    "another expert": (fifth_best, "layer1.mlp.chosen"),
    "a row of the router": (longer_row, "layer1.mlp.router"),
}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    torch_model("mixtral", EIGHT_EXPERTS).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("ids", [in_sweep(FLIPPED), AT_12], ids=["position 1", "position 12"])
@pytest.mark.parametrize(("change", "event"), AFTER_A_FLIP.values(), ids=AFTER_A_FLIP)
def test_only_what_follows_from_its_inputs_is_a_consequence(change, event, ids, eight, tmp_path):
    """PyTorch in bfloat16 with and without a fault after a real flip: diff and diagnose agree."""
    engine, path = torch_model("mixtral", EIGHT_EXPERTS).to(torch.bfloat16), tmp_path / "d.safetensors"
    for layer in engine.model.layers[1:]:
        change(layer)
    with record(engine, path), torch.no_grad():
        engine(torch.tensor([ids]))
    found, own = diff(eight, path, compute="bf16"), diagnose(path, eight, compute="bf16").diagnosis
    print(found.first, own.first_wrong, found.routing[0], found.consequences)
    assert (found.routing[0].layer, found.routing[0].by_rounding) == (0, True)
    assert found.first == own.first_wrong == event
    assert event not in found.consequences
    assert ids == FLIPPED or "layer0.mlp.mixture" in found.consequences
    done = microgpt("diff", eight, path, "--compute", "bf16")
    assert done.code == (event is not None)
    assert event != "layer1.attn.q_rope" or "with the recorded experts" in " ".join(done.out.split())


def test_the_same_experts_in_another_order_agree(folder, arrays, tmp_path):
    swapped, order = dict(arrays), [1, 0, 2]
    for name, value in arrays.items():
        last = name.rpartition(".")[2]
        if ".mlp." in name and last in ("chosen", "routing", "gate", "up", "act", "hidden", "down"):
            swapped[name] = value.reshape(len(IDS), 3, -1)[:, order].reshape(value.shape)
    result = diff(saved(tmp_path / "d.safetensors", swapped), folder)
    print(result.first, result.routing)
    assert result.agree
    assert not result.routing


def test_a_choice_that_does_not_follow_from_the_logits_is_said(folder, arrays, tmp_path):
    changed = {name: value.copy() for name, value in arrays.items()}
    router, chosen = (changed[f"layer1.mlp.{name}"] for name in ("router", "chosen"))
    worst = int(router[4].argmin())
    chosen[4, 0] = worst
    path = saved(tmp_path / "d.safetensors", changed)
    (flip,) = diff(path, folder).routing
    print(flip)
    assert (flip.layer, flip.position, flip.only_a, flip.follows) == (1, 4, (worst,), True)
    assert not flip.by_rounding
    done = microgpt("diff", path, folder)
    assert "the experts of A do not have the largest logits of A" in " ".join(done.out.split())
    (flip,) = diff(folder, path).routing
    assert (flip.only_b, flip.follows, flip.by_rounding) == ((worst,), False, False)
    done = microgpt("diff", folder, path)
    assert "the experts of B do not have the largest logits of B" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([0, 0, 0], "an expert twice"),
        ([99, -3, 2], "the logits of these experts are missing or not finite"),
        ([np.nan] * 3, "chooses -1"),
    ],
)
def test_a_choice_that_no_router_makes_is_no_crash(wrong, words, folder, arrays, tmp_path):
    changed = {name: value.copy() for name, value in arrays.items()}
    changed["layer1.mlp.chosen"][4] = wrong
    path = saved(tmp_path / "d.safetensors", changed)
    for pair in ((folder, path), (path, folder)):
        done = microgpt("diff", *pair)
        assert done.code == 1
        assert "First divergence: layer 1, layer1.mlp.chosen, position 4" in done.out
        assert words in " ".join(done.out.split())
