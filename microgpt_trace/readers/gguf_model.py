"""Open a GGUF file as a decoder: translate its metadata to a config, and its tensor names to our names."""

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
from .model_file import check_tensors, in_halves, naming_file, our_tensors, rope_factors

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

ARCHITECTURES = tuple(name for name, terms in TERMS.items() if terms.in_gguf)  # mistral is "llama" in GGUF
ROPE_FACTORS = "rope_freqs.weight"
MAX_MERGES = 16  # the largest number of merges per token; Llama 3 has two


def read_gguf(path: Path) -> Decoder:
    """Open the decoder in a GGUF file. A tensor is read from the file at each use of the tensor.

    Raises FileFormatError if the file is damaged or incomplete, or its architecture is not supported.
    """
    header = read_gguf_header(path)
    notes: list[str] = []
    stored = {tensor.name: tensor for tensor in header.tensors}
    with naming_file(path):
        name = header.metadata.get("general.architecture")
        architecture = one_of("architecture", name, ARCHITECTURES, " (which includes mistral)")
        factors = stored.pop(ROPE_FACTORS, None) if TERMS[architecture].rope else None
        tensors = our_tensors(path, stored.values(), TERMS[architecture].names)
        keys = Settings(header.metadata, notes, f"{architecture}.")
        config, tensors = _config(architecture, keys, tensors, factors)
    check_tensors(path, config, tensors)
    tensors = in_halves(config, tensors) if config.adjacent_pairs else tensors

    def vocabulary() -> Vocabulary | None:
        from ..vocabulary.metadata import from_gguf

        _check_vocabulary(path, header.metadata, config.vocab_size)
        return from_gguf(header.metadata, path)

    kind = f"GGUF v{header.version}"
    return Decoder(config, tensors, str(path), kind, vocabulary, header.metadata, tuple(notes))


def _check_vocabulary(path: Path, metadata: Mapping[str, Any], rows: int) -> None:
    """Raise FileFormatError if the metadata list too many tokens or merges to decode."""
    for key, most in (("tokens", rows), ("merges", MAX_MERGES * rows)):
        texts = metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(texts, Strings) and len(texts) > most:
            raise FileFormatError(
                f"{path}: tokenizer.ggml.{key}: expected at most {most:,} entries, because "
                f"token_embd.weight has {rows:,} rows, found {len(texts):,} entries"
            )


_NEUTRAL: dict[str, tuple[Any, ...]] = {  # keys, and the values that leave the computation unchanged
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
    """Raise InputError if the metadata require a computation that we do not support."""
    for key, neutral in _NEUTRAL.items():
        value = keys.values.get(keys.prefix + key)
        if value is not None and not (type(value) in (int, float, bool) and value in neutral):
            raise InputError(f"{keys.prefix}{key} = {brief(value)} is not supported")


def _config(
    architecture: str, keys: Settings, tensors: Mapping[str, StoredTensor], factors: StoredTensor | None
) -> tuple[DecoderConfig, dict[str, StoredTensor]]:
    """Return the config, and the tensors with fused qkv split into q, k and v."""
    terms, experts = TERMS[architecture], keys.get("expert_count", COUNT)
    if experts:
        raise InputError(f"a mixture of {experts} experts is not supported")
    if "wte" not in tensors:
        raise InputError("tensor 'token_embd.weight' is missing")
    _refuse_variants(keys)
    vocab_size = tensors["wte"].shape[0]
    stated = keys.get("vocab_size", WHOLE) or vocab_size
    if stated != vocab_size:
        raise InputError(f"vocab_size {stated:,} differs from the {vocab_size:,} rows of token_embd.weight")
    width, n_head = keys.require("embedding_length", WHOLE), keys.require("attention.head_count", WHOLE)
    head_dim = keys.get("attention.key_length", WHOLE) or width // n_head
    for key in ("attention.value_length", *(("rope.dimension_count",) if terms.rope else ())):
        size = keys.get(key, WHOLE) or head_dim
        if size != head_dim:
            raise InputError(f"{key} {size} differs from the {head_dim} channels of a head")
    n_layer, window = keys.require("block_count", WHOLE), keys.get("attention.sliding_window", COUNT) or None
    sizes = {
        "n_layer": n_layer, "n_embd": width, "n_head": n_head, "head_dim": head_dim,
        "n_kv_head": keys.get("attention.head_count_kv", WHOLE) or n_head,
        "n_inner": keys.require("feed_forward_length", WHOLE), "vocab_size": vocab_size,
        "context_length": keys.require("context_length", WHOLE),
        "norm_eps": keys.require(terms.gguf_eps, POSITIVE), "activation": terms.activation,
    }  # fmt: skip
    hf_keys = {theirs: sizes[own] for own, theirs in terms.keys.items()}
    hf_keys["tie_word_embeddings"] = "lm_head" not in tensors
    if terms.rope:
        hf_keys |= _rope(keys)
    config, tensors = decoder_config(
        architecture, Settings(hf_keys, keys.notes), tensors, rope_factors(factors, head_dim),
        terms.permuted,
    )  # fmt: skip
    if window:
        keys.notes.append(f"a sliding window of {window:,} in every layer (attention.sliding_window)")
        config = replace(config, window=window, windowed_layers=tuple(range(n_layer)))
    return config, tensors


def _rope(keys: Settings) -> dict[str, Any]:
    """Translate the base and the scaling of RoPE to the keys of Hugging Face."""
    theta = keys.get_or_default("rope.freq_base", POSITIVE, 10000.0, "the default of llama.cpp")
    kind = keys.get("rope.scaling.type", TEXT)
    factor = keys.get("rope.scaling.factor", POSITIVE) or keys.get("rope.scale_linear", POSITIVE)
    if kind is None and factor not in (None, 1):
        why = "the default of llama.cpp if the file has a factor"
        kind = keys.get_or_default("rope.scaling.type", TEXT, "linear", why)
    scaling: dict[str, Any] = {}
    if kind != "yarn" and (keys.get("rope.scaling.attn_factor", POSITIVE) or 1) != 1:
        raise InputError("rope.scaling.attn_factor is only supported with yarn")
    if kind == "linear":
        scaling = {"type": kind, "factor": factor}
    elif kind == "yarn":
        scaling = {"type": kind, "factor": factor} | _yarn(keys, factor)
    elif kind not in (None, "none"):
        raise InputError(f"RoPE scaling {brief(kind)} is not supported; supported: none, linear, yarn")
    return {"rope_theta": theta, "rope_scaling": scaling}


def _yarn(keys: Settings, factor: float | None) -> dict[str, float]:
    """Return all settings of yarn except `factor`.

    Raises InputError if yarn_attn_factor is not 1, because engines interpret other values in two ways.
    """
    for key, neutral in (("yarn_log_multiplier", 0), ("yarn_ext_factor", 1), ("yarn_attn_factor", 1)):
        value = keys.values.get(f"{keys.prefix}rope.scaling.{key}", neutral)
        if type(value) not in (int, float) or value != neutral:
            raise InputError(f"RoPE yarn with {key} {brief(value)} is not supported")
    original = keys.require("rope.scaling.original_context_length", WHOLE)
    why = "the value that yarn's authors recommend"
    betas = {
        name: keys.get_or_default(f"rope.scaling.yarn_{name}", POSITIVE, default, why)
        for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
    }
    extra = keys.get("rope.scaling.attn_factor", POSITIVE) or 1.0
    attention = extra * yarn_attention_factor(factor or 1.0)
    return {"original_max_position_embeddings": original, "attention_factor": attention, **betas}
