"""Pairs of models and what tests of comparisons do with them."""

from contextlib import ExitStack

import numpy as np
from support.tiny_models import TOKENS

from microgpt_trace import trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.dumps.arrays_file import save_arrays
from microgpt_trace.render.documents.trace import trace_json

MODELS = ("microgpt", "llama_gqa", "qwen3")
KINDS = ("scale", "sign", "nan", "inf", "wrong_row", "wrong_element", "zeros")  # of generic faults


def with_nan(value):
    changed = value.copy()
    changed[(0,) * value.ndim] = np.nan
    return changed


def reads(model):
    return {"tokens": TOKENS} if model.family == "decoder" else {"text": "emma"}


def events_of(model):
    return [n for n, s in model.hooks.specs.items() if not s.extra and n not in model.config.shapes()]


def altered(pair, name, change, **options):
    """A against B, where a hook on B changes one event."""
    a, b = pair
    with b.hooks.subscribe(lambda event, value: change(value), name):
        return diff(a, b, **reads(a), **options)


def saved(model, path, change=None, at=None, **options):
    """The arrays of a trace as a file; a hook may change an event."""
    with ExitStack() as hooks:
        if change is not None:
            hooks.enter_context(model.hooks.subscribe(lambda event, value: change(value), at))
        names = None if model.family == "microgpt" else ["*"]
        save_arrays(trace(model, values=True, names=names, **reads(model), **options), path)
    return path


def document(model, path, values, **options):
    names = ["*"]
    found = trace(model, values=values, names=names, **reads(model), **options)
    path.write_text(trace_json(found, values), encoding="utf-8")
    return path
