"""A decoder from a GGUF file: its metadata keys -> config, its tensors under our names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decoder import DecoderConfig, Rope, yarn_attention_factor
from ..encodings import StoredTensor
from ..errors import FileFormatError, InputError
from .gguf import read_gguf_header
from .model_file import ModelFile, biases_of, blaming, by_our_names, check_tensors

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # mistral is written as llama
ROPE_FACTORS = "rope_freqs.weight"


def read_gguf(path: Path) -> ModelFile:
    """Describe the decoder in a GGUF file; its tensors stay in the file.

    Raises FileFormatError for a file that is damaged, of another architecture, or incomplete.
    """
    header = read_gguf_header(path)
    notes: list[str] = []
    stored = {tensor.name: tensor for tensor in header.tensors}
    factors = stored.pop(ROPE_FACTORS, None)
    keys = _Keys(path, header.metadata, notes)
    keys.check_architecture()
    tensors = by_our_names(path, stored.values())
    with blaming(path):
        config = _config(keys, tensors, factors)
    check_tensors(path, config, tensors)

    def vocabulary() -> Vocabulary | None:
        from ..vocabulary.gguf import from_gguf

        return from_gguf(header.metadata, path)

    return ModelFile(
        path, f"GGUF v{header.version}", config, tensors, header.metadata, vocabulary, tuple(notes)
    )


class _Keys:
    """Metadata of one architecture; what is missing raises, or is noted as taken."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], notes: list[str]) -> None:
        self.path, self.metadata, self.notes = path, metadata, notes
        self.architecture = metadata.get("general.architecture")

    def check_architecture(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise FileFormatError(
                f"{self.path}: architecture {self.architecture!r} is not supported; these are: "
                f"{', '.join(ARCHITECTURES)} (mistral as llama)"
            )
        if self.get("expert_count"):
            raise FileFormatError(f"{self.path}: a mixture of {self.get('expert_count')} experts")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; a list of one value for all layers is that value."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, np.ndarray):
            if len(set(value.tolist())) != 1:
                raise InputError(f"{key} differs from layer to layer")
            value = value[0].item()
        return value

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise InputError(f"the metadata lack {self.architecture}.{key}")
        return value

    def assume(self, key: str, default: Any, why: str) -> Any:
        value = self.get(key)
        if value is None:
            self.notes.append(f"{key} = {default:,} ({why})")
            return default
        return value


def _config(keys: _Keys, tensors: Mapping[str, StoredTensor], factors: StoredTensor | None) -> DecoderConfig:
    if "wte" not in tensors:
        raise InputError("tensor 'token_embd.weight' is missing")
    width, n_head = keys.need("embedding_length"), keys.need("attention.head_count")
    if not isinstance(n_head, int) or n_head < 1:
        raise InputError(f"attention.head_count: expected at least 1, found {n_head!r}")
    head_dim = keys.get("attention.key_length", width // n_head)
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.get(key, head_dim) != head_dim:
            raise InputError(f"{key} {keys.get(key)} differs from the head's {head_dim} channels")
    n_layer, window = keys.need("block_count"), keys.get("attention.sliding_window") or None
    if window:
        keys.notes.append(f"a sliding window of {window:,} in every layer (attention.sliding_window)")
    architecture = str(keys.architecture)
    biases = biases_of(tensors)
    if architecture == "qwen2" and not {"attn_bq", "attn_bk", "attn_bv"} <= set(biases):
        raise InputError("qwen2 needs biases of q, k and v, which are not there")
    return DecoderConfig(
        architecture=architecture,
        n_layer=n_layer,
        n_embd=width,
        n_head=n_head,
        n_kv_head=keys.get("attention.head_count_kv", n_head),
        head_dim=head_dim,
        n_inner=keys.need("feed_forward_length"),
        vocab_size=tensors["wte"].shape[0],
        context_length=keys.need("context_length"),
        norm_eps=keys.need("attention.layer_norm_rms_epsilon"),
        rope=_rope(keys, factors),
        tied="lm_head" not in tensors,
        biases=biases,
        qk_norm=architecture == "qwen3",
        window=window,
        windowed_layers=tuple(range(n_layer)) if window else (),
        adjacent_pairs=architecture == "llama",
    )


def _rope(keys: _Keys, factors: StoredTensor | None) -> Rope:
    theta = keys.assume("rope.freq_base", 10000.0, "what GGUF says where the file does not")
    kind = keys.get("rope.scaling.type", "none")
    named: dict[str, Any] = {"kind": "default"}
    if kind == "linear" or (kind == "none" and keys.get("rope.scale_linear", 1.0) != 1.0):
        factor = keys.get("rope.scaling.factor", keys.get("rope.scale_linear"))
        named = {"kind": "linear", "factor": factor}
    elif kind == "yarn":
        factor = keys.need("rope.scaling.factor")
        named = {"kind": "yarn", "factor": factor}
        named["original_context"] = keys.need("rope.scaling.original_context_length")
        for key in ("beta_fast", "beta_slow"):
            named[key] = keys.get(f"rope.scaling.yarn_{key}", 32.0 if key == "beta_fast" else 1.0)
        if keys.get("rope.scaling.yarn_log_multiplier") or keys.get("rope.scaling.yarn_ext_factor", 1) != 1:
            raise InputError("RoPE yarn with a log multiplier or ext factor is not supported")
        if keys.get("rope.scaling.yarn_attn_factor", 1.0) != 1.0:
            raise InputError("RoPE yarn with yarn_attn_factor is not supported: engines read it in two ways")
        extra = keys.get("rope.scaling.attn_factor", 1.0)
        named["attention_factor"] = extra * yarn_attention_factor(factor)
    elif kind != "none":
        named = {"kind": kind}
    if factors is not None:
        named["factors"] = tuple(factors.read().ravel().tolist())
    return Rope(theta=theta, **named)
