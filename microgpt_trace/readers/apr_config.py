"""Build a decoder's config from the metadata of an .apr file, the option --set and the shapes of tensors.

A setting may have different names in the metadata. If a setting is missing, it is computed from the shapes of
tensors, and a note is added. The user must set each setting that shapes do not determine. There is no default
for a dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..arrays.encodings import StoredTensor
from ..decoder.config import DecoderConfig
from ..decoder.problems import Problems
from ..decoder.setting_names import RopePairs
from ..decoder.settings import OBJECT, POSITIVE, TEXT, WHOLE, Settings, check_value
from ..decoder.shared_options import ROPE_FACTORS
from ..errors import FileFormatError, InputError, naming
from ..text.brief import brief
from .decoder_config import decoder_config
from .model_file import layers_of, nearest, rope_factors

LLAMAS = ("llama", "mistral", "qwen2", "qwen3")  # the architectures of .apr files
FIELDS: dict[str, tuple[str, str]] = {  # name of a setting: (other names, kind of value)
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

_HUGGING_FACE_ORIGINS = ("safetensors", "hf", "huggingface", "hugging_face", "pytorch", "transformers")
_PAIRS_OF_TYPE: dict[Any, RopePairs] = {0: "adjacent", 2: "halves"}


def apr_config(
    settings: AprSettings, tensors: Mapping[str, StoredTensor], frequencies: StoredTensor | None,
    rope_pairs: RopePairs | None,
) -> DecoderConfig:  # fmt: skip
    """Build the config and check it against the shapes of the tensors.

    `frequencies` is the tensor rope_freqs. Raises FileFormatError if the file contradicts itself or its model
    is not supported. Raises InputError if a setting is missing, and names the option to use.
    """
    architecture = settings.architecture()
    experts = settings.values.get("num_experts")
    if experts not in (None, 0):
        settings.fail(f"a mixture of {brief(experts)} experts (num_experts) is not supported")
    is_gguf = any(tensor.name.startswith(("blk.", "token_embd.", "output")) for tensor in tensors.values())
    settings.notes.append(f"the tensors are named as in {'GGUF' if is_gguf else 'Hugging Face'}")
    sizes = _sizes(settings, tensors)
    for key in ("max_position_embeddings", "rms_norm_eps", "rope_theta"):
        sizes[key] = settings.value_or_missing(key)
    settings.check_complete()
    pairs = _pairs(settings, architecture, is_gguf, rope_pairs)
    keys = {"hidden_act": "silu", **{key: v for key, v in settings.values.items() if v is not None}, **sizes}
    keys |= {"tie_word_embeddings": _tied(settings, tensors), "rope_scaling": settings.value("rope_scaling")}
    keys["sliding_window"] = window = settings.value("sliding_window")  # None if missing: no default
    if frequencies is None and keys["rope_scaling"] is None and "rope_scaling" not in settings.values:
        settings.notes.append("rope_scaling is not in the file: no scaling is applied")
    translated = Settings(keys, settings.problems)
    with naming(settings.path, FileFormatError):
        keys[ROPE_FACTORS] = rope_factors(frequencies, sizes["head_dim"])
        config = decoder_config(architecture, translated, pairs == "adjacent")
    if window is None and "sliding_window" in translated.used:
        if settings.values.get("use_sliding_window"):
            settings.fail("sliding_window is missing, although use_sliding_window is set")
        if "sliding_window" not in settings.values:
            settings.notes.append("sliding_window is not in the file: no window is applied")
    if frequencies is not None and config.rope is not None and config.rope.kind != "default":
        settings.fail(f"{frequencies.name!r} contradicts RoPE scaling {config.rope.kind!r}")
    return config


def _sizes(settings: AprSettings, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """Return the dimensions computed from shapes of tensors, under the keys of config.json."""
    wte, gate = (_matrix(settings, tensors, name) for name in ("wte", "layer0.mlp_wgate"))
    n_layer = 1 + max(layers_of(tensors))
    n_head, n_kv_head, head_dim = _heads(settings, tensors)
    return {
        "num_hidden_layers": settings.from_tensors("num_layers", n_layer, "the names of the tensors"),
        "hidden_size": settings.from_tensors("hidden_size", wte.shape[1], _shape(wte)),
        "num_attention_heads": n_head,
        "num_key_value_heads": n_kv_head,
        "head_dim": head_dim,
        "intermediate_size": settings.from_tensors("intermediate_size", gate.shape[0], _shape(gate)),
        "vocab_size": settings.from_tensors("vocab_size", wte.shape[0], _shape(wte)),
    }


def _tied(settings: AprSettings, tensors: Mapping[str, StoredTensor]) -> bool:
    """Return True if lm_head is missing. Raises FileFormatError if tie_word_embeddings is different."""
    tied = "lm_head" not in tensors
    if settings.values.get("tie_word_embeddings") not in (None, tied):
        finding = "is missing" if tied else "is in the file"
        settings.fail(f"tie_word_embeddings is {str(not tied).lower()}, but tensor 'lm_head' {finding}")
    return tied


def _shape(tensor: StoredTensor) -> str:
    return f"the shape {list(tensor.shape)} of {tensor.name}"


def _matrix(settings: AprSettings, tensors: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    if name not in tensors:
        settings.fail(f"tensor {name!r} is missing{nearest(name, tensors)}")
    tensor = tensors[name]
    if len(tensor.shape) != 2:
        settings.fail(f"tensor {tensor.name!r}: expected a matrix, found shape {list(tensor.shape)}")
    return tensor


def _heads(settings: AprSettings, tensors: Mapping[str, StoredTensor]) -> tuple[int, int, int]:
    """Return the numbers of heads, key-value heads and channels per head.

    One number in the file and the rows of q and k determine the other two numbers.
    """
    q, k = (_matrix(settings, tensors, f"layer0.attn_w{name}") for name in "qk")
    n_head, n_kv_head, head_dim = map(settings.value, ("num_heads", "num_kv_heads", "head_dim"))
    gain = tensors.get("layer0.attn_q_norm")
    if gain is not None:
        head_dim = settings.from_tensors("head_dim", gain.shape[0], _shape(gain))
    for name, count, tensor in (("num_heads", n_head, q), ("num_kv_heads", n_kv_head, k)):
        if head_dim is None and count is not None:
            head_dim = _rows_divided(settings, name, count, tensor)
            settings.notes.append(f"head_dim {head_dim}, from {name} and {_shape(tensor)}")
    if head_dim is None:
        settings.missing.append("num_heads")
        return 0, 0, 0
    heads = []
    for name, tensor in (("num_heads", q), ("num_kv_heads", k)):
        count = _rows_divided(settings, "head_dim", head_dim, tensor)
        heads.append(settings.from_tensors(name, count, f"{_shape(tensor)} with head_dim {head_dim}"))
    return heads[0], heads[1], head_dim


def _rows_divided(settings: AprSettings, name: str, count: int, tensor: StoredTensor) -> int:
    """Return the number of rows divided by `count`. Raises FileFormatError if there is a remainder."""
    quotient, rest = divmod(tensor.shape[0], count)
    if rest:
        settings.fail(f"{name} {count} does not divide the {tensor.shape[0]} rows of {tensor.name!r}")
    return quotient


def _pairs(settings: AprSettings, architecture: str, is_gguf: bool, option: RopePairs | None) -> RopePairs:
    """Return which rows RoPE rotates together: "adjacent" rows, or rows from both "halves" of a head.

    Converters to GGUF permute the rows of a llama. Other converters often set rope_type only by the name of
    the architecture. If original_format and rope_type disagree, or both are missing, --rope-pairs decides.
    """
    kind, origin = settings.raw("rope_type"), settings.values.get("original_format")
    stated = _PAIRS_OF_TYPE.get(kind) if not isinstance(kind, bool | float | list | dict) else None
    if kind is not None and stated is None:
        settings.fail(f"rope_type {brief(kind)} is not supported; supported: 0 (adjacent pairs), 2 (halves)")
    from_hf = isinstance(origin, str) and any(name in origin.lower() for name in _HUGGING_FACE_ORIGINS)
    source = architecture if architecture.startswith("qwen") else f"{architecture} from {brief(origin)}"
    rows: RopePairs | None = "halves" if (from_hf and not is_gguf) or source == architecture else None
    expected = rows or ("adjacent" if is_gguf or "gguf" in str(origin).lower() else None)
    if stated is not None and expected in (None, stated):
        if option not in (None, stated):
            raise InputError(
                f"--rope-pairs {option} contradicts {settings.path}, where rope_type {kind} means {stated}"
            )
        return stated
    if option is not None:
        settings.notes.append(f"RoPE pairs: {option}, from --rope-pairs")
        return option
    if stated is None and rows is not None:
        settings.notes.append(f"RoPE pairs: {rows}, as in every {source}; the file has no rope_type")
        return rows
    problem = "does not show which channels RoPE rotates together" if stated is None else (
        f"has rope_type {kind} ({stated}), but the RoPE pairs of a {source} are {expected}"
    )  # fmt: skip
    raise InputError(f"{settings.path} {problem}; add --rope-pairs adjacent or --rope-pairs halves")


class AprSettings(Settings):
    """The settings of an .apr file and of --set. `notes` lists the settings computed from tensors."""

    def __init__(
        self, path: Path, metadata: Mapping[str, Any], overrides: Mapping[str, Any], problems: Problems
    ) -> None:
        super().__init__(metadata, problems)
        self.path, self.missing = path, list[str]()
        names = {alias: name for name in FIELDS for alias in _names(name)}
        for key in overrides:
            if key not in names:
                raise InputError(f"--set {key}: expected one of {', '.join(FIELDS)}")
        self.overrides = {names[key]: value for key, value in overrides.items() if value is not None}

    def fail(self, what: str) -> NoReturn:
        raise FileFormatError(f"{self.path}: {what}")

    def value(self, name: str) -> Any | None:
        """Return a setting, or None. Raises an error if two names of the setting have different values."""
        with naming(self.path, FileFormatError):
            values = {key: self.get(key, FIELDS[name][1]) for key in _names(name)}
        return self._agreed(name, {key: value for key, value in values.items() if value is not None})

    def _agreed(self, name: str, values: Mapping[str, Any]) -> Any | None:
        """Return the value of --set, or else of the metadata. Raises an error if two values differ."""
        first = next(iter(values), "")
        for key, value in values.items():
            if not _agree(value, values[first]):
                self.fail(f"{first} {brief(values[first])} and {key} {brief(value)} contradict each other")
        override = self.overrides.get(name)
        check_value(f"--set {name}", override, FIELDS[name][1])
        if override is not None and values and not _agree(values[first], override):
            raise InputError(
                f"--set {name}={brief(override)} contradicts {self.path}, which says {brief(values[first])}"
            )
        return values.get(first) if override is None else override

    def value_or_missing(self, name: str) -> Any:
        """Return the value of a setting. A missing setting is reported later, by `check_complete`."""
        value = self.value(name)
        if value is None:
            self.missing.append(name)
        return value

    def check_complete(self) -> None:
        """Raise InputError with the options to use if settings are missing."""
        missing, self.missing = self.missing, []
        if missing:
            self.last = missing[0]
            options = " ".join(f"--set {name}=N" for name in missing)
            raise InputError(f"{self.path} does not contain {', '.join(missing)}; add {options}")

    def from_tensors(self, name: str, value: int, source: str) -> int:
        """Return `value`, computed from tensors. Raises an error if the metadata or --set differ."""
        stated = self.value(name)
        if stated is None:
            self.notes.append(f"{name} {value}, from {source}")
        elif stated != value and name in self.overrides:
            raise InputError(f"--set {name}={stated} contradicts {self.path}: {source} says {value}")
        elif stated != value:
            self.fail(f"{name} {stated} contradicts {source}, which says {value}")
        return value

    def architecture(self) -> str:
        """Return the name of the architecture. Raises an error if the name is missing or unsupported."""
        names = {}
        for key in ("architecture", "hf_model_type", "hf_architecture"):
            with naming(self.path, FileFormatError):
                value = self.get(key, TEXT)
            if value and value.lower() not in ("auto", "unknown"):
                names[key] = value.lower().removesuffix("forcausallm")
        kind = self.values.get("model_type")
        if not names and isinstance(kind, str) and kind in LLAMAS:
            names["model_type"] = kind
        value = self._agreed("architecture", names)
        if value is None:
            hint = f" (its model_type is {brief(kind)})" if kind else ""
            raise InputError(
                f"{self.path} does not name its architecture{hint}; add --set architecture=NAME, "
                f"with one of {', '.join(LLAMAS)}"
            )
        if value not in LLAMAS:
            self.fail(f"architecture {brief(value)} is not supported; supported: {', '.join(LLAMAS)}")
        return str(value)


def _names(name: str) -> tuple[str, ...]:
    """Return all names of a setting. The main name comes first."""
    return (name, *FIELDS[name][0].split())


def _agree(a: Any, b: Any) -> bool:
    """Return True if two values are equal. Floats may differ by a millionth of their size."""
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)
