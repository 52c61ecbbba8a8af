"""Foreign names: what they mean, judged by the modules of transformers and by our own specs."""

import time

import pytest

from microgpt_trace.architecture import llama, microgpt
from microgpt_trace.architecture.rope import Rope
from microgpt_trace.decoder.config import DecoderConfig
from microgpt_trace.dumps import event_names, module_names
from microgpt_trace.dumps.event_names import is_event, meaning_of
from microgpt_trace.hooks.names import ALIASES
from microgpt_trace.microgpt.parameters import Config


def events(name):
    meaning = meaning_of(name)
    print(name, "->", meaning)
    return None if meaning is None else meaning.events


def own_names():
    config = DecoderConfig("qwen3", 12, 8, 4, 2, 2, 8, 8, 8, 1e-5, Rope(1e4), tied=True, qk_norm=True)
    specs = [*llama.plan_of(config).values(), *microgpt.plan_of(Config(n_layer=12)).values()]
    return list(dict.fromkeys(spec.name for spec in specs if spec.name != spec.parameter))


def test_every_own_event_means_itself():
    for name in own_names():
        assert (events(name), is_event(name)) == ((name,), True)


@pytest.mark.parametrize("separator", ["_", "/", "-", "__"])
def test_file_names_with_other_separators_mean_the_same(separator):
    for name in own_names():
        assert events(name.replace(".", separator) + ".npy") == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "layer0.attn.z",
        "layer01.attn.q",
        "LAYER0.attn.q",
        "layer0",
        "wte",
        "layer0.attn_wq",
        "",
        "layer0.attn.q\n",
        "layer#.attn.q",
        "layer0.attn.head#",
    ],
)
def test_no_event_is_called_so(name):
    assert not is_event(name)


@pytest.mark.parametrize("phase", ["backward", "update"])
def test_gradients_are_refused_with_the_reason(phase):
    meaning = meaning_of(f"{phase}/layer0.attn.q")
    assert not meaning.events
    assert "not compared" in meaning.reason


# --- apr -------------------------------------------------------------------------------------


def test_stages_below_a_layer_mean_what_the_aliases_say():
    for stage, globs in ALIASES.items():
        found = meaning_of(f"layer-3/{stage}.bin")
        if stage in ("embedding", "qkv_bias") or not globs or "*" not in globs[0]:
            continue
        assert found.events == tuple(glob.replace("*", "3") for glob in globs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer-0/embedding", ("embed.tok",)),
        ("final_norm.bin", ("final.norm",)),
        ("lm_head", ("logits",)),
        ("layer-1/qkv_bias", ("layer1.attn.q", "layer1.attn.k", "layer1.attn.v")),
        ("layer-1/moe_router", ()),
        ("ffn_gate", ()),
    ],
)
def test_apr_stages(name, expected):
    assert events(name) == expected


def test_qkv_before_the_bias_gives_way_to_qkv_after_it():
    assert (meaning_of("layer-0/qkv_matmul").second, meaning_of("layer-0/qkv_bias").second) == (True, False)


# --- Hugging Face ----------------------------------------------------------------------------

NO_EVENT = ("", "model", "model.layers", "model.rotary_emb", "transformer", "transformer.h")


@pytest.mark.parametrize("case", ["llama_gqa", "mistral", "qwen2", "qwen3", "gpt2"])
def test_transformers_modules_hold_what_their_events_say(decoder_folder, gpt2, case):
    """The inputs and outputs of every module, against our trace of the same folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    import microgpt_trace

    folder = gpt2()[0] if case == "gpt2" else decoder_folder(case)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    taken = {}

    def hook(module, args, kwargs, output):
        whole = [*args, *kwargs.values()]
        inputs = [value for value in whole if torch.is_tensor(value) and value.is_floating_point()]
        taken[f"{names[module]}"] = output[0] if isinstance(output, tuple) else output
        taken[f"{names[module]}.input"] = inputs[0] if inputs else None

    names = {module: name for name, module in model.named_modules()}
    without = [name for name in names.values() if not events(name)]
    assert [name for name in without if name not in NO_EVENT and "attn_dropout" not in name] == []
    for module in names:
        module.register_forward_hook(hook, with_kwargs=True)
    with torch.no_grad():
        model(torch.tensor([[1, 5, 9, 2]]))
    trace = microgpt_trace.trace(
        microgpt_trace.load(folder), tokens=[1, 5, 9, 2], values=True, positions="all"
    )
    compared = set()
    for name, value in taken.items():
        own = (events(name) or ()) if torch.is_tensor(value) else ()
        for event, part in zip(own, value.chunk(len(own), -1) if own else (), strict=True):
            ours = trace[event]
            error = abs(part.numpy().reshape(ours.shape) - ours).max() / abs(ours).max()
            assert error < 1e-5, f"{name} as {event}: {error}"
            compared.add(event)
    missing = {e.name for e in trace} - compared
    assert {name.rpartition(".")[2] for name in missing} <= {
        "q_rope",
        "k_rope",
        "scores",
        "weights",
        "probs",
        "loss",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layers.3.mlp.gate_proj", ("layer3.mlp.gate",)),
        ("base_model.model.model.layers.3.mlp.gate_proj", ("layer3.mlp.gate",)),
        ("model_layers_3_mlp_gate_proj", ("layer3.mlp.gate",)),
        ("model.layers.3.mlp_out", ("layer3.mlp.down",)),
        ("model.layers.3.self_attn.output.0", ("layer3.attn.out",)),
        ("model.layers.3.self_attn.qkv_proj", ("layer3.attn.q", "layer3.attn.k", "layer3.attn.v")),
        ("model.layers.3.mlp.gate_up_proj", ("layer3.mlp.gate", "layer3.mlp.up")),
        ("model.layers.3.self_attn.o_proj.input", ("layer3.attn.context",)),
        ("model.layers.3.mlp.down_proj.input", ("layer3.mlp.hidden",)),
        ("model.layers.3.post_attention_layernorm.input", ("layer3.attn.residual",)),
        ("model.layers.0.input", ("embed.tok",)),
        ("model.layers.3.input", ("layer2.mlp.residual",)),
        ("lm_head.input", ("final.norm",)),
        ("hidden_states.0", ("embed.tok",)),
        ("hidden_states.1", ()),
        ("norm", ()),
        ("model.layers.3.mlp.gate_proj.weight", ()),
        ("model.layers.99999.mlp", None),
        ("model.layers.three.mlp", None),
        ("encoder.layers.3.mlp.gate_proj", None),
        ("t003", None),
        ("qkv[0]", None),
        ("é", None),
    ],
)
def test_hugging_face_names(name, expected):
    assert events(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h.3.attn.c_attn", ("layer3.attn.q", "layer3.attn.k", "layer3.attn.v")),
        ("h.3.mlp.c_fc", ("layer3.mlp.up",)),
        ("ln_f", ("final.norm",)),
        ("base_model.model.transformer.h.3.mlp.act", ("layer3.mlp.act",)),
        ("transformer_h_3_attn_c_proj_input.npy", ("layer3.attn.context",)),
        ("transformer.h.3.ln_2.input", ("layer3.attn.residual",)),
        ("transformer.h.0.input", ("embed.sum",)),
        ("transformer.h.3.input", ("layer2.mlp.residual",)),
        ("transformer.ln_f.input", ()),
        ("transformer.h.3.ln_1.weight", ()),
        ("wte", None),
        ("wpe", None),
        ("h.0", None),
        ("h3.npy", None),
    ],
)
def test_names_of_gpt2(name, expected):
    """A microGPT's checkpoint has wte and wpe, and h0 may be any hidden state."""
    assert events(name) == expected


# --- llama.cpp -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inp_embd", ("embed.tok",)),
        ("attn_norm-11", ("layer11.attn.norm",)),
        ("Qcur-0", ("layer0.attn.q_rope",)),
        ("Kcur-0", ("layer0.attn.k_rope",)),
        ("Vcur-0", ("layer0.attn.v",)),
        ("Qcur-0 (reshaped)", ("layer0.attn.q",)),
        ("Qcur_0__reshaped_.npy", ("layer0.attn.q",)),
        ("Qcur_normed-0", ("layer0.attn.q_norm",)),
        ("kq_soft_max_ext-2", ("layer2.attn.weights",)),
        ("kqv_merged_cont-2", ("layer2.attn.context",)),
        ("kqv-2", ("layer2.attn.context",)),
        ("ffn_inp-2", ("layer2.attn.residual",)),
        ("ffn_norm-2", ("layer2.mlp.norm",)),
        ("ffn_gate-2", ("layer2.mlp.gate",)),
        ("ffn_up-2", ("layer2.mlp.up",)),
        ("ffn_silu-2", ("layer2.mlp.act",)),
        ("ffn_gate_par-2", ("layer2.mlp.hidden",)),
        ("ffn_swiglu-2", ("layer2.mlp.hidden",)),
        ("ffn_out-3", ("layer3.mlp.down",)),
        ("l_out-3", ("layer3.mlp.residual",)),
        ("result_norm", ("final.norm",)),
        ("result_output", ("logits",)),
        ("pos_embd", ("embed.pos",)),
        ("inpL", ("embed.sum",)),
        ("wqkv_b-1", ("layer1.attn.q", "layer1.attn.k", "layer1.attn.v")),
        ("wqkv-1", ()),
        ("ffn_gelu-2", ("layer2.mlp.act",)),
        ("norm_w-0", ()),
        ("kq-0", ()),
        ("kqv_out-0", ()),
        ("norm-0", ()),
    ],
)
def test_llama_cpp_names(name, expected):
    assert events(name) == expected


def test_llama_cpp_rows_of_q_and_k_may_be_in_ggufs_order():
    names = ("Qcur-0", "Kcur-0", "Qcur-0 (reshaped)", "Vcur-0", "Qcur_normed-0", "layer0.attn.q")
    assert [meaning_of(name).adjacent for name in names] == [True, True, True, False, False, False]


# --- TransformerLens, reference files ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hook_embed", ("embed.tok",)),
        ("blocks.0.hook_resid_pre", ("embed.tok",)),
        ("blocks.2.hook_resid_pre", ("layer1.mlp.residual",)),
        ("blocks.2.hook_resid_mid", ("layer2.attn.residual",)),
        ("blocks.2.hook_resid_post", ("layer2.mlp.residual",)),
        ("blocks.2.attn.hook_rot_q", ("layer2.attn.q_rope",)),
        ("blocks.2.attn.hook_z", ("layer2.attn.context",)),
        ("blocks.2.mlp.hook_pre", ("layer2.mlp.gate",)),
        ("blocks.2.mlp.hook_pre_linear", ("layer2.mlp.up",)),
        ("blocks.2.mlp.hook_post", ("layer2.mlp.hidden",)),
        ("blocks.2.hook_mlp_out", ("layer2.mlp.down",)),
        ("unembed.hook_out", ("logits",)),
        ("L0__q_proj", ("layer0.attn.q",)),
        ("L11__attn", ("layer11.attn.context",)),
        ("L11__out", ("layer11.mlp.residual",)),
        ("embed", ("embed.tok",)),
        ("hidden_states", ()),
    ],
)
def test_other_names(name, expected):
    assert events(name) == expected


@pytest.mark.parametrize("norm", ["blocks.0.ln1", "blocks.3.ln2", "ln_final", "blocks.0.attn.q_norm"])
@pytest.mark.parametrize(("hook", "why"), [("hook_normalized", "gain"), ("hook_scale", "denominator")])
def test_hooks_without_the_gain_are_refused_with_the_reason(norm, hook, why):
    meaning = meaning_of(f"{norm}.{hook}")
    print(meaning.reason)
    assert not meaning.events
    assert why in meaning.reason


def test_a_refusal_is_one_line_with_a_reason_and_a_meaning_has_events():
    for name, meaning in event_names._table().items():
        assert bool(meaning.events) != bool(meaning.reason), name
        assert meaning.reason.isprintable()


def test_no_two_families_disagree_on_a_name():
    rows = {}
    families = [event_names._LLAMA_CPP, event_names._LLAMA_CPP_SECOND, event_names._LLAMA_CPP_ADJACENT]
    families += [
        event_names._TRANSFORMER_LENS,
        event_names._REFERENCE,
        {n: n for n in event_names._own_events()},
    ]
    families += [{f"model.{name}": event for name, event in module_names.HUGGING_FACE.items()}]
    families += [event_names._gpt2(module_names.GPT2), event_names._gpt2(module_names.GPT2_SECOND)]
    families += [{key: " ".join(m.events) for key, m in event_names._apr(stage).items()} for stage in ALIASES]
    for name, event in (pair for family in families for pair in family.items()):
        assert rows.setdefault(event_names._key(name), event) == event


def test_a_name_of_many_numbers_takes_no_time():
    """A dump may have 100,000 names, and each number could be the layer's."""
    began = time.perf_counter()
    assert not any(meaning_of(f"{i}." * 120) for i in range(100, 500))
    assert time.perf_counter() - began < 0.2
