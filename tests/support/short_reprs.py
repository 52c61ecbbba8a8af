"""The objects that a caller can reach from a result, and the length of their reprs."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

import microgpt_trace

SHORT = 200  # characters
PLAIN = (str, bytes, int, float, type(None), np.ndarray, np.generic)


def attributes(value):
    """Yield the attributes and properties of an object, by name."""
    names = set(getattr(value, "__dict__", ()))
    for base in type(value).__mro__:
        names |= {*getattr(base, "__slots__", ())} - {"__dict__"}
        names |= {n for n, value in vars(base).items() if isinstance(value, property | cached_property)}
    for name in sorted(names):
        try:
            yield f".{name}", getattr(value, name)
        except (AttributeError, microgpt_trace.MicrogptError):
            continue


def parts(value):
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in list(value.items())[:40])
    elif isinstance(value, tuple | list | set | frozenset):
        yield from ((f"[{i}]", item) for i, item in enumerate(list(value)[:40]))
    if type(value).__module__.startswith("microgpt_trace"):
        yield from attributes(value)


def objects_within(root, name):
    """Yield every object of the package that can be reached, with its path."""
    waiting, seen = [(name, root)], {}
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, PLAIN) or id(value) in seen or path.count(".") > 8:
            continue
        seen[id(value)] = value  # keep the object, since another could get its id
        if type(value).__module__.startswith("microgpt_trace"):
            yield path, value
        waiting += [(path + step, part) for step, part in parts(value)]


def assert_short(root, name):
    kinds = set()
    for path, value in objects_within(root, name):
        text = repr(value)
        kinds.add(type(value).__name__)
        assert len(text) <= SHORT, f"{path}: {len(text):,} characters: {text[:80]}"
        assert "\n" not in text, f"{path}: {text[:80]}"
    return kinds
