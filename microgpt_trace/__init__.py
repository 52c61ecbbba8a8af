"""microgpt-trace shows every number a transformer computes.

The public names are resolved when first used: importing the package loads no NumPy.
"""

__version__ = "0.1.0"
TYPE_CHECKING = False  # as in typing, which takes 7 ms to load; Ctrl-C would be Python's own until then

if TYPE_CHECKING:
    from .arrays.stats import TensorStats
    from .attribution.attribute import attribute
    from .comparison.diff import diff
    from .diagnosis.dump import diagnose
    from .dumps.recorder import record
    from .errors import MicrogptError
    from .explaining.explain import explain
    from .hooks.bus import HookBus
    from .hooks.event import TraceEvent
    from .microgpt.checkpoint import save
    from .microgpt.model import Model, init
    from .microgpt.parameters import Config
    from .microgpt.sampling import sample
    from .microgpt.tokenizer import Tokenizer
    from .microgpt.training import train
    from .patching.patch import patch
    from .readers.loading import load
    from .render.figures.attention import plot_attention
    from .render.figures.attribution import plot_attribution
    from .render.figures.comparison import plot_diff
    from .render.figures.diagnosis import plot_diagnosis
    from .render.figures.explanation import plot_explanation
    from .render.figures.layers import plot_stream
    from .render.figures.patching import plot_patch
    from .render.figures.predictions import plot_lens, plot_probabilities
    from .render.figures.training import plot_loss, plot_timeline
    from .running.interventions import Intervention
    from .surveying.survey import survey
    from .surveying.survey_files import read_survey
    from .tracing.gradient_check import gradcheck
    from .tracing.result import Trace
    from .tracing.trace import trace
    from .tracing.validation import validate

_HOME = {
    "Config": "microgpt.parameters",
    "HookBus": "hooks.bus",
    "Intervention": "running.interventions",
    "MicrogptError": "errors",
    "Model": "microgpt.model",
    "TensorStats": "arrays.stats",
    "Tokenizer": "microgpt.tokenizer",
    "Trace": "tracing.result",
    "TraceEvent": "hooks.event",
    "attribute": "attribution.attribute",
    "diagnose": "diagnosis.dump",
    "diff": "comparison.diff",
    "explain": "explaining.explain",
    "gradcheck": "tracing.gradient_check",
    "init": "microgpt.model",
    "load": "readers.loading",
    "patch": "patching.patch",
    "plot_attention": "render.figures.attention",
    "plot_attribution": "render.figures.attribution",
    "plot_diagnosis": "render.figures.diagnosis",
    "plot_diff": "render.figures.comparison",
    "plot_explanation": "render.figures.explanation",
    "plot_lens": "render.figures.predictions",
    "plot_loss": "render.figures.training",
    "plot_patch": "render.figures.patching",
    "plot_probabilities": "render.figures.predictions",
    "plot_stream": "render.figures.layers",
    "plot_timeline": "render.figures.training",
    "read_survey": "surveying.survey_files",
    "record": "dumps.recorder",
    "sample": "microgpt.sampling",
    "save": "microgpt.checkpoint",
    "survey": "surveying.survey",
    "trace": "tracing.trace",
    "train": "microgpt.training",
    "validate": "tracing.validation",
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
    "plot_attention",
    "plot_attribution",
    "plot_diagnosis",
    "plot_diff",
    "plot_explanation",
    "plot_lens",
    "plot_loss",
    "plot_patch",
    "plot_probabilities",
    "plot_stream",
    "plot_timeline",
    "read_survey",
    "record",
    "sample",
    "save",
    "survey",
    "trace",
    "train",
    "validate",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
