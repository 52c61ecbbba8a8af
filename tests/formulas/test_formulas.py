"""Formulas as data: the script of a page against `explain` and against the passes."""

import math

import numpy as np
import pytest
from support import everything
from support.backward_runs import Run
from support.judges import agree
from support.other_plans import in_float64, odd_plan, random_model, routed_plan
from support.row_numbers import PlanRun
from support.script_engine import needs_node, run_script
from support.sweeps import in_sweep
from support.tiny_gpt2 import GPT2S
from support.tiny_models import CASES as DECODERS
from support.tiny_models import TOKENS

from microgpt_trace.explaining.explain import gradient_worked_out, keep_run, worked_out
from microgpt_trace.formulas.formula import as_data, tree_of
from microgpt_trace.formulas.traced_element import Element, TracedElement
from microgpt_trace.operations.plan_formulas import Formulas
from microgpt_trace.rounding.invariants import OF_SUMS

EVALUATE = """
const { workedOut } = await load("formulas");
const run = {
  tokens: given.tokens, targets: given.targets, length: given.tokens.length,
  shape: (name) => given.shapes[name],
  array: (name, gradient) => given.arrays[(gradient ? "d " : "") + name],
};
return given.requests.map(({ ways, flat }) => {
  const worked = ways.map((formula) => workedOut(formula, flat, run));
  return [
    worked.reduce((sum, way) => sum + Number(way.value), 0),
    worked.reduce((sum, way) => sum + way.magnitude, 0),
    worked.flatMap((way) => way.steps)
      .filter((step) => !step.guard && step.count > 1).map((step) => step.value),
  ];
});
"""


def formulas_of(run, name, backward):
    """Return the formula of an event, or the formulas that add up to its gradient, in a run or a model."""
    formulas = Formulas(run.plan)
    return [way.formula for way in formulas.backward(name)] if backward else [formulas.forward(name)]


def by_script(run, places, backward):
    """Return what the script computes for these elements: value, magnitude and sums of steps."""
    requests = []
    for name, index in places:
        flat = int(np.ravel_multi_index(index, run.shapes[name])) if index else 0
        ways = [as_data(formula) for formula in formulas_of(run, name, backward)]
        requests.append({"ways": ways, "flat": flat})
    arrays = {("d " if phase == "backward" else "") + name: a for (phase, name), a in run.arrays.items()}
    arrays |= {name: run.model.parameter(name) for name in run.shapes if name not in run.plan}
    given = {
        "tokens": run.inputs.tokens,
        "targets": run.inputs.targets,
        "shapes": run.shapes,
        "arrays": {name: _flat(array) for name, array in arrays.items()},
        "requests": requests,
    }
    return run_script(EVALUATE, given)


def _flat(array):
    return np.asarray(array, np.float64).reshape(-1).tolist()


def some_places(shapes, count=3, seed=0):
    """Yield a few elements of every array, with the first and the last."""
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        size = math.prod(shape)
        for flat in sorted({0, size - 1, *rng.integers(size, size=count).tolist()}):
            yield name, tuple(map(int, np.unravel_index(flat, shape))) if shape else ()


def check(run, places, backward, traced=True):
    """Compare the script with `explain`: the element, its sums, and the magnitude that rounding is relative
    to."""
    results, phase = by_script(run, places, backward), "backward" if backward else "forward"
    for (name, index), (value, magnitude, steps) in zip(places, results, strict=True):
        at = TracedElement(run, Element(name, index), 4)
        worked, what = (gradient_worked_out if backward else worked_out)(at), f"{phase} {at.element}"
        atol = 1e-12 * worked.magnitude + 1e-40
        agree(value, worked.value, rtol=1e-9, atol=atol, what=what)
        agree(magnitude, worked.magnitude, rtol=1e-5, atol=1e-40, what=f"magnitude of {what}")
        ways = len(formulas_of(run, name, backward))
        sums = [step.value for step in (worked.steps if ways == 1 else worked.steps[:-1]) if step.count > 1]
        agree(steps, sums, rtol=1e-9, atol=atol, what=f"sums of {what}")
        if traced:
            off = abs(value - run.value(name, index, phase))
            assert off <= OF_SUMS[run.model.dtype] * magnitude, (what, value, off)


@needs_node
def test_the_script_computes_events_and_gradients_of_a_microgpt(case):
    run = keep_run(case.model, case.text, backward=True)
    events = list(some_places({name: run.shapes[name] for name in run.plan}))
    check(run, events, backward=False)
    check(run, list(some_places(run.shapes)), backward=True)


USUAL = ("qwen3", "gpt2_erf")  # run without the sweep too


@needs_node
@pytest.mark.parametrize("name", [name if name in USUAL else in_sweep(name) for name in (*DECODERS, *GPT2S)])
def test_the_script_computes_events_of_decoders(decoders, gpt2, name):
    model = gpt2(name)[1] if name in GPT2S else decoders(name)[0]
    run = keep_run(model, tokens=TOKENS)
    check(run, list(some_places({name: run.shapes[name] for name in run.plan})), backward=False)


PLANS = {"unlike any": odd_plan(), "everything": everything.OWN.plan, "routed": routed_plan()}
REAL = ["llama_yarn_attention", "qwen3", "llama_mha_bias", "mistral_window"]
CASES = ["everything", *map(in_sweep, ["unlike any", "routed", *REAL])]


@pytest.fixture(params=CASES)
def wide(request, decoders):
    """A model in float64; two cases have plans that no real model has."""
    plan = PLANS.get(request.param)
    return random_model(plan) if plan else in_float64(decoders(request.param)[0])


@needs_node
def test_the_script_computes_every_kind_of_operation(wide):
    """Including gradients of gains, biases, LayerNorm and experts, which no page shows."""
    numbers = PlanRun(wide, TOKENS)
    numbers.arrays |= {("backward", name): gradient for name, gradient in Run(wide).gradients.items()}
    for backward in (False, True):
        names = numbers.shapes if backward else numbers.plan
        check(numbers, list(some_places({name: numbers.shapes[name] for name in names}, 1)), backward, False)


def test_the_gradient_of_an_expert_sums_over_the_positions_that_chose_it():
    numbers, run = PlanRun(random_model(routed_plan()), TOKENS), Run(random_model(routed_plan()))
    numbers.arrays |= {("backward", name): gradient for name, gradient in run.gradients.items()}
    chosen = run.values["layer1.mlp.chosen"]
    for expert in range(6):
        element = Element("layer1.mlp_wup_experts", (expert, 2, 3))
        (step,) = gradient_worked_out(TracedElement(numbers, element, 10)).steps
        read = [[factor.name for factor in term.factors] for term in step.terms]
        assert read == [
            [f"layer1.mlp.up[{position},{6 * place + 2}]", f"layer0.mlp.residual[{position},3]"]
            for position, place in np.argwhere(chosen == expert)
        ]


FUNCTIONS = {
    "x": lambda x: x,
    "-x*x/2": lambda x: -x * x / 2,
    "2**-x": lambda x: 2**-x,
    "-x**2": lambda x: -(x**2),
    "1/(1 + exp(-x)) - 3 - 2": lambda x: 1 / (1 + math.exp(-x)) - 3 - 2,
    "(x > 0)": lambda x: float(x > 0),
    "max(x, 0)/1e-05": lambda x: max(x, 0) / 1e-05,
    "x*(1 + erf(x/sqrt(2)))/2": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "tanh(sqrt(2/pi)*x)": lambda x: math.tanh(math.sqrt(2 / math.pi) * x),
}


@needs_node
def test_the_script_computes_functions_of_x_as_python_does_and_refuses_other_trees():
    places = [-7.0, -2.5, -1.0, -1e-9, 0.0, 0.3, 1.0, 2.4999, 2.5, 5.5, 9.0]
    refused = ["y", "alert(1)", "constructor(x)"]
    program = """
    const { functionOf } = await load("expressions");
    const refusal = (tree) => { try { functionOf(tree)(1); } catch (error) { return error.name; } };
    const values = given.trees.map((tree) => given.places.map((x) => functionOf(tree)(x)));
    return [values, given.refused.map(refusal)];
    """
    trees = list(map(tree_of, FUNCTIONS))
    given = {"trees": trees, "places": places, "refused": list(map(tree_of, refused))}
    results, names = run_script(program, given)
    assert names == ["SyntaxError"] * len(refused)
    for (text, function), values in zip(FUNCTIONS.items(), results, strict=True):
        agree(values, [function(x) for x in places], rtol=1e-14, atol=1e-15, what=text)


@pytest.mark.parametrize("text", ["x +", "x; 1", "(x", "x)", "x if x else 1", "x.real", "'x'(x)"])
def test_other_text_is_no_function_of_x(text):
    with pytest.raises((SyntaxError, ValueError)):
        tree_of(text)
