"""A run of a plan by the float64 references of its rows, with random gradients."""

import numpy as np
from support.other_plans import values_of

from microgpt_trace.formulas.traced_element import KnownTarget
from microgpt_trace.models.language_model import TraceInput
from microgpt_trace.operations.reference_inputs import ReferenceInputs


class PlanRun:
    """The forward values and random gradients of a plan's rows. Tests judge the rows one by one."""

    replaced, scalar = frozenset(), None

    def __init__(self, model, tokens):
        self.model, self.plan, self.length = model, model.plan, len(tokens)
        self.given = ReferenceInputs(model, tokens)
        targets = (*tokens[1:], None)
        labels = tuple(map(str, tokens))
        self.inputs = TraceInput("", tuple(tokens), targets, labels, (*labels[1:], None))
        self.shapes = {**self.plan.shapes(self.length), **self.plan.parameters}
        rng, self.arrays = np.random.default_rng(5), {}
        for name, value in values_of(model, tokens).items():
            self.arrays["forward", name] = value
            self.arrays["backward", name] = rng.standard_normal(value.shape)
        self.arrays["backward", "loss"] = np.float64(1)

    def parameter(self, name):
        return np.asarray(self.model.parameter(name), float)

    def array(self, name, kind="forward"):
        return self.arrays[kind, name]

    def at(self, name, spots, kind="forward"):
        stored = kind == "forward" and name in self.plan.parameters
        return (self.parameter(name) if stored else self.array(name, kind))[spots]

    def value(self, name, index, kind="forward"):
        return float(self.at(name, index, kind))

    def value_if_kept(self, name, index, kind="forward"):
        stored = kind == "forward" and name in self.plan.parameters
        return self.value(name, index, kind) if stored or (kind, name) in self.arrays else None

    @property
    def known_targets(self):
        targets = [(p, token) for p, token in enumerate(self.inputs.targets) if token is not None]
        probs = self.array("probs")
        return [KnownTarget(p, t, float(probs[p, t]), float(-np.log(probs[p, t]))) for p, t in targets]

    def label(self, token):
        return str(token)
