"""What .apr metadata say of a decoder, joined by what one is told. Knows no tensors but their shapes.

Metadata have several names for one thing; what they leave open is taken from shapes, with a note,
or asked for. Nothing has a default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FileFormatError, InputError
from ..text.brief import brief
from .conventions import OBJECT, POSITIVE, TEXT, WHOLE, check_value
from .file_terms import TERMS
from .model_file import blaming

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


class Facts:
    """What a file's metadata say, joined by overrides; and what was concluded, in `notes`."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        self.notes: list[str] = []
        self.missing: list[str] = []
        names = {other: name for name in FIELDS for other in _names(name)}
        for key in overrides:
            if key not in names:
                raise InputError(f"--set {key}: expected one of {', '.join(FIELDS)}")
        self.overrides = {names[key]: value for key, value in overrides.items() if value is not None}

    def fail(self, what: str) -> NoReturn:
        raise FileFormatError(f"{self.path}: {what}")

    def said(self, name: str) -> Any | None:
        """A value under any of its names, or None; all that is said must agree."""
        found = {key: self.metadata[key] for key in _names(name) if self.metadata.get(key) is not None}
        with blaming(self.path):
            for key, value in found.items():
                check_value(key, value, FIELDS[name][1])
        return self._joined(name, found)

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
            value = self.metadata.get(key)
            with blaming(self.path):
                check_value(key, value, TEXT)
            if value and value.lower() not in ("auto", "unknown"):
                names[key] = value.lower().removesuffix("forcausallm")
        kind = self.metadata.get("model_type")
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
