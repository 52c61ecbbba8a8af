"""Formulas as data, evaluated by a page's script, against the arithmetic that `explain` writes out."""

import math

import numpy as np
import pytest
from support.judges import agree
from support.script_engine import needs_node, run_script
from support.sweeps import in_sweep
from support.tiny_models import CASES as DECODERS
from support.tiny_models import TOKENS

from microgpt_trace.architecture.formulas.derive import Formulas
from microgpt_trace.architecture.formulas.evaluate import FormulaInputs, evaluated
from microgpt_trace.architecture.steps import element_name
from microgpt_trace.explaining.explain import explain_in, keep_run

pytestmark = needs_node

EVALUATE = """
const { workedOut } = await load("formulas");
const run = {
  tokens: given.tokens, targets: given.targets, length: given.tokens.length,
  shape: (name) => given.shapes[name],
  array: (name, gradient) => given.arrays[(gradient ? "d " : "") + name],
};
return given.asked.map(({ ways, flat }) => {
  const worked = ways.map((formula) => workedOut(formula, flat, run));
  return [
    worked.reduce((sum, way) => sum + Number(way.value), 0),
    worked.reduce((sum, way) => sum + way.magnitude, 0),
    worked.flatMap((way) => way.steps).filter((own) => !own.guard && own.count > 1).map((own) => own.value),
  ];
});
"""


def by_script(run, places, backward):
    """What the script makes of the formulas of these elements: value, magnitude and steps of each."""
    formulas, model = Formulas(run.plan), run.model
    asked = []
    for name, index in places:
        ways = formulas.backward(name) if backward else {name: formulas.forward(name)}
        flat = int(np.ravel_multi_index(index, run.shapes[name])) if index else 0
        asked.append({"ways": [way.as_data() for way in ways.values()], "flat": flat})
    arrays = {("d " if phase == "backward" else "") + name: a for (phase, name), a in run.arrays.items()}
    arrays |= {name: model.parameter(name) for name in model.config.shapes()}
    given = {
        "tokens": run.inputs.tokens,
        "targets": run.inputs.targets,
        "shapes": run.shapes,
        "arrays": {name: _flat(array) for name, array in arrays.items()},
        "asked": asked,
    }
    return run_script(EVALUATE, given)


def _flat(array):
    return np.asarray(array, np.float64).reshape(-1).tolist()


def some_places(shapes, count=3, seed=0):
    """A few elements of every array, the first and the last among them."""
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        size = math.prod(shape)
        for flat in sorted({0, size - 1, *rng.integers(size, size=count).tolist()}):
            yield name, tuple(map(int, np.unravel_index(flat, shape))) if shape else ()


def check(run, places, backward):
    found = by_script(run, places, backward)
    for (name, index), (value, magnitude, steps) in zip(places, found, strict=True):
        said = explain_in(run, element_name(name, index), backward=backward)
        agree(value, said.value, rtol=1e-9, atol=1e-9 * (said.tolerance + 1e-30), what=said.element)
        assert abs(value - said.traced) <= said.tolerance, (said.element, value, said.traced)
        assert magnitude >= abs(value) * (1 - 1e-6)
        ways = len(Formulas(run.plan).backward(name)) if backward else 1
        sums = [step.value for step in (said.steps if ways == 1 else said.steps[:-1]) if step.count > 1]
        agree(steps, sums, rtol=1e-9, atol=1e-9 * (said.tolerance + 1e-30), what=f"sums of {said.element}")


def test_events_and_gradients_of_a_microgpt(case):
    run = keep_run(case.model, case.text, backward=True)
    events = list(some_places({name: run.shapes[name] for name in run.plan}))
    check(run, events, backward=False)
    check(run, list(some_places(run.shapes)), backward=True)


USUAL = {"llama_gqa", "llama_yarn_attention", "qwen2_window", "qwen3"}  # run every time


@pytest.mark.parametrize("name", [name if name in USUAL else in_sweep(name) for name in DECODERS])
def test_events_of_decoders(decoders, name):
    run = keep_run(decoders(name)[0], tokens=TOKENS)
    check(run, list(some_places({name: run.shapes[name] for name in run.plan})), backward=False)


@pytest.mark.parametrize("name", ["gpt2", "gpt2_erf", "gpt2_by_layer"])
def test_events_of_a_gpt2(gpt2, name):
    run = keep_run(gpt2(name)[1], tokens=TOKENS)
    check(run, list(some_places({name: run.shapes[name] for name in run.plan})), backward=False)


def test_all_elements_at_once(case):
    """Every event and gradient, from the arrays that the run had."""
    run = keep_run(case.model, case.text, backward=True)
    formulas = Formulas(run.plan)
    given = FormulaInputs(run.inputs.tokens, run.inputs.targets, _array_of(run))
    for name in run.shapes:
        if name in run.plan:
            whole = evaluated(formulas.forward(name), given).reshape(-1)
            agree(_counted(run, name, whole), _counted(run, name, run.array(name)), atol=1e-10, what=name)
        found = sum(evaluated(way, given).reshape(-1) for way in formulas.backward(name).values())
        agree(found, run.array(name, "backward").reshape(-1), rtol=1e-8, atol=1e-10, what=f"d {name}")


def _array_of(run):
    return lambda name, phase: run.array(name, phase) if run.has(name, phase) else run.model.parameter(name)


def _counted(run, name, array):
    """Of attention what the mask lets through."""
    shape = run.shapes[name]
    return np.tril(np.reshape(array, shape)) if len(shape) == 3 else np.reshape(array, shape)


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


def test_functions_of_x_are_read_as_python_reads_them():
    places = [-7.0, -2.5, -1.0, -1e-9, 0.0, 0.3, 1.0, 2.4999, 2.5, 5.5, 9.0]
    program = """
    const { functionOf } = await load("expressions");
    return given.texts.map((text) => given.places.map((x) => functionOf(text)(x)));
    """
    found = run_script(program, {"texts": list(FUNCTIONS), "places": places})
    for (text, function), values in zip(FUNCTIONS.items(), found, strict=True):
        agree(values, [function(x) for x in places], rtol=1e-14, atol=1e-15, what=text)


@pytest.mark.parametrize("text", ["x +", "y", "alert(1)", "x; 1", "(x", "x)", "constructor(x)"])
def test_nothing_else_is_a_function_of_x(text):
    program = """
    const { functionOf } = await load("expressions");
    try { functionOf(given.text)(1); return "taken"; } catch (error) { return error.name; }
    """
    assert run_script(program, {"text": text}) == "SyntaxError"


RUN = """
const { forwardRun } = await load("forward");
const { sizesOf } = await load("formulas");
const { Page } = await load("runs");
return given.texts.map((text) => {
  const page = new Page({ ...given.page, parameters: [], formulas: [] }, new Map());
  const { tokens, targets } = page.read(text);
  const plan = { events: given.events, parameter: (name) => given.parameters[name],
    shapeOf: (name, length) => sizesOf(given.shapes[name], length) };
  const run = forwardRun(plan, tokens, targets);
  return Object.fromEntries(given.events.map((event) => [event.name, Array.from(run.array(event.name))]));
});
"""


def forward_runs(model, texts):
    from microgpt_trace.architecture.formulas.formula import size_as_data
    from microgpt_trace.render.page.trace_page import tokenizer_data

    formulas = Formulas(model.plan)
    rows = [{"name": name, "parts": [], "formula": formulas.forward(name).as_data()} for name in model.plan]
    shapes = {name: [size_as_data(size) for size in shape] for name, shape in formulas.shapes.items()}
    given = {
        "texts": texts,
        "events": rows,
        "shapes": shapes | {name: list(shape) for name, shape in model.config.shapes().items()},
        "parameters": {name: _flat(model.parameter(name)) for name in model.config.shapes()},
        "page": {"events": [], "tokenizer": tokenizer_data(model)},
    }
    return run_script(RUN, given)


def test_a_page_runs_the_forward_pass_of_names_that_it_has_not_seen(case):
    model = case.model
    rng = np.random.default_rng(3)
    letters = list(model.tokenizer.chars)
    texts = ["", *("".join(rng.choice(letters, rng.integers(1, model.config.block_size))) for _ in range(4))]
    for text, arrays in zip(texts, forward_runs(model, texts), strict=True):
        run = keep_run(model, text)
        for name in model.plan:
            agree(arrays[name], run.array(name).reshape(-1), rtol=1e-9, atol=1e-11, what=f"{text} {name}")
