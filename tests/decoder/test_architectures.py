"""Every architecture against transformers: events, names of modules, dumps and files of other formats."""

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import gguf_of_torch
from support.backward_runs import Run
from support.commands import microgpt
from support.documents import valid
from support.gguf_of_torch import write_gguf_of
from support.other_plans import in_float64
from support.reference_models import IDS
from support.sweeps import some_of
from support.tiny_tokenizer import write_tokenizer
from support.torch_models import IN_GGUF, MODELS, OSS, SMALL, torch_model, written

from microgpt_trace import load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.decoder.catalogue import ARCHITECTURES, architecture_named
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.dumps.recorder import record
from microgpt_trace.errors import FileFormatError, MicrogptError
from microgpt_trace.naming.event_names import meaning_of
from microgpt_trace.readers.apr_config import LLAMAS

torch = pytest.importorskip("torch", reason="the judge of architectures is transformers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A function that returns the folder of a case, its model of transformers, and our model."""
    made = {}

    def model(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            theirs = written(name, folder)
            made[name] = folder, theirs, load(folder)
        return made[name]

    return model


INSIDE_EXPERTS = {"mlp.gate", "mlp.up", "mlp.act", "mlp.hidden", "mlp.down", "mlp.up_clipped"}
INSIDE_EXPERTS |= {
    "mlp.gate_clipped",
    "mlp.gate_scaled",
    "mlp.act_scaled",
    "mlp.shared_hidden",
    "mlp.shared_act",
}
INSIDE_EXPERTS |= {"mlp.shared_routing", "mlp.shared"}
INSIDE_EXPERTS |= {f"mlp.expert_{own}" for own in ("gate", "up", "act", "hidden", "down")}
INSIDE_EXPERTS |= {"mlp.router_norm", "mlp.shares"}
IN_LLAMA4 = INSIDE_EXPERTS | {f"mlp.{own}" for own in ("router", "chosen", "routing", "routed")}
IN_LLAMA4 |= {"attn.q_rope_norm", "attn.k_rope_norm"}
IN_GEMMA4 = {"mlp.residual", "mlp.ple_input", "mlp.ple_residual", "ple", "ple_sum", "ple_tok"}


def taken(theirs, ids):
    """Return the inputs and outputs of all modules by name, the attention weights by layer, and logits."""
    values, weights, routers = {}, [], {}

    def hook(module, args, kwargs, output):
        whole = [value for value in (*args, *kwargs.values()) if torch.is_tensor(value)]
        inputs = [value for value in whole if value.is_floating_point()]
        first = output[0] if isinstance(output, tuple) else output
        values[names[module]] = first.clone() if torch.is_tensor(first) else None  # Falcon changes it later
        values[f"{names[module]}.input"] = inputs[0] if inputs else None
        if type(module).__name__.endswith("Router") and len(output) == 3:
            routers[names[module]] = [own.numpy() for own in output[1:]]

    names = {module: name for name, module in theirs.named_modules() if name}
    hooks = [module.register_forward_hook(hook, with_kwargs=True) for module in names]
    with torch.no_grad():
        out = theirs(torch.tensor([ids]), use_cache=False, output_attentions=True)
    for own in hooks:
        own.remove()
    weights = [attention[0].numpy() for attention in out.attentions]
    values = {name: own for name, own in values.items() if own is not None}
    return values, weights, routers, out.logits[0].numpy()


@pytest.mark.parametrize("name", MODELS)
def test_every_event_equals_transformers(name, models):
    _, theirs, ours = models(name)
    values, weights, routers, logits = taken(theirs, IDS)
    traced = trace(ours, tokens=IDS, positions="all", names=["*"], values=True)
    compared = {}
    for module, value in values.items():
        meaning = meaning_of(module, ours.config.architecture)
        if meaning is None or not meaning.events:
            continue
        events = [own for own in meaning.candidates if own in ours.plan][:1] or meaning.events
        if not set(events) <= {*ours.plan}:  # a module of the layers with experts
            continue
        widths = [traced[event].shape[-1] for event in events]
        value = value.transpose(1, 2) if value.ndim == 4 and value.shape[2] == len(IDS) else value
        rows = value.reshape(len(IDS), -1).numpy()
        heads = ours.config.n_kv_head if meaning.by_head else 1
        if sum(widths) == rows.shape[1]:
            parts = np.split(rows.reshape(len(IDS), heads, -1), np.cumsum(widths)[:-1] // heads, axis=2)
            compared |= zip(events, (part.reshape(len(IDS), -1) for part in parts), strict=True)
    compared |= {f"layer{i}.attn.weights": own for i, own in enumerate(weights)}
    own_order = {}
    for module, (shares, chosen) in routers.items():  # some routers do not sort the chosen experts
        layer, order = module.split(".")[2], chosen.argsort(axis=1)
        for name_of, own in (("routing", shares), ("chosen", chosen)):
            compared[f"layer{layer}.mlp.{name_of}"] = np.take_along_axis(own, order, axis=1)
            own_order[f"layer{layer}.mlp.{name_of}"] = traced[f"layer{layer}.mlp.chosen"].argsort(axis=1)
    assert ("logits.raw" in compared) == ("logits.raw" in ours.plan)
    compared["logits"] = logits
    worst = 0.0
    for event, expected in compared.items():
        found = traced[event].reshape(expected.shape)
        found = np.take_along_axis(found, own_order[event], axis=1) if event in own_order else found
        size = np.maximum(np.linalg.norm(expected, axis=-1), 1e-30)
        error = np.linalg.norm(found - expected, axis=-1) / size
        whole = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        worst = max(worst, float(error.max()))
        assert whole < 5e-5, (event, whole)
        assert error.max() < 1e-4, (event, error.max())
    assert (traced["logits"].argmax(axis=1) == logits.argmax(axis=1)).all()
    rest = sorted({e.name.partition(".")[2] or e.name for e in traced if e.name not in compared})
    print(
        f"{name}: {len(compared)} of {len(list(traced))} events, worst row {worst:.2g}; not compared: {rest}"
    )
    computed = {"attn.scores", "attn.capped", "attn.q_rope", "attn.k_rope", "attn.scaled", "mlp.scaled"}
    computed |= {"attn.q_clipped", "attn.k_clipped", "attn.v_clipped", "attn.q_scaled", "attn.biased"}
    computed |= {"attn.q_pe", "attn.k_pe", "attn.scores_nope", "attn.scores_pe"}
    computed |= {"mlp.scores", "mlp.corrected", "mlp.shares"}
    computed |= {"attn.residual"} if name == "gpt_neox_sequential" else set()
    computed |= {"mlp.both", "embed.scaled", "scaled", "raw", "tok", "probs", "loss"}
    computed |= INSIDE_EXPERTS if routers else set()
    computed |= IN_LLAMA4 if name.startswith("llama4") else set()
    computed |= IN_GEMMA4 if name.startswith("gemma4") else set()
    assert {own for own in rest if "head" not in own} <= computed


@pytest.mark.parametrize("name", some_of(MODELS, every=6, sweep=2))
def test_a_recording_of_transformers_agrees_and_is_clean(name, models, tmp_path):
    folder, theirs, ours = models(name)
    with record(theirs, tmp_path / "run.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]))
    compared = diff(tmp_path / "run.safetensors", folder)
    diagnosis = diagnose(tmp_path / "run.safetensors", folder).diagnosis
    named = open_recording(tmp_path / "run.safetensors").tensors
    every = [event for event in ours.plan if ".head" not in event]
    print(f"{name}: {len(named)} of {len(every)} events", [own.name for own in diagnosis.wrong][:3])
    assert compared.first is None
    assert diagnosis.clean
    assert len(named) >= 0.6 * len(every)


@pytest.mark.parametrize("name", some_of(MODELS, every=12, sweep=4))
def test_a_recording_does_not_depend_on_coincidences_of_lengths(name, models, tmp_path):
    """The text has as many tokens as heads, key-value heads, or channels of a head. Attention is causal, so
    the first rows of a longer text are the rows of the shorter text."""
    theirs = models(name)[1]

    def rows(length):
        with record(theirs, tmp_path / "run.safetensors", force=True), torch.no_grad():
            theirs(torch.tensor([IDS[:length]]))
        return load_file(tmp_path / "run.safetensors")

    longer = rows(14)
    for length in (2, 4, 8, 12):
        for event, found in rows(length).items():
            expected = longer[event][..., :length, : found.shape[-1]]
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert error < 1e-5, (length, event, error)


def other_gains(change):
    """Return a function that changes the gains [heads, D] of the norms of q."""

    def plant(theirs):
        for layer in theirs.model.layers:
            gain = layer.self_attn.q_norm.weight
            gain.data = change(gain.data).clone()

    return plant


def sequential(theirs):
    """Let the MLPs read the norm of the stream after attention, not of the input of the layer."""
    for layer in theirs.model.layers:
        norm = layer.input_layernorm.forward

        def read(module, args, layer=layer, norm=norm):
            return (norm(layer.stream + layer.attended),)

        layer.register_forward_pre_hook(lambda module, args: setattr(module, "stream", args[0]))
        layer.self_attn.register_forward_hook(lambda m, a, out, own=layer: setattr(own, "attended", out[0]))
        layer.mlp.register_forward_pre_hook(read)


PLANTED = {
    "gains of the next head": (other_gains(lambda w: w.roll(-1, 0)), "attn.q_norm", "the gain of head h + 1"),
    "gains of head 0": (other_gains(lambda w: w[:1].expand_as(w)), "attn.q_norm", "the gain of head 0"),
    "gains turned": (other_gains(lambda w: w.T.reshape(w.shape)), "attn.q_norm", "heads alternate"),
    "sequential": (sequential, "mlp.gate", "the norm reads the stream after attention"),
    "no scale": (lambda model: setattr(model, "logit_scale", 1.0), "logits", "not multiplied by 0.3"),
}


@pytest.mark.parametrize(("plant", "event", "words"), PLANTED.values(), ids=PLANTED)
def test_diagnose_names_the_mistakes_that_a_cohere_makes_possible(plant, event, words, models, tmp_path):
    folder, theirs, _ = models("cohere")
    wrong = copy.deepcopy(theirs)
    plant(wrong)
    with record(wrong, tmp_path / "run.safetensors"), torch.no_grad():
        wrong(torch.tensor([IDS]))
    found = diagnose(tmp_path / "run.safetensors", folder).diagnosis
    print(found.first_wrong, [own.claim for own in found.findings])
    assert found.first_wrong == (event if event == "logits" else f"layer0.{event}")
    assert words in found.findings[0].claim


FORMS = [
    (name, form)
    for name in IN_GGUF
    for form in ("", "fused", *["single"] * (name == "mixtral"), *["absorbed"] * name.startswith("deepseek"))
]
FORMS = [(name, form) for name, form in FORMS if not (form and name.startswith("gemma4"))]  # v may be missing


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_gguf_file_has_the_logits_of_transformers(name, form, tmp_path):
    theirs = torch_model(name, IN_GGUF[name])
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0].numpy()
    ours = load(write_gguf_of(theirs, tmp_path / "m.gguf", form))
    found = trace(ours, tokens=IDS, positions="all", names=["logits"], values=True)["logits"]
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    print(name, error, ours.assumed)
    assert error < 5e-6


ASSUMED = {  # values that GGUF files do not store, and that differ from the assumed values
    "qwen3_moe": ("norm_topk_prob", False, "true (as in llama.cpp"),
    "qwen2_moe": ("norm_topk_prob", True, "false (as in llama.cpp"),
    "gpt_oss": ("rope_scaling.truncate", True, "false (as in the models; llama.cpp rounds"),
}


@pytest.mark.parametrize(("name", "case"), ASSUMED.items())
def test_set_replaces_what_a_gguf_file_does_not_store(name, case, tmp_path):
    key, value, note = case
    rope = OSS["rope_parameters"] | {"truncate": True}
    changes = {"rope_parameters": rope} if "truncate" in key else {key: value}
    theirs = torch_model(name, IN_GGUF[name] | changes)
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0].numpy()
    path, errors = write_gguf_of(theirs, tmp_path / "m.gguf"), []
    for settings in ({}, {key: value}):
        ours = load(path, settings=settings)
        found = trace(ours, tokens=IDS, positions="all", names=["logits"], values=True)["logits"]
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        print(settings, errors[-1], ours.assumed)
        (said,) = [own for own in ours.assumed if own.startswith(key)]
        assert said.startswith(f"{key} = {value} (--set)" if settings else f"{key} = {note}")
    assert errors[1] < 5e-6 < 1e-3 < errors[0]


@pytest.mark.parametrize("kept", ["long", "short"])
def test_a_gguf_file_with_half_of_the_divisors_of_longrope_is_refused(kept, tmp_path, monkeypatch):
    both = gguf_of_torch.factors

    def half(config):
        return {name: value for name, value in both(config).items() if kept in name}

    monkeypatch.setattr(gguf_of_torch, "factors", half)
    path = write_gguf_of(torch_model("phi3_long"), tmp_path / "m.gguf")
    missing = {"long": "short", "short": "long"}[kept]
    with pytest.raises(FileFormatError, match=f"{missing}_factor: expected"):
        load(path)


# --- Commands -------------------------------------------------------------------------------------

COMMANDS = {
    "trace": "trace {model} --tokens {ids} --verbose --positions all --save {out}/dump.safetensors",
    "lens": "trace {model} --tokens {ids} --lens --target #5",
    "generate": "trace {model} --tokens {ids} --generate 4 --recheck",
    "chat": "trace {model} Hello --chat",
    "validate": "trace {model} --tokens {ids} --validate",
    "page": "trace {model} --tokens {ids} --html {out}/page.html --force",
    "figures": "trace {model} --tokens {ids} --lens --plot attention={out}/a.svg --plot lens={out}/l.svg",
    "interventions": "trace {model} --tokens {ids} --ablate layer1.attn.head2 --scale layer0.mlp.down=2",
    "explain": "explain {model} logits[-1,5] --tokens {ids}",
    "attribute": "attribute {model} --tokens {ids}",
    "patch": "patch {model} abc abd --target b --against d --sites layer*.attn.head*",
    "diff": "diff {out}/dump.safetensors {model}",
    "diagnose": "diagnose {out}/dump.safetensors {model}",
    "survey": "survey {model} {texts} --out {out}/survey.json --force",
    "imatrix": "survey {model} {texts} --imatrix {out}/m.gguf --out {out}/survey2.json --force",
    "record": "diff {out}/record.safetensors {model} --tokens {ids}",
}
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
FIRST = {kind: name for name, (kind, _) in reversed(MODELS.items())}


@pytest.mark.parametrize("kind", some_of(FIRST, every=21, sweep=7))
def test_every_command_works(kind, models, tmp_path):
    folder, theirs, _ = models(FIRST[kind])
    write_tokenizer(folder, TEMPLATE)
    (tmp_path / "texts.txt").write_text("the cat\na dog sat\n", encoding="utf-8")
    with record(theirs, tmp_path / "record.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]))
    names = {
        "model": folder,
        "ids": ",".join(map(str, IDS)),
        "out": tmp_path,
        "texts": tmp_path / "texts.txt",
    }
    works = {"GGUF": architecture_named(kind).from_gguf is not None, ".apr": kind in LLAMAS}
    for name, line in COMMANDS.items():
        done = microgpt(*line.format(**names).split())
        print(name, done.out[-300:], done.err)
        command = name if name == "record" else line.split()[0]
        works[command] = works.get(command, True) and done.code == 0
    valid(microgpt("trace", folder, "--tokens", names["ids"], "--json").out, "trace")
    print(works)
    assert works == cells_in_docs()[kind]


def cells_in_docs():
    """Return the table in docs/production-models.md: for each architecture, whether each command works."""
    page = (Path(__file__).parents[2] / "docs" / "production-models.md").read_text(encoding="utf-8")
    header, _, *lines = re.search(r"\| architecture \|.*?\n\n", page, re.DOTALL)[0].strip().splitlines()
    _, _, *columns = [re.sub("[ `]", "", cell) for cell in header.strip("|").split("|")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {name: dict(zip(columns, map("yes".__eq__, cells), strict=True)) for name, _, *cells in rows}


def test_the_docs_have_a_row_for_every_architecture():
    assert list(cells_in_docs()) == list(ARCHITECTURES)
    assert set(FIRST) == set(ARCHITECTURES)


# --- Gradients ------------------------------------------------------------------------------------


def torch_gradients(theirs, ours):
    """Return the gradients of transformers in float64: of events by our names, and of parameters by theirs.
    The inputs and outputs of modules with one event count."""
    seen, architecture = {}, ours.config.architecture

    def keep(name, tensor):
        meaning = meaning_of(name, architecture)
        events = () if meaning is None else meaning.candidates or meaning.events
        own = [event for event in events if event in ours.plan][
            : 1 if meaning and meaning.candidates else None
        ]
        if len(own) == 1 and torch.is_tensor(tensor) and tensor.requires_grad and own[0] not in seen:
            tensor.retain_grad()
            seen[own[0]] = tensor

    def hook(name):
        def after(module, args, output):
            keep(name, output[0] if isinstance(output, tuple) else output)

        return after

    hooks = [module.register_forward_hook(hook(name)) for name, module in theirs.named_modules() if name]
    logits = theirs(torch.tensor([IDS]), use_cache=False).logits[0]
    theirs.zero_grad()
    torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(IDS[1:])).backward()
    for own in hooks:
        own.remove()
    events = {name: tensor.grad for name, tensor in seen.items() if tensor.grad is not None}
    by_head = {
        n: g.transpose(1, 2) if g.ndim == 4 and g.shape[2] == len(IDS) else g for n, g in events.items()
    }
    rows = {name: gradient.reshape(len(IDS), -1).numpy() for name, gradient in by_head.items()}
    return rows, {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", some_of(MODELS, every=8, sweep=2))
def test_gradients_equal_those_of_transformers(name, models):
    _, theirs, ours = models(name)
    expected, parameters = torch_gradients(copy.deepcopy(theirs).double(), ours)
    run = Run(in_float64(ours), tokens=IDS, targets=(*IDS[1:], None))
    errors = {
        event: np.linalg.norm(run.gradients[event] - gradient) / np.linalg.norm(gradient)
        for event, gradient in expected.items()
    }
    for own, gradient in run.parameters.items():
        tensor = ours.tensors[own]
        theirs_of = parameters.get(tensor.name)
        if (
            theirs_of is not None
            and gradient.shape == theirs_of.shape
            and tensor.order is None
            and not tensor.by_columns
        ):
            size = max(np.linalg.norm(theirs_of), 1e-9)  # without RoPE, the bias of k has no gradient
            errors[own] = np.linalg.norm(gradient - theirs_of) / size
    worst = max(errors, key=errors.get)
    traced = trace(ours, tokens=IDS, backward=True, values=list(expected))
    narrow = {
        event: np.linalg.norm(traced.gradient(event) - gradient) / np.linalg.norm(gradient)
        for event, gradient in expected.items()
    }
    in_trace = max(narrow, key=narrow.get)
    print(
        f"{name}: {len(expected)} events, {len(errors) - len(expected)} parameters,",
        f"{worst} {errors[worst]:.2g}; traced in float32: {in_trace} {narrow[in_trace]:.2g}",
    )
    assert len(errors) > len(expected) > 10
    assert narrow[in_trace] < 5e-5
    assert errors[worst] < 5e-5  # norms of transformers compute in float32


WITH_DEFAULTS = [name for name, (kind, _) in MODELS.items() if ARCHITECTURES[kind] != "llama"]


@pytest.mark.parametrize("name", WITH_DEFAULTS)
def test_settings_that_a_config_lacks_are_the_defaults_of_transformers(name, models, tmp_path):
    folder, _, ours = models(name)
    usual = transformers.AutoConfig.for_model(MODELS[name][0]).to_dict()
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in usual or usual[key] != value}
    always = ("model_type", "original_max_position_embeddings")  # the second only counts with LongRoPE
    kept |= {key: config[key] for key in always if key in config}
    shutil.copy(folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(kept))
    bare = load(tmp_path)
    print(sorted(config.keys() - kept), bare.assumed)
    assert replace(bare.config, architecture="") == replace(ours.config, architecture="")


@pytest.mark.parametrize("kind", some_of(FIRST, every=5))
def test_eps_is_read_under_the_name_of_transformers(kind, models, tmp_path):
    """All tiny models have the default, so a wrong name would change no other test."""
    folder, theirs, _ = models(FIRST[kind])
    (name,) = (key for key in theirs.config.to_dict() if re.search("norm.*eps", key))
    config = json.loads((folder / "config.json").read_text()) | {name: 0.0123}
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = load(tmp_path).config.norm_eps
    print(kind, name, found)
    assert found == 0.0123


SIZES = {kind: architecture_named(kind).sizes for kind in ARCHITECTURES}
GROUPS = [kind for kind, own in SIZES.items() if own.get("head_dim") == "head_dim" and "n_kv_head" in own]


@pytest.mark.parametrize("kind", GROUPS)
def test_the_number_of_key_value_heads_that_a_config_lacks(kind, tmp_path):
    sizes = {"num_attention_heads": 32, "hidden_size": 256, "head_dim": 8, "num_hidden_layers": 1}
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **sizes})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    stored = config.to_dict() | {"head_dim": 8}
    stored.pop("num_key_value_heads")
    (tmp_path / "config.json").write_text(json.dumps(stored))
    expected = transformers.AutoConfig.from_pretrained(tmp_path).num_key_value_heads
    try:
        found = load(tmp_path).config.n_kv_head
    except MicrogptError as error:
        print(error)
        found = int(re.search(r"expected \[(\d+), 256\]", str(error))[1]) // 8
    print(kind, expected, found)
    assert found == expected


HOSTILE = (None, True, -1, 0, 3, 2**40, 1e300, float("nan"), "x", [], [1], [None] * 4, {}, {"a": 1}, [[]] * 4)


@pytest.mark.parametrize("name", some_of(MODELS, every=24, sweep=8))
def test_every_setting_may_be_wrong(name, models, tmp_path):
    """A wrong setting is refused in one line, or is not used."""
    folder, _, _ = models(name)
    config = json.loads((folder / "config.json").read_text())
    nested = [(key, inner) for key, value in config.items() if isinstance(value, dict) for inner in value]
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    messages = []
    for place in (*((key,) for key in config), *nested):
        for value in HOSTILE:
            wrong = copy.deepcopy(config)
            (wrong[place[0]] if len(place) > 1 else wrong)[place[-1]] = value
            (tmp_path / "config.json").write_text(json.dumps(wrong))
            try:
                load(tmp_path).plan.shapes(3)
            except MicrogptError as error:
                messages.append(str(error))
    print(name, len(messages), "refused")
    assert len(messages) > 50
    assert not [message for message in messages if "\n" in message]


def test_mask_buffers_of_old_files_are_skipped(models, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder, _, ours = models("gpt_neox")
    weights = load_file(folder / "model.safetensors")
    buffers = {"attention.bias": np.ones((1, 1, 64, 64), np.uint8), "attention.masked_bias": np.zeros(1)}
    layers = range(ours.config.n_layer)
    old = {f"gpt_neox.layers.{i}.{name}": value for i in layers for name, value in buffers.items()}
    save_file(weights | old, tmp_path / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    assert load(tmp_path).tensors.keys() == ours.tensors.keys()


def test_the_verdict_says_first_that_few_names_of_a_dump_are_known(models, tmp_path):
    from safetensors.numpy import save_file

    folder, _, ours = models("gpt_neox")
    traced = trace(ours, tokens=IDS, positions="all", names=["*"], values=True)
    known = {name: traced[name] for name in ("embed.tok", "final.norm")}
    strange = {f"module {i}": np.zeros((19, 32), np.float32) for i in range(9)}
    save_file(known | strange, tmp_path / "dump.safetensors")
    for command in ("diff", "diagnose"):
        words = (command, tmp_path / "dump.safetensors", folder, "--tokens", ",".join(map(str, IDS)))
        done = microgpt(*words)
        print(done.out, done.err)
        assert done.code == 0
        assert "Only 2 of 11 names in the dump are known. The 2 " in done.out.replace("\n", " ")
