"""What a test asks of an explanation: its steps, its uses and its names, whatever the model."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from microgpt_trace.explaining.explain import explain_in, keep_run

MATH = {**vars(math), "max": max}


def sampled(shapes, count=1, seed=0):
    """So many elements of each event, as names."""
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        for _ in range(count):
            yield name, tuple(int(rng.integers(size)) for size in shape)


def applied(term):
    """What the factors of a term give by its function."""
    x = math.prod(factor.value for factor in term.factors)
    return float(eval(term.function, {"x": x, **MATH})) if term.function else x


def check_steps(found):
    """Terms follow from their factors, steps from their terms, later steps from earlier ones."""
    known = {}
    for step in found.steps:
        assert len(step.terms) <= step.count
        for term in step.terms:
            assert term.value == pytest.approx(applied(term), rel=1e-6, abs=1e-300), (found.element, term)
            for factor in term.factors:
                if factor.kind == "constant" and factor.name in known:
                    assert factor.value == known[factor.name]
        total = math.fsum([*(term.value for term in step.terms), step.rest])
        assert step.value == pytest.approx(total, rel=1e-9, abs=1e-12 + 1e-12 * step.magnitude)
        known[step.label] = step.value
    if found.steps:
        assert found.steps[-1].value == found.value


def check_names(found, explained):
    """Every name is that of an element whose value is the one that was said."""
    for factor in found.factors():
        assert explained(factor.name, factor.kind).traced == pytest.approx(factor.value, rel=1e-12), factor
    for use in found.uses:
        other = explained(use.name, use.kind)
        if use.value is not None:
            assert other.traced == pytest.approx(use.value, rel=1e-12), (found.element, use)
        assert other.index or other.name == "loss"


def check_uses(found, explained):
    """What an element adds elsewhere is a term there, with the factors that the words name."""
    for use in found.uses:
        steps = explained(use.name, use.kind).steps
        terms = [t for step in steps for t in step.terms if (found.element, found.phase) in named(t)]
        if not terms and ".attn.head" in found.name:
            continue  # attn.out is one product where no hook is
        assert terms, (found.element, use)
        if use.adds is not None:
            is_scaled = steps[0].label in ("sum of products", "sum of losses")
            scale = steps[1].terms[0].factors[1].value if is_scaled else 1.0
            added = [term for term in terms if term.value * scale == pytest.approx(use.adds, rel=1e-6)]
            assert added, (found.element, use, [term.value for term in terms])
            others = re.findall(r"[a-z0-9_.]+\[[0-9,]+\]", use.words)
            names = " ".join(factor.name for term in added for factor in term.factors)
            assert all(name in names for name in others), use


def named(term):
    return [(factor.name, factor.kind) for factor in term.factors]


def asking(model, terms=16, **options):
    """A function that explains a name in a phase, each once, all of one run."""
    run, known = keep_run(model, **options), {}

    def explained(name, phase):
        if (name, phase) not in known:
            known[name, phase] = explain_in(run, name, backward=phase == "backward", terms=terms)
        return known[name, phase]

    return explained


def same_but_for_more(kept, alone):
    """A run of which everything is kept tells the same, and of uses the values that the other lacks."""
    for a, b in zip(kept.uses, alone.uses, strict=True):
        assert b in (a, replace(a, value=None))
    assert replace(kept, uses=()) == replace(alone, uses=())
