"""microgpt-trace shows every number that a transformer computes.

A public name is imported when it is first used, so `import microgpt_trace` does not load NumPy.
"""

from .notebook import register_writer

__version__ = "0.1.0"
TYPE_CHECKING = False  # loading typing takes 7 ms, during which Ctrl-C would print a traceback

if TYPE_CHECKING:  # "X as X" tells type checkers that X is public
    from .arrays.stats import TensorStats as TensorStats
    from .attribution.attribute import attribute as attribute
    from .certification.certify import certify as certify
    from .comparison.diff import diff as diff
    from .diagnosis.diagnose import diagnose as diagnose
    from .dumps.record_llama_cpp import record_llama_cpp as record_llama_cpp
    from .dumps.record_onnx import record_onnx as record_onnx
    from .dumps.recorder import record as record
    from .errors import MicrogptError as MicrogptError
    from .explaining.explain import explain as explain
    from .hooks.bus import HookBus as HookBus
    from .hooks.event import TraceEvent as TraceEvent
    from .interventions.interventions import Intervention as Intervention
    from .microgpt.checkpoint import save as save
    from .microgpt.model import Model as Model
    from .microgpt.model import init as init
    from .microgpt.parameters import Config as Config
    from .microgpt.sampling import sample as sample
    from .microgpt.tokenizer import Tokenizer as Tokenizer
    from .microgpt.training import train as train
    from .patching.patch import patch as patch
    from .readers.loading import load as load
    from .render.figures.attention_figures import plot_attention as plot_attention
    from .render.figures.contributions import plot_attribution as plot_attribution
    from .render.figures.contributions import plot_explanation as plot_explanation
    from .render.figures.curve_figures import plot_loss as plot_loss
    from .render.figures.curve_figures import plot_stream as plot_stream
    from .render.figures.curve_figures import plot_timeline as plot_timeline
    from .render.figures.event_errors import plot_diagnosis as plot_diagnosis
    from .render.figures.event_errors import plot_diff as plot_diff
    from .render.figures.patching_figures import plot_patch as plot_patch
    from .render.figures.prediction_figures import plot_lens as plot_lens
    from .render.figures.prediction_figures import plot_probabilities as plot_probabilities
    from .surveying.survey import survey as survey
    from .surveying.survey_files import read_survey as read_survey
    from .tracing.gradient_check import gradcheck as gradcheck
    from .tracing.result import Trace as Trace
    from .tracing.trace import trace as trace
    from .tracing.validation import validate as validate

_MODULES = {
    "Config": "microgpt.parameters",
    "HookBus": "hooks.bus",
    "Intervention": "interventions.interventions",
    "MicrogptError": "errors",
    "Model": "microgpt.model",
    "TensorStats": "arrays.stats",
    "Tokenizer": "microgpt.tokenizer",
    "Trace": "tracing.result",
    "TraceEvent": "hooks.event",
    "attribute": "attribution.attribute",
    "certify": "certification.certify",
    "diagnose": "diagnosis.diagnose",
    "diff": "comparison.diff",
    "explain": "explaining.explain",
    "gradcheck": "tracing.gradient_check",
    "init": "microgpt.model",
    "load": "readers.loading",
    "patch": "patching.patch",
    "plot_attention": "render.figures.attention_figures",
    "plot_attribution": "render.figures.contributions",
    "plot_diagnosis": "render.figures.event_errors",
    "plot_diff": "render.figures.event_errors",
    "plot_explanation": "render.figures.contributions",
    "plot_lens": "render.figures.prediction_figures",
    "plot_loss": "render.figures.curve_figures",
    "plot_patch": "render.figures.patching_figures",
    "plot_probabilities": "render.figures.prediction_figures",
    "plot_stream": "render.figures.curve_figures",
    "plot_timeline": "render.figures.curve_figures",
    "read_survey": "surveying.survey_files",
    "record": "dumps.recorder",
    "record_llama_cpp": "dumps.record_llama_cpp",
    "record_onnx": "dumps.record_onnx",
    "sample": "microgpt.sampling",
    "save": "microgpt.checkpoint",
    "survey": "surveying.survey",
    "trace": "tracing.trace",
    "train": "microgpt.training",
    "validate": "tracing.validation",
}

__all__ = [*_MODULES]


def _html_of(result: object) -> str:
    from .render.notebook_html import result_html

    return result_html(result)


register_writer(_html_of)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f".{_MODULES[name]}", __name__)
    value = getattr(module, name)
    if not isinstance(value, type):
        value = import_module(".argument_types", __name__).checked(value)
        setattr(module, name, value)  # otherwise the function could not be pickled
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
