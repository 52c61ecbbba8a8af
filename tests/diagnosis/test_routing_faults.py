"""Mistakes in latent attention and in routers by sigmoid, planted in DeepSeek V3 of transformers: diagnose
locates each mistake and names it. diff measures how near a flip of experts is, after the correction."""

import types

import numpy as np
import pytest
from support.reference_models import IDS
from support.sweeps import some_of
from support.torch_models import written

from microgpt_trace import load
from microgpt_trace.comparison.diff import diff
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.recorder import record

torch = pytest.importorskip("torch", reason="the engine is transformers")


def attentions(model, change):
    for layer in model.model.layers:
        change(layer.self_attn)


def scaled(factor):
    return lambda model: attentions(model, lambda own: setattr(own, "scaling", own.scaling * factor(own)))


def without_rope(model):
    def plain(attention):
        forward = attention.forward

        def unturned(*args, position_embeddings, **kwargs):
            cos, sin = position_embeddings
            return forward(*args, position_embeddings=(cos * 0 + 1, sin * 0), **kwargs)

        attention.forward = unturned

    attentions(model, plain)


def other_pairs(model):
    model.config.rope_interleave = not model.config.rope_interleave


def without_latent_norm(model):
    attentions(model, lambda own: setattr(own.kv_a_layernorm, "forward", lambda x: x))


def other_router(fault):
    """Return a function that replaces all routers by a router with a mistake."""

    def route(gate, hidden):
        hidden = hidden.view(-1, gate.hidden_dim)
        logits = torch.nn.functional.linear(hidden.float(), gate.weight.float())
        scores = logits.softmax(-1) if fault == "softmax" else logits.sigmoid()
        ranked = scores if fault == "no correction" else scores + gate.e_score_correction_bias
        size = gate.num_experts // gate.num_group
        of_groups = ranked.unflatten(1, (-1, size)).topk(1 if fault == "best expert" else 2).values.sum(-1)
        used = torch.zeros_like(of_groups).scatter(1, of_groups.topk(gate.topk_group).indices, 1) > 0
        if fault == "all groups":
            used |= True
        chosen = ranked.masked_fill(~used.repeat_interleave(size, 1), -torch.inf).topk(gate.top_k).indices
        shares = (ranked if fault == "corrected shares" else scores).gather(1, chosen)
        shares = shares if fault == "not normalised" else shares / shares.sum(-1, keepdim=True)
        return logits, shares * (1 if fault == "no factor" else gate.routed_scaling_factor), chosen

    def plant(model):
        for layer in model.model.layers[1:]:
            layer.mlp.gate.forward = types.MethodType(route, layer.mlp.gate)

    return plant


def without_shared_experts(model):
    def forward(self, hidden):
        _, shares, chosen = self.gate(hidden)
        self.shared_experts(hidden)
        return self.experts(hidden.view(-1, hidden.shape[-1]), chosen, shares).view(hidden.shape)

    for layer in model.model.layers[1:]:
        layer.mlp.forward = types.MethodType(forward, layer.mlp)


YARN = "deepseek_v3_yarn"
FAULTS = {  # the model, the mistake, the first wrong operation, and the id of the cause
    "corrected shares": ("deepseek_v3", None, "layer1.mlp.routing", "correction-in-shares"),
    "no factor": ("deepseek_v3", None, "layer1.mlp.routing", "factor-missing"),
    "not normalised": ("deepseek_v3", None, "layer1.mlp.routing", "shares-normalised"),
    "all groups": ("deepseek_v3", None, "layer1.mlp.chosen", "groups-ignored"),
    "best expert": ("deepseek_v3", None, "layer1.mlp.chosen", "groups-ranked"),
    "no correction": ("deepseek_v3", None, "layer1.mlp.chosen", "correction-missing"),
    "softmax": ("deepseek_v3", None, "layer1.mlp.chosen", "scores-softmax"),
    "no shared experts": ("deepseek_v3", without_shared_experts, "layer1.mlp.both", "part-missing"),
    "no latent norm": ("deepseek_v3", without_latent_norm, "layer0.attn.kv_a_norm", "norm-missing"),
    "no RoPE": ("deepseek_v3", without_rope, "layer0.attn.weights", "rope-missing"),
    "width without RoPE": (
        "deepseek_v3", scaled(lambda own: (own.qk_head_dim / own.qk_nope_head_dim) ** 0.5),
        "layer0.attn.weights", "scale",
    ),
    "halves": ("deepseek_v3", other_pairs, "layer0.attn.q_rope", "rope-halves"),
    "neighbours": (YARN, other_pairs, "layer0.attn.weights", "rope-interleaved"),
    "no mscale": (YARN, scaled(lambda own: 1 / (0.1 * np.log(8) + 1) ** 2), "layer0.attn.weights", "scale"),
}  # fmt: skip


@pytest.mark.parametrize("fault", some_of(FAULTS, every=3))
def test_a_planted_mistake_is_located_and_named(fault, tmp_path):
    name, plant, operation, cause = FAULTS[fault]
    theirs = written(name, tmp_path / "model")
    (plant or other_router(fault))(theirs)
    with record(theirs, tmp_path / "d.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]), output_attentions=True)
    found = diagnose(tmp_path / "d.safetensors", tmp_path / "model").diagnosis
    print(fault, found.first_wrong, [(own.id, own.claim, own.explains) for own in found.findings][:2])
    assert found.first_wrong == operation
    assert found.findings[0].id == cause
    assert found.findings[0].explains


@pytest.mark.parametrize("name", some_of(("deepseek_v3", "deepseek_v2", "glm4_moe", "minimax_m2"), every=2))
def test_a_flip_in_bfloat16_is_explained_by_the_corrected_scores(name, tmp_path):
    theirs = written(name, tmp_path / "model").to(torch.bfloat16)
    with record(theirs, tmp_path / "d.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]))
    found = diff(tmp_path / "d.safetensors", tmp_path / "model", compute="bf16")
    for flip in found.routing:
        print(flip)
        assert flip.by_rounding
    assert found.first is None
    assert diagnose(tmp_path / "d.safetensors", tmp_path / "model", compute="bf16").diagnosis.clean


def test_the_margin_of_a_flip_is_the_difference_of_corrected_scores(tmp_path):
    """Another correction in the dump's model makes flips. The margins follow from PyTorch's router."""
    theirs = written("minimax_m2", tmp_path / "model")
    gate = theirs.model.layers[0].mlp
    gate.e_score_correction_bias.data += torch.linspace(-0.4, 0.4, 6)
    logits = []
    gate.gate.register_forward_hook(lambda module, args, output: logits.append(output[0].numpy()))
    with record(theirs, tmp_path / "d.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]))
    correction = load(tmp_path / "model").parameter("layer0.mlp_correction")
    print(diff(tmp_path / "model", tmp_path / "d.safetensors").routing)
    flips = [own for own in diff(tmp_path / "model", tmp_path / "d.safetensors").routing if own.layer == 0]
    assert flips
    for flip in flips:
        scores = 1 / (1 + np.exp(-logits[0][flip.position])) + correction
        expected = scores[[*flip.only_a]].min() - scores[[*flip.only_b]].max()
        print(flip.position, flip.margin, expected)
        assert flip.margin == pytest.approx(expected, rel=1e-4)
        assert not flip.by_rounding
