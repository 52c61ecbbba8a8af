"""A decoder's config from what the metadata of an .apr file say, joined by what one is told, and from the
shapes of its tensors.

Metadata have several names for one thing; what they leave open is taken from shapes, with a note,
or asked for. Nothing has a default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from ..arrays.encodings import StoredTensor
from ..decoder.config import DecoderConfig
from ..errors import FileFormatError, InputError
from ..text.brief import brief
from .conventions import OBJECT, POSITIVE, TEXT, WHOLE, Settings, check_value, decoder_config
from .file_terms import TERMS
from .model_file import blaming, nearest, rope_factors

ARCHITECTURES = tuple(name for name, terms in TERMS.items() if terms.in_apr)
FIELDS: dict[str, tuple[str, str]] = {  # name in the metadata: (other names for it, what it is)
    "architecture": ("", TEXT),
    "hidden_size": ("hidden_dim d_model n_embd", WHOLE),
    "num_layers": ("num_hidden_layers n_layers n_layer", WHOLE),
    "num_heads": ("num_attention_heads n_heads n_head", WHOLE),
    "num_kv_heads": ("num_key_value_heads n_kv_heads", WHOLE),
    "head_dim": ("", WHOLE),
    "vocab_size": ("n_vocab", WHOLE),
    "intermediate_size": ("ffn_dim intermediate_dim n_inner", WHOLE),
    "max_position_embeddings": ("max_seq_len context_length n_ctx", WHOLE),
    "rope_theta": ("", POSITIVE),
    "rms_norm_eps": ("layer_norm_eps norm_eps", POSITIVE),
    "rope_scaling": ("", OBJECT),
    "sliding_window": ("", WHOLE),
}

Pairs = Literal["adjacent", "halves"]

_UNROTATED = ("safetensors", "hf", "huggingface", "hugging_face", "pytorch", "transformers")
_STATED: dict[Any, Pairs] = {0: "adjacent", 2: "halves"}


def apr_config(
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
    experts = facts.values.get("num_experts")
    if experts not in (None, 0):
        facts.fail(f"a mixture of {brief(experts)} experts (num_experts) is not supported")
    is_gguf = any(tensor.name.startswith(("blk.", "token_embd.", "output")) for tensor in tensors.values())
    facts.notes.append(f"tensors have the names of {'GGUF' if is_gguf else 'Hugging Face'}")
    sizes = _sizes(facts, tensors)
    sizes |= {key: facts.needed(key) for key in ("max_position_embeddings", "rms_norm_eps", "rope_theta")}
    facts.ask()
    pairs = _pairs(facts, architecture, is_gguf, rope_pairs)
    said = {"hidden_act": "silu", **{key: v for key, v in facts.values.items() if v is not None}, **sizes}
    said |= {"tie_word_embeddings": _tied(facts, tensors), "rope_scaling": facts.said("rope_scaling")}
    said["sliding_window"] = _window(facts, architecture)
    if frequencies is None and said["rope_scaling"] is None and "rope_scaling" not in facts.values:
        facts.notes.append("rope_scaling: the file does not say; none is applied")
    with blaming(facts.path):
        settings, factors = Settings(said, facts.notes), rope_factors(frequencies, sizes["head_dim"])
        config, _ = decoder_config(architecture, settings, tensors, factors, pairs == "adjacent")
    if frequencies is not None and config.rope is not None and config.rope.kind != "default":
        facts.fail(f"RoPE scaling {config.rope.kind!r} and tensor {frequencies.name!r} contradict each other")
    return config


def _sizes(facts: Facts, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """The dimensions that shapes can tell, in the words of config.json."""
    wte, gate = (_matrix(facts, tensors, name) for name in ("wte", "layer0.mlp_wgate"))
    deepest = max((name for name in tensors if name.startswith("layer")), key=_layer_of)
    n_head, n_kv_head, head_dim = _heads(facts, tensors)
    return {
        "num_hidden_layers": facts.measured(
            "num_layers", _layer_of(deepest) + 1, "the numbering of the tensors"
        ),
        "hidden_size": facts.measured("hidden_size", wte.shape[1], _shape(wte)),
        "num_attention_heads": n_head,
        "num_key_value_heads": n_kv_head,
        "head_dim": head_dim,
        "intermediate_size": facts.measured("intermediate_size", gate.shape[0], _shape(gate)),
        "vocab_size": facts.measured("vocab_size", wte.shape[0], _shape(wte)),
    }


def _tied(facts: Facts, tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether there is no matrix of the head, which the file must not contradict."""
    tied = "lm_head" not in tensors
    if facts.values.get("tie_word_embeddings") not in (None, tied):
        found = "is missing" if tied else "is there, a matrix of its own"
        facts.fail(f"tie_word_embeddings is {str(not tied).lower()}, but tensor 'lm_head' {found}")
    return tied


def _window(facts: Facts, architecture: str) -> int | None:
    """The sliding window; none where the file says none, for which transformers would take one of its own."""
    window, windows = facts.said("sliding_window"), TERMS[architecture].windows
    if window is None and windows == "last" and facts.values.get("use_sliding_window"):
        facts.fail("sliding_window is missing, of which use_sliding_window speaks")
    if windows == "all" and window is None and "sliding_window" not in facts.values:
        facts.notes.append("sliding_window: the file does not say; none is applied")
    return window


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
    for name, count, tensor in (("num_heads", n_head, q), ("num_kv_heads", n_kv_head, k)):
        if head_dim is None and count is not None:
            head_dim = _share(facts, name, count, tensor)
            facts.notes.append(f"head_dim {head_dim}, from {name} and {_shape(tensor)}")
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


def _pairs(facts: Facts, architecture: str, is_gguf: bool, option: Pairs | None) -> Pairs:
    """Which channels RoPE turns together, as the rows of q and k lie in this file.

    Converters to GGUF permute the rows of llama, and rope_type is often set by the architecture's name
    alone: where the two do not agree, or neither is there, it must be asked for.
    """
    kind, origin = facts.values.get("rope_type"), facts.values.get("original_format")
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


class Facts(Settings):
    """What a file's metadata say, joined by overrides; and what was concluded, in `notes`."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
        super().__init__(metadata, [])
        self.path, self.missing = path, list[str]()
        names = {other: name for name in FIELDS for other in _names(name)}
        for key in overrides:
            if key not in names:
                raise InputError(f"--set {key}: expected one of {', '.join(FIELDS)}")
        self.overrides = {names[key]: value for key, value in overrides.items() if value is not None}

    def fail(self, what: str) -> NoReturn:
        raise FileFormatError(f"{self.path}: {what}")

    def said(self, name: str) -> Any | None:
        """A value under any of its names, or None; all that is said must agree."""
        with blaming(self.path):
            found = {key: self.get(key, FIELDS[name][1]) for key in _names(name)}
        return self._joined(name, {key: value for key, value in found.items() if value is not None})

    def _joined(self, name: str, found: Mapping[str, Any]) -> Any | None:
        """What the metadata say under several names, and an override; they must agree."""
        first = next(iter(found), "")
        for key, value in found.items():
            if not _agree(value, found[first]):
                self.fail(f"{first} {brief(found[first])} and {key} {brief(value)} contradict each other")
        override = self.overrides.get(name)
        check_value(f"--set {name}", override, FIELDS[name][1])
        if override is not None and found and not _agree(found[first], override):
            raise InputError(
                f"--set {name}={brief(override)} contradicts {self.path}, which says {brief(found[first])}"
            )
        return found.get(first) if override is None else override

    def needed(self, name: str) -> Any:
        """A value that only the metadata or an override can tell; `ask` asks for it."""
        value = self.said(name)
        if value is None:
            self.missing.append(name)
        return value

    def ask(self) -> None:
        if self.missing:
            options = " ".join(f"--set {name}=N" for name in self.missing)
            raise InputError(f"{self.path} does not say {', '.join(self.missing)}; {options} does")

    def measured(self, name: str, value: int, where: str) -> int:
        """A value as the tensors tell it, which what is said must not contradict."""
        said = self.said(name)
        if said is None:
            self.notes.append(f"{name} {value}, from {where}")
        elif said != value and name in self.overrides:
            raise InputError(f"--set {name}={said} contradicts {self.path}: {where} says {value}")
        elif said != value:
            self.fail(f"{name} {said} contradicts {where}, which says {value}")
        return value

    def architecture(self) -> str:
        """The architecture, by whichever key names it. Raises for one that is not supported."""
        names = {}
        for key in ("architecture", "hf_model_type", "hf_architecture"):
            with blaming(self.path):
                value = self.get(key, TEXT)
            if value and value.lower() not in ("auto", "unknown"):
                names[key] = value.lower().removesuffix("forcausallm")
        kind = self.values.get("model_type")
        if not names and isinstance(kind, str) and kind in ARCHITECTURES:
            names["model_type"] = kind
        value = self._joined("architecture", names)
        if value is None:
            hint = f" (its model_type is {brief(kind)})" if kind else ""
            raise InputError(
                f"{self.path} does not say its architecture{hint}; "
                f"--set architecture=NAME does, one of {', '.join(ARCHITECTURES)}"
            )
        if value not in ARCHITECTURES:
            self.fail(f"architecture {brief(value)} is not supported; these are: {', '.join(ARCHITECTURES)}")
        return str(value)


def _names(name: str) -> tuple[str, ...]:
    """All names of a field, its own first."""
    return (name, *FIELDS[name][0].split())


def _agree(a: Any, b: Any) -> bool:
    """Whether two values are the same; numbers may have gone through float32."""
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)
