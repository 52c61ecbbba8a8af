"""What .apr metadata say of a decoder, joined by what one is told. Knows no tensors but their shapes.

Metadata have several names for one thing; what they leave open is taken from shapes, with a note,
or asked for. Nothing has a default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NoReturn

from ..errors import FileFormatError, InputError
from .conventions import is_positive, is_whole
from .file_terms import TERMS

ARCHITECTURES = tuple(name for name, terms in TERMS.items() if terms.in_apr)
# name in the metadata: (other names for it, what it is, the test of it)
FIELDS: dict[str, tuple[tuple[str, ...], str, Callable[[Any], bool]]] = {
    name: (tuple(others.split()), *kind)
    for name, others, kind in (
        ("architecture", "", ("a name", lambda value: isinstance(value, str))),
        ("hidden_size", "hidden_dim d_model n_embd", ("a whole number", is_whole)),
        ("num_layers", "num_hidden_layers n_layers n_layer", ("a whole number", is_whole)),
        ("num_heads", "num_attention_heads n_heads n_head", ("a whole number", is_whole)),
        ("num_kv_heads", "num_key_value_heads n_kv_heads", ("a whole number", is_whole)),
        ("head_dim", "", ("a whole number", is_whole)),
        ("vocab_size", "n_vocab", ("a whole number", is_whole)),
        ("intermediate_size", "ffn_dim intermediate_dim n_inner", ("a whole number", is_whole)),
        ("max_position_embeddings", "max_seq_len context_length n_ctx", ("a whole number", is_whole)),
        ("rope_theta", "", ("a positive number", is_positive)),
        ("rms_norm_eps", "layer_norm_eps norm_eps", ("a positive number", is_positive)),
        ("rope_scaling", "", ("an object", lambda value: isinstance(value, dict))),
        ("sliding_window", "", ("a whole number", is_whole)),
    )
}


class Facts:
    """What a file's metadata say, joined by overrides; and what was concluded, in `notes`."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        self.notes: list[str] = []
        self.missing: list[str] = []
        names = {other: name for name, (others, *_) in FIELDS.items() for other in (name, *others)}
        for key in overrides:
            if key not in names:
                raise InputError(f"--set {key}: expected one of {', '.join(FIELDS)}")
        self.overrides = {names[key]: value for key, value in overrides.items() if value is not None}

    def fail(self, what: str) -> NoReturn:
        raise FileFormatError(f"{self.path}: {what}")

    def said(self, name: str) -> Any | None:
        """A value under any of its names, or None; all that is said must agree."""
        others, kind, fits = FIELDS[name]
        found: dict[str, Any] = {}
        for key in (name, *others):
            value = self.metadata.get(key)
            if value is None:
                continue
            if not fits(value):
                self.fail(f"{key}: expected {kind}, found {brief(value)}")
            for earlier, other in found.items():
                if not _agree(value, other):
                    self.fail(f"{earlier} {brief(other)} and {key} {brief(value)} contradict each other")
            found[key] = value
        return self._joined(name, next(iter(found.values()), None), kind, fits)

    def _joined(self, name: str, value: Any, kind: str, fits: Callable[[Any], bool]) -> Any:
        override = self.overrides.get(name)
        if override is None:
            return value
        if not fits(override):
            raise InputError(f"--set {name}={brief(override)}: expected {kind}")
        if value is not None and not _agree(value, override):
            raise InputError(
                f"--set {name}={brief(override)} contradicts {self.path}, which says {brief(value)}"
            )
        return override

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
            if value is not None and not isinstance(value, str):
                self.fail(f"{key}: expected a name, found {brief(value)}")
            if value and value.lower() not in ("auto", "unknown"):
                names[key] = value.lower().removesuffix("forcausallm")
        kind = self.metadata.get("model_type")
        if not names and isinstance(kind, str) and kind in ARCHITECTURES:
            names["model_type"] = kind
        if len(set(names.values())) > 1:
            said = " and ".join(f"{key} {brief(value)}" for key, value in names.items())
            self.fail(f"{said} contradict each other")
        value = next(iter(names.values()), None)
        value = self._joined("architecture", value, *FIELDS["architecture"][1:])
        if value is None:
            hint = f" (its model_type is {brief(kind)})" if kind else ""
            raise InputError(
                f"{self.path} does not say its architecture{hint}; "
                f"--set architecture=NAME does, one of {', '.join(ARCHITECTURES)}"
            )
        if value not in ARCHITECTURES:
            self.fail(f"architecture {brief(value)} is not supported; these are: {', '.join(ARCHITECTURES)}")
        return str(value)


def _agree(a: Any, b: Any) -> bool:
    """Whether two values are the same; numbers may have gone through float32."""
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)
