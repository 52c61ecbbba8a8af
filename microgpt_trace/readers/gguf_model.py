"""A decoder from a GGUF file: its metadata keys -> config, its tensors under our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architecture.plans.rope import yarn_attention_factor
from ..arrays.encodings import StoredTensor
from ..decoder.config import DecoderConfig
from ..decoder.model import Decoder
from ..errors import FileFormatError, InputError
from ..text.brief import brief
from .conventions import COUNT, POSITIVE, TEXT, WHOLE, Settings, decoder_config, one_of
from .file_terms import TERMS
from .gguf import Strings, read_gguf_header
from .model_file import blaming, by_our_names, check_tensors, in_halves, rope_factors

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

ARCHITECTURES = tuple(name for name, terms in TERMS.items() if terms.in_gguf)  # mistral is written as llama
ROPE_FACTORS = "rope_freqs.weight"
MAX_WAYS = 16  # in which a token is merged: two in Llama 3


def read_gguf(path: Path) -> Decoder:
    """Describe the decoder in a GGUF file; its tensors stay in the file.

    Raises FileFormatError for a file that is damaged, of another architecture, or incomplete.
    """
    header = read_gguf_header(path)
    notes: list[str] = []
    stored = {tensor.name: tensor for tensor in header.tensors}
    with blaming(path):
        said = header.metadata.get("general.architecture")
        architecture = one_of("architecture", said, ARCHITECTURES, " (mistral as llama)")
        factors = stored.pop(ROPE_FACTORS, None) if TERMS[architecture].rope else None
        tensors = by_our_names(path, stored.values(), TERMS[architecture].names)
        keys = Settings(header.metadata, notes, f"{architecture}.")
        config, tensors = _config(architecture, keys, tensors, factors)
    check_tensors(path, config, tensors)
    if config.adjacent_pairs:
        tensors = in_halves(config, tensors)

    def vocabulary() -> Vocabulary | None:
        from ..vocabulary.metadata import from_gguf

        _check_vocabulary(path, header.metadata, config.vocab_size)
        return from_gguf(header.metadata, path)

    kind = f"GGUF v{header.version}"
    return Decoder(config, tensors, str(path), kind, vocabulary, header.metadata, tuple(notes))


def _check_vocabulary(path: Path, metadata: Mapping[str, Any], rows: int) -> None:
    """Nothing is made of more tokens than the model has, and of more merges than can make them."""
    for key, most in (("tokens", rows), ("merges", MAX_WAYS * rows)):
        found = metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(found, Strings) and len(found) > most:
            raise FileFormatError(
                f"{path}: tokenizer.ggml.{key}: {len(found):,}, for {rows:,} rows of token_embd.weight"
            )


_NEUTRAL: dict[str, tuple[Any, ...]] = {  # what changes the computation, and where it does not
    "attention.causal": (True,),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "use_parallel_residual": (False,),
}


def _refuse_variants(keys: Settings) -> None:
    """Decoders that compute something else, as far as their metadata say so."""
    for key, neutral in _NEUTRAL.items():
        value = keys.values.get(keys.prefix + key)
        if value is not None and not (type(value) in (int, float, bool) and value in neutral):
            raise InputError(f"{keys.prefix}{key} = {brief(value)} is not supported")


def _config(
    architecture: str, keys: Settings, tensors: Mapping[str, StoredTensor], factors: StoredTensor | None
) -> tuple[DecoderConfig, dict[str, StoredTensor]]:
    """The config, and the tensors with what lies fused apart."""
    terms, experts = TERMS[architecture], keys.get("expert_count", COUNT)
    if experts:
        raise InputError(f"a mixture of {experts} experts is not supported")
    if "wte" not in tensors:
        raise InputError("tensor 'token_embd.weight' is missing")
    _refuse_variants(keys)
    vocab_size = tensors["wte"].shape[0]
    said = keys.get("vocab_size", WHOLE) or vocab_size
    if said != vocab_size:
        raise InputError(f"vocab_size {said:,} differs from the {vocab_size:,} rows of token_embd.weight")
    width, n_head = keys.need("embedding_length", WHOLE), keys.need("attention.head_count", WHOLE)
    head_dim = keys.get("attention.key_length", WHOLE) or width // n_head
    for key in ("attention.value_length", *(("rope.dimension_count",) if terms.rope else ())):
        found = keys.get(key, WHOLE) or head_dim
        if found != head_dim:
            raise InputError(f"{key} {found} differs from the head's {head_dim} channels")
    n_layer, window = keys.need("block_count", WHOLE), keys.get("attention.sliding_window", COUNT) or None
    sizes = {
        "n_layer": n_layer, "n_embd": width, "n_head": n_head, "head_dim": head_dim,
        "n_kv_head": keys.get("attention.head_count_kv", WHOLE) or n_head,
        "n_inner": keys.need("feed_forward_length", WHOLE), "vocab_size": vocab_size,
        "context_length": keys.need("context_length", WHOLE),
        "norm_eps": keys.need(terms.gguf_eps, POSITIVE), "activation": terms.activation,
    }  # fmt: skip
    in_hf_words = {theirs: sizes[own] for own, theirs in terms.keys.items()}
    in_hf_words["tie_word_embeddings"] = "lm_head" not in tensors
    if terms.rope:
        in_hf_words |= _rope(keys)
    config, tensors = decoder_config(
        architecture, Settings(in_hf_words, keys.notes), tensors, rope_factors(factors, head_dim),
        terms.permuted,
    )  # fmt: skip
    if window:
        keys.notes.append(f"a sliding window of {window:,} in every layer (attention.sliding_window)")
        config = replace(config, window=window, windowed_layers=tuple(range(n_layer)))
    return config, tensors


def _rope(keys: Settings) -> dict[str, Any]:
    """RoPE's base and what scales it, in Hugging Face's words."""
    theta = keys.assume("rope.freq_base", POSITIVE, 10000.0, "what llama.cpp takes")
    kind = keys.get("rope.scaling.type", TEXT)
    factor = keys.get("rope.scaling.factor", POSITIVE) or keys.get("rope.scale_linear", POSITIVE)
    if kind is None and factor not in (None, 1):
        kind = keys.assume(
            "rope.scaling.type", TEXT, "linear", "what llama.cpp takes where there is a factor"
        )
    scaling: dict[str, Any] = {}
    if kind != "yarn" and (keys.get("rope.scaling.attn_factor", POSITIVE) or 1) != 1:
        raise InputError("rope.scaling.attn_factor is supported with yarn alone")
    if kind == "linear":
        scaling = {"type": kind, "factor": factor}
    elif kind == "yarn":
        scaling = {"type": kind, "factor": factor} | _yarn(keys, factor)
    elif kind not in (None, "none"):
        raise InputError(f"RoPE scaling {brief(kind)} is not supported; these are: none, linear, yarn")
    return {"rope_theta": theta, "rope_scaling": scaling}


def _yarn(keys: Settings, factor: float | None) -> dict[str, float]:
    """What yarn has besides its factor. Engines read yarn_attn_factor in two ways, so it is refused."""
    for key, neutral in (("yarn_log_multiplier", 0), ("yarn_ext_factor", 1), ("yarn_attn_factor", 1)):
        value = keys.values.get(f"{keys.prefix}rope.scaling.{key}", neutral)
        if type(value) not in (int, float) or value != neutral:
            raise InputError(f"RoPE yarn with {key} {brief(value)} is not supported")
    original = keys.need("rope.scaling.original_context_length", WHOLE)
    why = "what yarn's authors recommend"
    betas = (("beta_fast", 32.0), ("beta_slow", 1.0))
    named = {name: keys.assume(f"rope.scaling.yarn_{name}", POSITIVE, usual, why) for name, usual in betas}
    extra = keys.get("rope.scaling.attn_factor", POSITIVE) or 1.0
    attention = extra * yarn_attention_factor(factor or 1.0)
    return {"original_max_position_embeddings": original, "attention_factor": attention, **named}
