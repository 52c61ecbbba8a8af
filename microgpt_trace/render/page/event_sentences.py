"""One plain sentence about each array of a page, for readers who learn. A sentence follows from the kind of
the plan's row and from the rows that read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...plans import kinds
from ...plans.plan import Operation, Plan
from ...text.wording import counted

# The sentences of kinds that depend on no other row.
SENTENCES: dict[type, str] = {
    kinds.Scores: "How well what one {thing} looks for fits what an earlier {thing} offers. A higher score "
    "draws more attention.",
    kinds.Context: "What each {thing} has collected: the values handed over, mixed by the shares.",
    kinds.Multiply: "What each unit says, multiplied by how far its gate is open.",
    kinds.Scale: "The same numbers, multiplied by {kind.factor:.6g}.",
    kinds.Channels: "The part of a wider row that this layer reads: {kind.width:,} numbers.",
    kinds.Cap: "The same numbers, bent so that none is below -{kind.limit:.6g} or above {kind.limit:.6g}.",
    kinds.Alibi: "The same scores, lowered by the distance to the earlier {thing}.",
    kinds.PositionScale: "The same numbers, multiplied by a factor that grows with the place.",
    kinds.Routing: "How much of each chosen expert's answer counts, in shares of 100 %.",
    kinds.Experts: "What the chosen experts compute, side by side: {kind.width:,} numbers for each expert.",
    kinds.Mixture: "What the chosen experts add to each row: their answers, mixed by the shares.",
    kinds.Probabilities: "The scores as chances that sum to 100 %.",
}


def event_sentence(plan: Plan, row: Operation, shapes: Mapping[str, kinds.Shape], thing: str) -> str:
    """Return a sentence about the array of a row, or "" if no sentence fits. `thing` is what a token is:
    "letter" or "token".

    >>> from microgpt_trace import init
    >>> plan = init().plan
    >>> event_sentence(plan, plan["logits"], plan.shapes(5), "letter")
    'One score for each of 27 letters. Only the differences between scores matter.'
    """
    match row.kind:
        case kinds.Lookup(by="positions", width=width):
            return f"What each place is: {width:,} numbers for each place, whatever the {thing}."
        case kinds.Lookup(width=width):
            return f"What each {thing} is: {width:,} numbers that the model keeps for it."
        case kinds.Add():
            return _of_sum(plan, row, shapes[row.name], thing)
        case kinds.Norm():
            return _of_norm(plan, row)
        case kinds.Linear():
            return _of_product(plan, row, shapes[row.name][-1], thing)
        case kinds.Rotation(head_dim=dim, channels=count) if count < dim:
            words = f"The first {count} of {dim} numbers of each head"
            return f"{words}, turned by an angle that depends on the place. The others pass unchanged."
        case kinds.Rotation():
            return "The same numbers, turned by an angle that depends on the place."
        case kinds.Softmax():
            sink = " A sink takes the rest of the 100 %." * (row.kind.sinks is not None)
            return (
                f"The scores as shares of 100 %: where each {thing} looks. Later {thing}s are hidden.{sink}"
            )
        case kinds.Activation(nonnegative=True):
            return "The same numbers, with every no set to 0. A unit is on if its number is above 0."
        case kinds.Activation(function="sigmoid"):
            return "How much of the shared expert's answer counts: a share between 0 and 100 %."
        case kinds.Activation():
            return "The same numbers, with what is below 0 pushed towards 0."
        case kinds.Choice(count=count):
            return f"The numbers of the {counted(count, 'expert')} with the largest scores for each {thing}."
        case kinds.Mixture() if row.inputs[1] not in plan.chosen_by:
            return "What the shared expert adds to each row: its answer, multiplied by its share."
        case kinds.Clip(low=low, high=high, plus=plus):
            what = f"no number above {high:g}" + f" or below {low:g}" * math.isfinite(low)
            return f"The same numbers, but {what}{f', plus {plus:g}' * bool(plus)}."
        case kinds.Loss():
            size = shapes[plan.head[0].name][-1]
            surprise = f"How surprised the model is by the {thing}s that really follow, on average."
            return f"{surprise} Sure and right gives 0, blind guessing ln {size:,} = {math.log(size):.3f}."
    return SENTENCES.get(type(row.kind), "").format(kind=row.kind, thing=thing)


def _of_sum(plan: Plan, row: Operation, shape: kinds.Shape, thing: str) -> str:
    if row.name == plan.streams[-1]:
        return (
            f"The final row of each place: all that is known about what comes next, in {shape[-1]:,} numbers."
        )
    if row.layer is None and not any(isinstance(plan[name].kind, kinds.Lookup) for name in row.inputs):
        return "Two arrays, added number by number."
    stages = {plan[name].stage for name in row.inputs}
    both = "attention and the MLP add" if len(stages) > 1 else "the chosen experts and the shared expert add"
    if row.name not in plan.residuals:
        what = f"{thing.capitalize()} plus place" if row.layer is None else f"What {both}"
        tail = " From here on, each place has one row." if row.layer is None else ""
        return f"{what}, added number by number.{tail}"
    _, branch = plan.residuals[row.name]
    adds = "attention adds" if plan[branch].stage == "attention" else "the MLP adds"
    product = plan.product_of(branch)
    if any(isinstance(plan[n].kind, kinds.Channels) for n in plan[product.inputs[0]].inputs):
        adds = "an input of this layer alone adds"
    if {plan[name].stage for name in plan[branch].inputs} == {"attention", "mlp"}:  # a parallel layer
        adds = "attention and the MLP add"
    return f"The row as it was, plus what {adds}. Nothing is overwritten."


def _of_norm(plan: Plan, row: Operation[Any]) -> str:
    if row.layer is None:
        return "The same rows, scaled to one common size, so that no row is louder than another."
    if row.name in plan.heads:
        return (
            f"The same numbers, scaled to one common size in each {'head' if row.kind.head_dim else 'row'}."
        )
    added = any(isinstance(plan[name].kind, kinds.Add) for name in plan.readers[row.name])
    if row.name in plan.branches or added:
        return "The same rows, scaled to one common size before they are added."
    reader = "attention" if row.stage == "attention" else "the MLP"
    return f"The rows, scaled to one common size before {reader} reads them."


def _of_product(plan: Plan, row: Operation, width: int, thing: str) -> str:
    if row in plan.head:
        return f"One score for each of {width:,} {thing}s. Only the differences between scores matter."
    if row.name in plan.heads:
        return _of_heads(plan, row, width, thing)
    if row.name in plan.sums_of:
        head = plan.sums_of[row.name].parts.index(row.name)
        return f"What head {head} alone adds to each row. Take it out, and only this is missing."
    if row.parts:
        return f"What the {counted(len(row.parts), 'head')} add to each row, all together."
    if row in map(plan.product_of, plan.branches):
        return "What the units add to each row, all together."
    match plan[plan.readers[row.name][0]].kind:
        case kinds.Choice():
            return f"One score for each of {counted(width, 'expert')}: how well the expert fits each {thing}."
        case kinds.Mixture():
            return "The answer of the shared expert to each row."
        case kinds.Activation(function="sigmoid"):
            return "One score for each row: how much the shared expert's answer counts."
        case kinds.Activation():
            return f"{width:,} questions put to each row. A number above 0 means yes, and how much."
    return f"What each of the {width:,} units says." if row.stage == "mlp" else ""


def _of_heads(plan: Plan, row: Operation, width: int, thing: str) -> str:
    """Describe queries, keys or values by the place where scores or the mixed values read them."""
    dim = plan.heads[row.name].dim
    size = f"{dim} numbers for each of {counted(width // dim, 'head')}"
    for reader in plan.of_kind(kinds.Scores, kinds.Context):
        for place, name in enumerate(reader.inputs):
            if row in plan.behind(name):
                if isinstance(reader.kind, kinds.Context):
                    return f"What each {thing} hands over when another {thing} looks at it: {size}."
                return f"What each {thing} {('looks for', 'can be found by')[place]}: {size}."
    return ""
