"""Every command on a model with everything that plans can state (support/everything.py)."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support import everything
from support.browser import go, needs_browser
from support.commands import microgpt, refused
from support.documents import document, valid, valid_lines
from support.everything import EPS
from support.explanations import check_steps, elements
from support.judges import agree
from support.other_plans import in_float64, values_of
from support.page_numbers import explained_in, in_tables, verdict_in
from support.sweeps import some_of
from support.tiny_models import TOKENS

from microgpt_trace import attribute, load, trace
from microgpt_trace.arrays import logits
from microgpt_trace.diagnosis.diagnose import diagnose_values
from microgpt_trace.explaining.explain import explain_in, keep_run
from microgpt_trace.formulas.steps import element_name
from microgpt_trace.plans.kinds import Cap, Scale
from microgpt_trace.render.page.plan_data import fits_a_page

IDS = ",".join(map(str, TOKENS))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of the model, which stays in the catalogue during this module."""
    with pytest.MonkeyPatch.context() as patch:
        everything.register(patch)
        yield everything.write_everything(tmp_path_factory.mktemp("everything"))
    everything.forget()


COMMANDS = {
    "trace": "trace {model} --tokens {ids}",
    "verbose": "trace {model} --tokens {ids} --verbose --positions all",
    "json": "trace {model} --tokens {ids} --json --values --layer *",
    "jsonl": "trace {model} --tokens {ids} --jsonl --layer *",
    "recheck": "trace {model} --tokens {ids} --recheck",
    "lens": "trace {model} --tokens {ids} --lens --target #5",
    "generate": "trace {model} --tokens {ids} --generate 6 --recheck",
    "show": "trace {model} --tokens {ids} --show logits.raw --show layer0.attn.capped --positions 0,-1",
    "validate": "trace {model} --tokens {ids} --validate",
    "ablate": "trace {model} --tokens {ids} --ablate layer0.attn.post_norm --ablate layer1.mlp.scaled",
    "ablate raw logits": "trace {model} --tokens {ids} --ablate logits.raw@-1 --positions all",
    "scale": "trace {model} --tokens {ids} --scale layer0.attn.capped=2 --scale embed.scaled=0.5",
    "ablate a head": "trace {model} --tokens {ids} --ablate layer1.attn.head2 --ablate-mean layer0.mlp.down",
    "attribute": "attribute {model} --tokens {ids} --position all",
    "patch": "patch {model} abc abd --sites layer*.attn.post_norm --sites layer*.attn.head*",
    "diff": "diff {model} {model} --tokens {ids}",
    "weights": "diff {model} {model} --weights",
    "diff bf16": "diff {model} {model} --tokens {ids} --compute bf16",
    "survey": "survey {model} {texts} --out {out}/survey.json --force",
    "imatrix": "survey {model} {texts} --imatrix {out}/imatrix.gguf --out {out}/survey2.json --force",
    "inspect": "inspect {model}",
    "page": "trace {model} --tokens {ids} --html {out}/page.html --force",
    "figures": "trace {model} --tokens {ids} --lens --plot attention={out}/a.svg --plot lens={out}/l.svg",
}


@pytest.mark.parametrize("name", some_of(COMMANDS, every=2))
def test_every_command_works(model, tmp_path, name):
    (tmp_path / "texts.txt").write_text("the cat\na dog sat\n", encoding="utf-8")
    names = {"model": model, "ids": IDS, "out": tmp_path, "texts": tmp_path / "texts.txt"}
    done = microgpt(*COMMANDS[name].format(**names).split())
    print(done.out[:3000], done.err)
    assert done.code == 0


def test_the_documents_fit_the_schemas(model):
    words = ("trace", model, "--tokens", IDS, "--lens", "--target", "#5")
    valid(microgpt(*words, "--json").out, "trace")
    valid_lines(microgpt(*words, "--jsonl").out, "trace")


def test_there_is_no_optimizer_step(model):
    refused(microgpt("trace", model, "--tokens", IDS, "--step"), "--step is for a microGPT")


# --- Dumps of wrong engines -------------------------------------------------------------------------


def engine_values(plan, model, tokens=TOKENS):
    """Return what an engine with this plan computes from the parameters of a model."""
    engine = SimpleNamespace(**vars(in_float64(model)) | {"plan": plan})
    values = values_of(engine, tokens)
    return {name: np.float32(value) for name, value in values.items() if not plan[name].extra}


def rows_changed(**changes):
    """Return a plan with changed rows. In the names of the arguments, two underscores mean a dot."""
    changes = {name.replace("__", "."): change for name, change in changes.items()}
    return everything.OWN.plan.changed(lambda row: changes.get(row.name, lambda row: row)(row))


def reading(*inputs):
    return lambda row: replace(row, inputs=inputs)


def by(compute):
    return lambda row: replace(row, otherwise=lambda row, given, *inputs: compute(row, given, *inputs))


def normed(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def per_head(row, given, x):
    return normed(x.reshape(len(x), -1, 8), EPS).reshape(x.shape) * given.parameter(row, row.kind.gain)


def after_attention(row, given, stream, branch):
    x = stream + branch
    x = normed(x - x.mean(-1, keepdims=True), row.kind.eps)
    return x * given.parameter(row, row.kind.gain) + given.parameter(row, row.kind.bias)


def hidden_at_cap(row, given, scores):
    back = np.arange(len(TOKENS))[:, None] - np.arange(len(TOKENS))
    window = row.kind.window or len(TOKENS)
    exp = np.exp(np.where((back >= 0) & (back < window), scores, -everything.CAP))
    return exp / exp.sum(-1, keepdims=True)


def without(*names):
    return everything.plan_of(everything.OWN, names)


def turning(*turns):
    return everything.plan_of(everything.OWN, (), turns)


def less_one(row, given, x):
    return normed(x, EPS) * (given.parameter(row, row.kind.gain) - 1)


def kind(changed):
    return lambda row: replace(row, kind=changed)


FAULTS = {  # the plan of the engine, the first wrong event, and the id of its explanation
    "cap missing": (without("attn.capped"), "layer0.attn.weights", "cap-missing"),
    "cap after the mask": (
        rows_changed(layer0__attn__weights=by(hidden_at_cap)), "layer0.attn.weights", "cap-after-mask"
    ),
    "another cap": (
        rows_changed(layer1__attn__capped=kind(Cap(8.0))), "layer1.attn.capped", "cap"
    ),
    "embedding not scaled": (without("embed.scaled"), "layer0.attn.norm", "factor-missing"),
    "branch not scaled": (without("attn.scaled"), "layer0.attn.residual", "factor-missing"),
    "another factor": (
        rows_changed(layer0__attn__scaled=kind(Scale(0.9))), "layer0.attn.scaled", "factor"
    ),
    "logits divided": (
        rows_changed(logits__scaled=kind(Scale(1 / everything.LOGITS))),
        "logits.scaled", "factor-inverted",
    ),
    "base of layer 0 in layer 1": (
        turning((1e4, 4), (1e4, 6), None), "layer1.attn.q_rope", "rope-base"
    ),
    "rotation of layer 0 in layer 1": (
        turning((1e4, 4), (1e4, 4), None), "layer1.attn.q_rope", "rope-of-another-layer"
    ),
    "whole heads turned": (turning((1e4, 8), (1e2, 6), None), "layer0.attn.q_rope", "rope-partial"),
    "RoPE in every layer": (
        turning((1e4, 4), (1e2, 6), (1e4, 4)), "layer2.attn.q_scaled", "rope-in-every-layer"
    ),
    "post-norm missing": (without("attn.post_norm"), "layer0.attn.scaled", "norm-missing"),
    "norm of q per head": (
        rows_changed(layer0__attn__q_norm=by(per_head)), "layer0.attn.q_norm", "norm-of-head"
    ),
    "parallel for sequential": (
        rows_changed(layer0__mlp__norm=reading("embed.scaled")), "layer0.mlp.norm", "norm-of-layer-input"
    ),
    "sequential for parallel": (
        rows_changed(layer1__mlp__norm=lambda row: by(after_attention)(
            replace(row, inputs=("layer0.mlp.residual", "layer1.attn.out"))
        )), "layer1.mlp.norm", "norm-after-attention",
    ),
    "gain less one": (rows_changed(layer0__mlp__norm=by(less_one)), "layer0.mlp.norm", "gain-minus-one"),
    "base of a windowed layer": (turning((1e3, 4), (1e2, 6), None), "layer0.attn.q_rope", "rope-base"),
}  # fmt: skip


@pytest.mark.parametrize("name", some_of(FAULTS, every=3))
def test_diagnose_names_the_fault_of_an_engine(model, name):
    plan, event, cause = FAULTS[name]
    loaded = load(model)
    found = diagnose_values(loaded, TOKENS, engine_values(plan, loaded))
    claims = [(finding.id, finding.claim) for finding in found.findings]
    print(found.first_wrong, claims)
    assert found.first_wrong == event
    assert cause in [id for id, _ in claims]


def seen_in(window):
    """Return a mask of the keys in a window of WINDOWS, by definition: [T, T]"""
    query, key = np.indices((len(TOKENS), len(TOKENS)))
    near = query // -window == key // -window if (window or 0) < 0 else query - key < (window or len(TOKENS))
    return (key <= query) & near


def test_scores_that_the_mask_hides_are_not_judged(model):
    loaded = load(model)
    values = engine_values(loaded.plan, loaded)
    for name in [name for name in values if name.endswith((".scores", ".capped", ".biased"))]:
        window = everything.WINDOWS[loaded.plan[name].layer]
        values[name] = np.where(seen_in(window), values[name], np.float32(-9))
    assert diagnose_values(loaded, TOKENS, values).clean
    values["layer2.attn.capped"][1, 6, 5] += 0.1  # a visible entry
    assert diagnose_values(loaded, TOKENS, values).first_wrong == "layer2.attn.capped"


def test_a_right_dump_is_clean(model, tmp_path):
    loaded = load(model)
    assert diagnose_values(loaded, TOKENS, engine_values(loaded.plan, loaded)).clean
    dump = tmp_path / "dump.safetensors"
    save = ("trace", model, "--tokens", IDS, "--verbose", "--positions", "all", "--save", dump)
    assert microgpt(*save).code == 0
    for command in (("diagnose", dump, model), ("diff", dump, model)):
        done = microgpt(*command, "--tokens", IDS)
        print(done.out, done.err)
        assert done.code == 0


# --- Explanations and pages -------------------------------------------------------------------------


def test_every_event_and_parameter_can_be_explained(model):
    loaded = load(model)
    run = keep_run(loaded, tokens=list(TOKENS))
    for name, index in elements(run.shapes, 3):
        explained = explain_in(run, element_name(name, index), terms=10**6)
        if name in loaded.plan:
            agree(explained.traced, explained.value, rtol=1e-4, atol=1e-5, what=explained.element)
            check_steps(explained)


def test_direct_contributions_add_up_to_logits_and_follow_the_rows(model):
    result = attribute(load(model), tokens=list(TOKENS), positions="all", ablation=False)
    assert any("a cap bends the logits" in note for note in result.notes)
    for position in result.positions:
        assert (position.target.holds, position.against.holds) == (True, True)


ON_THE_PAGE = (
    "layer0.attn.q_norm[3,4]", "layer0.attn.q_rope[3,1]", "layer0.attn.q_rope[3,5]",
    "layer1.attn.k_rope[2,10]", "layer0.attn.capped[1,3,2]", "layer2.attn.weights[1,6,5]",
    "layer2.attn.q_scaled[5,3]", "layer2.attn.biased[1,6,5]",
    "layer0.attn.post_norm[3,3]", "layer2.attn.scaled[3,3]", "layer1.mlp.norm[2,2]", "layer1.mlp.scaled[4,2]",
    "layer1.mlp.both[1,1]", "layer1.mlp.residual[5,5]",
)  # fmt: skip


@needs_browser
def test_a_page_shows_and_works_out_every_number(model, page_of, tmp_path):
    words = ("trace", model, "--tokens", IDS)
    path = tmp_path / "page.html"
    assert microgpt(*words, "--html", path).code == 0
    page, told = page_of(path), document(*words, "--values", "--layer", "*")
    arrays = {event["name"]: np.array(event["values"], np.float32) for event in told["events"]}
    plan = load(model).plan
    shown = [name for name in arrays if fits_a_page(plan[name]) and name != "embed.tok"]
    assert len(shown) == len(plan) - 6 - 3 * 4  # without the head and the outputs of single heads
    for name in shown:
        values = arrays[name]
        if values.ndim == 3:
            values[:, ~seen_in(getattr(plan[name].kind, "window", None))] = np.nan
        assert np.array_equal(in_tables(page, name).reshape(values.shape), values, equal_nan=True), name
    for element in ON_THE_PAGE:
        go(page, element)
        name, index = element.rstrip("]").split("[")
        assert explained_in(page) == arrays[name][tuple(map(int, index.split(",")))], element
        assert plan[name].kind.names or verdict_in(page), element  # pages of decoders have no parameters


# --- Parts of a run ---------------------------------------------------------------------------------


def test_logits_in_parts_have_the_statistics_of_whole_logits(model, monkeypatch):
    loaded = load(model)
    whole = trace(loaded, tokens=list(TOKENS), positions="all")
    monkeypatch.setattr(logits, "PART", 2 * 61)
    monkeypatch.setattr(logits, "HELD", 1)
    parts = trace(loaded, tokens=list(TOKENS), positions="all")
    assert [row.name for row in parts.events] == [row.name for row in whole.events]
    for name in ("logits.raw", "logits.scaled", "logits", "probs"):
        agree(parts.event(name).stats.l2_norm, whole.event(name).stats.l2_norm, rtol=1e-6, what=name)
        assert parts.event(name).shape == whole.event(name).shape == (len(TOKENS), 61)


def test_raw_logits_are_saved_shown_and_compared_at_some_positions(model, tmp_path):
    dump = tmp_path / "dump.safetensors"
    words = ("--tokens", IDS, "--verbose", "--positions", "-1")
    assert microgpt("trace", model, *words, "--save", dump).code == 0
    for command in (("diff", dump, model), ("diagnose", dump, model)):
        done = microgpt(*command, "--tokens", IDS)
        print(done.out, done.err)
        assert done.code == 0
    refused(microgpt("trace", model, *words, "--show", "logits.raw@3"), "logits.raw of position 3")
    assert "#17" not in (shown := microgpt("trace", model, *words, "--show", "logits.raw@-1").out)
    assert "logits.raw" in shown


def test_insights_and_the_header_say_what_the_rows_say(model):
    done = microgpt("trace", model, "--tokens", IDS, width=1000)
    for words in (
        "base 10,000, on 4 of 8 channels in layer 0; base 100, on 6 of 8 channels in layer 1",
        "(other layers have other steps)",
        "do not follow microGPT's pattern, but run norm → attn → norm → residual",
        "RoPE in place of wpe for a part of each head in 2 of 3 layers", "LayerNorm in some places",
        "no further back than 3 or 4 positions", "a norm of q and k", "scaled embedding", "capped logits",
    ):  # fmt: skip
        assert words in done.out, words
