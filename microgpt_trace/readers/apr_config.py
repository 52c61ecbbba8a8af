"""A decoder's config from the facts of an .apr file and the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..architecture.plans.rope import Rope
from ..arrays.encodings import StoredTensor
from ..decoder.config import DecoderConfig
from ..errors import InputError
from ..text.brief import brief
from .apr_facts import Facts
from .conventions import Settings, scaled_rope, scaling_kind, windowed_layers, yarn_defaults
from .file_terms import TERMS
from .model_file import biases_of, blaming, check_biases, nearest, rope_factors

Pairs = Literal["adjacent", "halves"]

_UNROTATED = ("safetensors", "hf", "huggingface", "hugging_face", "pytorch", "transformers")
_STATED: dict[Any, Pairs] = {0: "adjacent", 2: "halves"}


def decoder_config(
    facts: Facts,
    tensors: Mapping[str, StoredTensor],
    frequencies: StoredTensor | None,
    rope_pairs: Pairs | None,
) -> DecoderConfig:
    """The config, held against the shapes, with how the rows of q and k lie in the file.

    `frequencies` is the rope_freqs of a GGUF.
    Raises FileFormatError where the file contradicts itself or is of another kind, and InputError
    naming the option where it leaves something open.
    """
    architecture = facts.architecture()
    _refuse_variants(facts)
    is_gguf = _note_names(facts, tensors)
    sizes = _sizes(facts, tensors)
    context, eps, theta = map(facts.needed, ("max_position_embeddings", "rms_norm_eps", "rope_theta"))
    facts.ask()
    pairs = _pairs(facts, architecture, is_gguf, rope_pairs)
    with blaming(facts.path):
        biases = biases_of(tensors)
        check_biases(architecture, biases)
        window, windowed = _window(facts, architecture, sizes["n_layer"])
        return DecoderConfig(
            architecture=architecture,
            **sizes,
            context_length=context,
            norm_eps=eps,
            rope=_rope(facts, theta, context, sizes["head_dim"], frequencies),
            tied=_tied(facts, tensors),
            biases=biases,
            qk_norm=TERMS[architecture].qk_norm,
            window=window,
            windowed_layers=windowed,
            adjacent_pairs=pairs == "adjacent",
        )


def _note_names(facts: Facts, tensors: Mapping[str, StoredTensor]) -> bool:
    """Note whose names the tensors have; whether they are GGUF's."""
    is_gguf = any(tensor.name.startswith(("blk.", "token_embd.", "output")) for tensor in tensors.values())
    facts.notes.append(f"tensors have the names of {'GGUF' if is_gguf else 'Hugging Face'}")
    return is_gguf


def _sizes(facts: Facts, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """The dimensions that shapes can tell."""
    wte, gate = (_matrix(facts, tensors, name) for name in ("wte", "layer0.mlp_wgate"))
    deepest = max((name for name in tensors if name.startswith("layer")), key=_layer_of)
    n_head, n_kv_head, head_dim = _heads(facts, tensors)
    return {
        "n_layer": facts.measured("num_layers", _layer_of(deepest) + 1, "the numbering of the tensors"),
        "n_embd": facts.measured("hidden_size", wte.shape[1], _shape(wte)),
        "n_head": n_head,
        "n_kv_head": n_kv_head,
        "head_dim": head_dim,
        "n_inner": facts.measured("intermediate_size", gate.shape[0], _shape(gate)),
        "vocab_size": facts.measured("vocab_size", wte.shape[0], _shape(wte)),
    }


def _refuse_variants(facts: Facts) -> None:
    """Decoders that compute something else, as far as their metadata say so."""
    experts = facts.metadata.get("num_experts")
    if experts not in (None, 0):
        facts.fail(f"a mixture of {brief(experts)} experts (num_experts) is not supported")
    for key, allowed in {"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1,)}.items():
        value = facts.metadata.get(key)
        if value is not None and value not in allowed:
            facts.fail(f"{key} {brief(value)} is not supported, only {allowed[0]}")


def _shape(tensor: StoredTensor) -> str:
    return f"the shape {list(tensor.shape)} of {tensor.name}"


def _layer_of(name: str) -> int:
    """12 of "layer12.attn_wq"."""
    return int(name.removeprefix("layer").partition(".")[0])


def _matrix(facts: Facts, tensors: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    if name not in tensors:
        facts.fail(f"tensor {name!r} is missing{nearest(name, tensors)}")
    tensor = tensors[name]
    if len(tensor.shape) != 2:
        facts.fail(f"tensor {tensor.name!r}: expected a matrix, found shape {list(tensor.shape)}")
    return tensor


def _heads(facts: Facts, tensors: Mapping[str, StoredTensor]) -> tuple[int, int, int]:
    """Heads, key-value heads and head_dim: the rows of q and k tell the rest where one of them is known."""
    q, k = (_matrix(facts, tensors, f"layer0.attn_w{name}") for name in "qk")
    n_head, n_kv_head, head_dim = map(facts.said, ("num_heads", "num_kv_heads", "head_dim"))
    gain = tensors.get("layer0.attn_q_norm")
    if gain is not None:
        head_dim = facts.measured("head_dim", gain.shape[0], _shape(gain))
    elif head_dim is None and n_head is not None:
        head_dim = _share(facts, "num_heads", n_head, q)
        facts.notes.append(f"head_dim {head_dim}, from num_heads and {_shape(q)}")
    elif head_dim is None and n_kv_head is not None:
        head_dim = _share(facts, "num_kv_heads", n_kv_head, k)
        facts.notes.append(f"head_dim {head_dim}, from num_kv_heads and {_shape(k)}")
    if head_dim is None:
        facts.missing.append("num_heads")
        return 0, 0, 0
    heads = []
    for name, tensor in (("num_heads", q), ("num_kv_heads", k)):
        where = f"{_shape(tensor)} with head_dim {head_dim}"
        heads.append(facts.measured(name, _share(facts, "head_dim", head_dim, tensor), where))
    return heads[0], heads[1], head_dim


def _share(facts: Facts, name: str, count: int, tensor: StoredTensor) -> int:
    """Rows / count."""
    share, rest = divmod(tensor.shape[0], count)
    if rest:
        facts.fail(f"{name} {count} does not divide the {tensor.shape[0]} rows of {tensor.name!r}")
    return share


def _tied(facts: Facts, tensors: Mapping[str, StoredTensor]) -> bool:
    tied = "lm_head" not in tensors
    if tied and facts.metadata.get("tie_word_embeddings") is False:
        facts.fail("tie_word_embeddings is false, but tensor 'lm_head' is missing")
    if not tied and facts.metadata.get("tie_word_embeddings") is True:
        facts.fail("tie_word_embeddings is true, but there is a tensor 'lm_head' of its own")
    return tied


def _window(facts: Facts, architecture: str, n_layer: int) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window and the layers that have it."""
    window = facts.said("sliding_window")
    spoken = any(facts.metadata.get(key) for key in ("layer_types", "use_sliding_window"))
    if window is None and not spoken:
        if TERMS[architecture].windows == "all" and "sliding_window" not in facts.metadata:
            facts.notes.append("sliding_window: the file does not say; none is applied")
        return None, ()
    said = Settings({**facts.metadata, "sliding_window": window}, facts.notes)
    layers = windowed_layers(said, architecture, n_layer)
    if layers and window is None:
        facts.fail("sliding_window is missing, of which use_sliding_window speaks")
    if window and not layers:
        none = TERMS[architecture].windows == "none"
        why = f"a {architecture} has none" if none else "no layer is said to have it"
        facts.notes.append(f"sliding_window {window} is not used: {why}")
    return (window, layers) if layers else (None, ())


def _rope(facts: Facts, theta: float, context: int, head_dim: int, frequencies: StoredTensor | None) -> Rope:
    if facts.metadata.get("rope_parameters") is not None:
        facts.fail("rope_parameters are not supported: rope_theta and rope_scaling are")
    scaling = facts.said("rope_scaling")
    if frequencies is not None:
        if scaling:
            facts.fail(f"rope_scaling and tensor {frequencies.name!r} contradict each other")
        return Rope(theta, factors=rope_factors(frequencies, head_dim))
    if scaling is None and "rope_scaling" not in facts.metadata:
        facts.notes.append("rope_scaling: the file does not say; none is applied")
    scaling = dict(scaling or {})
    if scaling_kind(scaling) == "yarn":
        scaling |= yarn_defaults(context, Settings(scaling, facts.notes), "what yarn's authors recommend")
    return scaled_rope(theta, scaling)


def _pairs(facts: Facts, architecture: str, is_gguf: bool, option: Pairs | None) -> Pairs:
    """Which channels RoPE turns together, as the rows of q and k lie in this file.

    Converters to GGUF permute the rows of llama, and rope_type is often set by the architecture's name
    alone: where the two do not agree, or neither is there, it must be asked for.
    """
    kind, origin = facts.metadata.get("rope_type"), facts.metadata.get("original_format")
    said = _STATED.get(kind) if not isinstance(kind, bool | float | list | dict) else None
    if kind is not None and said is None:
        facts.fail(f"rope_type {brief(kind)} is not supported; 0 (adjacent pairs) and 2 (halves) are")
    unrotated = not is_gguf and isinstance(origin, str) and any(w in origin.lower() for w in _UNROTATED)
    why = architecture if architecture.startswith("qwen") else f"{architecture} from {brief(origin)}"
    rows: Pairs | None = "halves" if unrotated or why == architecture else None
    expected = rows or ("adjacent" if is_gguf or "gguf" in str(origin).lower() else None)
    if said is not None and expected in (None, said):
        if option not in (None, said):
            raise InputError(f"--rope-pairs {option} contradicts {facts.path}: rope_type {kind} is {said}")
        return said
    if option is not None:
        facts.notes.append(f"RoPE pairs: {option}, as --rope-pairs says")
        return option
    if said is None and rows is not None:
        facts.notes.append(f"RoPE pairs: {rows}, as in {why}; the file has no rope_type")
        return rows
    doubt = "does not say which channels RoPE pairs" if said is None else (
        f"says rope_type {kind} ({said}), but {why} has its rows in {expected}"
    )  # fmt: skip
    raise InputError(f"{facts.path} {doubt}; --rope-pairs adjacent|halves does")
