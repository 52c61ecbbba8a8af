"""Falcon, BLOOM and MPT: LayerNorm, fused matrices and an MLP without a gate. Instead of RoPE, BLOOM and MPT
have ALiBi.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ...errors import InputError
from ...plans.blocks import Blocks
from ...text.frozen import frozen
from ..architecture import QKV_BIASES, Architecture, FileNames
from ..layered_plan import LayeredConfig, Layout, Parallel
from ..settings import FLAG, OBJECT, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import gguf_rope, read_activation, read_rope


@frozen(slots=False)
class FalconConfig(LayeredConfig):
    """The config of a Falcon. The branches of a layer are parallel, and read one norm or two."""

    parallel_norms: Parallel = "one norm"

    @property
    def layout(self) -> Layout:
        return Layout(centred=True, biased=True, parallel=self.parallel_norms, mlp=Blocks.plain_mlp)


@frozen(slots=False)
class AlibiConfig(LayeredConfig):
    """The config of a BLOOM, whose norms have biases, or of an MPT, which may clip q, k and v."""

    normed_embedding: bool = False
    attn_clamp: float | None = None
    score_scale: float | None = None  # None means 1/sqrt(head_dim)

    @property
    def layout(self) -> Layout:
        def embedding(rows: Blocks) -> str:
            return rows.norm("embed.norm", rows.embedding(), centred=True, biased=True)

        layout = Layout(
            centred=True, biased=self.normed_embedding, mlp=Blocks.plain_mlp, clip=self.attn_clamp,
            slopes=slopes(self.n_head), score_scale=self.score_scale,
        )  # fmt: skip
        return replace(layout, embedding=embedding) if self.normed_embedding else layout


def slopes(heads: int) -> tuple[float, ...]:
    """Return the slopes of ALiBi: 2^(-8 h / P) for h = 1, 2 ... P, where P is the largest power of 2 that is
    not above the number of heads, and for the other heads 2^(-8 h / 2P) for h = 1, 3, 5 ..."""
    power = 1 << (heads.bit_length() - 1)
    others = (2 ** (-4 * h / power) for h in range(1, 2 * (heads - power), 2))
    return (*(2 ** (-8 * h / power) for h in range(1, power + 1)), *others)


def options_of_falcon(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the function of the MLP, the number of key-value heads, and the norms of a layer. Raises
    InputError for ALiBi, for which transformers computes two different results, and for sequential layers."""
    new = settings.get("new_decoder_architecture", FLAG)
    _refuse(settings, alibi=False, **({} if new else {"parallel_attn": True}))
    norms = settings.get("num_ln_in_parallel_attn", WHOLE) or (2 if new else 1)
    several = new or not settings.get_or_default("multi_query", FLAG, True)
    return {
        "rope": read_rope(settings), "activation": read_activation(settings, "activation", "gelu"),
        "parallel_norms": "two norms" if norms == 2 and new else "one norm",
        "n_kv_head": sizes["n_kv_head"] if several else 1,
    }  # fmt: skip


def options_of_bloom(settings: Settings, sizes: Sizes) -> Options:
    """Raise InputError if the residual stream is normed."""
    _refuse(settings, apply_residual_connection_post_layernorm=False)
    return {"rope": None, "activation": "GELU by tanh", "normed_embedding": True}


def options_of_mpt(settings: Settings, sizes: Sizes) -> Options:
    """Read the clip of q, k and v, and the scale of the scores."""
    own = Settings(settings.get("attn_config", OBJECT) or {}, settings.problems)
    _refuse(own, alibi=True, qk_ln=False, prefix_lm=False)
    clip, scale = own.get("clip_qkv", POSITIVE), own.get("softmax_scale", POSITIVE)
    return {"rope": None, "activation": "GELU", "attn_clamp": clip, "score_scale": scale}


def _refuse(settings: Settings, **neutral: bool) -> None:
    """Raise InputError if a flag has another value than the neutral value."""
    for key, value in neutral.items():
        if settings.get(key, FLAG) is (not value):
            raise InputError(f"{key} {str(not value).lower()} is not supported")


def falcon_from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the norms. In a layer with two norms, attn_norm is the norm before the MLP."""
    problems, two = keys.problems, "layer0.attn_norm" in keys.problems.tensors
    if not two:
        own = {"mlp_norm": "attn_norm", "mlp_bnorm": "attn_bnorm"}
        names = (name.rpartition(".") for name in problems.tensors)
        renamed = [f"{of}{dot}{own.get(name, name)}" for of, dot, name in names]
        problems.tensors = dict(zip(renamed, problems.tensors.values(), strict=True))
    _note_gelu(keys)
    several = {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1 + two}
    return {"activation": "gelu", **several, **gguf_rope(keys, sizes["head_dim"])}


def mpt_from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate the clip of q, k and v. Raises InputError if the largest bias of ALiBi is not that of 8."""
    if (most := keys.require("attention.max_alibi_bias", POSITIVE)) != 8:
        raise InputError(f"attention.max_alibi_bias {most} is not supported; expected 8")
    _note_gelu(keys)
    return {"attn_config": {"clip_qkv": keys.get("attention.clamp_kqv", POSITIVE) or None}}


def _note_gelu(keys: Settings) -> None:
    keys.notes.append("the MLP has GELU, as in transformers; llama.cpp computes GELU by tanh")


BLOOM = FileNames(
    "a BLOOM",
    {
        "wte": ("token_embd", "word_embeddings"),
        "embed_norm": ("token_embd_norm", "word_embeddings_layernorm"),
        "final_norm": ("output_norm", "ln_f"),
        "lm_head": ("output", "lm_head"),
    },
    {
        "attn_norm": ("attn_norm", "input_layernorm"),
        "attn_wqkv": ("attn_qkv", "self_attention.query_key_value"),
        "attn_wo": ("attn_output", "self_attention.dense"),
        "mlp_norm": ("ffn_norm", "post_attention_layernorm"),
        "mlp_wup": ("ffn_up", "mlp.dense_h_to_4h"),
        "mlp_wdown": ("ffn_down", "mlp.dense_4h_to_h"),
    },
    blocks="h", outer="transformer.", vectors=True, by_head=True,
)  # fmt: skip
FALCON = BLOOM.changed(
    "a Falcon", ("embed_norm",),
    layer={"attn_norm": ("attn_norm_2", "ln_attn"), "mlp_norm": ("attn_norm", "ln_mlp")},
    more={f"input_layernorm.{of}": f"attn_{b}norm" for of, b in (("weight", ""), ("bias", "b"))},
)  # fmt: skip
_MPT = ("norm_1", "attn.Wqkv", "attn.out_proj", "norm_2", "ffn.up_proj", "ffn.down_proj")
MPT = BLOOM.changed(
    "an MPT", ("embed_norm",), blocks="blocks", by_head=False, vectors=False,
    model={"wte": ("token_embd", "wte"), "final_norm": ("output_norm", "norm_f")},
    layer={own: (gguf, hf) for (own, (gguf, _)), hf in zip(BLOOM.layer.items(), _MPT, strict=True)},
)  # fmt: skip
_BIASES = (*QKV_BIASES, "attn_bo", "mlp_bup", "mlp_bdown")
_SIZES = {
    "n_layer": "n_layer", "n_head": "n_head", "n_embd": "hidden_size", "n_inner": "n_inner",
    "vocab_size": "vocab_size", "context_length": "seq_length", "norm_eps": "layer_norm_epsilon",
}  # fmt: skip
_like_bloom = partial(Architecture, tied=True, gguf_eps="attention.layer_norm_epsilon")
_DEFAULTS: dict[str, Any] = {"norm_eps": 1e-5, "n_inner": 4}
ARCHITECTURES = {
    "bloom": _like_bloom(
        AlibiConfig, BLOOM, options_of_bloom, biases=_BIASES, sizes=_SIZES,
        modules={"self_attention": "attn.residual", "mlp.gelu_impl": "mlp.act"},
        defaults={**_DEFAULTS, "context_length": 2048}, from_gguf=lambda keys, sizes: {},
        example={"normed_embedding": True, "rope": None},
    ),
    "mpt": _like_bloom(
        AlibiConfig, MPT, options_of_mpt, from_gguf=mpt_from_gguf, defaults=_DEFAULTS,
        modules={"attn": "attn.out", "ffn.act": "mlp.act"},
        sizes={**_SIZES, "n_layer": "n_layers", "n_head": "n_heads", "n_embd": "d_model"}
        | {"context_length": "max_seq_len"}, example={"rope": None, "attn_clamp": 1.0},
    ),
    "falcon": _like_bloom(
        FalconConfig, FALCON, options_of_falcon, from_gguf=falcon_from_gguf,
        defaults={**_DEFAULTS, "context_length": 2048}, flagged_biases={"bias": _BIASES},
        modules={
            "self_attention": "attn.out", "mlp": "mlp.down", "mlp.act": "mlp.act",
            "input_layernorm": "attn.norm",
        },
        sizes={
            **_SIZES, "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
            "n_kv_head": "num_kv_heads", "n_inner": "ffn_hidden_size",
            "context_length": "max_position_embeddings",
        },
        optional_modules=("ln_attn", "ln_mlp"), example={"parallel_norms": "two norms"},
    ),
}  # fmt: skip
