"""The meaning of names in other engines, judged by the modules of transformers and by our own plans."""

import pytest

from microgpt_trace.decoder.architectures.llama import LlamaConfig
from microgpt_trace.hooks.names import ALIASES
from microgpt_trace.microgpt.parameters import Config
from microgpt_trace.naming import event_names
from microgpt_trace.naming.event_names import is_event, meaning_of, meanings_of
from microgpt_trace.plans import microgpt_plan
from microgpt_trace.plans.rope import Rope


def events(name):
    meaning = meaning_of(name)
    print(name, "->", meaning)
    return None if meaning is None else meaning.events


def own_names():
    config = LlamaConfig("qwen3", 12, 8, 4, 2, 2, 8, 8, 8, 1e-5, Rope(1e4), tied=True, qk_norm=True)
    specs = [*config.plan.values(), *microgpt_plan.plan_of(Config(n_layer=12)).values()]
    return list(dict.fromkeys(spec.name for spec in specs if spec.name != spec.parameter))


@pytest.mark.parametrize("separator", [".", "_", "/", "-", "__"])
def test_our_event_names_are_known_with_any_separator(separator):
    for name in own_names():
        spelling = name.replace(".", separator)
        assert is_event(name)
        assert events(spelling) == events(f"{spelling}.npy") == (name,)


def test_is_event_rejects_other_names():
    names = ["layer0.attn.z", "layer01.attn.q", "LAYER0.attn.q", "layer0", "wte", "layer0.attn_wq", ""]
    names += ["layer0.attn.q\n", "layer#.attn.q", "layer0.attn.head#"]
    assert [name for name in names if is_event(name)] == []


# --- apr -------------------------------------------------------------------------------------


def test_stages_of_apr_in_a_layer_are_the_events_of_their_aliases():
    for stage, globs in ALIASES.items():
        found = meaning_of(f"layer-3/{stage}.bin")
        if stage in ("embedding", "qkv_bias") or not globs or "*" not in globs[0]:
            continue
        assert found.events == tuple(glob.replace("*", "3") for glob in globs)


# --- Names that no test of a dump has -----------------------------------------------------------

QKV = "layer3.attn.q layer3.attn.k layer3.attn.v"
MEANS = {
    "layer-0/embedding": "embed.tok", "final_norm.bin": "final.norm", "lm_head": "logits",
    "layer-3/qkv_bias": QKV, "layers.3.mlp.gate_proj": "layer3.mlp.gate",
    "base_model.model.model.layers.3.mlp.gate_proj": "layer3.mlp.gate",
    "model_layers_3_mlp_gate_proj": "layer3.mlp.gate", "model.layers.3.mlp_out": "layer3.mlp.down",
    "model.layers.3.self_attn.output.0": "layer3.attn.out", "model.layers.3.self_attn.qkv_proj": QKV,
    "model.layers.3.mlp.gate_up_proj": "layer3.mlp.gate layer3.mlp.up", "model.layers.0.input": "embed.tok",
    "model.layers.3.input": "layer2.mlp.residual", "lm_head.input": "final.norm",
    "hidden_states.0": "embed.tok", "h.3.attn.c_attn": QKV, "h.3.mlp.c_fc": "layer3.mlp.up",
    "ln_f": "final.norm", "base_model.model.transformer.h.3.mlp.act": "layer3.mlp.act",
    "transformer_h_3_attn_c_proj_input.npy": "layer3.attn.context", "transformer.h.0.input": "embed.sum",
    "transformer.h.3.input": "layer2.mlp.residual", "Qcur-0 (reshaped)": "layer0.attn.q",
    "Qcur_0__reshaped_.npy": "layer0.attn.q", "attn_norm-11": "layer11.attn.norm",
    "kq_soft_max_ext-2": "layer2.attn.weights", "kqv_merged_cont-2": "layer2.attn.context",
    "kqv-2": "layer2.attn.context", "ffn_silu-2": "layer2.mlp.act", "ffn_gelu-2": "layer2.mlp.act",
    "ffn_gate_par-2": "layer2.mlp.hidden", "pos_embd": "embed.pos", "inpL": "embed.sum", "wqkv_b-3": QKV,
    "blocks.0.hook_resid_pre": "embed.tok", "blocks.2.hook_resid_pre": "layer1.mlp.residual",
    "unembed.hook_out": "logits", "L0__q_proj": "layer0.attn.q", "L11__out": "layer11.mlp.residual",
    "embed": "embed.tok", "inp_scaled": "embed.scaled", "attn_post_norm-3": "layer3.attn.post_norm",
    "sa_out-3": "layer3.attn.residual", "ffn_post_norm-3": "layer3.mlp.post_norm",
}  # fmt: skip
REFUSED = (
    "layer-1/moe_router ffn_gate hidden_states hidden_states.1 norm model.layers.3.mlp.gate_proj.weight "
    "transformer.ln_f.input transformer.h.3.ln_1.weight wqkv-1 norm_w-0 kq-0 kqv_out-0 norm-0"
)
UNKNOWN = (  # wte and wpe are also parameters of microGPT, and h0 can be any hidden state
    "model.layers.99999.mlp model.layers.three.mlp encoder.layers.3.mlp.gate_proj t003 qkv[0] \u00e9 "
    "wte wpe h.0 h3.npy"
)


def test_knows_the_names_of_other_engines():
    assert {name: " ".join(events(name) or ()) for name in MEANS} == MEANS


def test_knows_names_that_cannot_be_compared():
    assert meaning_of("ffn_out-3", "llama").events == ("layer3.mlp.down",)
    assert meaning_of("ffn_out-3", "gpt_neox").events == ()
    assert {name: events(name) for name in REFUSED.split()} == dict.fromkeys(REFUSED.split(), ())
    assert {name: events(name) for name in UNKNOWN.split()} == dict.fromkeys(UNKNOWN.split())


def test_knows_rows_in_gguf_order_and_second_names():
    adjacent = {"Qcur-0", "Kcur-0", "Qcur-0 (reshaped)"}
    second = {"layer-0/qkv_matmul"}  # which gives way to qkv_bias
    for name in (*adjacent, *second, "Vcur-0", "Qcur_normed-0", "layer0.attn.q", "layer-0/qkv_bias"):
        meaning = meaning_of(name)
        assert (meaning.adjacent, meaning.second) == (name in adjacent, name in second)


@pytest.mark.parametrize(("hook", "why"), [("hook_normalized", "gain"), ("hook_scale", "denominator")])
def test_rejects_hooks_without_the_gain_with_the_reason(hook, why):
    for norm in ("blocks.0.ln1", "blocks.3.ln2", "ln_final", "blocks.0.attn.q_norm"):
        meaning = meaning_of(f"{norm}.{hook}")
        assert not meaning.events
        assert why in meaning.reason


def test_every_name_has_either_events_or_a_reason():
    for name, meaning in event_names._table("llama").items():
        assert bool(meaning.events) != bool(meaning.reason), name
        assert meaning.reason.isprintable()


def test_a_name_of_many_numbers_has_no_meaning():
    assert not any(meaning_of(f"{i}." * 120) for i in range(100, 500))


# --- Names of files, and engines whose layers return two tensors ------------------------------

DUMPER = "dump_1/step=0___rank=0___dump_index=7___name="
MSPROBE = "step0/rank0/dump_tensor_data/Module"
IN_FILES = {
    f"{DUMPER}non_intrusive__model.layers.3.mlp.down_proj.output___recompute_status=disabled___layer_id=3.pt":
        ("layer3.mlp.down",),
    f"{DUMPER}self_attn.o_proj___recompute_status=disabled___layer_id=3.pt": ("layer3.attn.out",),
    f"{MSPROBE}.model.layers.0.mlp.Qwen2MLP.forward.0.output.0.pt": ("layer0.mlp.down",),
    f"{MSPROBE}.module.layers.0.mlp.up_proj.Linear.forward.0.output.0.npy": ("layer0.mlp.up",),
    f"{MSPROBE}.model.layers.0.mlp.up_proj.Linear.forward.0.input.0.pt": (),
    f"{MSPROBE}.model.layers.0.mlp.up_proj.Linear.forward.1.output.0.pt": (),
    f"{MSPROBE}.model.layers.0.mlp.up_proj.Linear.backward.0.output.0.pt": (),
    "step0/rank0/dump_tensor_data/Functional.softmax.0.forward.input.0.pt": None,
}  # fmt: skip


@pytest.mark.parametrize("name", IN_FILES)
def test_reads_the_name_of_a_value_in_the_name_of_a_file(name):
    assert events(name) == IN_FILES[name]


PAIRS = {
    "model.layers.1.input_layernorm.0": ("layer1.attn.norm",),
    "model.layers.1.input_layernorm.1": ("layer0.mlp.residual",),
    "model.layers.1.post_attention_layernorm.1": ("layer1.attn.residual",),
    "model.norm.0": ("final.norm",), "model.layers.1": (), "model.layers.1.0": (),
    "model.layers.1.output.0": (), "model.layers.1.mlp.act_fn": ("layer1.mlp.hidden",),
    "model.layers.1.self_attn.attn": ("layer1.attn.context",), "logits_processor": (), "model": (),
}  # fmt: skip


@pytest.mark.parametrize("fused", ["model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.gate_up_proj"])
def test_a_layer_of_vllm_or_sglang_lacks_the_residual(fused):
    found = meanings_of([*PAIRS, fused], "llama")
    assert {name: found[name].events for name in PAIRS} == PAIRS
    assert "sum" in found["model.layers.1"].reason
    assert len(found[fused].events) in (2, 3)
    assert meanings_of([*PAIRS], "llama")["model.layers.1"].events == ("layer1.mlp.residual",)  # transformers
    assert meanings_of(["model.layers.1", fused], "phi3")["model.layers.1"].events


def test_hooks_of_the_bridge_of_transformer_lens():
    names = [
        "hook_in",
        "hook_out",
        "ln2.hook_in",
        "attn.q.hook_out",
        "attn.o.hook_out",
        "mlp.in.hook_out",
        "mlp.out.hook_in",
    ]
    expected = "layer1.mlp.residual layer2.mlp.residual layer2.attn.residual layer2.attn.q layer2.attn.out"
    expected = f"{expected} layer2.mlp.up layer2.mlp.hidden".split()
    assert [events(f"blocks.2.{name}") for name in names] == [(event,) for event in expected]
