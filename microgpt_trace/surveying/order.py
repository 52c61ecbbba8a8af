"""SurveyOrder: what a survey measures, as names of events. Runs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ..architecture.model import LanguageModel
from ..architecture.plans.kinds import Linear
from ..architecture.plans.plan import HEAD_EVENTS, Plan
from ..errors import InputError
from ..hooks.names import select_names
from ..text.brief import brief, frozen

MOST_EXAMPLES = 10_000  # of a unit, each of which takes some 100 bytes


@frozen(slots=False)
class SurveyOrder:
    """Whose channels are measured, of which events magnitudes are counted and units listed, how many examples
    a unit has; how texts are read."""

    events: tuple[str, ...]
    histograms: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    examples: int = 0
    max_tokens: int | None = None
    chat: bool = False


def order_for(
    model: LanguageModel, events: Sequence[str] = (), histograms: Sequence[str] = (), top: int = 0,
    max_tokens: int | None = None, chat: bool = False,
) -> SurveyOrder:  # fmt: skip
    """What names and globs ask for. Without any, events are all that cost nothing extra and have no channel
    for each token; those whose magnitudes are counted come too. Units are what the last product of an MLP
    reads, of the events asked for.

    Raises InputError where a name means no event of the model.
    """
    plan = model.plan
    names = [name for name in plan if plan.open_shapes[name]]  # the loss has no channels
    usual = [name for name in names if not plan[name].extra and name not in HEAD_EVENTS]
    asked = select_names(histograms, names) if histograms else []
    chosen = select_names([*events, *asked], names) if events else [n for n in names if n in {*usual, *asked}]
    if not 0 <= top <= MOST_EXAMPLES:
        raise InputError(f"top: expected 0 to {MOST_EXAMPLES:,} examples of each unit, found {brief(top)}")
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens: expected 1 or more, found {max_tokens}")
    units = [name for name in units_of(plan) if name in chosen] if top else []
    if top and not units:
        raise InputError(
            f"no unit of an MLP is among the events, which are {', '.join(units_of(plan)[:3])} ..."
        )
    return SurveyOrder(tuple(chosen), tuple(asked), tuple(units), top, max_tokens, chat)


def units_of(plan: Plan) -> list[str]:
    """What MLPs write from: the input of the last product of every layer's."""
    found = {}
    for rows in plan.layers:
        for row in rows:
            if row.stage == "mlp" and isinstance(row.kind, Linear):
                found[row.layer] = row.inputs[0]
    return list(found.values())


def channels_of(plan: Plan, names: Sequence[str]) -> dict[str, int]:
    """How many channels each event has, or heads, of scores and weights."""
    shapes = plan.shapes(1)
    return {name: shapes[name][0 if plan[name].kind.causal else -1] for name in names}
