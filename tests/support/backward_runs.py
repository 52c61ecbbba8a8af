"""A forward and a backward pass of any plan under hooks."""

import numpy as np
from support.tiny_models import TOKENS

from microgpt_trace.hooks.bus import HookBus
from microgpt_trace.interpreter import backward as generic

TARGETS = (*TOKENS[1:], None)


class Run:
    """The values of events, and the gradients of events and parameters, by name."""

    def __init__(self, model, hooks=None, tokens=TOKENS, targets=TARGETS, heads=True):
        bus, self.values, self.gradients = HookBus(list(model.plan.values())), {}, {}
        names = [name for name, row in model.plan.items() if heads or not row.extra]
        before = [bus.subscription(hook, name) for name, hook in (hooks or {}).items()]
        after = [
            bus.subscription(lambda e, v: self.values.update({e.name: v.copy()}), *names),
            bus.subscription(
                lambda e, v: self.gradients.update({e.name: v.copy()}), *names, phases="backward"
            ),
        ]
        run = bus.begin(before=before, after=after)
        forward = generic.forward(model, np.array(tokens), targets, run.tap("forward"), run.replaced)
        self.parameters = {}
        generic.backward(
            forward, run.tap("backward"), list(model.plan.parameters), give=self.parameters.__setitem__
        )
