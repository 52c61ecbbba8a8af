"""Checks of an explanation of any model: its steps, uses and names."""

import math
import re

import numpy as np
import pytest

from microgpt_trace.explaining.explain import explain_in, keep_run

MATH = {**vars(math), "max": max}


def elements(shapes, count=1, seed=0):
    """Yield the name and index of `count` random elements of each event."""
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        for _ in range(count):
            yield name, tuple(int(rng.integers(size)) for size in shape)


def check_steps(explanation):
    """Check that terms follow from factors, steps from terms, and later steps from earlier ones."""
    values = {}
    for step in explanation.steps:
        assert len(step.terms) <= step.count
        for term in step.terms:
            x = math.prod(factor.value for factor in term.factors)
            value = float(eval(term.function, {"x": x, **MATH})) if term.function else x
            assert term.value == pytest.approx(value, rel=1e-6, abs=1e-300), (explanation.element, term)
            for factor in term.factors:
                if factor.kind == "constant" and factor.name in values:
                    assert factor.value == values[factor.name]
        total = math.fsum([*(term.value for term in step.terms), step.rest])
        assert step.value == pytest.approx(total, rel=1e-9, abs=1e-12 + 1e-12 * step.magnitude)
        values[step.label] = step.value
    if explanation.steps:
        assert explanation.steps[-1].value == explanation.value


def check_values(explanation, explained):
    """Check that every named element has the value that the explanation gives for it, and that one factor of
    each array, and every use, can be explained."""
    arrays = {}
    for factor in explanation.factors():
        name, _, index = factor.name.partition("[")
        arrays.setdefault((name, factor.kind), factor)
        place = tuple(map(int, index.rstrip("]").split(","))) if index else ()
        value = explained.run.value(name, place, factor.kind)
        assert value == pytest.approx(factor.value, rel=1e-12), factor
    for factor in arrays.values():
        assert explained(factor.name, factor.kind).traced == pytest.approx(factor.value, rel=1e-12), factor
    for use in explanation.uses:
        other = explained(use.name, use.kind)
        if use.value is not None:
            assert other.traced == pytest.approx(use.value, rel=1e-12), (explanation.element, use)
        assert other.index or other.name == "loss"


def check_uses(explanation, explained):
    """Check that each use of an element is a term there, with the factors that the words name."""
    element = explanation.element, explanation.phase
    for use in explanation.uses:
        steps = explained(use.name, use.kind).steps
        terms = [term for step in steps for term in step.terms if element in factor_names(term)]
        if not terms and ".attn.head" in explanation.name:
            continue  # attn.out is one product unless a hook reads the heads
        assert terms, (explanation.element, use)
        if use.adds is not None:
            is_scaled = steps[0].label in ("sum of products", "sum of losses")
            scale = steps[1].terms[0].factors[1].value if is_scaled else 1.0
            added = [term for term in terms if term.value * scale == pytest.approx(use.adds, rel=1e-6)]
            assert added, (explanation.element, use, [term.value for term in terms])
            others = re.findall(r"[a-z0-9_.]+\[[0-9,]+\]", use.words)
            names = " ".join(factor.name for term in added for factor in term.factors)
            assert all(name in names for name in others), use


def factor_names(term):
    return [(factor.name, factor.kind) for factor in term.factors]


def explainer(model, terms=16, **options):
    """Return a function that explains a name in a phase of one run, and keeps its results."""
    run, results = keep_run(model, **options), {}

    def explained(name, phase):
        if (name, phase) not in results:
            results[name, phase] = explain_in(run, name, backward=phase == "backward", terms=terms)
        return results[name, phase]

    explained.run = run
    return explained
