"""The data of a plan in a page: events, parameters and formulas."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...explaining.elements import tables_of_tokens
from ...formulas.formula import Formula, as_data, size_as_data
from ...formulas.traced_element import rows_with
from ...models.language_model import LanguageModel
from ...operations.linear import formula_of_parts
from ...operations.plan_formulas import Formulas
from ...plans.kinds import Context, Lookup, Loss, Norm, Probabilities, Shape, Softmax
from ...plans.plan import Operation, Plan, over_tokens
from .event_sentences import event_sentence


def events_of(model: LanguageModel, formulas: Formulas) -> list[dict[str, Any]]:
    """Return the data of each row of the plan, in order of computation."""
    return [_event(row, model, formulas) for row in model.plan.values()]


def parameters_of(model: LanguageModel, formulas: Formulas, names: Collection[str]) -> list[dict[str, Any]]:
    """Return the data of each parameter in `names`."""
    plan, parameters = model.plan, []
    tables = {kind.table: "position" for kind in plan.kinds(Lookup) if kind.by == "positions"}
    tables |= dict.fromkeys(tables_of_tokens(plan), "token")
    for name, shape in model.config.shapes().items():
        if name in names:
            rows = rows_with(plan, name)
            axes = ["output", "input"] if len(shape) == 2 else ["channel"]
            if len(shape) == 2 and isinstance(rows[0].kind, Norm):
                axes = ["head", "channel"]
            parameter: dict[str, Any] = {
                "name": name, "shape": shape, "axes": [tables[name], "channel"] if name in tables else axes,
                "readers": [row.name for row in rows], "ways": _ways(name, formulas),
            }  # fmt: skip
            if any(isinstance(row.kind, Lookup) for row in rows):
                parameter["read"] = 1
            parameters.append(parameter)
    return parameters


def _event(row: Operation, model: LanguageModel, formulas: Formulas) -> dict[str, Any]:
    plan, shapes = model.plan, formulas.shapes
    event: dict[str, Any] = {
        "name": row.name, "kind": type(row.kind).__name__, "stage": row.stage,
        "layer": row.layer, "expr": row.expr,
        "shape": list(map(size_as_data, shapes[row.name])), "axes": axes_of(row, shapes),
        "inputs": row.inputs, "reads": row.kind.names, "readers": plan.readers[row.name], "parts": row.parts,
        "formula": _data(None if formulas.is_cut(row.name) else formulas.forward(row.name)),
        "ways": _ways(row.name, formulas),
    }  # fmt: skip
    thing = "letter" if model.trainable else "token"
    event["says"] = event_sentence(plan, row, shapes, thing)
    if row.parts:
        event["ofParts"] = _data(formula_of_parts(row, formulas))
    if not model.trainable and not fits_a_page(row):
        event["never"] = 1
    if row.name in plan.branches:
        event["stream"] = plan.branches[row.name]
    if row.name in plan.heads:
        event["dim"] = plan.heads[row.name].dim
    if isinstance(row.kind, Softmax):
        event["window"] = row.kind.window
    if isinstance(row.kind, Softmax | Probabilities):
        event["share"] = 1
    elif row.kind.nonnegative:
        event["positive"] = 1
    return event


def _ways(name: str, formulas: Formulas) -> list[Any]:
    """Return the parts of a gradient, as pairs of a formula and the row that passes the gradient back. If an
    intervention replaced one of these rows, return no parts, because a scaled row passes on another gradient
    than a replaced row."""
    ways = (formulas.backward(name) or ()) if formulas.scalar else ()
    if any(way.formula is None for way in ways):
        return []
    return [[as_data(way.formula), way.reader] for way in ways]


def picture_of(plan: Plan) -> dict[str, Any]:
    """Return the events that the picture of the computation shows: the `tables` that tokens and positions
    look up, the `first` residual stream, and for each layer its columns in order. A column is the attention
    of some heads, the units of an MLP, or the residual stream after a branch."""
    columns: list[dict[str, Any]] = [{"layer": i, "parts": []} for i in range(len(plan.layers))]
    products = map(plan.product_of, plan.branches)
    units = {product.inputs[0]: product.name for product in products}
    for column, rows in zip(columns, plan.layers, strict=True):
        for row in rows:
            if isinstance(row.kind, Softmax):
                column["parts"].append({"attention": row.name, "heads": heads_of(plan, row.name)})
            elif row.name in units and not isinstance(row.kind, Context):
                column["parts"].append({"units": row.name, "writes": units[row.name]})
            elif row.name in plan.residuals:
                column["parts"].append({"stream": row.name})
    tables = [row.name for row in plan.before if isinstance(row.kind, Lookup)]
    places = [row.name for row in plan.before if isinstance(row.kind, Lookup) and row.kind.by == "positions"]
    return {"tables": tables, "places": places, "first": plan.streams[0], "layers": columns}


def heads_of(plan: Plan, weights: str) -> list[str]:
    """Return the events with the contributions of the heads of `weights`, which a reader can ablate."""
    outputs = (out for context in plan.readers[weights] for out in plan.readers[context])
    return [head for out in outputs for head in plan[out].parts]


def _data(formula: Formula | None) -> Any:
    return None if formula is None else as_data(formula)


def fits_a_page(row: Operation) -> bool:
    """Return True if the page of a production model can contain the array of a row. The arrays of logits and
    of the contributions of heads are too large."""
    return not row.extra and row.name != "loss" and not over_tokens(row.name)


def axes_of(row: Operation, shapes: Mapping[str, Shape]) -> list[str]:
    """Return the names of the axes of an event."""
    if isinstance(row.kind, Loss):
        return []
    if len(shapes[row.name]) == 3:
        return ["head", "query", "key"]
    return ["position", "token" if over_tokens(row.name) else "channel"]
