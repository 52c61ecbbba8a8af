"""The experts of a survey as plain data: how often each expert is used, and how evenly."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..architecture.plans.plan import layer_of
from ..measuring.experts import entropy
from ..text.brief import frozen
from .state import Survey


@frozen
class SurveyedRouter:
    """The choices of experts in a layer. The event `event` has the logits of the router, and the router's
    probabilities are their softmax over all experts.

    For each expert, `load` counts the tokens that chose the expert, `shares` has the expert's share of all
    choices, and `routing` has the mean probability. `never` lists the experts that no token chose. Entropies
    are in bits: `load_entropy` of the shares, `routing_entropy` of the mean probabilities, and
    `token_entropy` of the probabilities for one token, as a mean. Equal shares have `most_entropy`.
    """

    layer: int
    event: str
    tokens: int
    load: tuple[int, ...]
    shares: tuple[float, ...]
    routing: tuple[float, ...]
    never: tuple[int, ...]
    load_entropy: float
    routing_entropy: float
    token_entropy: float
    most_entropy: float


def surveyed_routers(survey: Survey) -> Iterator[SurveyedRouter]:
    """Yield the choices of every layer with experts whose router was measured."""
    for event in survey.order.events:
        routed = survey.tallies.get(f"{event}/routed")
        if routed is None or not (tokens := int(routed.values()[0])):
            continue
        load = survey.tallies[f"{event}/load"].values()
        routing = survey.tallies[f"{event}/routing"].values() / tokens
        total, layer = survey.tallies[f"{event}/routing_entropy"].values(), layer_of(event)
        assert layer is not None  # a router belongs to a layer
        shares = load / max(load.sum(), 1)
        yield SurveyedRouter(
            layer, event, tokens, tuple(load.tolist()), tuple(shares.tolist()), tuple(routing.tolist()),
            tuple((load == 0).nonzero()[0].tolist()), float(entropy(shares)), float(entropy(routing)),
            float(total[0]) / tokens, math.log2(len(load)),
        )  # fmt: skip
