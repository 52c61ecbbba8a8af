"""diagnose and mixtures of experts. Wrong engines are recorded models of transformers with a fault, and plans
with a fault, whose dumps have every event."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.commands import microgpt
from support.ggml_inputs import EightBit
from support.other_plans import in_float64, values_of
from support.sweeps import in_sweep, some_of
from support.tiny_models import Blocks
from support.torch_models import torch_model, written

from microgpt_trace import load
from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.arrays.rounding import to_bf16
from microgpt_trace.comparison.diff import diff
from microgpt_trace.diagnosis.diagnose import diagnose, diagnose_values
from microgpt_trace.dumps.layouts import OWN, Recorded
from microgpt_trace.dumps.recorder import record
from microgpt_trace.dumps.recording import Recording
from microgpt_trace.operations.by_kind import reference
from microgpt_trace.operations.choice import follows, nearest_tie
from microgpt_trace.plans.kinds import Choice, Experts, Linear
from microgpt_trace.rounding.bands import _rounded, is_peaked
from microgpt_trace.rounding.precision import PRECISIONS, representable

torch = pytest.importorskip("torch", reason="the wrong engines are models of transformers")
IDS = [17, 3, 44, 3, 60, 0, 29, 8, 5, 21, 33, 12, 50, 2, 40, 7, 19, 26, 11]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function that returns the folder of a model, after a change of the model."""
    made = {}

    def folder(name, change=None):
        if (name, change) not in made:
            made[name, change] = path = tmp_path_factory.mktemp(name)
            theirs = written(name, path)
            if change:
                change(theirs)
                theirs.save_pretrained(path)
        return made[name, change]

    return folder


def told(diagnosis):
    claims = [(f.id, f.claim, f.residual) for f in diagnosis.findings if f.explains]
    print(diagnosis.first_wrong, claims, diagnosis.untested[:3])
    return diagnosis.first_wrong, [id for id, *_ in claims]


# --- Faults in transformers --------------------------------------------------------------------------


def each(theirs, change):
    for layer in theirs.model.layers:
        change(layer)


def router(layer):
    return layer.mlp.router if hasattr(layer.mlp, "router") else layer.mlp.gate


def setting(of, **attributes):
    """Set attributes of a module, or parameters if the values are numbers for all their elements."""

    def change(layer):
        for name, value in attributes.items():
            own = getattr(of(layer), name)
            with torch.no_grad():
                own.fill_(value) if torch.is_tensor(own) else setattr(of(layer), name, value)

    return change


def changing(name, change):
    """Change the parameter of the experts with this name."""

    def changed(layer):
        parameter = getattr(layer.mlp.experts, name)
        parameter.data = change(parameter.data)

    return changed


def experts(layer):
    return layer.mlp.experts


def every_expert(layer):
    for name in ("gate_up_proj", "down_proj"):
        changing(name, lambda w: w.roll(-1, 0))(layer)


def exchanged(w):  # [E, 2F, C]
    return w.reshape(len(w), 2, -1, w.shape[-1]).flip(1).reshape(w.shape)


def alternating(w):  # rows 0, 2, 4, ... of a matrix [gate, up] are read as gate
    return w.reshape(len(w), -1, 2, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)


def in_halves(layer):
    """Read columns in which gate and up alternate as [gate, up]: [E, C, 2F], [E, 2F]"""
    for name in ("gate_up_proj", "gate_up_proj_bias"):
        changing(name, lambda w: w.unflatten(-1, (2, -1)).swapaxes(-1, -2).flatten(-2))(layer)


def without_one(layer):
    def gate(both):
        gate, up = both[..., ::2].clamp(max=own.limit), both[..., 1::2].clamp(-own.limit, own.limit)
        return up * gate * torch.sigmoid(gate * own.alpha)

    own = layer.mlp.experts
    own._apply_gate = gate


def sharing(times):
    """Multiply the output of the shared expert by a number, instead of its share."""

    def change(layer):
        def forward(x):
            rows, _ = x.reshape(-1, x.shape[-1]), mlp.shared_expert_gate(x)
            _, shares, chosen = mlp.gate(rows)
            return (mlp.experts(rows, chosen, shares) + times * mlp.shared_expert(rows)).reshape(x.shape)

        mlp = layer.mlp
        mlp.forward = forward

    return change


def swapping(layer):
    order = [0, 4, 2, 3, 1, 5]
    for name in ("gate_up_proj", "down_proj"):
        changing(name, lambda w: w[order])(layer)


def router_in_another_order(layer):
    weight = router(layer).weight
    weight.data = weight.data[[3, 1, 4, 0, 5, 2]]


MIXTURE = "layer0.mlp.mixture"
IN_TRANSFORMERS = {  # the model, the change of a layer, the first wrong event, and the id of its cause
    "too few experts": ("mixtral", setting(router, top_k=2), MIXTURE, "experts-used"),
    "an odd number of experts": ("qwen3_moe", setting(router, top_k=5), MIXTURE, "experts-used"),
    "two experts exchanged": ("mixtral", swapping, MIXTURE, "experts-permuted"),
    "router in another order": ("mixtral", router_in_another_order, "layer0.mlp.router", "experts-permuted"),
    "too many experts": ("gpt_oss", setting(router, top_k=4), MIXTURE, "experts-used"),
    "not normalised": (
        "qwen2_moe_own", setting(router, norm_topk_prob=False), "layer1.mlp.routing", "shares-normalised"
    ),
    "normalised": (
        "qwen2_moe", setting(router, norm_topk_prob=True), "layer0.mlp.routing", "shares-normalised"
    ),
    "expert rotated": ("mixtral", every_expert, MIXTURE, "experts-permuted"),
    "down reversed": ("qwen2_moe", changing("down_proj", lambda w: w.flip(0)), MIXTURE, "experts-permuted"),
    "down transposed": (
        "qwen2_moe", changing("down_proj", lambda w: w.reshape(len(w), -1, w.shape[1]).swapaxes(1, 2)),
        MIXTURE, "weight-transposed",
    ),
    "gate and up exchanged": ("mixtral", changing("gate_up_proj", exchanged), MIXTURE, "gate-up-swapped"),
    "rows alternate": ("mixtral", changing("gate_up_proj", alternating), MIXTURE, "gate-up-interleaved"),
    "rows in halves": ("gpt_oss", in_halves, MIXTURE, "gate-up-in-halves"),
    "bias of the router": ("gpt_oss", setting(router, bias=0), "layer0.mlp.router", "bias-missing"),
    "bias of down": ("gpt_oss", setting(experts, down_proj_bias=0), MIXTURE, "bias-missing"),
    "sinks": (
        "gpt_oss", setting(lambda layer: layer.self_attn, sinks=-1e9), "layer0.attn.weights", "sinks-missing"
    ),
    "another clip": ("gpt_oss_plain", setting(experts, limit=0.03), MIXTURE, "clip"),
    "one": ("gpt_oss", without_one, MIXTURE, "plus-missing"),
    "alpha": ("gpt_oss", setting(experts, alpha=1.0), MIXTURE, "steepness-missing"),
    "another alpha": ("gpt_oss", setting(experts, alpha=2.5), MIXTURE, "steepness"),
    "shared expert": ("qwen2_moe", sharing(0), "layer0.mlp.both", "part-missing"),
    "share of the shared expert": ("qwen2_moe", sharing(1), "layer0.mlp.both", "shares-missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", some_of(IN_TRANSFORMERS, every=6, sweep=2))
def test_a_fault_of_transformers_is_named(name, folders, tmp_path):
    model, change, event, cause = IN_TRANSFORMERS[name]
    folder, theirs = folders(model), torch_model(model)
    each(theirs, lambda layer: change(layer) if hasattr(layer.mlp, "experts") else None)
    with record(theirs, tmp_path / "run.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]))
    first, ids = told(diagnose(tmp_path / "run.safetensors", folder).diagnosis)
    assert (first, cause in ids) == (event, True)


# --- Faults in dumps with every event ----------------------------------------------------------------


def run(plan, model):
    """Return what an engine with this plan computes from the parameters of a model."""
    engine = SimpleNamespace(**vars(in_float64(model)) | {"plan": plan})
    values = values_of(engine, IDS)
    return {name: np.float32(value) for name, value in values.items() if not plan[name].extra}


def own_name(name):
    return name.partition(".")[2] if name.startswith("layer") else name


def changed(plan, changes):
    """Return the plan with another computation of the rows that `changes` names without a layer."""
    return plan.changed(
        lambda row: (
            replace(row, otherwise=changes[own_name(row.name)]) if own_name(row.name) in changes else row
        )
    )


def plainly(row, given, *inputs):
    return reference(replace(row, otherwise=None), given, *inputs)


def chosen_by(order):
    return {"mlp.chosen": lambda row, given, logits: plainly(row, given, order(logits))}


def ones(row, given, x, shares):
    return plainly(row, given, x, np.ones_like(shares))


def unmasked(row, given, scores):
    sinks = np.zeros((*scores.shape[:2], 1)) + given.parameter(row, row.kind.sinks)[:, None, None]
    exp = np.exp(np.concatenate([scores, sinks], axis=2))
    return (exp / exp.sum(axis=2, keepdims=True))[..., :-1]


WITH_ALL_EVENTS = {  # changes of rows, the first wrong event, and the id of its cause
    "smallest": (chosen_by(np.negative), "layer0.mlp.chosen", "smallest-chosen"),
    "by number": (
        {"mlp.chosen": lambda *of: np.sort(plainly(*of), axis=1)}, "layer0.mlp.chosen", "choice-order"
    ),
    "from the smallest": (
        {"mlp.chosen": lambda *of: plainly(*of)[:, ::-1]}, "layer0.mlp.chosen", "choice-order"
    ),
    "no shares": ({"mlp.mixture": ones}, MIXTURE, "shares-missing"),
    "shares of 1": ({"mlp.routing": lambda *of: of[-1] * 0 + 1}, "layer0.mlp.routing", "shares-missing"),
    "equal shares": ({"mlp.routing": lambda *of: of[-1] * 0 + 1 / 3}, "layer0.mlp.routing", "shares-missing"),
    "rotated": (
        {"mlp.up": lambda row, given, x, at: plainly(row, given, x, (at + 5) % 6)},
        "layer0.mlp.up", "experts-permuted",
    ),
    "no share of the shared expert": ({"mlp.shared": ones}, "layer0.mlp.shared", "shares-missing"),
    "no mask, but sinks": ({"attn.weights": unmasked}, "layer0.attn.weights", "mask-missing"),
    "no shared expert": ({"mlp.both": lambda row, given, x, y: x}, "layer0.mlp.both", "part-missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_ALL_EVENTS)
def test_a_fault_is_named_if_the_dump_has_every_event(name, folders):
    changes, event, cause = WITH_ALL_EVENTS[name]
    model = load(folders("gpt_oss" if "sinks" in name else "qwen2_moe"))
    diagnosis = diagnose_values(model, IDS, run(changed(model.plan, changes), model))
    first, ids = told(diagnosis)
    assert (first, ids) == (event, [cause])
    assert len(diagnosis.findings[0].also_explains) == 3  # the other layers


# --- Near ties ---------------------------------------------------------------------------------------


def nearly_equal(margin):
    """Return a change of a model: the logits of experts 1 and 4 differ by a share `margin`."""

    def change(theirs):
        for layer in theirs.model.layers:
            weight = router(layer).weight
            weight.data[4] = weight.data[1] * (1 + margin)

    return change


MARGINS = {margin: nearly_equal(margin) for margin in (1e-7, 1e-3)}
INSIDE = ("mlp.gate", "mlp.up", "mlp.act", "mlp.hidden", "mlp.down")
DROPPED = {
    "nothing": (), "the logits": ("mlp.router",), "the choice": ("mlp.chosen",),
    "all but the mixture": ("mlp.router", "mlp.chosen", "mlp.routing", *INSIDE),
}  # fmt: skip


@pytest.fixture(scope="module", params=MARGINS)
def tied(request, folders):
    """A margin, a model, and the events of an engine that decides between experts 1 and 4 otherwise."""
    model = load(folders("mixtral", MARGINS[request.param]))
    exchanged = chosen_by(lambda logits: logits[:, [0, 4, 2, 3, 1, 5]])
    return request.param, model, run(changed(model.plan, exchanged), model)


@pytest.mark.parametrize("dropped", DROPPED)
def test_rounding_may_decide_between_experts(tied, dropped):
    """A tie within rounding is right, and other events are judged by the dump's own choice. A larger margin
    is a cause."""
    margin, model, values = tied
    kept = {name: x for name, x in values.items() if own_name(name) not in DROPPED[dropped]}
    diagnosis = diagnose_values(model, IDS, kept)
    first, ids = told(diagnosis)
    if margin > 1e-5:
        assert ids == ["near-tie"]
        assert (
            "experts 4 and 1" in diagnosis.findings[0].claim
            or "experts 1 and 4" in diagnosis.findings[0].claim
        )
    else:
        assert (first, diagnosis.clean) == (None, True)
        assert any("a near tie) at position" in reason for _, reason in diagnosis.untested)


def recording(events):
    tensors = {name: Recorded(name, x.shape, lambda x=x: x, OWN) for name, x in events.items()}
    return Recording("engine", "events", tensors, tuple(IDS))


def test_the_nearest_tie_by_hand():
    logits = np.array([[3.0, 1, 2.9, 0], [0, 5, 1, 4.5]])
    tie = nearest_tie(logits, Choice(2))
    print(tie)
    assert (tie.chosen.tolist(), tie.other.tolist()) == ([[0, 2], [1, 3]], [[2, 0], [3, 1]])
    assert (tie.pair.tolist(), tie.margin.round(6).tolist()) == ([[0, 2], [1, 3]], [[0.1], [0.5]])
    right = [
        follows(np.array([of, [1, 3]]), logits, np.full((2, 1), 0.2), Choice(2))
        for of in ([2, 0], [0, 0], [0, 1])
    ]
    assert [own.tolist() for own in right] == [[True, True], [False, True], [False, True]]
    assert nearest_tie(np.ones((1, 1)), Choice(1)).margin == np.inf  # there is no other expert


# --- Right engines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [in_sweep("mixtral"), in_sweep("qwen2_moe"), "gpt_oss"])
def test_a_right_dump_is_clean(name, folders, tmp_path):
    model, dump = folders(name), tmp_path / "dump.safetensors"
    words = ("trace", model, "--tokens", ",".join(map(str, IDS)), "--verbose", "--positions", "all")
    assert microgpt(*words, "--save", dump).code == 0
    for command in ("diagnose", "diff"):
        done = microgpt(command, dump, model)
        print(done.out, done.err)
        assert done.code == 0
    values = run(load(model).plan, load(model))
    rounded = diagnose_values(load(model), IDS, {name: to_bf16(x) for name, x in values.items()})
    told(rounded)
    assert (rounded.compute, rounded.clean) == ("bf16", True)
    wrong = {name: to_bf16(x * (1.01 if own_name(name) == "mlp.down" else 1)) for name, x in values.items()}
    assert "times" in told(diagnose_values(load(model), IDS, wrong))[1]


@pytest.mark.parametrize("count", [1, 3])
def test_a_choice_among_logits_that_are_nan_is_not_judged(count, folders, tmp_path):
    """Experts of layer 0 return NaN. Libraries sort NaN differently."""
    theirs = torch_model("mixtral", {"num_experts_per_tok": count})
    theirs.model.layers[0].mlp.experts.down_proj.data[:] = np.nan
    theirs.save_pretrained(tmp_path / "model")
    with record(theirs, tmp_path / "run.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]))
    diagnosis = diagnose(tmp_path / "run.safetensors", tmp_path / "model").diagnosis
    assert told(diagnosis) == (None, [])
    reasons = dict(diagnosis.untested)
    assert reasons["layer1.mlp.chosen"] == "not judged: the inputs are not finite"


@pytest.mark.parametrize("times", [1.0, 1.004])
@pytest.mark.parametrize("name", some_of(["mixtral", "qwen2_moe", "gpt_oss"], every=3, sweep=3))
def test_experts_that_round_their_inputs_to_8_bits_are_right(name, times, folders):
    """The engine multiplies experts' inputs in blocks of 32, as ggml does, and other products too."""
    model, dumped = load(folders(name)), {}

    def rounding(row, given, x, *chosen):
        width, eight = model.plan.parameters[row.kind.weight][-1], EightBit("Q8_0", {})
        rounded = eight.product(x.reshape(-1, width), np.eye(width), "").reshape(x.shape)
        return plainly(row, given, rounded, *chosen) * (times if own_name(row.name) == "mlp.down" else 1)

    rows = [row for row in model.plan.of_kind(Linear, Experts) if not row.extra and "router" not in row.name]
    values = run(changed(model.plan, {own_name(row.name): rounding for row in rows}), model)
    right = run(model.plan, model)
    choices = [row.name for row in model.plan.of_kind(Choice)]
    print(sum((values[name] != right[name]).any(axis=1).sum() for name in choices), "positions differ")
    dumped["every event"] = values
    dumped["mixture"] = {name: x for name, x in values.items() if own_name(name) not in INSIDE}
    for kept, event in (("every event", "layer0.mlp.down"), ("mixture", MIXTURE)):
        expected = None if times == 1 else event
        dump = recording(dumped[kept])
        first, _ = told(diagnose(dump, model, compute="q8").diagnosis)
        assert (first, diff(model, dump, compute="q8").first) == (expected, expected)


def test_numbers_of_experts_are_exact_in_bfloat16(tmp_path):
    """Rounding must change neither the numbers in our passes, nor the tolerance of a wrong number."""
    torch_model("mixtral", {"num_local_experts": 220}).save_pretrained(tmp_path)
    model, name = load(tmp_path), "layer1.mlp.chosen"
    narrow = {
        own_name(row.name): lambda *of: np.float64(to_bf16(plainly(*of))) for row in model.plan.values()
    }
    del narrow["mlp.chosen"]
    values = run(changed(model.plan, narrow), model)
    dump = recording(values)
    print(diff(model, dump, compute="bf16").first, told(diagnose(dump, model).diagnosis))
    assert diff(model, dump, compute="bf16").first is None
    assert diagnose(dump, model).diagnosis.clean
    at = values[name].max(axis=1).argmax()
    wrong = values[name].copy()
    wrong[at, wrong[at].argmax()] -= 1
    diagnosis = diagnose_values(model, IDS, values | {name: wrong}, compute="bf16")
    print(values[name][at], wrong[at], diagnosis.first_wrong)
    assert diagnosis.first_wrong == name
    for scaled in ("layer1.mlp.routing", "layer1.mlp.mixture"):  # at the position with the largest number
        row = {scaled: np.where(np.arange(len(IDS))[:, None] == at, values[scaled] * 1.2, values[scaled])}
        kept = {name: x for name, x in values.items() if own_name(name) not in INSIDE}
        assert told(diagnose_values(model, IDS, kept | row, compute="bf16")) == (scaled, ["one-position"])
    assert "layer0.mlp.chosen" not in _rounded(model, PRECISIONS["bf16"], len(IDS))
    assert representable(values[name], "bf16") is None  # whole numbers do not show the precision


def test_experts_of_a_quantised_file_have_rounded_inputs_and_sums(tmp_path):
    """Other matrices are float32, and their inputs are not rounded, even if the dump lacks the products."""
    gguf = pytest.importorskip("gguf")
    torch_model("mixtral", {"intermediate_size": 64}).save_pretrained(tmp_path)
    model, kind = load(tmp_path), gguf.GGMLQuantizationType.Q4_1
    for row in model.plan.of_kind(Experts):
        tensor = model.tensors[row.kind.weight]
        blocks = gguf.quants.quantize(tensor.read().reshape(-1, tensor.shape[-1]), kind)
        quantised = StoredTensor(
            tensor.name, ENCODINGS["Q4_1"], tensor.shape, blocks.view(np.uint8).reshape(-1)
        )
        model.tensors[row.kind.weight] = quantised

    def of_experts(row, given, x, chosen):
        y = np.empty((*chosen.shape, row.kind.width))
        for e in range(6):
            own = model.tensors[row.kind.weight].of_expert(e)
            eight = EightBit("Q8_1", {"": Blocks("Q4_1", own.data.reshape(own.shape[0], -1))})
            at = np.nonzero(chosen == e)
            rows = x.reshape(*chosen.shape, -1)[at] if row.kind.beside else x[at[0]]
            y[at] = eight.product(rows, own.read().astype(np.float64), "")
        return y.reshape(len(x), -1)

    values = run(changed(model.plan, dict.fromkeys(("mlp.gate", "mlp.up", "mlp.down"), of_experts)), model)
    few = ("embed.tok", "attn.residual", "mlp.norm", "mlp.mixture", "mlp.residual")
    for kept in ({own_name(name) for name in values}, few):
        shown = {name: x for name, x in values.items() if own_name(name) in kept}
        diagnosis = diagnose_values(model, IDS, shown, compute="q8")
        told(diagnosis)
        errors = {o.name: (o.error, o.tolerance) for o in diagnosis.operations}
        print(diagnosis.compute_how, {name: errors.get(name) for name in ("layer0.attn.residual", MIXTURE)})
        assert diagnosis.clean
        assert errors["layer0.attn.residual"][0] < 1e-6
        assert errors[MIXTURE][0] < 1e-4
    assert {"layer0.mlp.hidden", "layer0.mlp.norm"} <= set(_rounded(model, PRECISIONS["q8"], len(IDS)))
    assert is_peaked(model.plan["layer0.mlp.routing"])
