"""microgpt-trace shows every number a transformer computes.

The public names are resolved when first used: importing the package loads no NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .attribution.attribute import attribute
    from .checkpoint import save
    from .comparison.diff import diff
    from .diagnosis.dumped import diagnose
    from .dumps.recorder import record
    from .errors import MicrogptError
    from .explaining.explain import explain
    from .gradient_check import gradcheck
    from .hooks.bus import HookBus
    from .hooks.event import TraceEvent
    from .interventions import Intervention
    from .loading import load
    from .model import Model, init
    from .parameters import Config
    from .patching.patch import patch
    from .sampling import sample
    from .stats import TensorStats
    from .tokenizer import Tokenizer
    from .tracing.result import Trace
    from .tracing.trace import trace
    from .training import train
    from .validation import validate

_HOME = {
    "Config": "parameters",
    "HookBus": "hooks.bus",
    "Intervention": "interventions",
    "MicrogptError": "errors",
    "Model": "model",
    "TensorStats": "stats",
    "Tokenizer": "tokenizer",
    "Trace": "tracing.result",
    "TraceEvent": "hooks.event",
    "attribute": "attribution.attribute",
    "diagnose": "diagnosis.dumped",
    "diff": "comparison.diff",
    "explain": "explaining.explain",
    "gradcheck": "gradient_check",
    "init": "model",
    "load": "loading",
    "patch": "patching.patch",
    "record": "dumps.recorder",
    "sample": "sampling",
    "save": "checkpoint",
    "trace": "tracing.trace",
    "train": "training",
    "validate": "validation",
}

__all__ = [
    "Config",
    "HookBus",
    "Intervention",
    "MicrogptError",
    "Model",
    "TensorStats",
    "Tokenizer",
    "Trace",
    "TraceEvent",
    "attribute",
    "diagnose",
    "diff",
    "explain",
    "gradcheck",
    "init",
    "load",
    "patch",
    "record",
    "sample",
    "save",
    "trace",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
