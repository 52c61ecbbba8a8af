"""Check interventions against PyTorch, and the refusal of requests that do not fit."""

import math

import numpy as np
import pytest
from support.faulty_engine import decoder_run
from support.foreign_dumps import write_dump
from support.judges import agree, softmax_of, torch_grad, torch_run
from support.sweeps import some_of
from support.tiny_microgpts import CASES
from support.tiny_models import tiny_model, write_gguf

from microgpt_trace import Model, load, trace
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.dumps.stored_arrays import save_arrays
from microgpt_trace.errors import InputError
from microgpt_trace.hooks.bus import Run
from microgpt_trace.interventions.interventions import Intervention
from microgpt_trace.selection.sites import parse_site

CASE = CASES["2 layers, 2 heads"]
PLAIN = trace(CASE.model, CASE.text)
NAMES = list(CASE.model.plan)
TOKENS = [17, 3, 44, 3, 60, 0]
PARTS = ("", "@2", "@1,-2:3")


def traced(*interventions, **more):
    return trace(CASE.model, CASE.text, interventions=interventions, **more)


def judge_of(kind, target, name, other):
    """Return the intervention as a function of PyTorch tensors, written from its definition."""
    torch = pytest.importorskip("torch")

    def function(value):
        shape = tuple(value.shape)
        mask = torch.tensor(parse_site(target).part(name, shape).mask(shape, range(len(CASE.text) + 1)))
        mask = mask.tril() if value.ndim == 3 else mask  # elements above the diagonal are never changed
        changed = {
            "ablate": lambda: torch.zeros_like(value),
            "ablate-mean": lambda: value.detach().mean(-2, keepdim=True),
            "scale": lambda: value * 0.5,
            "patch": lambda: torch.tensor(other),
            "add": lambda: value - 1.5 * torch.tensor(other),
        }
        return torch.where(mask, changed[kind](), value)

    return function


def is_defined(kind, name, part):
    if kind == "ablate-mean" and name.rpartition(".")[2] in ("scores", "weights", "loss"):
        return False
    if name == "probs" and kind in ("ablate", "add", "patch"):
        return False  # the loss would be the logarithm of 0 or of a negative number
    return name != "loss" or not part


SITES = [
    (kind, name + part, name)
    for kind in ("ablate", "ablate-mean", "scale", "patch", "add")
    for name in NAMES
    for part in PARTS
    if is_defined(kind, name, part)
]


@pytest.mark.parametrize(("kind", "target", "name"), some_of(SITES, every=72, sweep=4))
def test_values_and_gradients_equal_pytorch(kind, target, name):
    plain = PLAIN[name]
    other = np.asarray(np.random.default_rng(5).normal(size=plain.shape) * np.abs(plain).mean())
    source, factor = {name: other} if kind in ("patch", "add") else None, {"scale": 0.5, "add": -1.5}
    found = traced(Intervention(kind, target, factor.get(kind, 1.0), source), backward=True)
    weights, replaced = dict(CASE.model.params.items()), {name: judge_of(kind, target, name, other)}
    events, weights = torch_run(weights, CASE.ids[:-1], CASE.ids[1:], CASE.model.config, replaced)
    for after, tensor in events.items():
        if after != name:
            agree(found[after], tensor.detach().numpy(), what=f"{kind} {target}: {after}")
    for parameter, tensor in weights.items():
        agree(found.gradient(parameter), torch_grad(tensor), what=f"{kind} {target}: d {parameter}")
    assert [check for check in found.checks if check.holds is False] == []


def stepped(found):
    """Return the model after the step of a trace."""
    after = Model(CASE.model.params.copy(), CASE.model.tokenizer, "after the step")
    for name in CASE.model.params:
        after.params[name][...] += found.array(name, "update")
    return after


def test_gradients_and_steps_belong_to_the_changed_computation():
    """The check uses the loss with the interventions in place, and so does the loss after a step."""
    scaled, ablated = (
        Intervention("scale", "layer0.mlp.act@1-3", 0.5),
        Intervention("ablate", "layer1.attn.head0"),
    )
    found = traced(scaled, ablated, backward=True, step=True)
    check = next(check for check in found.checks if check.id == "gradient")
    print(check)
    assert check.holds
    assert found.step.loss_before == found.loss
    for changes in ([scaled, ablated], [Intervention("ablate-mean", "layer0.mlp.down")]):
        found = traced(*changes, step=True)
        after = trace(stepped(found), CASE.text, interventions=changes).loss
        assert found.step.loss_after == pytest.approx(after, rel=1e-14)


def test_gradients_are_not_judged_with_other_hooks():
    with CASE.model.hooks.subscribe(lambda event, value: value * 2, "layer0.mlp.act"):
        found = traced(Intervention("ablate", "layer1.attn.head0"), backward=True)
    assert next(check for check in found.checks if check.id == "gradient").holds is None


def test_the_kl_divergence_uses_replaced_probabilities(decoders):
    """Halved probabilities give log(2) = sum p log(p / (p / 2)), although the logits stay the same."""
    halved = Intervention("scale", "probs", 0.5)
    of_decoder = trace(decoders("llama_gqa")[0], tokens=TOKENS, interventions=[halved])
    for beside in (traced(halved).intervened, of_decoder.intervened):
        agree(beside.kl, [math.log(2)] * len(beside.kl), rtol=1e-5)


def test_interventions_are_applied_in_order_and_their_slopes_multiply():
    several = [
        Intervention("scale", f"layer0.mlp.act{part}", by) for part, by in (("@2", 3.0), ("", 3.0), ("", 2.0))
    ]
    found = traced(*several, Intervention("ablate", "layer1.attn.head0"))
    expected = PLAIN["layer0.mlp.act"] * 6
    expected[2] *= 3
    agree(found["layer0.mlp.act"], expected, what="act")
    assert not found["layer1.attn.head0"].any()
    twice, once = (
        traced(*own, backward=True) for own in (several[1:], [Intervention("scale", "layer0.mlp.act", 6.0)])
    )
    for name in CASE.model.params:
        agree(twice.gradient(name), once.gradient(name), what=name)


def distance(before, after):
    if before.ndim == 3:
        before, after = np.tril(before), np.tril(after)
    return np.linalg.norm(after - before) / np.linalg.norm(before)


def test_measures_every_change_between_the_two_runs():
    found = traced(Intervention("ablate", "layer1.attn.head1"))
    beside = found.intervened
    assert (beside.before, beside.loss_before) == (PLAIN.predictions, PLAIN.loss)
    for row, kl in enumerate(beside.kl):
        p, q = (softmax_of(run["logits"][row].tolist()) for run in (PLAIN, found))
        expected = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
        print(kl, expected)
        assert kl == pytest.approx(expected, rel=1e-9, abs=1e-13)
    for change in beside.changes:
        expected = distance(PLAIN[change.name], found[change.name])
        assert change.change == pytest.approx(expected, rel=1e-9, abs=0), change.name
    first = NAMES.index("layer1.attn.head1")
    assert [c.name for c in beside.changes if c.change] == [
        n for n in NAMES[first:] if n != "layer1.attn.head0"
    ]
    assert [c.name for c in beside.changes if c.replaced] == ["layer1.attn.head1"]


def test_scaling_by_one_changes_nothing(decoders):
    found = traced(Intervention("scale", "layer*.mlp.act", 1.0), backward=True)
    plain = trace(CASE.model, CASE.text, backward=True)
    assert set(found.intervened.kl) == {0.0}
    for name in CASE.model.params:
        agree(found.gradient(name), plain.gradient(name), what=name)
    of_decoder = decoder_values(decoders("llama_gqa")[0], Intervention("scale", "layer0.attn.out", 1.0))
    assert of_decoder.loss == of_decoder.intervened.loss_before
    for beside in (found.intervened, of_decoder.intervened):
        assert {change.change for change in beside.changes} == {0.0}


def test_reports_the_applied_intervention():
    (applied,) = traced(Intervention("scale", "layer*.mlp.act@0,2:1-4", 0.25)).intervened.interventions
    assert applied.events == ("layer0.mlp.act", "layer1.mlp.act")
    assert (applied.text, applied.elements) == ("× 0.25", 2 * 2 * 4)


def test_patching_the_last_stream_from_a_saved_trace_gives_its_logits(tmp_path):
    other = trace(CASE.model, CASE.text[::-1])
    save_arrays(other, tmp_path / "other.safetensors")
    source = open_recording(tmp_path / "other.safetensors")
    found = traced(Intervention("patch", "layer1.mlp.residual", source=source))
    agree(found["logits"], other["logits"], what="logits")
    before = traced(Intervention("patch", "layer1.mlp.residual@4", source=source))
    agree(before["logits"][4], other["logits"][4], what="logits of one position")
    agree(before["logits"][3], PLAIN["logits"][3], what="logits of another")


def decoder_values(model, *interventions, **more):
    return trace(model, tokens=TOKENS, values=True, interventions=interventions, names=["*"], **more)


@pytest.mark.parametrize("case", ["llama_gqa", "qwen3"])
def test_ablating_a_head_of_a_decoder_zeroes_its_columns(decoders, case):
    model, config, weights = decoders(case)
    heads, dim = model.config.n_head, model.config.head_dim
    key = "model.layers.0.self_attn.o_proj.weight"
    without = {**weights, key: np.array(weights[key])}
    without[key][:, (heads - 1) * dim :] = 0
    expected = decoder_run(config, without, TOKENS)
    found = decoder_values(model, Intervention("ablate", f"layer0.attn.head{heads - 1}"))
    for name in ("layer0.attn.out", "layer1.mlp.residual", "logits"):
        agree(found[name], expected[name], rtol=1e-4, atol=2e-5, what=name)


def test_patches_channels_of_another_engine_in_our_order(tmp_path):
    """llama.cpp keeps the rows of q and k in the order of the file. Its values hardly change our logits."""
    config, weights = tiny_model("llama_gqa")
    model = load(write_gguf(tmp_path / "m.gguf", config, weights))
    write_dump(tmp_path / "dump", decoder_run(config, weights, TOKENS), "llama.cpp", adjacent=True)
    source, plain = open_recording(tmp_path / "dump"), decoder_values(model)
    for name in ("layer0.attn.q_rope", "layer1.attn.k_rope"):
        found = decoder_values(model, Intervention("patch", name, source=source))
        agree(found["logits"], plain["logits"], rtol=1e-4, atol=2e-5, what=name)


def test_scaling_in_a_decoder_equals_a_hook(decoders):
    model = decoders("qwen2")[0]
    target = "layer0.mlp.hidden"

    def half_of_position_2(event, value):
        value = value.copy()
        value[2] *= 0.5
        return value

    with model.hooks.subscribe(half_of_position_2, target):
        expected = trace(model, tokens=TOKENS, values=True)
    found, plain = decoder_values(model, Intervention("scale", f"{target}@2", 0.5)), decoder_values(model)
    assert np.array_equal(found["logits"], expected["logits"])
    assert found.intervened.before == plain.predictions
    for change in found.intervened.changes:
        expected = distance(plain[change.name], found[change.name])
        assert change.change == pytest.approx(expected, rel=1e-5, abs=1e-7), change.name


@pytest.mark.parametrize("positions", ["last", [1, 3]])
def test_positions_of_logits_count_from_the_prompt(decoders, positions):
    model = decoders("llama_gqa")[0]
    last = 5 if positions == "last" else 3
    found = decoder_values(model, Intervention("ablate", f"logits@{last}"), positions=positions)
    assert not found["logits"][-1].any()
    assert len(found["logits"]) == 1 or found["logits"][0].all()
    with pytest.raises(InputError, match="logits is not computed at position 0"):
        decoder_values(model, Intervention("ablate", "logits@0"), positions=positions)


def test_a_steering_vector_applies_to_a_continuation(decoders):
    """The judge: a pass over the whole text, under a hook that adds the vector at every position."""
    model = decoders("llama_gqa")[0]
    vector = np.random.default_rng(2).normal(size=model.config.n_embd).astype(np.float32)
    target = "layer0.mlp.residual"
    steered = [Intervention("add", target, 2.0, vector)]
    found = trace(model, tokens=TOKENS, generate=4, interventions=steered)
    ids = [*TOKENS, *(token.token.token for token in found.generation)]
    with model.hooks.subscribe(lambda event, value: value + 2 * vector, target):
        whole = trace(model, tokens=ids[:-1], values=["logits"])
    assert whole["logits"][len(TOKENS) - 1 :].argmax(axis=1).tolist() == ids[len(TOKENS) :]
    assert ids != [*TOKENS, *(t.token.token for t in trace(model, tokens=TOKENS, generate=4).generation)]


def test_an_intervention_at_a_position_of_the_prompt_does_not_apply_to_a_continuation(decoders):
    change, name = Intervention("ablate", "layer0.mlp.down@0"), "layer0.mlp.down"
    found = trace(decoders("llama_gqa")[0], tokens=TOKENS, generate=3, names=[name], interventions=[change])
    for token in found.generation[1:]:
        assert token.events[0].stats.zero_count == 0


def test_a_decoder_keeps_no_replaced_values(decoders, monkeypatch):
    """Memory does not grow with the number of layers that a glob matches."""
    runs, begin = [], Run.__init__
    monkeypatch.setattr(
        Run, "__init__", lambda self, *a, **more: runs.append(self) or begin(self, *a, **more)
    )
    decoder_values(decoders("llama_gqa")[0], Intervention("scale", "layer*.*", 2.0), generate=2)
    kept = [array.size for run in runs for array in (*run.replaced.values(), *run.slopes.values())]
    assert len(kept) > 50
    assert max(kept) == 0


def test_refuses_the_mean_and_the_loss_of_one_position(decoders):
    model = decoders("llama_gqa")[0]
    for change, message in (
        (Intervention("ablate-mean", "embed.tok"), "the mean over a single position changes nothing"),
        (Intervention("ablate", "loss"), "no loss is computed in this run"),
    ):
        with pytest.raises(InputError, match=message):
            trace(model, tokens=[17], interventions=[change])
    with pytest.raises(InputError, match="the mean needs logits at all positions"):
        trace(model, tokens=TOKENS, positions=[1, 3], interventions=[Intervention("ablate-mean", "logits")])
    found = trace(model, tokens=[17], interventions=[Intervention("scale", "*", 0.5)])
    assert "loss" not in found.intervened.interventions[0].events


def test_reports_no_changes_by_other_hooks(decoders):
    model = decoders("qwen2")[0]
    with model.hooks.subscribe(lambda event, value: value * 3, "layer0.mlp.down"):
        found = decoder_values(model, Intervention("scale", "layer0.attn.out", 1.0))
    assert [c.name for c in found.intervened.changes if c.replaced] == ["layer0.attn.out"]


def test_values_of_a_text_of_another_length_need_a_position(tmp_path):
    shorter = trace(CASE.model, CASE.text[:5])
    save_arrays(shorter, tmp_path / "shorter.safetensors")
    source = open_recording(tmp_path / "shorter.safetensors")
    for target in ("layer0.mlp.act", "layer0.mlp.act@-1"):
        with pytest.raises(InputError, match=r"has 6 positions of .*, and this text has 9"):
            traced(Intervention("patch", target, source=source))
    found = traced(Intervention("patch", "layer0.mlp.act@3", source=source))
    agree(found["layer0.mlp.act"][3], shorter["layer0.mlp.act"][3], what="act")


REFUSED = {
    "kind": (("halve", "logits"), "one of ablate, ablate-mean, scale, patch, add"),
    "no event": (("ablate", "layer9.mlp.act"), "matches no event"),
    "parameter": (("ablate", "wte"), "wte is a parameter"),
    "position": (("ablate", "layer0.mlp.act@9"), "positions 0 to 8"),
    "channel": (("ablate", "layer0.mlp.act@1:99"), "channels 0 to 19"),
    "head": (("ablate", "layer0.attn.weights[2]"), "heads 0 to 1"),
    "too many axes": (("ablate", "layer0.mlp.act[1,2,3]"), "found 3 indices"),
    "syntax": (("ablate", "layer0.mlp.act@"), "expected NAME, NAME@3"),
    "places of a number": (("ablate", "loss@1"), "is one number"),
    "masked": (("ablate", "layer0.attn.scores@1:3"), "the causal mask hides all selected elements"),
    "mean of scores": (("ablate-mean", "layer0.attn.weights"), "attend to later positions"),
    "mean of the loss": (("ablate-mean", "loss"), "over the positions does not exist"),
    "factor": (("scale", "logits", float("nan")), "finite factor"),
    "no source": (("patch", "logits"), "needs a source of values"),
    "idle source": (("ablate", "logits", 1.0, {"logits": np.ones((9, 10))}), "takes no source of values"),
    "missing": (("patch", "logits", 1.0, {"probs": np.ones((9, 10))}), "has no logits"),
    "shape": (("patch", "logits", 1.0, {"logits": np.ones((9, 11))}), r"shape \[9, 10\], found \[9, 11\]"),
    "rows": (("patch", "logits", 1.0, {"logits": np.ones((7, 10))}), "has no position 7"),
    "length": (("patch", "embed.tok", 1.0, {"embed.tok": np.ones((7, 12))}), "has 7 positions"),
    "vector": (("patch", "embed.norm", 1.0, {"embed.norm": np.ones(12)}), r"shape \[9, 12\], found \[12\]"),
    "integers": (("add", "embed.norm", 1.0, np.ones(12, int)), "floating-point"),
    "vector of weights": (("add", "layer0.attn.weights", 1.0, np.ones(9)), r"of shape \[2, 9, 9\], found"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_names_the_problem(case):
    arguments, message = case
    with pytest.raises(InputError, match=message):
        traced(Intervention(*arguments))
