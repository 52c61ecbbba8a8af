"""Formulas of each kind of operation, against its float64 reference: values, gradients by central
differences, and uses of elements.

Two cases have plans that no real model has: parallel layers, LayerNorm of heads, shared keys, another scale,
and everything of support/everything.py.
"""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from support import everything
from support.explanations import check_steps, check_uses
from support.other_plans import odd_plan, random_model, routed_plan
from support.row_numbers import PlanRun
from support.sweeps import in_sweep
from support.tiny_models import TOKENS

from microgpt_trace.explaining.explain import gradient_worked_out, worked_out
from microgpt_trace.explaining.uses import gradient_uses, uses_of
from microgpt_trace.formulas.steps import element_name
from microgpt_trace.formulas.traced_element import Element, TracedElement, rows_with
from microgpt_trace.operations.by_kind import reference
from microgpt_trace.operations.elementwise import erfc
from microgpt_trace.operations.plan_formulas import Formulas
from microgpt_trace.plans.kinds import Choice, Loss, Scores, Softmax

PLANS = {"unlike any": odd_plan(), "everything": everything.OWN.plan}
REAL = ["llama_yarn_attention", "qwen3", "llama_mha_bias", "mistral_window"]
CASES = [*PLANS, *map(in_sweep, REAL)]


@pytest.fixture(scope="module", params=CASES)
def numbers(request, decoders):
    plan = PLANS.get(request.param)
    return PlanRun(random_model(plan) if plan else decoders(request.param)[0], TOKENS)


@pytest.fixture(scope="module", params=[*CASES, "routed"])
def values(request, decoders):
    """The numbers of a case. The formulas of a routed plan describe no gradients."""
    plan = routed_plan() if request.param == "routed" else PLANS.get(request.param)
    return PlanRun(random_model(plan) if plan else decoders(request.param)[0], TOKENS)


def check(worked, at):
    """Check that every step follows from its terms."""
    check_steps(SimpleNamespace(steps=worked.steps, value=worked.value, element=str(at.element)))


def places(numbers, names, count=4, most=10**6):
    rng = np.random.default_rng(8)
    for name in names:
        for _ in range(count):
            index = tuple(int(rng.integers(size)) for size in numbers.shapes[name])
            if len(index) == 3 and name not in numbers.plan.parameters:  # half would be masked
                index = (index[0], max(index[1:]), min(index[1:]))
            yield TracedElement(numbers, Element(name, index), most)


def slope(of, array, index, h=1e-5):
    """Return the central difference of a function of an array with respect to one element."""
    ends = []
    for step in (h, -h):
        moved = np.array(array, float)
        moved[index] += step
        ends.append(of(moved))
    return (ends[0] - ends[1]) / (2 * h)


def test_every_element_equals_the_reference(values):
    for at in places(values, values.plan):
        worked = worked_out(at)
        expected = values.value(at.name, at.index)
        assert abs(worked.value - expected) <= 1e-12 * worked.magnitude, (str(at.element), worked)
        check(worked, at)


def weighted_sum(numbers, row, name, moved):
    """Return the sum of a row's gradient times its value, with one input or parameter replaced by `moved`."""
    inputs = [moved if source == name else numbers.array(source) for source in row.inputs]
    changed = replace(row, instead={name: lambda _, rows=slice(None): moved[rows]})
    return np.sum(reference(changed, numbers.given, *inputs) * numbers.array(row.name, "backward"))


def test_a_gradient_is_the_slope_of_the_references_of_its_readers(numbers):
    readers = Formulas(numbers.plan).readers
    for at in places(numbers, [*numbers.plan, *numbers.plan.parameters]):
        stored = at.name in numbers.plan.parameters
        rows = list(rows_with(numbers.plan, at.name) if stored else readers(at.name))
        if at.name in ("probs", "loss") or any(at.name in row.parts for row in rows):
            continue
        rows = [row for row in rows if isinstance(row.kind, Loss)] or rows  # not probabilities and loss
        worked = gradient_worked_out(at)
        expected = slope(
            lambda x, rows=rows, name=at.name: sum(weighted_sum(numbers, row, name, x) for row in rows),
            numbers.parameter(at.name) if stored else numbers.array(at.name),
            at.index,
        )
        assert worked.value == pytest.approx(expected, rel=1e-5, abs=1e-6), str(at.element)
        assert worked.magnitude >= abs(worked.value) * (1 - 1e-12)


def test_every_gradient_follows_from_its_steps(numbers):
    for at in places(numbers, [*numbers.plan, *numbers.plan.parameters], most=4):
        check(gradient_worked_out(at), at)


def explained(numbers, name, kind):
    """Explain an element, given by its name."""
    event, _, rest = name.rstrip("]").partition("[")
    at = TracedElement(numbers, Element(event, tuple(map(int, rest.split(","))) if rest else ()), 10**6)
    return (worked_out if kind == "forward" else gradient_worked_out)(at)


def check_uses_of(numbers, at, phase, uses):
    explanation = SimpleNamespace(name=at.name, element=str(at.element), phase=phase, uses=uses)
    check_uses(explanation, partial(explained, numbers))


def test_a_use_of_an_element_has_it_as_a_term(values):
    names = [name for name, row in values.plan.items() if not isinstance(row.kind, Choice)]
    for at in places(values, names):
        check_uses_of(values, at, "forward", uses_of(at))


def test_queries_and_keys_are_used_in_visible_scores(numbers):
    for scores, softmax in zip(numbers.plan.of_kind(Scores), numbers.plan.of_kind(Softmax), strict=True):
        for at in places(numbers, scores.inputs, 20):
            (use,) = uses_of(at)
            head, query, key = map(int, use.name.rstrip("]").partition("[")[2].split(","))
            assert numbers.array(softmax.name)[head, query, key] > 0, (str(at.element), use)


def test_a_use_of_a_gradient_has_it_as_a_term(numbers):
    for at in places(numbers, [name for name in numbers.plan if name != "loss"]):
        check_uses_of(numbers, at, "backward", gradient_uses(at))


def test_a_tied_table_gets_gradients_from_both_of_its_uses():
    numbers = PlanRun(random_model(odd_plan()), TOKENS)
    at = TracedElement(numbers, Element("wte", (TOKENS[0], 3)), 4)
    last = gradient_worked_out(at).steps[-1]
    assert [term.factors[0].name for term in last.terms] == ["by way of embed.tok", "by way of logits"]
    assert last.label == f"d {element_name('wte', at.index)}"


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 3, 2), (0, 4)])
def test_erfc_equals_math_erfc_for_any_shape(shape):
    x = np.resize(np.array([0.5, -2, np.inf, -np.inf, np.nan, 28], np.float32), shape)
    result = erfc(x)
    assert (result.dtype, result.shape) == (np.float64, shape)
    np.testing.assert_array_equal(result.ravel(), [math.erfc(value) for value in x.ravel()])
