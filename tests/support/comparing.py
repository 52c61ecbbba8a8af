"""Models to compare, the values of their events, and runs saved to files."""

from contextlib import ExitStack

import numpy as np
from support.tiny_models import TOKENS

from microgpt_trace import trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.dumps.layouts import OWN, Recorded
from microgpt_trace.dumps.recording import Recording
from microgpt_trace.dumps.stored_arrays import save_arrays
from microgpt_trace.interpreter.event_stream import EventStream
from microgpt_trace.render.documents.trace_as_json import trace_json

MODELS = ("microgpt", "llama_gqa", "qwen3")
KINDS = ("scale", "sign", "nan", "inf", "wrong_row", "wrong_element", "zeros")  # kinds of generic faults


def with_nan(value):
    changed = value.copy()
    changed[(0,) * value.ndim] = np.nan
    return changed


def inputs_of(model):
    return {"tokens": TOKENS} if model.family == "decoder" else {"text": "emma"}


def events_of(model):
    return [n for n, s in model.hooks.specs.items() if not s.extra and n not in model.config.shapes()]


def values_of(model, tokens=None):
    """Return the value of every event of a run by name, in order of computation."""
    inputs = {"tokens": tokens} if tokens else inputs_of(model)
    with EventStream(model, model.read(inputs.get("text"), inputs.get("tokens")), events_of(model)) as stream:
        return {name: np.array(value) for name, value, _ in stream}


def recording(arrays, tokens=TOKENS):
    """Return arrays, by event name, as an opened dump."""
    tensors = {name: Recorded(name, a.shape, lambda a=a: a, OWN) for name, a in arrays.items()}
    return Recording("dump", "arrays", tensors, tokens)


def altered(pair, name, change, **options):
    """Compare A with B while a hook on B changes one event."""
    a, b = pair
    with b.hooks.subscribe(lambda event, value: change(value), name):
        return diff(a, b, **inputs_of(a), **options)


def saved(model, path, change=None, at=None, **options):
    """Save the arrays of a trace to a file and return its path. `change` is applied to the event `at`."""
    with ExitStack() as hooks:
        if change is not None:
            hooks.enter_context(model.hooks.subscribe(lambda event, value: change(value), at))
        names = None if model.family == "microgpt" else ["*"]
        save_arrays(trace(model, values=True, names=names, **inputs_of(model), **options), path)
    return path


def save_json(model, path, values, **options):
    run = trace(model, values=values, names=["*"], **inputs_of(model), **options)
    path.write_text(trace_json(run, values), encoding="utf-8")
    return path
