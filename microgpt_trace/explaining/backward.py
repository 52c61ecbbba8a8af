"""microGPT's gradients, element by element: a sum over what reads the element of the reader's gradient
times the local derivative; of a parameter, a sum over positions."""

from __future__ import annotations

from collections.abc import Callable

from ..architecture.arithmetic import Function, elements, minus, nothing, product, result, sum_of, total
from ..architecture.steps import Factor, element_name
from .chain_rule import cut_off, gradient_name, is_cut, path_from, readers, replaced_head
from .elements import Element
from .place import Place, Worked, short
from .uses_of_parameters import readers_of_parameter

OF_HEADS = "context gets its gradient from that of attn.out, which every head has too"
UPDATED = "Adam turns it into the update of this parameter"


def gradient_worked_out(at: Place) -> Worked:
    """The arithmetic of d loss / d the element."""
    if at.traced.is_parameter(at.name):
        return _of_parameter(at)
    if at.element.kind in _ENDS:
        return _ENDS[at.element.kind](at)
    paths = [path_from(at, reader) for reader in readers(at)]
    steps = [step for path in paths for step in path.steps]
    magnitude = sum(path.magnitude for path in paths)
    if len(paths) > 1:
        steps.append(sum_of(gradient_name(at), *([result(path.steps[-1])] for path in paths)))
    formula = f"d {element_name(short(at.name), at.index)} = {' + '.join(path.formula for path in paths)}"
    notes = (OF_HEADS,) if at.element.kind == "attn.head" else ()
    return Worked(formula, tuple(steps), magnitude, notes)


def _of_loss(at: Place) -> Worked:
    step = product("d loss", Factor("1", 1.0))
    return Worked("d loss = 1: this is where the backward pass begins", (step,), 1.0)


def _of_probs(at: Place) -> Worked:
    """loss = mean of -log P(target): -1/(T * P) at the target, 0 elsewhere"""
    position, token = at.index
    if is_cut(at, "loss"):
        return cut_off(at, "loss")
    if token != at.traced.inputs.targets[position]:
        formula = f"d probs[{position},{token}] = 0: the loss looks at the target alone"
        return Worked(formula, (nothing(gradient_name(at)),), 0.0)
    inverse = product("1/P", at.factor("probs", *at.index), function=Function("1/x", lambda x: 1 / x))
    share, dloss = Factor(f"-1/{at.traced.length}", -1 / at.traced.length), at.factor("loss", kind="backward")
    step = product(gradient_name(at), share, result(inverse), *([] if dloss.value == 1 else [dloss]))
    own = f"probs[{position},{token}]"
    note = ("the gradient of the logits is worked out at once, not by way of it",)
    return Worked(f"d {own} = -1 / ({at.traced.length} × {own})", (inverse, step), step.magnitude, note)


def _of_logits(at: Place) -> Worked:
    """(P - 1 at the target, else P) / T"""
    position, token = at.index
    for later in ("loss", "probs"):
        if is_cut(at, later):
            return cut_off(at, later)
    if ("backward", "probs") in at.traced.replaced:
        return _of_logits_by_probs(at)
    n = at.traced.length
    share, chance = Factor(f"1/{n}", 1 / n), at.factor("probs", *at.index)
    dloss = at.factor("loss", kind="backward")
    scale = [] if dloss.value == 1 else [dloss]  # a hook replaced it, or the loss
    parts = [[chance, share, *scale]]
    if token == at.traced.inputs.targets[position]:
        parts.append([Factor(f"-1/{n}", -1 / n), *scale])
    step = sum_of(gradient_name(at), *parts)
    wanted = " - 1" * (len(parts) > 1)
    formula = f"d logits[{position},{token}] = (probs[{position},{token}]{wanted}) / {n}"
    note = ("the target: the loss falls as its logit rises",) if wanted else ()
    return Worked(formula, (step,), step.magnitude, note)


def _of_logits_by_probs(at: Place) -> Worked:
    """The softmax' own way back, where a hook replaced the probabilities or their gradient."""
    position, token = at.index
    chances, gradients = at.row("probs", position), at.row("probs", position, kind="backward")
    mean = total("sum of P × dP", [chances, gradients], at.most, label_of=at.in_vocabulary)
    own = at.factor("probs", position, token)
    gradient = at.factor("probs", position, token, kind="backward")
    step = sum_of(gradient_name(at), [own, gradient], [own, minus(mean)])
    place = f"[{position},{token}]"
    formula = f"d logits{place} = P{place} × (dP{place} - sum of P × dP)"
    return Worked(formula, (mean, step), step.magnitude + own.value * mean.magnitude)


_ENDS: dict[str, Callable[[Place], Worked]] = {
    "loss": _of_loss,
    "probs": _of_probs,
    "logits": _of_logits,
}


def _of_parameter(at: Place) -> Worked:
    """W: the sum over positions of dy times x; an embedding: of the gradients where it was looked up"""
    row, column = at.index
    if at.name in ("wte", "wpe"):
        return _of_embedding(at)
    (reader,) = readers_of_parameter(at.traced.behind, at.name)
    source = Place(at.traced, Element(reader, ()), at.most).inputs[0]
    if short(at.name) == "attn_wo" and not is_cut(at, reader):
        reader = replaced_head(at, column) or reader
    if is_cut(at, reader):
        return cut_off(at, reader)
    everywhere = slice(0, at.traced.length)
    operands = [at.down(reader, row, everywhere, "backward"), at.down(source, column, everywhere)]
    step = total(gradient_name(at), operands, at.most, label_of=at.tokens_from(0))
    formula = (
        f"d {short(at.name)}[{row},{column}] = sum over the positions p of d {reader}[p,{row}] × "
        f"{source}[p,{column}], p=0..{at.traced.length - 1}"
    )
    return Worked(formula, (step,), step.magnitude, (UPDATED,))


def _of_embedding(at: Place) -> Worked:
    row, column = at.index
    if at.name == "wte":
        event, positions = "embed.tok", [p for p, t in enumerate(at.traced.inputs.tokens) if t == row]
        where = "the positions p that have the token"
    else:
        event, positions = "embed.pos", [row] if row < at.traced.length else []
        where = "its position"
    if not positions or is_cut(at, event):
        why = "a hook replaced what was looked up" if positions else "the text does not read it"
        formula = f"d {at.name}[{row},{column}] = 0: {why}"
        return Worked(formula, (nothing(gradient_name(at)),), 0.0)
    values = at.traced.column(event, column, "backward")[positions]
    operand = elements(values, event, lambda i: (positions[i], column), "backward")
    step = total(gradient_name(at), [operand], at.most)
    formula = f"d {at.name}[{row},{column}] = sum of d {event}[p,{column}] over {where}"
    return Worked(formula, (step,), step.magnitude, (UPDATED,))
